"""The last lines of every room, within bounds: so many a room, and so many bytes in all rooms together.

Owns what `/history` and a joining member are shown. Promises that the same additions in the same order leave the same
lines in every replica. What goes first when memory is short is the oldest line of all rooms.
"""

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import dropwhile, islice, takewhile
from operator import itemgetter
from typing import Final, NamedTuple

from mpchat.chat.entries import SessionId
from mpchat.chat.state.names import name_key

Run = tuple[int, int, str, bool, tuple[str, ...], int, SessionId]
"""What one entry added: number, time, name, action, texts by the same member at the same moment, their size, and whose
they are. The session may be over; its id is never used again, unlike its name.

A plain tuple, not a NamedTuple: of those that hold nothing else than numbers and strings the garbage collector loses
sight (gc.is_tracked()), of instances of a subclass never. With a full history, every full collection would take 0.15 s.
"""

_NUMBER: Final = 0
_TIME: Final = 1
_NAME: Final = 2
_TEXTS: Final = 4
_SIZE: Final = 5
_size = itemgetter(_SIZE)


class Line(NamedTuple):
    """One thing that was said in a room: `action` tells ``/me`` from a message; `time` in ms since the epoch."""

    time: int
    name: str
    action: bool
    text: str


class HistoryPlace(NamedTuple):
    """A place in the lines of a room: before moment `before` (ms), and before the last `skip` lines from before that.

    Lines of one moment have an order, but no numbers that they have in memory and in the archive alike.
    """

    before: int
    skip: int = 0

    def move(self, lines: Sequence[Line]) -> "HistoryPlace":
        """The place before `lines`, which are the last ones from before this place, oldest first."""
        if not lines:
            return self
        before = lines[0].time + 1
        skip = sum(1 for _ in takewhile(lambda line: line.time == lines[0].time, lines))
        return HistoryPlace(before, skip + self.skip if before == self.before else skip)


NEWEST: Final = HistoryPlace(1 << 62)
"""Behind all lines."""


def measure_line(line: Line) -> int:
    """How many bytes the line has at most when it is shown in the history of a room."""
    return len(line.text.encode()) + len(line.name.encode()) + _LINE_OVERHEAD


class _RoomHistory:
    """The runs of one room, oldest first, and how many lines they hold."""

    __slots__ = ("lines", "runs")

    def __init__(self) -> None:
        self.runs: deque[Run] = deque()
        self.lines = 0

    def pop(self) -> int:
        """Forget the oldest run; give its size in bytes."""
        run = self.runs.popleft()
        self.lines -= len(run[_TEXTS])
        return run[_SIZE]


# What a run, and each of its texts, cost beside the characters, so that many short lines count too: about what
# sys.getsizeof gives for the tuples and numbers, and for an empty string and the pointer to it.
_RUN_OVERHEAD = 200
_TEXT_OVERHEAD = 60

_LINE_OVERHEAD = 24
"""What a line has at most when it is shown, beside name and text: ``2026-11-25 00:00 ** `` and its end."""


class History:
    """The histories of all rooms. `limit`: lines a room; `budget`: bytes in all.

    `on_emptied` is called with a room whose last line is forgotten, unless that is because of `forget`.
    """

    def __init__(self, limit: int, budget: int, on_emptied: Callable[[str], None] = lambda room: None) -> None:
        self._limit = limit
        self._on_emptied = on_emptied
        self._budget = budget
        self._rooms: dict[str, _RoomHistory] = {}
        # A heap of the number of each room's oldest run, as of some time ago, and the room; perhaps of rooms that are
        # no more. Not a list of all runs: making one anew would take as long as all of them need.
        self._oldest: list[tuple[int, str]] = []
        self._number = 0
        self._size = 0

    @property
    def size(self) -> int:
        """About how many bytes are kept."""
        return self._size

    def add(
        self,
        room: str,
        time: int,
        name: str,
        texts: tuple[str, ...],
        action: bool = False,
        author: SessionId = b"",
    ) -> None:
        """The session `author`, called `name`, said `texts` in `room`."""
        if not self._limit:
            return
        texts = texts[-self._limit :]
        size = _RUN_OVERHEAD + _TEXT_OVERHEAD * len(texts) + sum(map(len, texts))
        self._number += 1
        history = self._rooms.get(room)
        if history is None:
            history = self._rooms[room] = _RoomHistory()
            self._list(room)
        history.runs.append((self._number, time, name, action, texts, size, author))
        history.lines += len(texts)
        self._size += size
        # A run is forgotten whole, so that a room may hold up to one run more than its limit; last() cuts.
        while history.lines - len(history.runs[0][_TEXTS]) >= self._limit:
            self._size -= history.pop()
        while self._size > self._budget:
            self._forget_oldest()

    def last(self, room: str, count: int, most: int, hidden: Container[SessionId] = ()) -> list[Line]:
        """The last `count` lines of `room` that are not of `hidden` sessions, oldest first; fewer when they would have
        more than `most` bytes."""
        return self.find(room, min(count, self._limit), most, hidden)[0]

    def find(
        self, room: str, count: int, most: int, hidden: Container[SessionId] = (), place: HistoryPlace = NEWEST
    ) -> tuple[list[Line], bool]:
        """Like `last`, from before a place; and whether these are all that were asked for: not when lines that are
        forgotten may belong to them."""
        lines: list[Line] = []
        kept = self._newest_first(room, hidden) if room in self._rooms else iter(())
        before = dropwhile(lambda line: line.time >= place.before, kept)
        for line in islice(before, place.skip, None):
            most -= measure_line(line)
            if most < 0 or len(lines) == min(count, self._limit):
                break
            lines.append(line)
        lines.reverse()
        return lines, most < 0 or len(lines) == count

    def forget(self, room: str) -> None:
        """The room is no more."""
        history = self._rooms.pop(room, None)
        if history is not None:
            self._size -= sum(map(_size, history.runs))

    def forget_name(self, key: str) -> None:
        """Forget all lines of this name, in all rooms."""
        # Names recur, and finding the key of one costs more than a look into a dict.
        keys: dict[str, str] = {}

        def is_meant(run: Run) -> bool:
            name = run[_NAME]
            found = keys.get(name)
            if found is None:
                found = keys[name] = name_key(name)
            return found == key

        self._forget_runs(is_meant)

    def forget_before(self, time: int) -> None:
        """Forget all lines from before this moment."""
        self._forget_runs(lambda run: run[_TIME] < time)

    def has_lines(self, room: str) -> bool:
        """Whether lines of this room are kept."""
        return room in self._rooms

    def copy_runs(self) -> Iterator[tuple[str, tuple[Run, ...]]]:
        """Each room with its runs, in the order that `restore` needs."""
        for room, history in self._rooms.items():
            yield room, tuple(history.runs)

    @property
    def number(self) -> int:
        """How many runs were added ever."""
        return self._number

    def restore(self, room: str, runs: Iterable[Run]) -> None:
        """These were in `room` behind all that were restored before; `finish_restoring` comes last."""
        history = self._rooms.setdefault(room, _RoomHistory())
        for run in runs:
            history.runs.append(run)
            history.lines += len(run[_TEXTS])
            self._size += run[_SIZE]

    def finish_restoring(self, number: int) -> None:
        """All is here again; `number` runs were added ever."""
        self._number = number
        self._list_rooms()

    def _forget_runs(self, is_meant: Callable[[Run], bool]) -> None:
        emptied = []
        for room, history in self._rooms.items():
            kept = deque(run for run in history.runs if not is_meant(run))
            if len(kept) == len(history.runs):
                continue
            self._size -= sum(map(_size, history.runs)) - sum(map(_size, kept))
            history.runs = kept
            history.lines = sum(len(run[_TEXTS]) for run in kept)
            if not kept:
                emptied.append(room)
        for room in emptied:
            del self._rooms[room]
        self._list_rooms()
        for room in emptied:
            self._on_emptied(room)

    def _newest_first(self, room: str, hidden: Container[SessionId]) -> Iterator[Line]:
        for _, time, name, action, texts, _, author in reversed(self._rooms[room].runs):
            if author not in hidden:
                for text in reversed(texts):
                    yield Line(time, name, action, text)

    def _forget_oldest(self) -> None:
        """Forget the oldest run of all, or find out what it is not."""
        number, room = self._oldest[0]
        history = self._rooms.get(room)
        if history is None:
            heappop(self._oldest)
            return
        if history.runs[0][_NUMBER] == number:
            self._size -= history.pop()
        if history.runs:
            heapreplace(self._oldest, (history.runs[0][_NUMBER], room))
        else:
            heappop(self._oldest)
            del self._rooms[room]
            self._on_emptied(room)

    def _list(self, room: str) -> None:
        """There is this room now, and what is added next is its first run."""
        heappush(self._oldest, (self._number, room))
        # Rooms that are no more are listed until they come first. May they not pile up behind an old one.
        if len(self._oldest) > 2 * len(self._rooms) + 64:
            self._list_rooms()

    def _list_rooms(self) -> None:
        # A room that was just made has no run yet.
        self._oldest = [
            (history.runs[0][_NUMBER] if history.runs else self._number, room)
            for room, history in self._rooms.items()
        ]
        heapify(self._oldest)
