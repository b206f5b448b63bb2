"""The ledger: shared memory that outlives a worker, with what its successor needs to know of each client.

Owns one *page* per client, one mark per worker, and the *carry*:

* the **ring**: input that the worker has taken from the kernel, until it is applied. The byte at stream position p is
  at ring[(p - base) % size]; how far it reaches the kernel knows, where it begins the log knows. For who sends little
  at a time, the first SMALL bytes from the base on are beside the page's words instead, and only what comes behind them
  is in the ring: so most clients never touch it, and take 512 bytes of memory, not a page of 4 KiB.
* the **mark**: "what records up to `seq` gave this client ends at output position `position`". Never before what it
  speaks of is written: the kernel has at least `position` bytes.
* the **notice**: "at output position P stands a notice", which is told to clients without being in the log. It is
  stored before the first byte of the notice is sent, and holds until there is a mark behind P. Nothing has to take it
  back, so no death can come between such a mark and that. The same word says that the client is `behind`.
* the worker's **mark for all**: for a client that is not `behind`, its own mark holds up to this record too. So a
  client to whom nothing is said costs nothing, and one to whom much is said costs a mark per sweep, not per message.
* the **carry**: output that waited in a worker which gave the client back, byte for byte. The last `carried` bytes
  before a mark's position are in it. A sparse file, with room for each page to hold as much as it likes.

Promises that a reader after the writer's death finds each mark whole: a mark is written beside the old one, and
becomes valid by one store; all fields are words of eight bytes, each written by one aligned store. One process writes a
page at a time: main, then the worker that has the client. Main makes it and hands it down, to the program that takes
its place too; it is anonymous, so nothing is left behind.
"""

import mmap
import os
from collections.abc import Collection
from contextlib import suppress
from multiprocessing import reduction
from typing import Any, NamedTuple

from mpchat.sharedmemory import make_memory

_WORD = 8
_BASE, _RECEIVED, _BEHIND, _VALID, *_MARKS = 0, 1, 2, 3, 4, 7
"""Where the words of a header are, and where its two marks begin, of three words each."""
_NOTICE = 2
"""What the word BEHIND holds: 0 (not behind), 1 (behind), or this much more than the position of a notice (and behind).
One word for both, so that one store says both: the worker's mark for all knows nothing of a notice."""
_WORDS = 10
HEADER = 512
SMALL = HEADER - _WORDS * _WORD
"""Bytes of input that have room in the header."""

_CAN_PUNCH = hasattr(mmap, "MADV_REMOVE")

CARRY_STRIDE = 1 << 40
"""Bytes of the carry's address space for each page: far more than a send queue holds, and a million pages still fit
into the largest offset there is (2^63)."""


class Mark(NamedTuple):
    """What records up to `seq` gave the client ends at output position `position`; all but the last `carried` bytes of
    it are written, and those are in the carry."""

    seq: int
    position: int
    carried: int = 0


class Shape(NamedTuple):
    """What there is room for: `pages` clients, `workers` workers, rings of `ring` bytes (a power of two)."""

    pages: int
    workers: int
    ring: int


class Ledger:
    """The shared memory. `descriptors`: those of a ledger of the same shape that is there already."""

    def __init__(self, shape: Shape, descriptors: tuple[int, int] | None = None) -> None:
        self.shape = shape
        self._headers_at = shape.workers * _WORD
        self._rings_at = _round_up(self._headers_at + shape.pages * HEADER)
        size = self._rings_at + shape.pages * shape.ring
        self.descriptors = descriptors or (
            make_memory(size, "mpchat-ledger"),
            # Sparse. Its whole size, since no part can be mapped that is behind the end; elsewhere it is not mapped.
            make_memory(shape.pages * CARRY_STRIDE if _CAN_PUNCH else 0, "mpchat-carry"),
        )
        self._map = mmap.mmap(self.descriptors[0], size)
        self._view = memoryview(self._map)
        # Not struct.pack_into: that writes zeros first (s_pack_internal in CPython's Modules/_struct.c), and who is
        # killed then leaves them. An item of such a view is written by one store (PACK_SINGLE in memoryobject.c).
        self._sweep_marks = self._view[: self._headers_at].cast("Q")

    def page(self, number: int) -> "Page":
        """The page of one client."""
        header = self._headers_at + number * HEADER
        small = header + _WORDS * _WORD
        ring = self._rings_at + number * self.shape.ring
        return Page(
            self._view[header:small].cast("Q"),
            self._view[small : small + SMALL],
            self._view[ring : ring + self.shape.ring],
            _Carry(self.descriptors[1], number * CARRY_STRIDE),
        )

    def sweep_mark(self, worker: int) -> int:
        """The record up to which the worker's clients are known; see above."""
        return self._sweep_marks[worker]

    def set_sweep_mark(self, worker: int, seq: int) -> None:
        self._sweep_marks[worker] = seq

    def close(self) -> None:
        """Give the memory back, as far as this process is concerned. Pages that are still held keep it."""
        self._sweep_marks.release()
        self._view.release()
        with suppress(BufferError):  # the last page gives it back
            self._map.close()
        for descriptor in self.descriptors:
            os.close(descriptor)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.shape, *map(reduction.DupFd, self.descriptors))


class _Carry(NamedTuple):
    """One page's part of the carry: two halves, one for each of its marks, so that the old one holds until the new one
    is whole."""

    descriptor: int
    start: int

    def write(self, half: int, data: bytes) -> None:
        at = self._at(half)
        written = 0
        while written < len(data):
            written += os.pwrite(self.descriptor, data[written:], at + written)

    def read(self, half: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, self._at(half))

    def free(self, half: int, size: int) -> None:
        """Give the memory back, where the system can punch a hole (madvise(2), MADV_REMOVE); elsewhere it stays until
        the page is carried anew."""
        if size and _CAN_PUNCH:
            with mmap.mmap(self.descriptor, _round_up(size), offset=self._at(half)) as part:
                part.madvise(mmap.MADV_REMOVE)

    def _at(self, half: int) -> int:
        return self.start + half * (CARRY_STRIDE // 2)


class Page:
    """One client's part of the ledger: its words, room for little input beside them, its ring and its carry."""

    __slots__ = ("_carry", "_header", "_ring", "_size", "_small")

    def __init__(self, header: memoryview, small: memoryview, ring: memoryview, carry: _Carry) -> None:
        self._header = header
        self._small = small
        self._ring = ring
        self._size = len(ring)
        self._carry = carry

    def clear(self, seq: int) -> None:
        """A new client has the page; the log had come to `seq` before it came."""
        self._carry.free(self._header[_VALID], self.read_mark().carried)
        for word in range(len(self._header)):
            self._header[word] = 0
        self.write_mark(Mark(seq, 0))
        self.behind = True

    def settle(self, swept: int) -> None:
        """The client's worker is dead, and its mark for all was `swept`: fix what is known in the client's own mark.
        The mark for all of whoever gets it does not speak of it before that one says so."""
        mark = self.read_mark()
        if not self.behind and mark.seq < swept:
            # All of it is written, so nothing of it is carried any more.
            self.write_mark(Mark(swept, mark.position))
        self.behind = True

    def release(self, seq: int, position: int, unsent: bytes) -> None:
        """The client's worker gives it back: what records up to `seq` gave it ends at `position`, the last of which is
        `unsent`."""
        self.behind = True
        self._carry.write(1 - self._header[_VALID], unsent)
        self.write_mark(Mark(seq, position, len(unsent)))

    def carried(self) -> bytes:
        """The output that the last worker left unsent."""
        return self._carry.read(self._header[_VALID], self.read_mark().carried)

    # --- input

    @property
    def size(self) -> int:
        return self._size

    def rebase(self, position: int, small: bool = False) -> None:
        """Nothing is kept: let what comes, from `position` on, begin at the start of the ring, so that little input
        touches little memory; or (`small`) beside our words."""
        self._header[_BASE] = position << 1 | small

    def room(self, start: int, end: int) -> memoryview:
        """Where to receive into, behind `end`, while everything from `start` on is to be kept; empty when it is
        full."""
        base, ring_base = self._bases()
        if end < ring_base:
            return self._small[end - base :]
        at = (end - ring_base) % self._size
        kept = end - (ring_base if base <= start < ring_base else start)
        # Never negative: a session that is over has no position any more, and then all that ever came is to be kept.
        free = max(0, self._size - kept)
        return self._ring[at : at + min(free, self._size - at)]

    def content(self, start: int, end: int) -> bytes:
        """The input from `start` to `end`."""
        base, ring_base = self._bases()
        small = bytes(self._small[start - base : min(end, ring_base) - base]) if start < ring_base else b""
        start += len(small)
        at = (start - ring_base) % self._size
        first = bytes(self._ring[at : at + end - start])
        return small + first + bytes(self._ring[: end - start - len(first)])

    def _bases(self) -> tuple[int, int]:
        """The position of the first byte that is kept, and that of the first one in the ring."""
        # One word, so that no death comes between the two.
        base, small = divmod(self._header[_BASE], 2)
        return base, base + small * SMALL

    @property
    def received(self) -> int:
        """How far the worker knew to have received; the kernel may know of more."""
        return self._header[_RECEIVED]

    @received.setter
    def received(self, position: int) -> None:
        self._header[_RECEIVED] = position

    # --- output

    @property
    def behind(self) -> bool:
        """Whether the worker's mark for all does not speak of this client."""
        return bool(self._header[_BEHIND])

    @behind.setter
    def behind(self, value: bool) -> None:
        """False: only when there is a mark behind the last notice."""
        if not value or not self.behind:
            # A notice stays where it is.
            self._header[_BEHIND] = value

    def write_notice(self, position: int) -> None:
        """A notice stands at this position of the output, which is behind the mark. Its bytes may be sent from now on.
        Only one can be in front of the mark: `read_notice` must give None before."""
        self._header[_BEHIND] = position + _NOTICE

    def read_notice(self) -> int | None:
        """Where a notice stands in the output behind the mark, if there is one."""
        position = self._header[_BEHIND] - _NOTICE
        return position if position >= self.read_mark().position else None

    def write_mark(self, mark: Mark) -> None:
        """The new mark; the old one, and what was carried for it, holds until this one is whole."""
        header, valid = self._header, self._header[_VALID]
        at = _MARKS[1 - valid]
        header[at], header[at + 1], header[at + 2] = mark
        header[_VALID] = 1 - valid
        self._carry.free(valid, header[_MARKS[valid] + 2])

    def read_mark(self) -> Mark:
        at = _MARKS[self._header[_VALID]]
        return Mark(self._header[at], self._header[at + 1], self._header[at + 2])


class FreePages:
    """Which of `count` pages nobody has. A page that was used is used again before one that never was: so the memory
    that is taken follows the most clients there have ever been at a time."""

    def __init__(self, count: int, taken: Collection[int] = ()) -> None:
        self._count = count
        self._used = max(taken, default=-1) + 1  # those from here on were never used
        self._left = [number for number in range(self._used) if number not in taken]

    def take(self) -> int:
        """One of them. Raises IndexError when there is none."""
        if self._left:
            return self._left.pop()
        if self._used == self._count:
            raise IndexError(f"all {self._count} pages are taken")
        self._used += 1
        return self._used - 1

    def leave(self, number: int) -> None:
        """Nobody has this one any more."""
        self._left.append(number)


def ring_size(max_line: int) -> int:
    """How large a ring has to be, in bytes: what waits for the end of a line, telnet included, is up to twice the
    longest line and a bit (see wire.framing), and a quarter of the ring may wait for its end to be told."""
    return max(1 << 14, 1 << (4 * max_line - 1).bit_length())


def _rebuild(shape: Shape, ledger: Any, carry: Any) -> Ledger:
    return Ledger(shape, (ledger.detach(), carry.detach()))


def _round_up(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
