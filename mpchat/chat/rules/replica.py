"""The replica: the whole chat as far as one process has read the log.

`apply(entry, time)` is the one place where it is decided what comes of an entry. It is deterministic: two replicas
that have applied the same entries, each with its time, are equal and gave the same effects. It never raises for
anything that a client can cause, since that would end every worker at once. An entry that was applied before changes
nothing: sessions remember the position of their input, ended sessions leave a tombstone.
"""

from mpchat.chat.entries import (
    Answered,
    Asked,
    Ended,
    Entry,
    Forgot,
    Input,
    Noted,
    Opened,
    Restarted,
    Said,
    SessionId,
    Skipped,
    Slowed,
    Stopped,
)
from mpchat.chat.events import Effect, Gone, Stopping, ToEverybody, Told
from mpchat.chat.problems import Refusal
from mpchat.chat.rules.recall import Lookup, make_lookup, take_answer
from mpchat.chat.rules.rooms import forget_lines
from mpchat.chat.rules.session import (
    ask_name_first,
    end_all_sessions,
    end_session,
    note_pace,
    open_session,
    refuse,
    sign_on,
)
from mpchat.chat.rules.table import RULES
from mpchat.chat.rules.talk import say
from mpchat.chat.state.snapshot import Capture, Loading
from mpchat.chat.state.state import Limits, Session, State


class Replica:
    """The state of the chat, and what becomes of it. Not thread-safe."""

    def __init__(self, limits: Limits | None = None, state: State | None = None) -> None:
        """`state` is one that was loaded; it belongs to the replica then."""
        self._state = state or State(limits or Limits())

    @property
    def stopped(self) -> bool:
        """Whether the log has said that the server stops."""
        return self._state.stopped

    @property
    def sessions(self) -> int:
        """How many sessions there are in the whole server."""
        return len(self._state.sessions)

    def topics(self) -> list[tuple[str, str]]:
        """The rooms that have a topic, each with it."""
        return [(room.name, room.topic) for room in self._state.rooms.values() if room.topic]

    def session(self, sid: SessionId) -> Session | None:
        """The session `sid`, to be read only; None when there is none (any more)."""
        return self._state.sessions.get(sid)

    def next_lookup(self) -> Lookup | None:
        """The question that the archive is to answer next."""
        return make_lookup(self._state)

    def apply(self, entry: Entry, time: int) -> list[Effect]:
        """Do what `entry` asks for at `time` (ms since the epoch); give what comes of it, in order."""
        state = self._state
        if state.stopped and not isinstance(entry, Restarted):
            return []
        match entry:
            case Said():
                return self._apply_said(entry, time)
            case Asked():
                return self._apply_asked(entry, time)
            case Noted():
                return self._apply_noted(entry, time)
            case Opened():
                return open_session(state, entry, time)
            case Ended():
                session = state.sessions.get(entry.sid)
                stale = session is not None and session.epoch != entry.epoch
                return [] if stale else end_session(state, entry.sid, entry.reason)
            case Slowed():
                return note_pace(state, entry)
            case Skipped():
                self._accept(entry)
                return []
            case Stopped():
                state.stopped = True
                ends = [Gone(sid, session.name, "server stopping") for sid, session in state.sessions.items()]
                return [Told(ToEverybody(), Stopping(entry.reason)), *ends]
            case Restarted():
                return end_all_sessions(state)
            case Forgot():
                forget_lines(state, entry)
                return []
            case Answered():
                return take_answer(state, entry)

    def capture(self) -> Capture:
        """What a snapshot of now is made of, in steps."""
        return Capture(self._state)

    def dump(self) -> bytes:
        """The snapshot: everything that `apply` depends on. At once, for who can wait."""
        capture = self.capture()
        while not capture.advance():
            pass
        return b"".join(capture.chunks())

    @classmethod
    def load(cls, snapshot: bytes, limits: Limits | None = None) -> "Replica":
        """The replica that gave `snapshot`, at once. Raises ValueError for what this code cannot read."""
        loading = Loading(limits or Limits())
        loading.feed(snapshot)
        while loading.advance():
            pass
        return cls(state=loading.state)

    def _accept(self, entry: Input) -> Session | None:
        """The session that sent this, unless it was applied before, is of another epoch, or the session is over."""
        session = self._state.sessions.get(entry.sid)
        if session is None or entry.end <= session.position or entry.epoch != session.epoch:
            return None
        session.position = entry.end
        session.mode = entry.mode
        return session

    def _apply_noted(self, entry: Noted, time: int) -> list[Effect]:
        session = self._state.sessions.get(entry.sid)
        if session is None or entry.at <= session.noted or entry.epoch != session.epoch:
            return []
        session.noted = entry.at
        return RULES[type(entry.request)](self._state, session, entry.request, time)

    def _apply_said(self, entry: Said, time: int) -> list[Effect]:
        session = self._accept(entry)
        if session is None:
            return []
        if session.name:
            return [say(self._state, session, entry.texts, time)]
        return sign_on(self._state, session, entry.texts, time)

    def _apply_asked(self, entry: Asked, time: int) -> list[Effect]:
        session, request = self._accept(entry), entry.request
        if session is None:
            return []
        if request.NEEDS_NAME and not session.name:
            return ask_name_first(session)
        if request.IS_ACTIVITY:
            session.active = time
        try:
            return RULES[type(request)](self._state, session, request, time)
        except Refusal as refusal:
            return refuse(session, refusal)
