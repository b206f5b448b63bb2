"""The replica: the whole chat as far as one process has read the log.

`apply(entry, time)` is the one place where it is decided what comes of an entry. It is deterministic: two replicas
that have applied the same entries, each with its time, are equal and gave the same effects. It never raises for
anything that a client can cause, since that would end every worker at once. An entry that was applied before changes
nothing: sessions remember the position of their input, ended sessions leave a tombstone.
"""

from mpchat.chat.announcements import announce_joined, end_session, list_others, show_history
from mpchat.chat.entries import Commanded, Ended, Entry, Input, Misread, Opened, Said, SessionId, Skipped, Stopped
from mpchat.chat.events import (
    Changed,
    Effect,
    Failed,
    Gone,
    Message,
    NameAsked,
    NameGiven,
    SignedOn,
    Stopping,
    ToEverybody,
    Told,
    ToRoom,
    ToSession,
    Welcome,
)
from mpchat.chat.handlers import HANDLERS
from mpchat.chat.names import clean_name
from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.snapshot import Capture, Loading
from mpchat.chat.state import LOBBY, Limits, Session, State


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

    def session(self, sid: SessionId) -> Session | None:
        """The session `sid`, to be read only; None when there is none (any more)."""
        return self._state.sessions.get(sid)

    def apply(self, entry: Entry, time: int) -> list[Effect]:
        """Do what `entry` asks for at `time` (ms since the epoch); give what comes of it, in order."""
        state = self._state
        if state.stopped:
            return []
        match entry:
            case Said():
                return self._apply_said(entry, time)
            case Commanded():
                return self._apply_commanded(entry, time)
            case Opened():
                return self._apply_opened(entry, time)
            case Ended():
                session = state.sessions.get(entry.sid)
                stale = session is not None and session.epoch != entry.epoch
                return [] if stale else end_session(state, entry.sid, entry.reason)
            case Misread():
                return self._apply_misread(entry)
            case Skipped():
                self._accept(entry)
                return []
            case Stopped():
                state.stopped = True
                return [Told(ToEverybody(), Stopping(entry.reason)), *map(Gone, state.sessions)]

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

    def _apply_opened(self, entry: Opened, time: int) -> list[Effect]:
        session = self._state.sessions.get(entry.sid)
        if session is not None:
            session.epoch = max(session.epoch, entry.epoch)
            return []
        if self._state.open(entry.sid, entry.address, entry.epoch, time) is None:
            return []
        return [Told(ToSession(entry.sid), Welcome())]

    def _apply_said(self, entry: Said, time: int) -> list[Effect]:
        session = self._accept(entry)
        if session is None:
            return []
        if session.name:
            return [self._say(session, entry.texts, time)]
        effects: list[Effect] = []
        for number, text in enumerate(entry.texts):
            effects += self._try_name(session, text, time)
            if session.sid not in self._state.sessions:
                break
            if session.name:
                rest = entry.texts[number + 1 :]
                if rest:
                    effects.append(self._say(session, rest, time))
                break
        return effects

    def _say(self, session: Session, texts: tuple[str, ...], time: int) -> Effect:
        session.active = time
        room = session.current
        self._state.history.add(room, time, session.name, texts)
        return Told(ToRoom(room, session.key), Message(room, session.name, texts))

    def _try_name(self, session: Session, text: str, time: int) -> list[Effect]:
        """`text` answers the question for the name."""
        state, to_self = self._state, ToSession(session.sid)
        try:
            wanted = clean_name(text)
        except Refusal as refusal:
            session.tries += 1
            failed: list[Effect] = [Told(to_self, Failed(refusal.problem, refusal.about, refusal.more))]
            if session.tries >= state.limits.name_tries:
                return failed + end_session(state, session.sid, "no acceptable name")
            return [*failed, Told(to_self, NameAsked())]
        name = state.free_name(wanted)
        effects: list[Effect] = [] if name == wanted else [Told(to_self, NameGiven(wanted, name))]
        state.rename(session, name)
        state.enter(session, LOBBY)
        session.active = time
        room = state.rooms[LOBBY]
        others, more = list_others(room, session.sid, state)
        return [
            *effects,
            Changed(session.sid),
            Told(to_self, SignedOn(name, LOBBY, others, more, room.topic)),
            *show_history(state, session, LOBBY),
            *announce_joined(session, room),
        ]

    def _apply_commanded(self, entry: Commanded, time: int) -> list[Effect]:
        session = self._accept(entry)
        if session is None:
            return []
        if not session.name and entry.command not in ("help", "quit"):
            return [
                Told(ToSession(session.sid), Failed(Problem.NAME_FIRST)),
                Told(ToSession(session.sid), NameAsked()),
            ]
        session.active = time
        try:
            return HANDLERS[entry.command](self._state, session, entry.argument, time)
        except Refusal as refusal:
            return [Told(ToSession(session.sid), Failed(refusal.problem, refusal.about, refusal.more))]

    def _apply_misread(self, entry: Misread) -> list[Effect]:
        session = self._accept(entry)
        if session is None:
            return []
        failed = Failed(Problem[entry.problem], entry.about, entry.more)
        return [Told(ToSession(session.sid), failed)]
