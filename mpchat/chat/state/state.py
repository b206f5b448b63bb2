"""The state of the chat: sessions, rooms, who is in which, and nothing else.

Owns the data and the moves that keep it consistent: a name belongs to one session, and no two look the same; a session
with a name is in at least one room and talks in one that it is in. What entries do to it is decided in `rules`.

A room ends with its last member, except for the lobby. With `Limits.rooms_stay` it stays *idle* while it has a topic or
lines in the history. Idle rooms make way for new ones when there are `Limits.rooms_of_server`. An idle room has its
place in the order of all rooms by when its last member left, so a snapshot need not say more than that order.

Deterministic: every loop goes over dicts and lists in the order of insertion, which the log gives. A dict with None for
values stands where a set would be read in the order of hashes, which differs from process to process.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from mpchat.chat.entries import KEEPING, SessionId
from mpchat.chat.state.history import History
from mpchat.chat.state.names import Look, name_key, name_look, numbered_name

LOBBY = "lobby"

NUMBERS_IN_ORDER = 100
"""Up to this number, whoever wants a name that is taken gets the next one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of the state, the same in every replica of a server."""

    history: int = 500  # lines a room
    history_bytes: int = 64 << 20  # all rooms together
    history_shown: int = 512 << 10  # bytes in one answer; must go well into a send queue
    rooms_of_session: int = 50
    rooms_of_server: int = 10_000
    ignores: int = 100
    name_tries: int = 10
    topic: int = 300
    tombstones: int = 20_000
    rooms_stay: bool = False  # without members, while they have a topic or lines
    archived: bool = False  # what is said is kept in a database, and an archive answers questions about it
    questions: int = 5  # of a session, that wait for the archive


class Question(NamedTuple):
    """What a session asks the archive. `number` counts its questions from 1.

    With `terms` it is a search: for `lines` lines, before the `skip` newest ones that match, in `room` ("": in all),
    from `name` (a key; "": from everybody). Without, it is for the last `lines` lines of `room` from before
    `HistoryPlace(before, skip)`; `earlier` as in `events.History`.
    """

    number: int
    terms: tuple[str, ...] = ()
    room: str = ""
    name: str = ""
    lines: int = 0
    before: int = 0
    skip: int = 0
    earlier: bool = False


@dataclass(slots=True)
class Session:
    """One client. `name` is empty until it has signed on; times in ms since the epoch."""

    sid: SessionId
    address: str
    since: int
    epoch: int = 0  # how often its connection was handed over; see entries.Opened
    position: int = 0  # in its input: all before it is applied
    mode: str = ""  # how its framing takes what follows
    noted: int = 0  # in its input: what its program has asked for before is answered; see entries.Noted
    manner: str = ""  # what is known of its program, in words of its dialect
    name: str = ""
    key: str = ""
    look: Look | None = None
    tries: int = 0
    rooms: dict[str, None] = field(default_factory=dict)
    current: str = ""
    active: int = 0
    away: str | None = None
    ignores: dict[SessionId, None] = field(default_factory=dict)  # not names: a name may be somebody else's tomorrow
    reply_to: SessionId = b""  # not a name: that may be somebody else's by the time of the answer
    timestamps: bool = False
    quiet: bool = False
    recall: bool = True  # it is shown what was said earlier when it enters a room
    dialect: str = ""
    pace: int = KEEPING  # how it keeps to its rate; see entries.PACES
    paced_at: tuple[int, int] = (0, 0)  # where in its input that was, and how late of what was there
    asked: int = 0  # how many questions it has asked the archive
    questions: tuple[Question, ...] = ()  # that are not answered yet
    recalled: tuple[str, int, int] = ("", 0, 0)  # a room, and before which place there its last history began


@dataclass(slots=True)
class Room:
    """One room; `members` in the order in which they came."""

    name: str
    look: Look
    topic: str = ""
    members: dict[SessionId, None] = field(default_factory=dict)


OwnerT = TypeVar("OwnerT")


class Looks(Generic[OwnerT]):
    """Whose names look how. A look has several owners only if they had their names before looks counted."""

    def __init__(self) -> None:
        # By skeleton, and then by look: people choose how many names share a skeleton.
        self._owners: dict[str, dict[Look, dict[OwnerT, None]]] = {}

    def add(self, look: Look, owner: OwnerT) -> None:
        self._owners.setdefault(look.skeleton, {}).setdefault(look, {})[owner] = None

    def drop(self, look: Look, owner: OwnerT) -> None:
        looks = self._owners[look.skeleton]
        del looks[look][owner]
        if not looks[look]:
            del looks[look]
        if not looks:
            del self._owners[look.skeleton]

    def find(self, look: Look, but: OwnerT | None = None) -> OwnerT | None:
        """Somebody whose name looks like this, `but` excepted; None when there is nobody."""
        looks = self._owners.get(look.skeleton, {})
        # A look in ASCII is like itself and like the one look of this skeleton that is not ASCII.
        alike = (look, Look(look.skeleton, "")) if look.plain else looks
        return next((owner for each in alike for owner in looks.get(each, ()) if owner != but), None)


class State:
    """All sessions and rooms, and the moves between them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.sessions: dict[SessionId, Session] = {}
        self.names: dict[str, SessionId] = {}
        self.looks: Looks[SessionId] = Looks()
        self.rooms: dict[str, Room] = {}
        self.room_looks: Looks[str] = Looks()
        self._make_room(LOBBY)
        # (-members, name) of every room, sorted: else every replica would sort all of them at each /rooms.
        self._ranking: list[tuple[int, str]] = [(0, LOBBY)]
        self.history = History(limits.history, limits.history_bytes, self._drop_unused)
        self.stopped = False
        # Rooms without members, the longest-idle first: those without a topic, and those with one.
        self._idle: tuple[dict[str, None], dict[str, None]] = ({}, {})
        self._ignored_by: dict[SessionId, dict[SessionId, None]] = {}
        self._tombstones: dict[SessionId, None] = {}
        # Whose questions wait for the archive. Each answer puts its session behind the others.
        self._asking: dict[SessionId, None] = {}

    def open(self, sid: SessionId, address: str, epoch: int, dialect: str, time: int) -> Session | None:
        """A new session; None when there is one, or was one, with this id."""
        if sid in self.sessions or sid in self._tombstones:
            return None
        session = self.sessions[sid] = Session(sid, address, since=time, epoch=epoch, active=time, dialect=dialect)
        return session

    def close(self, session: Session) -> None:
        """The session is no more, nor is its name or its place in any room, and nobody ignores it; its id is
        remembered."""
        for room in list(session.rooms):
            self._drop_member(room, session.sid)
        if session.look:
            del self.names[session.key]
            self.looks.drop(session.look, session.sid)
        for other in list(session.ignores):
            self.unignore(session, self.sessions[other])
        for other in self.list_ignorers(session):
            self.unignore(self.sessions[other], session)
        self._asking.pop(session.sid, None)
        del self.sessions[session.sid]
        self.bury(session.sid)

    def bury(self, sid: SessionId) -> None:
        """A session of this id will never be opened (again)."""
        self._tombstones[sid] = None
        if len(self._tombstones) > self.limits.tombstones:
            del self._tombstones[next(iter(self._tombstones))]

    def ask(self, session: Session, question: Question) -> None:
        """The session asks the archive this, with the number that comes next."""
        session.asked += 1
        session.questions = (*session.questions, question._replace(number=session.asked))
        self._asking[session.sid] = None

    def take_question(self, session: Session, number: int) -> Question | None:
        """The question is answered; None when there is no such question (any more)."""
        found = next((question for question in session.questions if question.number == number), None)
        if found is not None:
            session.questions = tuple(question for question in session.questions if question is not found)
            del self._asking[session.sid]
            if session.questions:
                self._asking[session.sid] = None
        return found

    def next_question(self) -> tuple[Session, Question] | None:
        """What the archive is to answer next: sessions take turns."""
        for sid in self._asking:
            session = self.sessions[sid]
            return session, session.questions[0]
        return None

    def find(self, name: str) -> Session | None:
        """The session called `name`, in any case."""
        sid = self.names.get(name_key(name))
        return None if sid is None else self.sessions[sid]

    def rename(self, session: Session, name: str) -> None:
        """Give the session a name that is free."""
        if session.look:
            del self.names[session.key]
            self.looks.drop(session.look, session.sid)
        session.name, session.key, session.look = name, name_key(name), name_look(name)
        self.names[session.key] = session.sid
        self.looks.add(session.look, session.sid)

    def is_free(self, name: str, session: Session | None = None) -> bool:
        """Whether nobody else than `session` has this name, or one that looks the same."""
        sid = None if session is None else session.sid
        return self.names.get(name_key(name), sid) == sid and self.looks.find(name_look(name), sid) is None

    def free_name(self, name: str, sid: SessionId) -> str:
        """`name`, or the next of ``name-2``, ``name-3`` … that is free.

        After NUMBERS_IN_ORDER of them, a number that the session's id gives: a thousand clients who want one name would
        otherwise make every worker try a thousand names for the next one.
        """
        candidate, number = name, 2
        while not self.is_free(candidate):
            candidate = numbered_name(name, number)
            number += 1
            if number == NUMBERS_IN_ORDER:
                number += int.from_bytes(sid[:4], "big") % 1_000_000
        return candidate

    def ignore(self, session: Session, other: Session) -> None:
        """Hide `other` from the session, as long as both are here."""
        session.ignores[other.sid] = None
        self._ignored_by.setdefault(other.sid, {})[session.sid] = None

    def unignore(self, session: Session, other: Session) -> None:
        """Show `other`, which is ignored, to the session again."""
        del session.ignores[other.sid]
        ignorers = self._ignored_by[other.sid]
        del ignorers[session.sid]
        if not ignorers:
            del self._ignored_by[other.sid]

    def list_ignorers(self, session: Session) -> list[SessionId]:
        """Who ignores the session."""
        # Sorted, since a state that was loaded has them in another order.
        return sorted(self._ignored_by.get(session.sid, ()))

    def enter(self, session: Session, room: str) -> None:
        """The session is in `room` (made when it is not there) and talks there."""
        entered = self.rooms.get(room)
        if entered is None:
            entered = self._make_room(room)
        elif session.sid not in entered.members:
            self._unrank(entered)
        if session.sid not in entered.members:
            self._idle[bool(entered.topic)].pop(room, None)
            entered.members[session.sid] = None
            self._rank(entered)
        session.rooms[room] = None
        session.current = room

    def ranked(self, first: int, count: int) -> list[Room]:
        """`count` rooms from number `first` on, the fullest first, then by name."""
        return [self.rooms[name] for _, name in self._ranking[first : first + count]]

    def leave(self, session: Session, room: str) -> bool:
        """The session is in `room` no more, and talks in the room entered last. True when it had to go to the lobby."""
        del session.rooms[room]
        self._drop_member(room, session.sid)
        if not session.rooms:
            self.enter(session, LOBBY)
            return True
        if session.current == room:
            session.current = next(reversed(session.rooms))
        return False

    def evict_room(self) -> bool:
        """End the room that is idle for the longest time, of those without a topic if there is one. False: none is
        idle."""
        for rooms in self._idle:
            for room in rooms:
                self._end_room(self.rooms[room])
                return True
        return False

    def forget_room(self, room: str) -> None:
        """Forget the lines and the topic of a room, and end it when it has no members."""
        self.history.forget(room)
        forgotten = self.rooms.get(room)
        if forgotten is None:
            return
        if room in self._idle[True] or room in self._idle[False]:
            self._end_room(forgotten)
        forgotten.topic = ""

    @property
    def tombstones(self) -> Collection[SessionId]:
        """The ids of sessions that will not be opened, the oldest first."""
        return self._tombstones.keys()

    def restore_session(self, session: Session) -> None:
        """As it was, in a state that is being loaded; `finish_restoring` comes last."""
        self.sessions[session.sid] = session
        if session.key:
            session.look = name_look(session.name)
            self.names[session.key] = session.sid
            self.looks.add(session.look, session.sid)
        for other in session.ignores:
            self._ignored_by.setdefault(other, {})[session.sid] = None
        if session.questions:
            self._asking[session.sid] = None

    def restore_room(self, room: str, topic: str, members: Iterable[SessionId]) -> None:
        """This room, with these members behind those who were restored before."""
        restored = self.rooms.get(room) or self._make_room(room)
        restored.topic = topic
        restored.members.update(dict.fromkeys(members))

    def finish_restoring(self) -> None:
        """All is here again, but for the history."""
        self._ranking = sorted((-len(room.members), name) for name, room in self.rooms.items())
        for name, room in self.rooms.items():
            if not room.members and name != LOBBY:
                self._idle[bool(room.topic)][name] = None

    def _make_room(self, name: str) -> Room:
        room = self.rooms[name] = Room(name, name_look(name))
        self.room_looks.add(room.look, name)
        return room

    def _drop_member(self, room: str, sid: SessionId) -> None:
        left = self.rooms[room]
        self._unrank(left)
        del left.members[sid]
        self._rank(left)
        if not left.members and room != LOBBY:
            self._idle[bool(left.topic)][room] = None
            # Behind all others: the order of idle rooms is that of their last members' leaving.
            self.rooms[room] = self.rooms.pop(room)
            self.room_looks.drop(left.look, room)
            self.room_looks.add(left.look, room)
            self._drop_unused(room)

    def _drop_unused(self, name: str) -> None:
        """End the room if it has no members, and nothing else keeps it."""
        room = self.rooms.get(name)
        if room is None or room.members or name == LOBBY:
            return
        if not (self.limits.rooms_stay and (room.topic or self.history.has_lines(name))):
            self._end_room(room)

    def _end_room(self, room: Room) -> None:
        """The room, which has no members, is no more."""
        self._unrank(room)
        del self.rooms[room.name]
        self.room_looks.drop(room.look, room.name)
        self._idle[bool(room.topic)].pop(room.name, None)
        self.history.forget(room.name)

    def _rank(self, room: Room) -> None:
        insort(self._ranking, (-len(room.members), room.name))

    def _unrank(self, room: Room) -> None:
        del self._ranking[bisect_left(self._ranking, (-len(room.members), room.name))]
