"""The last lines of every room, within bounds: so many a room, and so many bytes in all rooms together.

Owns what `/history` and a joining member are shown. Promises that the same additions in the same order leave the same
lines in every replica. What goes first when memory is short is the oldest line of all rooms.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

DumpedRun = tuple[int, int, str, bool, tuple[str, ...], int]
DumpedHistory = tuple[int, list[tuple[str, list[DumpedRun]]]]


class Line(NamedTuple):
    """One thing that was said in a room: `action` tells ``/me`` from a message; `time` in ms since the epoch."""

    time: int
    name: str
    action: bool
    text: str


class _Run(NamedTuple):
    """What one entry added: texts by the same member at the same moment."""

    number: int
    time: int
    name: str
    action: bool
    texts: tuple[str, ...]
    size: int


class _RoomHistory:
    """The runs of one room, oldest first, and how many lines they hold."""

    __slots__ = ("lines", "runs")

    def __init__(self) -> None:
        self.runs: deque[_Run] = deque()
        self.lines = 0

    def pop(self) -> int:
        """Forget the oldest run; give its size in bytes."""
        run = self.runs.popleft()
        self.lines -= len(run.texts)
        return run.size


# What a run, and each of its texts, cost beside the characters, so that many short lines count too: about what
# sys.getsizeof gives for the tuples and numbers, and for an empty string and the pointer to it.
_RUN_OVERHEAD = 200
_TEXT_OVERHEAD = 60

_LINE_OVERHEAD = 16
"""What a line has at most when it is shown, beside name and text: ``00:00 ** `` and its end."""


class History:
    """The histories of all rooms. `limit`: lines a room; `budget`: bytes in all."""

    def __init__(self, limit: int, budget: int) -> None:
        self._limit = limit
        self._budget = budget
        self._rooms: dict[str, _RoomHistory] = {}
        self._order: deque[tuple[int, str]] = deque()
        self._number = 0
        self._size = 0

    @property
    def size(self) -> int:
        """About how many bytes are kept."""
        return self._size

    def add(self, room: str, time: int, name: str, texts: tuple[str, ...], action: bool = False) -> None:
        """`name` said `texts` in `room`."""
        if not self._limit:
            return
        texts = texts[-self._limit :]
        size = _RUN_OVERHEAD + _TEXT_OVERHEAD * len(texts) + sum(map(len, texts))
        self._number += 1
        history = self._rooms.setdefault(room, _RoomHistory())
        history.runs.append(_Run(self._number, time, name, action, texts, size))
        history.lines += len(texts)
        self._order.append((self._number, room))
        self._size += size
        # A run is forgotten whole, so that a room may hold up to one run more than its limit; last() cuts.
        while history.lines - len(history.runs[0].texts) >= self._limit:
            self._size -= history.pop()
        self._shrink()

    def last(self, room: str, count: int, most: int) -> list[Line]:
        """The last `count` lines of `room`, oldest first; fewer when they would have more than `most` bytes."""
        count = min(count, self._limit)
        lines: list[Line] = []
        if count > 0 and room in self._rooms:
            for line in self._newest_first(room):
                most -= len(line.text.encode()) + len(line.name.encode()) + _LINE_OVERHEAD
                if most < 0:
                    break
                lines.append(line)
                if len(lines) == count:
                    break
        lines.reverse()
        return lines

    def forget(self, room: str) -> None:
        """The room is no more."""
        history = self._rooms.pop(room, None)
        if history is not None:
            self._size -= sum(run.size for run in history.runs)
        self._shrink()

    def dump(self) -> DumpedHistory:
        """All of it, as plain values; `load` takes them."""
        rooms: list[tuple[str, list[DumpedRun]]] = [
            (room, [(*run,) for run in history.runs]) for room, history in self._rooms.items()
        ]
        return self._number, rooms

    def load(self, dumped: DumpedHistory) -> None:
        """Take what `dump` gave, in place of what is here."""
        self._number, rooms = dumped
        self._rooms.clear()
        for room, runs in rooms:
            history = self._rooms[room] = _RoomHistory()
            history.runs.extend(map(_Run._make, runs))
            history.lines = sum(len(run.texts) for run in history.runs)
        self._size = sum(run.size for history in self._rooms.values() for run in history.runs)
        self._list_order()

    def _newest_first(self, room: str) -> Iterator[Line]:
        for run in reversed(self._rooms[room].runs):
            for text in reversed(run.texts):
                yield Line(run.time, run.name, run.action, text)

    def _shrink(self) -> None:
        """Forget the oldest lines of all until the budget holds."""
        while self._size > self._budget:
            number, room = self._order.popleft()
            history = self._rooms.get(room)
            if history is not None and history.runs[0].number == number:
                self._size -= history.pop()
                if not history.runs:
                    del self._rooms[room]
        # Rooms forget by themselves too; what they forgot is still listed, and may not pile up behind an old line
        # of a silent room. Listing anew costs O(runs) once in at least as many additions.
        if len(self._order) > 2 * self._live_runs() + 1024:
            self._list_order()

    def _live_runs(self) -> int:
        return self._size // _RUN_OVERHEAD

    def _list_order(self) -> None:
        """List the runs of all rooms, oldest first."""
        self._order = deque(
            sorted((run.number, room) for room, history in self._rooms.items() for run in history.runs)
        )
