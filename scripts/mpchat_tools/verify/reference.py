"""The one order of a room, as its observers see it. PURE.

Bounded when it is trimmed: the text kept is 2 WINDOW and what the slowest client is behind, with some words for each
line of it, and a few for each client and each line that was lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from mpchat_tools.verify.talk import Said

HISTORY = 20  # lines that somebody who enters a room is shown
WINDOW = 1 << 20  # bytes that are kept behind the slowest client, to know a doubled line

Key = tuple[bytes, int]
"""A message: its sender, and its number."""


class Seen(NamedTuple):
    """Messages of a room in the order in which clients saw them, with none between them; `shown`: how many of the first
    were history. If a client saw them that `own` names, its own messages are not among them."""

    keys: list[Key]
    shown: int | None = None
    own: bytes = b""


AKey = TypeVar("AKey", bound=Hashable)


class Start(NamedTuple):
    """Where in the order a client's stream begins, and the history that it is shown first."""

    position: int
    history: list[bytes]


class Reference:
    """Positions count its bytes from the beginning, also of those that are not kept any more."""

    def __init__(self) -> None:
        self.end = 0
        self.closed = False  # nothing more is added to it: what is not here was lost
        self.starts: dict[bytes, Start] = {}
        self.ends: dict[bytes, int] = {}  # where those begin to be missing who left
        self.own: dict[bytes, deque[tuple[int, int]]] = {}  # where the lines of each client are that is not over
        self.said: Counter[bytes] = Counter()  # how many messages each sender has sent, or is going to
        self.heard: Counter[bytes] = Counter()  # the newest number of each sender
        self.lost: dict[Key, int] = {}  # what is not here, though a later message of its sender is, and where
        self.keys: list[Key] = []  # the whole order, if that is kept
        self.shown = 0  # how many of them are history that the first observer was shown
        self._keep_keys = False
        self._text = bytearray()
        self._base = 0
        self._index: dict[bytes, int] = {}  # every line of the text is there once
        self._recent: deque[bytes] = deque(maxlen=HISTORY)

    def keep_keys(self) -> None:
        """The order will be compared with that of other processes."""
        self._keep_keys = True

    def go_on(self) -> Reference:
        """The order behind the end of a server and the start of the next. What was sent to the first and not heard does
        not come any more; what the next shows of it is taken by `recall`."""
        after = Reference()
        after._keep_keys = self._keep_keys
        after.said.update(self.said)
        after.heard.update(self.heard | self.said)
        return after

    def recall(self, line: bytes, said: Said) -> None:
        """Add what the first observer is shown as history."""
        self._recent.append(line)
        self.shown += 1
        if self._keep_keys:
            self.keys.append((said.name, said.number))

    def extend(self, line: bytes, said: Said) -> None:
        """Add what comes next. Messages of its sender that are missing before it are lost."""
        start, self.end = self.end, self.end + len(line)
        self._index[line] = start
        self._text += line
        if said.number:
            self._note_lost(said.name, said.number - 1, start)
            self.heard[said.name] = said.number
            self._recent.append(line)
            if self._keep_keys:
                self.keys.append((said.name, said.number))
            if said.name in self.own:
                self.own[said.name].append((start, self.end))
        elif said.joined:
            self.starts[said.name] = Start(self.end, list(self._recent))
        else:
            self.ends[said.name] = start

    def close(self) -> None:
        """What was said and is not here was lost."""
        self.closed = True
        for name, said in self.said.items():
            self._note_lost(name, said, self.end)

    def _note_lost(self, name: bytes, until: int, position: int) -> None:
        for number in range(self.heard[name] + 1, until + 1):
            self.lost.setdefault((name, number), position)

    def has_at(self, position: int, block: bytes) -> bool:
        return self._text.startswith(block, position - self._base)

    def find(self, line: bytes) -> int | None:
        """The position of `line`, if it is there and still kept."""
        return self._index.get(line)

    def lines(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The lines from `start` to `end`, each with its position."""
        for line in bytes(self._text[start - self._base : end - self._base]).splitlines(keepends=True):
            yield start, line
            start += len(line)

    def forget(self, name: bytes) -> None:
        """This client's stream is over. What it has said last is kept: somebody may yet be sent that again."""
        for table in (self.own, self.starts, self.ends, self.said):
            table.pop(name, None)

    def trim(self, least: int) -> None:
        """Nobody needs what is before `least`; keep WINDOW of it."""
        if least - self._base < 2 * WINDOW:
            return
        for line, position in list(self._index.items()):
            if position >= least - WINDOW:
                del self._text[: position - self._base]
                self._base = position
                return
            del self._index[line]


def compare_orders(orders: Sequence[Sequence[AKey]]) -> list[AKey]:
    """The messages that the observers of one room in several processes have in different places."""
    rank = {key: place for place, key in enumerate(dict.fromkeys(orders[0]))}
    found: list[AKey] = []
    for order in orders[1:]:
        last = -1
        for key in dict.fromkeys(order):
            place = rank.get(key, last)
            if place < last:
                found.append(key)
            last = max(place, last)
    return found
