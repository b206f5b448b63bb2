"""The journal: the memory of the log, which outlives the process that writes it.

Owns a queue of *frames*, first in, first out; a frame is a header and a payload. Positions count the bytes since the
beginning. The bytes are in *segments* of equal size, as the pages of a process are in memory: a table says where in the
memory the segment of a position is, and a frame goes on in the next one. The memory begins with words of eight bytes:

    magic | format | size of a segment | how many | head | tail | snapshot | identity | boot | content | the table: the
    place of segment n of the queue is word n % how many

`head` is the position after the last frame, and `tail` that of the oldest frame that is kept. `snapshot` is the
position of the latest snapshot, or of the one before it if the writer was killed just after it had stored `head`.
`identity` is a random number that names the log. `boot` names the boot of the machine in which a journal in a file was
made; it is 0 for one in memory. `content` is its maker's number for what the payloads are.

Promises that after a kill of the writer, at any moment, the next process finds whole frames only, one after the other.
A frame counts once `head` is stored after it, and is forgotten once `tail` is; each is one store of one aligned word.

A journal in a file keeps the same promises until the machine stops: the bytes are in the page cache, which is the
system's. After that nothing is known of them (`boot`). Its segments are allocated on the disk before they are used,
since a store to a page for which the disk has no room would kill the process (SIGBUS, mmap(2)). RESERVE bytes are
allocated when the file is made and never given back, so that a full disk does not stop the log.

Memory: a segment that was left is used again soon, because a new page costs ten times what is written to it. Beyond
WARM, segments are given back to the system, so the memory in use follows what is kept and not the size of the journal.
On systems without MADV_REMOVE it stays at the most that was ever kept.

One process uses it at a time, from `take` on. Main makes the journal and hands it to the sequencer, and to the next
sequencer when that one is dead. Never looks into a payload, and never decides what is kept.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from multiprocessing import reduction
from pathlib import Path
from typing import Any, NamedTuple

from mpchat.log.port import LogError, LogFull, Snapshot
from mpchat.sharedmemory import make_memory

HEADER = 32
"""The bytes of a frame without its payload."""

SEGMENT = 1 << 20
"""How large a segment is, in bytes; a multiple of the system's pages."""

WARM = 16 << 20
"""How many bytes of free segments are kept for what comes next. A snapshot of 4 MiB frees that many at once
(`memory.LARGER`); after a smaller one, all are kept."""

RESERVE = 96 << 20
"""How many bytes a journal in a file has for certain: the tail, and some snapshots with what comes between them."""

_JOIN = 1 << 14  # bytes: up to here, joining the header and the payload costs less than a second store

_HEADER = struct.Struct("=QQQQ")
_MAGIC = int.from_bytes(b"mpchatJL", "little")
FORMAT = 4
_WORD = 8
_MAGIC_AT, _FORMAT_AT, _SEGMENT_AT, _COUNT_AT, _HEAD_AT, _TAIL_AT, _SNAPSHOT_AT = range(7)
_IDENTITY_AT, _BOOT_AT, _CONTENT_AT, _TABLE_AT = range(7, 11)
# madvise(2): frees the pages of a shared mapping and of its file, like punching a hole in the file. It works on tmpfs,
# and so on a memfd. The range must begin at a page, and its end is rounded up to one.
_MADV_REMOVE: int | None = getattr(mmap, "MADV_REMOVE", None)


class Kind(IntEnum):
    """What a frame is."""

    RECORD = 1
    SNAPSHOT = 2


class Frame(NamedTuple):
    """The header of a frame, and where it is. `seq` is the number of a record, or of the record that a snapshot is
    of."""

    position: int
    kind: Kind
    seq: int
    time: int
    length: int

    @property
    def end(self) -> int:
        """The position after it."""
        return self.position + HEADER + self.length


class Stamp(NamedTuple):
    """What a journal in a file says of itself. Only `format` means anything if that is not FORMAT."""

    format: int
    boot: int
    identity: int
    content: int


def read_stamp(path: Path) -> Stamp | None:
    """Read the stamp of the journal in this file; None if it is no journal. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(_TABLE_AT * _WORD)
    if len(start) < _TABLE_AT * _WORD:
        return None
    words = struct.unpack(f"={_TABLE_AT}Q", start)
    if words[_MAGIC_AT] != _MAGIC:
        return None
    return Stamp(words[_FORMAT_AT], words[_BOOT_AT], words[_IDENTITY_AT], words[_CONTENT_AT])


class Journal:
    """The journal in one process. Made by `make`, `make_private` or `open`. Can be sent to a process that is started.

    `descriptor` is that of the memory, or None when the memory is this process's own. `close` closes it.
    """

    def __init__(self, memory: mmap.mmap, descriptor: int | None) -> None:
        """`memory` must have the format of a journal."""
        self.descriptor = descriptor
        self._memory = memory
        # Not struct.pack_into: that writes zeros first (s_pack_internal in CPython's Modules/_struct.c), and who is
        # killed then leaves them. An item of such a view is written by one store (PACK_SINGLE in memoryobject.c).
        self._bytes = memoryview(memory)
        self._words = self._bytes.cast("Q")
        self.segment = self._words[_SEGMENT_AT]
        self._count = self._words[_COUNT_AT]
        self.identity = self._words[_IDENTITY_AT]
        """Which log this is: the same number as long as records go on."""
        self.boot = self._words[_BOOT_AT]
        """In which boot of the machine the file was made; 0: the journal is in memory."""
        self.size = self._count * self.segment
        self._start = len(memory) - self.size  # of the segments
        self._ready_to = 0  # up to this position, the table has segments
        self._warm: list[int] = []  # segments that are free and have memory
        self._cold: list[int] = []  # that are free and have none

    @classmethod
    def make(cls, size: int, segment: int = SEGMENT, identity: int | None = None) -> "Journal":
        """Make an empty journal that can be shared, for at least `size` bytes of frames."""
        whole = _memory_size(size, segment)
        descriptor = make_memory(whole, "mpchat-journal")
        return cls(_format(mmap.mmap(descriptor, whole), size, segment, identity=identity), descriptor)

    @classmethod
    def make_file(
        cls,
        path: Path,
        size: int,
        boot: int,
        identity: int | None = None,
        content: int = 0,
        segment: int = SEGMENT,
    ) -> "Journal":
        """Make an empty journal in a new file, with RESERVE bytes on the disk. Raises OSError, and then there is no
        file."""
        whole = _memory_size(size, segment)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, whole)
            _allocate(descriptor, 0, min(whole, _memory_size(RESERVE, segment)))
            memory = mmap.mmap(descriptor, whole)
        except BaseException:
            os.close(descriptor)
            path.unlink()
            raise
        return cls(_format(memory, size, segment, boot, identity, content), descriptor)

    @classmethod
    def open_file(cls, path: Path) -> "Journal":
        """Open the journal in this file. Raises LogError if it is none that this version can read, and OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls.open(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def make_private(cls, size: int, segment: int = SEGMENT) -> "Journal":
        """Make an empty journal that ends with this process."""
        return cls(_format(mmap.mmap(-1, _memory_size(size, segment)), size, segment), None)

    @classmethod
    def open(cls, descriptor: int) -> "Journal":
        """Open the journal in this memory, and own the descriptor. Raises LogError when it is not a journal of this
        format; the descriptor is still the caller's then."""
        size = os.fstat(descriptor).st_size
        if size < mmap.PAGESIZE:
            raise LogError(f"no journal: {size} bytes are too few for one")
        memory = mmap.mmap(descriptor, size)
        try:
            _check(memory)
        except LogError:
            memory.close()
            raise
        return cls(memory, descriptor)

    @property
    def head(self) -> int:
        """The position after the last frame."""
        return self._words[_HEAD_AT]

    @property
    def tail(self) -> int:
        """The position of the oldest frame; `head` when there is none."""
        return self._words[_TAIL_AT]

    @property
    def free(self) -> int:
        """How many more bytes can be written, headers included."""
        # The segment of the tail is free when the tail has left it.
        return self.size - (self.head - self.tail // self.segment * self.segment)

    def take(self) -> None:
        """Become the only process that writes. Gives back memory that a killed writer did not use."""
        first, end = self.tail // self.segment, -(-self.head // self.segment)
        taken = {self._words[_TABLE_AT + number % self._count] for number in range(first, end)}
        self._ready_to = end * self.segment
        self._warm = []
        # The lowest are used first.
        self._cold = [segment for segment in reversed(range(self._count)) if segment not in taken]
        if self.head:
            for segment in self._cold:
                self._give_back(segment)
        if self.boot:
            self._warm_reserve(len(taken))

    def append(self, kind: Kind, seq: int, time: int, payload: bytes | bytearray) -> Frame:
        """Write a frame after the last one. Raises LogFull, and then writes nothing."""
        head = self._words[_HEAD_AT]
        end = head + HEADER + len(payload)
        if end > self._ready_to:
            self._get_ready(end)
        header = _HEADER.pack(kind, seq, time, len(payload))
        if len(payload) <= _JOIN:
            self._write(head, header + payload)
        else:
            self._write(head, header)
            self._write(head + HEADER, payload)
        self._words[_HEAD_AT] = end
        if kind is Kind.SNAPSHOT:
            self._words[_SNAPSHOT_AT] = head
        return Frame(head, kind, seq, time, len(payload))

    def payload(self, frame: Frame, start: int = 0, size: int | None = None) -> bytes:
        """Return the payload of a frame that is still kept, or up to `size` bytes of it from `start` on."""
        if size is None:
            size = frame.length
        return self._read(frame.position + HEADER + start, max(0, min(size, frame.length - start)))

    def warm_up(self, size: int) -> None:
        """Have one more segment ready if there are too few for `size` bytes, which will be written soon."""
        if len(self._warm) * self.segment < size and self._cold:
            with suppress(LogFull):  # then there is none at hand
                segment = self._take_cold()
                start = self._start + segment * self.segment
                self._memory[start : start + self.segment] = bytes(self.segment)
                self._warm.append(segment)

    def read_snapshot(self) -> Snapshot:
        """Return the snapshot that was written last, without a log on this journal. Raises LogError if there is
        none."""
        position = self._words[_SNAPSHOT_AT]
        if not self.tail <= position < self.head:
            raise LogError("there is no snapshot in the journal")
        frame = self._frame_at(position)
        if frame.kind is not Kind.SNAPSHOT:
            raise LogError("there is no snapshot in the journal")
        return Snapshot(frame.seq, self.payload(frame))

    def trim(self, position: int) -> None:
        """Forget all frames before `position`, which must be the beginning of a frame or the head."""
        before = self.tail
        if not before <= position <= self.head:
            raise ValueError(f"position {position} is not between {before} and {self.head}")
        self._words[_TAIL_AT] = position
        for number in range(before // self.segment, position // self.segment):
            self._warm.append(self._words[_TABLE_AT + number % self._count])
        # This includes segments that were warmed up and not used.
        while (len(self._warm) - 1) * self.segment >= (RESERVE if self.boot else WARM):
            segment = self._warm.pop()
            self._give_back(segment)
            self._cold.append(segment)

    def frames(self) -> Iterator[Frame]:
        """Yield all frames that are kept, the oldest first. Raises LogError when the journal is damaged."""
        position, head = self.tail, self.head
        while position < head:
            frame = self._frame_at(position)
            if frame.end > head:
                raise LogError(f"the journal is damaged: the frame at {position} ends after the head, {head}")
            yield frame
            position = frame.end

    def seed(self, snapshot: Snapshot, time: int = 0) -> None:
        """Make the log begin with this snapshot instead of record 1, for a program that replaces itself.

        `time` is that of the last record before (ms since the epoch); no later record has an earlier time. Raises
        LogError when something has been written to the journal, LogFull when it is too small.
        """
        if self.head:
            raise LogError("a journal that is in use is not for seeding")
        self.take()
        self.append(Kind.SNAPSHOT, snapshot.seq, time, snapshot.blob)

    def close(self) -> None:
        """Unmap the memory in this process, and close the descriptor."""
        self._words.release()
        self._bytes.release()
        self._memory.close()
        if self.descriptor is not None:
            os.close(self.descriptor)

    def __reduce__(self) -> tuple[object, ...]:
        if self.descriptor is None:
            raise TypeError("a private journal cannot be shared")
        return _rebuild, (reduction.DupFd(self.descriptor),)

    # --- the segments

    def _get_ready(self, end: int) -> None:
        """Put segments into the table for everything up to `end`. Raises LogFull."""
        if end - self.head > self.free:
            raise LogFull(f"{end - self.head} bytes do not fit into the {self.free} that are free in the journal")
        while self._ready_to < end:
            segment = self._warm.pop() if self._warm else self._take_cold()
            # The segment that was here is free. Nobody reads this word before the head is in its segment.
            self._words[_TABLE_AT + self._ready_to // self.segment % self._count] = segment
            self._ready_to += self.segment

    def _take_cold(self) -> int:
        """A segment that has no memory yet; on the disk it has room from now on. Raises LogFull."""
        segment = self._cold[-1]
        if self.boot:
            assert self.descriptor is not None
            try:
                _allocate(self.descriptor, self._start + segment * self.segment, self.segment)
            except OSError as error:
                raise LogFull(f"the disk has no room for the log: {error.strerror}") from error
        return self._cold.pop()

    def _warm_reserve(self, taken: int) -> None:
        """Have RESERVE bytes, with the segments in use."""
        with suppress(LogFull):  # a full disk, and a file that had been larger
            while self._cold and (taken + len(self._warm)) * self.segment < RESERVE:
                self._warm.append(self._take_cold())
        self._warm.reverse()

    def _give_back(self, segment: int) -> None:
        """Give the memory of a segment back to the system."""
        if _MADV_REMOVE is not None:
            # Locked memory, for example, cannot be given back (madvise(2), EINVAL). It is used again as it is.
            with suppress(OSError):
                self._memory.madvise(_MADV_REMOVE, self._start + segment * self.segment, self.segment)

    def _place(self, position: int) -> tuple[int, int]:
        """Return where in the memory the byte at `position` is, and how many bytes its segment has from there on."""
        number, inside = divmod(position, self.segment)
        segment = self._words[_TABLE_AT + number % self._count]
        return self._start + segment * self.segment + inside, self.segment - inside

    def _write(self, position: int, data: bytes | bytearray) -> None:
        at, room = self._place(position)
        if len(data) <= room:
            self._memory[at : at + len(data)] = data
            return
        rest = memoryview(data)
        while rest:
            at, room = self._place(position)
            piece = rest[:room]
            self._memory[at : at + len(piece)] = piece
            position += len(piece)
            rest = rest[room:]

    def _read(self, position: int, length: int) -> bytes:
        at, room = self._place(position)
        if length <= room:
            return self._memory[at : at + length]
        pieces = []
        while length > 0:
            at, room = self._place(position)
            pieces.append(self._bytes[at : at + min(length, room)])
            position += room
            length -= room
        return b"".join(pieces)

    def _frame_at(self, position: int) -> Frame:
        kind, seq, time, length = _HEADER.unpack(self._read(position, HEADER))
        try:
            return Frame(position, Kind(kind), seq, time, length)
        except ValueError:
            raise LogError(f"the journal is damaged: no frame begins at {position}") from None


def _rebuild(duplicate: Any) -> Journal:
    return Journal.open(duplicate.detach())


def _segments(size: int, segment: int) -> int:
    """How many segments `size` bytes of frames take."""
    return max(1, -(-size // segment))


def _memory_size(size: int, segment: int) -> int:
    """The bytes of the words, which have pages of their own, and of the segments."""
    count = _segments(size, segment)
    words = (_TABLE_AT + count) * _WORD
    return -(-words // mmap.PAGESIZE) * mmap.PAGESIZE + count * segment


def _allocate(descriptor: int, start: int, size: int) -> None:
    """Have room on the disk for these bytes, which stay as they are. Raises OSError (ENOSPC, EDQUOT ...)."""
    if hasattr(os, "posix_fallocate"):  # macOS has none
        os.posix_fallocate(descriptor, start, size)


def _format(
    memory: mmap.mmap, size: int, segment: int, boot: int = 0, identity: int | None = None, content: int = 0
) -> mmap.mmap:
    """Write an empty journal into memory that is all zero."""
    with memoryview(memory) as whole, whole.cast("Q") as words:
        words[_SEGMENT_AT] = segment
        words[_COUNT_AT] = _segments(size, segment)
        words[_IDENTITY_AT] = int.from_bytes(os.urandom(8), "little") if identity is None else identity
        words[_BOOT_AT] = boot
        words[_CONTENT_AT] = content
        words[_FORMAT_AT] = FORMAT
        words[_MAGIC_AT] = _MAGIC
    return memory


def _check(memory: mmap.mmap) -> None:
    """Raise LogError unless this memory has a journal of our format."""
    magic, version, segment, count, head, tail = struct.unpack_from("=6Q", memory)
    if magic != _MAGIC:
        raise LogError("no journal: the memory begins with something else")
    if version != FORMAT:
        raise LogError(f"the journal is of format {version}; this version of mpchat reads format {FORMAT}")
    if not segment or segment % mmap.PAGESIZE or len(memory) != _memory_size(count * segment, segment):
        raise LogError(f"the journal is damaged: {count} segments of {segment} bytes in a memory of {len(memory)}")
    if not tail <= head <= tail // segment * segment + count * segment:
        raise LogError(f"the journal is damaged: from {tail} to {head} in {count} segments of {segment} bytes")
    _check_table(memory, segment, count, range(tail // segment, -(-head // segment)))


def _check_table(memory: mmap.mmap, segment: int, count: int, numbers: range) -> None:
    words = struct.unpack_from(f"={_TABLE_AT + count}Q", memory)
    used = [words[_TABLE_AT + number % count] for number in numbers]
    if len(set(used)) < len(used) or any(place >= count for place in used):
        raise LogError("the journal is damaged: its table is none")
