"""Snapshots: the state of the chat as bytes, made and read in steps, between which others can work.

Owns the format. A snapshot begins with a magic number and the version; then come *chunks*, each a length and a tuple of
rows (`codec`), and at last an empty one. Each chunk can be read by itself, in its turn.

Promises that equal states give the same bytes; that a state which was loaded is equal to the one that was copied; and
that no step of it takes longer because there is more of the chat: the steps are bounded in what they copy, encode or
load. Only a snapshot that is whole gives a state.
"""

import struct
from collections.abc import Iterator
from itertools import chain
from operator import attrgetter
from typing import Any

from mpchat.chat.codec import dump_plain_alike, load_plain
from mpchat.chat.state.history import Run
from mpchat.chat.state.names import name_key
from mpchat.chat.state.state import Limits, Question, Session, State

SNAPSHOT_VERSION = 5

SNAPSHOT_VERSIONS = (2, 3, 4, SNAPSHOT_VERSION)
"""Those that can be loaded. In 2 and 3, people are ignored by name, and lines have no author but their name. There are
questions since 5."""

CHUNK = 256 << 10
"""About how many bytes of the state a chunk has at least, unless it is the last one. Some ms to make, and to load."""

ROW_SIDS = 1000
"""How many session ids a row has at most."""

ROW_RUNS = 32
"""How many runs of a room's history a row has at most; each is of the size of a message of the log at most."""

STEP = 1000
"""How many sessions are copied in one step, about; or other things that take as long: 2 ms."""

_MAGIC = b"mpchatSS"
_HEADER = struct.Struct("!8sI")
_LENGTH = struct.Struct("!I")

_SID_SIZE = 20  # what a row has for a session id
_SESSION_SIZE = 200  # ... and for a session, beside its rooms and whom it ignores
_ROOM_SIZE = 50

# What the first value of a row says that the others are.
_SESSION, _ROOM, _TOMBSTONES, _RUNS, _STATE = range(5)

_FLAT = ("sid", "address", "since", "epoch", "position", "mode", "name", "key", "tries", "current", "active", "away")
_REST = ("reply_to", "timestamps", "quiet")
_SINCE_3 = ("noted", "manner")
_SINCE_4 = ("pace", "paced_at", "recall")
_SINCE_5 = ("asked", "recalled")
_read_session = attrgetter(*_FLAT, *_REST, *_SINCE_3, *_SINCE_4, *_SINCE_5)

Row = tuple[Any, ...]


class Capture:
    """A copy of a state as it is now, and from it a snapshot. First `advance`, then `chunks`."""

    def __init__(self, state: State) -> None:
        self._rows: list[tuple[int, Row]] = []  # with the size of each
        self._histories: list[tuple[str, tuple[Run, ...]]] = []
        self._last: Row = ()
        self._copying = self._copy(state)

    def advance(self) -> bool:
        """Copy some more, and return whether that was all. The state must not change before."""
        return next(self._copying, True)

    def chunks(self) -> Iterator[bytes]:
        """The snapshot, piece by piece; once only. The state may change meanwhile."""
        yield _HEADER.pack(_MAGIC, SNAPSHOT_VERSION)
        chunk: list[Row] = []
        size = 0
        for row_size, row in chain(self._rows, self._list_runs()):
            chunk.append(row)
            size += row_size
            if size >= CHUNK:
                yield _frame(chunk)
                chunk, size = [], 0
        yield _frame([*chunk, self._last])
        yield _LENGTH.pack(0)

    def _copy(self, state: State) -> Iterator[bool]:
        left = float(STEP)
        for effort in chain(self._copy_sessions(state), self._copy_rooms(state), self._copy_history(state)):
            left -= effort
            if left < 0:
                left = float(STEP)
                yield False
        tombstones = tuple(state.tombstones)
        for piece in _cut(tombstones, ROW_SIDS):
            self._rows.append((_SID_SIZE * len(piece), (_TOMBSTONES, piece)))
        self._last = (_STATE, state.stopped, state.history.number)

    def _copy_sessions(self, state: State) -> Iterator[float]:
        for session in state.sessions.values():
            rooms, ignores = tuple(session.rooms), tuple(session.ignores)
            questions = tuple(map(tuple, session.questions))
            size = _SESSION_SIZE * (1 + len(questions)) + _SID_SIZE * (2 * len(rooms) + len(ignores))
            self._rows.append((size, (_SESSION, _read_session(session), rooms, ignores, questions)))
            yield 1.0

    def _copy_rooms(self, state: State) -> Iterator[float]:
        for room in state.rooms.values():
            members = tuple(room.members)
            for piece in _cut(members, ROW_SIDS) or [()]:
                size = _ROOM_SIZE + _SID_SIZE * len(piece)
                self._rows.append((size, (_ROOM, room.name, room.topic, piece)))
            yield 1.0 + len(members) / 100

    def _copy_history(self, state: State) -> Iterator[float]:
        for room, runs in state.history.copy_runs():
            self._histories.append((room, runs))
            yield 1.0 + len(runs) / 100

    def _list_runs(self) -> Iterator[tuple[int, Row]]:
        """By columns, with each author once: a run is a quarter smaller so, and sooner made and loaded."""
        for room, runs in self._histories:
            for piece in _cut(runs, ROW_RUNS):
                numbers, times, names, actions, texts, sizes, authors = zip(*piece, strict=True)
                pairs = list(zip(names, authors, strict=True))
                known = dict.fromkeys(pairs)
                places = {pair: place for place, pair in enumerate(known)}
                who = tuple(map(places.__getitem__, pairs))
                yield sum(sizes), (_RUNS, room, numbers, times, tuple(known), who, actions, texts, sizes)


class Loading:
    """A state that is loaded: `feed` gives it the snapshot piece by piece, `advance` takes it in."""

    def __init__(self, limits: Limits) -> None:
        self._state = State(limits)
        self._data = b""
        self._at = 0
        self._begun = False
        self._version = 0
        self._ignores: list[tuple[Session, tuple[str, ...]]] = []  # by name
        self._last: list[Any] | None = None  # the row that comes last
        self.finished = False
        """Whether the snapshot has come to its end."""

    @property
    def state(self) -> State:
        """What was loaded. Raises ValueError when something is missing."""
        if not self.finished or self._last is None:
            raise ValueError("a snapshot without an end")
        return self._state

    def feed(self, data: bytes) -> None:
        """What follows is this."""
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0

    def advance(self) -> bool:
        """Load a chunk; false when there is none as long as nothing more is fed. Raises ValueError for what is no
        snapshot, or one of a version that this code does not know."""
        if not self._begun:
            return self._begin()
        data = self._take()
        if data is None:
            return False
        if not data:
            self.finished = True
            return False
        rows = load_plain(data)
        try:
            for row in rows:
                self._restore(row)
        except (TypeError, ValueError, LookupError) as error:
            raise ValueError(f"no snapshot: {error!r}") from error
        return True

    def _begin(self) -> bool:
        if len(self._data) - self._at < _HEADER.size:
            return False
        magic, version = _HEADER.unpack_from(self._data, self._at)
        if magic != _MAGIC:
            raise ValueError("no snapshot: it begins with something else")
        if version not in SNAPSHOT_VERSIONS:
            raise ValueError(f"a snapshot of version {version}; this program reads version {SNAPSHOT_VERSION}")
        self._version = version
        self._at += _HEADER.size
        self._begun = True
        return True

    def _take(self) -> memoryview | None:
        """The next chunk, if it is there."""
        start = self._at + _LENGTH.size
        if self.finished or len(self._data) < start:
            return None
        (length,) = _LENGTH.unpack_from(self._data, self._at)
        if len(self._data) < start + length:
            return None
        self._at = start + length
        return memoryview(self._data)[start : self._at]

    def _restore(self, row: Row) -> None:
        kind, *values = row
        state = self._state
        if kind == _SESSION:
            self._restore_session(*values)
        elif kind == _ROOM:
            state.restore_room(*values)
        elif kind == _TOMBSTONES:
            for sid in values[0]:
                state.bury(sid)
        elif kind == _RUNS:
            room, *columns = values
            state.history.restore(room, self._make_runs(*columns))
        elif kind == _STATE:
            state.stopped, number = self._last = values
            for session, names in self._ignores:
                for other in map(state.find, names):
                    if other is not None and other is not session:
                        state.ignore(session, other)
            state.finish_restoring()
            state.history.finish_restoring(number)
        else:
            raise ValueError(f"a row of kind {kind!r}")

    def _restore_session(
        self,
        flat: tuple[Any, ...],
        rooms: tuple[str, ...],
        ignores: tuple[Any, ...],
        questions: tuple[tuple[Any, ...], ...] = (),
    ) -> None:
        since = ((3, _SINCE_3), (4, _SINCE_4), (5, _SINCE_5))
        names = chain(_FLAT, _REST, *(names for version, names in since if self._version >= version))
        values = dict(zip(names, flat, strict=True))
        session = Session(**values, rooms=dict.fromkeys(rooms), questions=tuple(map(Question._make, questions)))
        if self._version >= 4:
            session.ignores.update(dict.fromkeys(ignores))
        elif ignores:
            # They may follow.
            self._ignores.append((session, tuple(name for _, name in ignores)))
        self._state.restore_session(session)

    def _make_runs(
        self, numbers: Any, times: Any, known: tuple[Any, ...], who: Any, actions: Any, texts: Any, sizes: Any
    ) -> Iterator[Run]:
        if self._version < 4:
            holders = self._state.names
            known = tuple((name, holders.get(name_key(name), b"")) for name in known)
        names, authors = zip(*map(known.__getitem__, who), strict=True)
        return zip(numbers, times, names, actions, texts, sizes, authors, strict=True)


def _cut(values: tuple[Any, ...], most: int) -> list[tuple[Any, ...]]:
    """In pieces of at most so many."""
    return [values[start : start + most] for start in range(0, len(values), most)]


def _frame(rows: list[Row]) -> bytes:
    data = dump_plain_alike(tuple(rows))
    return _LENGTH.pack(len(data)) + data
