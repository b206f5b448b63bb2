"""The log itself, on a `journal`: inside the sequencer, for tests and for simulations.

Owns the index of the journal: the records since the latest snapshot, a tail of older records for readers that are a
little behind, and the snapshots. On a journal with content, the log goes on where the last log on it ended: the same
records, numbers and time. Thread-safe. `read` can wait, for tests and simulations; in the sequencer the `desk` does the
waiting and calls the log from one thread. Never looks into a payload or a snapshot. Keeps copies of the newest payloads
only (FRESH).

Bounds, in bytes of payload plus RECORD_OVERHEAD a record:

* A snapshot is due when `snapshot_every` has come since the latest one, and also LARGER times its size or half of
  `capacity`, whichever is less.
* `publish` is refused when more than `capacity` would have come since the latest snapshot.
* The journal is a queue. Its front is forgotten while the latest snapshot covers more than `tail` of records, while
  older snapshots have more than `snapshot_bytes`, or while there are more than KEEP_SNAPSHOTS. The latest snapshot and
  the records after it are always kept.

Room: the journal always has room for all records that `capacity` still allows, and for one more snapshot of the largest
size that is accepted. So only a missing snapshot makes `publish` fail, and only its size makes a snapshot of the last
record fail. A snapshot of an older record is also refused (LogFull) if it would not leave that room. A refused snapshot
changes nothing: its maker carries on, and after ASK_AGAIN the next reader that claims one makes it.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from threading import Condition

from mpchat.log.local.journal import HEADER, SEGMENT, Frame, Journal, Kind
from mpchat.log.port import LogError, LogFull, LogTrimmed, Record, Snapshot, SnapshotPlace

CAPACITY = 256 << 20
SNAPSHOT_EVERY = 1 << 18
TAIL = 16 << 20
SNAPSHOT_BYTES = 64 << 20

SNAPSHOT_MOST = 512 << 20
"""How large a snapshot may be in a journal of `journal_size`. That is far more than a server's state (history has 64
MiB at most), because a log that refuses snapshots fills up for good. It costs addresses, not memory."""

RECORD_OVERHEAD = 280
"""About what a record costs in addition to its payload: the frame's header, and in the index a tuple, some integers and
a place in the deque."""

READ_MOST = 1 << 20
"""How many bytes one read returns at most, but always at least one record. A worker applies all of them before it reads
again."""

FRESH = 4 << 20
"""How many bytes of the newest payloads are kept as they came. Nearly all reads are of these, and so copy nothing."""

KEEP_SNAPSHOTS = 64
"""How many snapshots are kept at most, the latest included."""

LARGER = 4
"""How many times the size of the latest snapshot has to come before the next is due: larger snapshots take longer."""

ASK_AGAIN = 5.0
"""Seconds after which a claim lapses of which nothing more was delivered. Then another reader can claim the
snapshot."""


def journal_size(capacity: int = CAPACITY, tail: int = TAIL, snapshot_bytes: int = SNAPSHOT_BYTES) -> int:
    """How large a journal is in which a log with these bounds takes snapshots of SNAPSHOT_MOST."""
    return _filled(capacity, tail, snapshot_bytes) + SEGMENT + 2 * (SNAPSHOT_MOST + HEADER)


def _filled(capacity: int, tail: int, snapshot_bytes: int) -> int:
    """The room that these bounds allow to be used, without the latest snapshot, the next one, and the segment that the
    front of the journal may have left but for its end."""
    return capacity + tail + snapshot_bytes + KEEP_SNAPSHOTS * HEADER


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


class MemoryLog:
    """A `port.Log`. `wall_clock` returns ms since the epoch, `clock` seconds of a clock that never goes back.

    Without a `journal` it makes one of its own, which ends with it. Raises LogError when the journal is damaged, or too
    small for these bounds.
    """

    def __init__(
        self,
        capacity: int = CAPACITY,
        snapshot_every: int = SNAPSHOT_EVERY,
        tail: int = TAIL,
        snapshot_bytes: int = SNAPSHOT_BYTES,
        wall_clock: Callable[[], int] = _wall_clock,
        clock: Callable[[], float] = time.monotonic,
        journal: Journal | None = None,
    ) -> None:
        self._capacity = capacity
        self._snapshot_every = snapshot_every
        self._tail = tail
        self._snapshot_bytes = snapshot_bytes
        self._wall_clock = wall_clock
        self._clock = clock
        self._changed = Condition()
        self._journal = journal or Journal.make_private(journal_size(capacity, tail, snapshot_bytes))
        # Two of the largest fit: the latest and the next.
        room = self._journal.size - self._journal.segment - _filled(capacity, tail, snapshot_bytes)
        self._snapshot_most = room // 2
        if self._snapshot_most < HEADER:
            raise LogError(f"a journal of {self._journal.size} bytes is too small for the bounds of the log")
        self._records: deque[Frame] = deque()
        self._snapshots: deque[Frame] = deque()
        # Payloads, by the position of their frame. Not a dict: finding the first of one gets slower with every first
        # one that was taken out of it.
        self._fresh: OrderedDict[int, bytes] = OrderedDict()
        self._fresh_size = 0
        self._last = 0
        self._time = 0
        self._size = 0  # of all records
        self._covered = 0  # of those of them that the latest snapshot covers
        self._older = 0  # of all snapshots but the latest
        self._claimed_at = float("-inf")
        self._starved = False  # the journal had no room for the last record: the disk is full
        self._load()

    def publish(self, payload: bytes) -> int:
        """Append one record and return its number. Raises LogFull."""
        with self._changed:
            size = len(payload) + RECORD_OVERHEAD
            if self._size - self._covered + size > self._capacity:
                raise LogFull(f"{self._size - self._covered} bytes have come since the latest snapshot")
            self._time = max(self._time, self._wall_clock())
            record = self._append_record(payload)
            self._add_record(record)
            self._keep_fresh(record, payload)
            self._changed.notify_all()
            return record.seq

    def read(self, after: int, wait: float) -> list[Record]:
        """Return the records after record `after`. Raises LogTrimmed."""
        with self._changed:
            if after == self._last and wait > 0:
                self._changed.wait_for(lambda: self._last > after, wait)
            frames = _first_bytes(self._records_after(after))
            return [Record(frame.seq, frame.time, self._payload(frame)) for frame in frames]

    def claim_snapshot(self) -> bool:
        """Whether a snapshot is due and not claimed; it is claimed now."""
        with self._changed:
            now = self._clock()
            if not self._is_snapshot_due or now - self._claimed_at < ASK_AGAIN:
                return False
            self._claimed_at = now
            return True

    def expect_snapshot(self, size: int) -> None:
        """Note that `size` bytes of a snapshot have come, which will be put later. Raises LogFull if it is too large.

        Memory is made ready piece by piece, so that putting the snapshot is quick. A claim goes on.
        """
        with self._changed:
            self._check_size(HEADER + size)
            self._journal.warm_up(size)
            # Without a claim this may be a snapshot that its maker gives up: somebody else can still claim one.
            if self._claimed_at > float("-inf"):
                self._claimed_at = self._clock()

    def put_snapshot(self, seq: int, blob: bytes | bytearray) -> None:
        """Store a snapshot and forget what it covers, but for the tail. Raises LogTrimmed, LogFull."""
        with self._changed:
            if seq <= self._covered_to:
                return
            uncovered = self._records_after(seq)
            self._check_room(HEADER + len(blob), uncovered)
            self._append_snapshot(seq, blob)
            self._covered = self._size - sum(map(_size, uncovered))
            self._claimed_at = float("-inf")
            self._trim()

    def get_snapshot(self, at_most: int | None = None) -> Snapshot:
        """Return the latest snapshot, or the latest of a record not after `at_most`. Raises LogTrimmed."""
        with self._changed:
            frame = self._find(at_most)
            return Snapshot(0, b"") if frame is None else Snapshot(frame.seq, self._journal.payload(frame))

    def find_snapshot(self, at_most: int | None = None) -> SnapshotPlace:
        """Say which snapshot `get_snapshot` would return. Raises LogTrimmed."""
        with self._changed:
            frame = self._find(at_most)
            return SnapshotPlace(0, 0) if frame is None else SnapshotPlace(frame.seq, frame.length)

    def read_snapshot(self, seq: int, start: int, size: int) -> bytes:
        """Return a piece of a snapshot. Raises LogTrimmed, and ValueError when `start` or `size` is negative."""
        if start < 0 or size < 0:
            raise ValueError(f"{size} bytes of a snapshot from {start} on")
        with self._changed:
            for snapshot in reversed(self._snapshots):
                if snapshot.seq == seq and seq >= self._first - 1:
                    return self._journal.payload(snapshot, start, size)
            raise LogTrimmed(f"there is no snapshot of record {seq}")

    def ping(self) -> int:
        """Return the number of the last record. An answer says that the log's process runs."""
        return self._last

    # --- the journal

    def _load(self) -> None:
        """Build the index from what is in the journal."""
        self._journal.take()
        for frame in self._journal.frames():
            if frame.kind is Kind.RECORD:
                self._add_record(frame)
            else:
                self._add_snapshot(frame)
            self._time = frame.time
        self._covered = sum(_size(record) for record in self._records if record.seq <= self._covered_to)
        self._trim()

    def _append_record(self, payload: bytes) -> Frame:
        """Raises LogFull when the disk is full; then a snapshot is due, since only that makes room."""
        try:
            record = self._journal.append(Kind.RECORD, self._last + 1, self._time, payload)
        except LogFull:
            self._starved = True
            raise
        self._starved = False
        return record

    def _append_snapshot(self, seq: int, blob: bytes | bytearray) -> None:
        """Without room on the disk, the tail makes room: readers that are behind start from the snapshot then."""
        try:
            frame = self._journal.append(Kind.SNAPSHOT, seq, self._time, blob)
        except LogFull:
            self._trim(tail=0)
            frame = self._journal.append(Kind.SNAPSHOT, seq, self._time, blob)
        self._add_snapshot(frame)

    def _add_record(self, record: Frame) -> None:
        self._records.append(record)
        self._last = record.seq
        self._size += _size(record)

    def _add_snapshot(self, snapshot: Frame) -> None:
        if self._snapshots:
            self._older += self._snapshots[-1].length
        self._snapshots.append(snapshot)
        # A journal that was seeded does not have this record.
        self._last = max(self._last, snapshot.seq)

    def _keep_fresh(self, record: Frame, payload: bytes) -> None:
        self._fresh[record.position] = payload
        self._fresh_size += len(payload) + RECORD_OVERHEAD
        while self._fresh_size > FRESH:
            _, oldest = self._fresh.popitem(last=False)
            self._fresh_size -= len(oldest) + RECORD_OVERHEAD

    def _payload(self, record: Frame) -> bytes:
        payload = self._fresh.get(record.position)
        return self._journal.payload(record) if payload is None else payload

    def _check_size(self, size: int) -> None:
        if size > self._snapshot_most:
            raise LogFull(f"a snapshot of {size} bytes; the journal has room for {self._snapshot_most}")

    def _check_room(self, size: int, uncovered: list[Frame]) -> None:
        """Raise LogFull unless enough room is left after a snapshot of `size` bytes that does not cover `uncovered`."""
        self._check_size(size)
        # A snapshot that lies after a record in the journal cannot be forgotten before that record.
        start = uncovered[0].position if uncovered else self._journal.head
        stuck = sum(HEADER + snapshot.length for snapshot in self._snapshots if snapshot.position > start)
        if stuck + size > self._tail + self._snapshot_bytes + self._snapshot_most:
            raise LogFull(f"{stuck} bytes of snapshots lie after record {uncovered[0].seq}: a newer one is needed")

    def _trim(self, tail: int | None = None) -> None:
        """Forget the front of the journal, as far as the bounds ask for it and as it need not be kept."""
        most = self._tail if tail is None else tail
        while (
            self._covered > most or self._older > self._snapshot_bytes or len(self._snapshots) > KEEP_SNAPSHOTS
        ) and self._drop_first():
            pass
        fronts = [frames[0].position for frames in (self._records, self._snapshots) if frames]
        self._journal.trim(min(fronts, default=self._journal.tail))

    def _drop_first(self) -> bool:
        """Forget the first frame, unless it must be kept; return whether it was forgotten. There is a snapshot."""
        if self._records and self._records[0].position < self._snapshots[0].position:
            if self._records[0].seq > self._covered_to:
                return False
            size = _size(self._records.popleft())
            self._covered -= size
            self._size -= size
        elif len(self._snapshots) > 1:
            self._older -= self._snapshots.popleft().length
        else:
            return False
        return True

    # --- the index

    @property
    def _first(self) -> int:
        """The number of the oldest record that is kept, or else of the next one."""
        return self._records[0].seq if self._records else self._last + 1

    @property
    def _covered_to(self) -> int:
        """The last record that the latest snapshot covers."""
        return self._snapshots[-1].seq if self._snapshots else 0

    def _find(self, at_most: int | None) -> Frame | None:
        """The latest snapshot of a record not after `at_most`; None is the state before record 1. Raises LogTrimmed."""
        most = self._last if at_most is None else at_most
        for snapshot in reversed(self._snapshots):
            # A snapshot is usable only while the records after it are kept.
            if self._first - 1 <= snapshot.seq <= most:
                return snapshot
        if self._first == 1 and most >= 0:
            return None
        raise LogTrimmed(f"there is no snapshot from before record {most}; the log begins with record {self._first}")

    def _records_after(self, after: int) -> list[Frame]:
        """All records after record `after`. Raises LogTrimmed."""
        if not self._first - 1 <= after <= self._last:
            raise LogTrimmed(f"the log has records {self._first} to {self._last}, not those after {after}")
        # From the newest backwards: a reader is nearly always nearly there, and a deque has no slices.
        records = list(islice(reversed(self._records), self._last - after))
        records.reverse()
        return records

    @property
    def _is_snapshot_due(self) -> bool:
        latest = self._snapshots[-1].length if self._snapshots else 0
        enough = max(self._snapshot_every, LARGER * latest)
        return self._starved or self._size - self._covered >= min(enough, self._capacity // 2)


def _size(record: Frame) -> int:
    return record.length + RECORD_OVERHEAD


def _first_bytes(records: list[Frame]) -> list[Frame]:
    """The first of `records`, up to READ_MOST bytes, but at least one."""
    size = 0
    for number, record in enumerate(records):
        size += _size(record)
        if size > READ_MOST and number:
            return records[:number]
    return records
