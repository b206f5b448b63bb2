"""The ledger: shared memory that outlives a worker, with what its successor needs to know of each client.

Owns one *page* per client, one mark per worker, and the *carry*:

* the **ring**: input that the worker has received, until it is applied. The byte at stream position p is at
  ring[(p - base) % size]. The log knows where the input in the ring begins, the kernel where it ends. If a client sends
  little at a time, the first SMALL bytes from the base on are beside the page's words instead, and only further bytes
  are in the ring. So most clients never touch it, and take 512 bytes of memory instead of a page of 4 KiB.
* the **mark**: "the output of records up to `seq` ends at output position `position`". It is written only when that
  output is: the kernel has taken at least `position` bytes.
* the **notice**: "a notice is at output position P". Clients are sent it without its being in the log. It is stored
  before the first byte of the notice is sent, and holds until there is a mark behind P. Nothing has to remove it, so a
  worker cannot die between that mark and the removal. The same word says that the client is `behind`.
* the worker's **mark for all**: the own mark of a client that is not `behind` holds up to this record, too. So a client
  that is sent nothing costs nothing, and one that is sent much costs a mark per sweep, not per message.
* the **carry**: output that waited in a worker when it gave the client back, byte for byte. The last `carried` bytes
  before a mark's position are in it. It is a sparse file, with room for whatever a send queue can hold.

Promises that after the writer's death a reader finds each mark whole. A mark is written beside the old one and becomes
valid by one store, and all fields are words of eight bytes, each written by one aligned store. One process at a time
writes a page: main, then the worker that has the client. Main makes the ledger and hands it to the workers and to the
next program. It has no name, so nothing is left behind.
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
"""The places of the words of a header. Its two marks begin at the last two, and take three words each."""
_NOTICE = 2
"""The word BEHIND holds 0 (not behind), 1 (behind), or the position of a notice plus this (behind, too). One word for
both, so that one store sets both: the worker's mark for all does not cover a notice."""
_WORDS = 10
HEADER = 512
SMALL = HEADER - _WORDS * _WORD
"""Bytes of input that the header has room for."""

_CAN_PUNCH = hasattr(mmap, "MADV_REMOVE")

CARRY_STRIDE = 1 << 40
"""Bytes of the carry for each page: far more than a send queue holds. A million pages still fit below the largest file
offset, 2^63."""


class Mark(NamedTuple):
    """The output of records up to `seq` ends at output position `position`.

    All of it is written but the last `carried` bytes, which are in the carry.
    """

    seq: int
    position: int
    carried: int = 0


class Shape(NamedTuple):
    """How much a ledger has room for: `pages` clients, `workers` workers, rings of `ring` bytes (a power of two)."""

    pages: int
    workers: int
    ring: int


class Ledger:
    """The shared memory. `descriptors`: those of an existing ledger of the same shape, to use that one."""

    def __init__(self, shape: Shape, descriptors: tuple[int, int] | None = None) -> None:
        self.shape = shape
        self._headers_at = shape.workers * _WORD
        self._rings_at = _round_up(self._headers_at + shape.pages * HEADER)
        size = self._rings_at + shape.pages * shape.ring
        self.descriptors = descriptors or (
            make_memory(size, "mpchat-ledger"),
            # Sparse. It has its whole size, since nothing behind its end can be mapped; elsewhere it is not mapped.
            make_memory(shape.pages * CARRY_STRIDE if _CAN_PUNCH else 0, "mpchat-carry"),
        )
        self._map = mmap.mmap(self.descriptors[0], size)
        self._view = memoryview(self._map)
        # Not struct.pack_into, which writes zeros first (s_pack_internal in CPython's Modules/_struct.c): a process may
        # be killed just then. An item of a view is written by one store (PACK_SINGLE in memoryobject.c).
        self._sweep_marks = self._view[: self._headers_at].cast("Q")

    def page(self, number: int) -> "Page":
        """Return the page of one client."""
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
        """Return the record of the worker's mark for all."""
        return self._sweep_marks[worker]

    def set_sweep_mark(self, worker: int, seq: int) -> None:
        self._sweep_marks[worker] = seq

    def close(self) -> None:
        """Give this process's hold on the memory back. Pages that are still in use keep it."""
        self._sweep_marks.release()
        self._view.release()
        with suppress(BufferError):  # the last page gives it back
            self._map.close()
        for descriptor in self.descriptors:
            os.close(descriptor)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.shape, *map(reduction.DupFd, self.descriptors))


class _Carry(NamedTuple):
    """One page's part of the carry. It has a half for each of the page's marks, so that the old one stays valid until
    the new one is whole."""

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
        """Give the memory back if the system can punch a hole (madvise(2), MADV_REMOVE). If not, it is used again when
        the half is written again."""
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
        """Make the page that of a new client, which came when the log was at `seq`."""
        self._carry.free(self._header[_VALID], self.read_mark().carried)
        for word in range(len(self._header)):
            self._header[word] = 0
        self.write_mark(Mark(seq, 0))
        self.behind = True

    def settle(self, swept: int) -> None:
        """Note in the client's own mark what is known when its worker is dead, whose mark for all was `swept`.

        The mark for all of the next worker does not hold for the client before that worker says so.
        """
        mark = self.read_mark()
        if not self.behind and mark.seq < swept:
            # All output up to there is written, so none is in the carry any more.
            self.write_mark(Mark(swept, mark.position))
        self.behind = True

    def release(self, seq: int, position: int, unsent: bytes) -> None:
        """Note that the client's worker gives it back: the output of records up to `seq` ends at `position`, and
        `unsent` is the end of it."""
        self.behind = True
        self._carry.write(1 - self._header[_VALID], unsent)
        self.write_mark(Mark(seq, position, len(unsent)))

    def carried(self) -> bytes:
        """Return the output that the last worker left unsent."""
        return self._carry.read(self._header[_VALID], self.read_mark().carried)

    # --- input

    @property
    def size(self) -> int:
        return self._size

    def rebase(self, position: int, small: bool = False) -> None:
        """Keep nothing. Input from `position` on begins at the start of the ring, so that little input touches little
        memory; or, if `small`, beside the words."""
        self._header[_BASE] = position << 1 | small

    def room(self, start: int, end: int) -> memoryview:
        """Return where to receive input behind `end`, while all from `start` on is kept; empty if there is no room."""
        base, ring_base = self._bases()
        if end < ring_base:
            return self._small[end - base :]
        at = (end - ring_base) % self._size
        kept = end - (ring_base if base <= start < ring_base else start)
        # Never negative: a session that is over has no position any more, and then all that ever came counts as kept.
        free = max(0, self._size - kept)
        return self._ring[at : at + min(free, self._size - at)]

    def content(self, start: int, end: int) -> bytes:
        """Return the input from `start` to `end`."""
        base, ring_base = self._bases()
        small = bytes(self._small[start - base : min(end, ring_base) - base]) if start < ring_base else b""
        start += len(small)
        at = (start - ring_base) % self._size
        first = bytes(self._ring[at : at + end - start])
        return small + first + bytes(self._ring[: end - start - len(first)])

    def _bases(self) -> tuple[int, int]:
        """Return the positions of the first byte that is kept, and of the first byte in the ring."""
        # Both are in one word, so that a worker cannot die between storing them.
        base, small = divmod(self._header[_BASE], 2)
        return base, base + small * SMALL

    @property
    def received(self) -> int:
        """How far the worker has noted that it received. The kernel may know of more."""
        return self._header[_RECEIVED]

    @received.setter
    def received(self, position: int) -> None:
        self._header[_RECEIVED] = position

    # --- output

    @property
    def behind(self) -> bool:
        """Whether the worker's mark for all does not hold for this client."""
        return bool(self._header[_BEHIND])

    @behind.setter
    def behind(self, value: bool) -> None:
        """Set it to False only when there is a mark behind the last notice."""
        if not value or not self.behind:
            # This keeps a notice.
            self._header[_BEHIND] = value

    def write_notice(self, position: int) -> None:
        """Note that a notice is at this position of the output, which is behind the mark. Send its bytes after this.

        There can be only one behind the mark: `read_notice` must return None before.
        """
        self._header[_BEHIND] = position + _NOTICE

    def read_notice(self) -> int | None:
        """Return the position of the notice in the output behind the mark, or None if there is none."""
        position = self._header[_BEHIND] - _NOTICE
        return position if position >= self.read_mark().position else None

    def write_mark(self, mark: Mark) -> None:
        """Write a new mark. The old one and its part of the carry stay valid until the new one is whole."""
        header, valid = self._header, self._header[_VALID]
        at = _MARKS[1 - valid]
        header[at], header[at + 1], header[at + 2] = mark
        header[_VALID] = 1 - valid
        self._carry.free(valid, header[_MARKS[valid] + 2])

    def read_mark(self) -> Mark:
        at = _MARKS[self._header[_VALID]]
        return Mark(self._header[at], self._header[at + 1], self._header[at + 2])


class FreePages:
    """Which of `count` pages are free. Used pages are used again before new ones, so the memory in use follows the most
    clients that there have been at a time."""

    def __init__(self, count: int, taken: Collection[int] = ()) -> None:
        self._count = count
        self._used = max(taken, default=-1) + 1  # those from here on were never used
        self._left = [number for number in range(self._used) if number not in taken]

    def take(self) -> int:
        """Take a free page. Raises IndexError when there is none."""
        if self._left:
            return self._left.pop()
        if self._used == self._count:
            raise IndexError(f"all {self._count} pages are taken")
        self._used += 1
        return self._used - 1

    def leave(self, number: int) -> None:
        """Make this page free again."""
        self._left.append(number)


def ring_size(max_line: int) -> int:
    """Return how large a ring has to be, in bytes.

    Up to twice the longest line and a bit, telnet included, waits for the end of a line (see wire.framing); and up to a
    quarter of the ring is skipped input that is not published yet.
    """
    return max(1 << 14, 1 << (4 * max_line - 1).bit_length())


def _rebuild(shape: Shape, ledger: Any, carry: Any) -> Ledger:
    return Ledger(shape, (ledger.detach(), carry.detach()))


def _round_up(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
