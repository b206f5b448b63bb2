"""The ledger: shared memory that outlives a worker, with what its successor needs to know of each client.

Owns one *page* per client and one mark per worker:

* the **ring**: input that the worker has taken from the kernel, until it is applied. The byte at stream position p is
  at ring[(p - base) % size]; how far it reaches the kernel knows, where it begins the log knows.
* the **mark**: "what entries up to `seq` gave this client ends at output position `position`". Never before what it
  speaks of is written: the kernel has at least `position` bytes.
* the worker's **mark for all**: for a client that is not `behind`, its own mark holds up to this entry too. So a
  client to whom nothing is said costs nothing, and one to whom much is said costs a mark per sweep, not per message.

Promises that a reader after the writer's death finds each mark whole: a mark is written beside the old one, and
becomes valid by one store of one byte; other fields are single aligned stores of eight bytes. One process writes a
page at a time: main, then the worker that has the client. Main makes it and hands it down; it is anonymous, so
nothing is left behind.
"""

import mmap
import os
import struct
from contextlib import suppress
from multiprocessing import reduction
from typing import Any, NamedTuple

from mpchat.sharedmemory import make_memory

HEADER = 64
_BASE = 0
_BEHIND = 8
_VALID = 9
_MARKS = (16, 32)
_RECEIVED = 48
_MARK = struct.Struct("=QQ")
_WORD = struct.Struct("=Q")


class Mark(NamedTuple):
    """What entries up to `seq` gave the client ends at output position `position`."""

    seq: int
    position: int


class Ledger:
    """The shared memory. `pages` clients, `workers` workers, rings of `ring` bytes (a power of two)."""

    def __init__(self, pages: int, workers: int, ring: int, descriptor: int | None = None) -> None:
        self.pages = pages
        self.workers = workers
        self.ring = ring
        self._rings_at = _round_up(workers * 8 + pages * HEADER)
        size = self._rings_at + pages * ring
        self._descriptor = make_memory(size, "mpchat-ledger") if descriptor is None else descriptor
        self._map = mmap.mmap(self._descriptor, size)
        self._view = memoryview(self._map)

    def page(self, number: int) -> "Page":
        """The page of one client."""
        header = self.workers * 8 + number * HEADER
        ring = self._rings_at + number * self.ring
        return Page(self._view[header : header + HEADER], self._view[ring : ring + self.ring])

    def sweep_mark(self, worker: int) -> int:
        """The entry up to which the worker's clients are known; see above."""
        return int(_WORD.unpack_from(self._view, worker * 8)[0])

    def set_sweep_mark(self, worker: int, seq: int) -> None:
        _WORD.pack_into(self._view, worker * 8, seq)

    def close(self) -> None:
        """Give the memory back, as far as this process is concerned. Pages that are still held keep it."""
        self._view.release()
        with suppress(BufferError):  # the last page gives it back
            self._map.close()
        os.close(self._descriptor)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.pages, self.workers, self.ring, reduction.DupFd(self._descriptor))


class Page:
    """One client's part of the ledger."""

    __slots__ = ("_header", "_ring", "_size")

    def __init__(self, header: memoryview, ring: memoryview) -> None:
        self._header = header
        self._ring = ring
        self._size = len(ring)

    def clear(self, seq: int) -> None:
        """A new client has the page; the log had come to `seq` before it came."""
        self._header[:] = bytes(HEADER)
        self.write_mark(Mark(seq, 0))
        self.behind = True

    def settle(self, swept: int) -> None:
        """The client's worker is dead, and its mark for all was `swept`: fix what is known in the client's own mark.
        The mark for all of whoever gets it does not speak of it before that one says so."""
        mark = self.read_mark()
        if not self.behind and mark.seq < swept:
            self.write_mark(Mark(swept, mark.position))
        self.behind = True

    # --- input

    @property
    def size(self) -> int:
        return self._size

    def rebase(self, position: int) -> None:
        """Nothing is in the ring: let what comes, from `position` on, begin at its start, so that little input touches
        little memory."""
        _WORD.pack_into(self._header, _BASE, position)

    def room(self, start: int, end: int) -> memoryview:
        """Where to receive into, behind `end`, while everything from `start` on is to be kept; empty when it is
        full."""
        at = (end - self._base) % self._size
        # Never negative: a session that is over has no position any more, and then all that ever came is to be kept.
        free = max(0, self._size - (end - start))
        return self._ring[at : at + min(free, self._size - at)]

    def content(self, start: int, end: int) -> bytes:
        """The input from `start` to `end`."""
        at = (start - self._base) % self._size
        first = bytes(self._ring[at : at + end - start])
        return first + bytes(self._ring[: end - start - len(first)])

    @property
    def _base(self) -> int:
        return int(_WORD.unpack_from(self._header, _BASE)[0])

    @property
    def received(self) -> int:
        """How far the worker knew to have received; the kernel may know of more."""
        return int(_WORD.unpack_from(self._header, _RECEIVED)[0])

    @received.setter
    def received(self, position: int) -> None:
        _WORD.pack_into(self._header, _RECEIVED, position)

    # --- output

    @property
    def behind(self) -> bool:
        """Whether the worker's mark for all does not speak of this client."""
        return bool(self._header[_BEHIND])

    @behind.setter
    def behind(self, value: bool) -> None:
        self._header[_BEHIND] = value

    def write_mark(self, mark: Mark) -> None:
        """The new mark; the old one holds until this one is whole."""
        other = 1 - self._header[_VALID]
        _MARK.pack_into(self._header, _MARKS[other], *mark)
        self._header[_VALID] = other

    def read_mark(self) -> Mark:
        return Mark(*_MARK.unpack_from(self._header, _MARKS[self._header[_VALID]]))


def ring_size(max_line: int) -> int:
    """How large a ring has to be, in bytes: what waits for the end of a line, telnet included, is up to twice the
    longest line and a bit (see wire.framing), and a quarter of the ring may wait for its end to be told."""
    return max(1 << 14, 1 << (4 * max_line - 1).bit_length())


def _rebuild(pages: int, workers: int, ring: int, descriptor: Any) -> Ledger:
    return Ledger(pages, workers, ring, descriptor.detach())


def _round_up(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
