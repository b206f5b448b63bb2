"""The log itself, on a `journal`: for tests, for simulations, and inside the sequencer.

Owns the index of the journal, in which the records since the last snapshot are, a tail of older ones for readers who
are a little behind, and the snapshots. On a journal that has something in it, the log goes on where the last one that
wrote there ended: same records, numbers, time. Thread-safe, and `read` can wait, for
tests and simulations: the sequencer calls it from one thread, the `desk`, which does the waiting. Never looks into a
payload or a snapshot, and keeps no copy of either but for FRESH.

Bounds, in bytes of payload plus `RECORD_OVERHEAD` a record: a snapshot is asked for when `snapshot_every` has come
since the last, and LARGER times its size (or half of `capacity`); when `capacity` has come since the last, `publish`
refuses. The journal is a queue: its front is forgotten while it has more than `tail` of what the latest snapshot
covers, or older snapshots of more than `snapshot_bytes`, or more than KEEP_SNAPSHOTS; but never the latest snapshot,
nor a record that it does not cover.

Room: the journal always has room for all that `capacity` still allows, and beside it for one more snapshot of the
largest size that is accepted. So `publish` is refused for want of a snapshot only; and a snapshot behind the last entry
is refused for its size only, since what it leaves in the journal is what the bounds allow. One that would not leave
that room, because it is too large or because others of old states are in its way, is refused with LogFull. Then nothing
has changed: who has made it just goes on, and another reader is asked for one ASK_AGAIN later.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from threading import Condition

from mpchat.log.local.journal import HEADER, SEGMENT, Frame, Journal, Kind
from mpchat.log.port import LogError, LogFull, LogTrimmed, Reading, Record, Snapshot, SnapshotPlace

CAPACITY = 256 << 20
SNAPSHOT_EVERY = 1 << 18
TAIL = 16 << 20
SNAPSHOT_BYTES = 64 << 20

SNAPSHOT_MOST = 512 << 20
"""How large a snapshot may be in a journal of `journal_size`. Far more than a server's state is (history is 64 MiB at
most): a log whose snapshots are refused is full one day, for ever. It costs addresses, not memory."""

RECORD_OVERHEAD = 280
"""About what a record costs beside its payload: the frame's header, and in the index a tuple, four integers that are
not shared, and a place in the deque."""

READ_MOST = 1 << 20
"""How many bytes one read gives at most (always at least one record): what a worker applies before it looks around."""

FRESH = 4 << 20
"""Of the newest payloads so many bytes are kept as they came: nearly all that is read is among them, and so is copied
for nobody. As much as one worker publishes at once (`server.publisher`)."""

KEEP_SNAPSHOTS = 64
"""How many snapshots are kept at most: the latest, and older ones that the records still kept lead on from."""

LARGER = 4
"""How many times the size of the last snapshot has to come before the next one: making one takes time with its size."""

ASK_AGAIN = 5.0
"""Seconds after which another reader is asked for the snapshot of which the first one asked has delivered nothing
more."""


def journal_size(capacity: int = CAPACITY, tail: int = TAIL, snapshot_bytes: int = SNAPSHOT_BYTES) -> int:
    """How large a journal is in which a log with these bounds takes snapshots of SNAPSHOT_MOST."""
    return _filled(capacity, tail, snapshot_bytes) + SEGMENT + 2 * (SNAPSHOT_MOST + HEADER)


def _filled(capacity: int, tail: int, snapshot_bytes: int) -> int:
    """The room that these bounds allow to be taken, beside that of the latest snapshot and of the next, and a segment,
    of which the front of the journal may have left all but the end."""
    return capacity + tail + snapshot_bytes + KEEP_SNAPSHOTS * HEADER


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


class MemoryLog:
    """A `contract.Log`. `wall_clock` gives ms since the epoch, `clock` seconds of a clock that never goes back.

    Without a `journal` it has one of its own, which ends with it. Raises LogError when the journal is damaged, or too
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
        self._asked_at = float("-inf")
        self._load()

    def publish(self, payload: bytes, entries: int) -> int:
        """Append so many entries; give the number of the first. Raises LogFull."""
        if entries < 1:
            raise ValueError(f"a publication of {entries} entries")
        with self._changed:
            size = len(payload) + RECORD_OVERHEAD
            if self._size - self._covered + size > self._capacity:
                raise LogFull(f"{self._size - self._covered} bytes have come since the last snapshot")
            self._time = max(self._time, self._wall_clock())
            record = self._journal.append(Kind.RECORD, self._last + 1, entries, self._time, payload)
            self._add_record(record)
            self._keep_fresh(record, payload)
            self._changed.notify_all()
            return record.seq

    def read(self, after: int, wait: float) -> Reading:
        """The records behind entry `after`. Raises LogTrimmed."""
        with self._changed:
            if after == self._last and wait > 0:
                self._changed.wait_for(lambda: self._last > after, wait)
            frames = _first_bytes(self._records_behind(after))
            records = [Record(frame.seq, frame.entries, frame.time, self._payload(frame)) for frame in frames]
            return Reading(records, self._ask_for_snapshot())

    def expect_snapshot(self, size: int) -> None:
        """One is on its way, of which so many bytes have come: get ready for it, piece by piece, so that taking it
        will not take long, and ask nobody else for one. Raises LogFull when it is too large."""
        with self._changed:
            self._check_size(HEADER + size)
            self._journal.warm_up(size)
            # It may be another one, and be given up: that is no reason not to ask.
            if self._asked_at > float("-inf"):
                self._asked_at = self._clock()

    def put_snapshot(self, seq: int, blob: bytes | bytearray) -> None:
        """Here is a state behind `seq`: forget what it covers, but for the tail. Raises LogTrimmed, LogFull."""
        with self._changed:
            if seq <= self._covered_to:
                return
            uncovered = self._records_behind(seq)
            self._check_room(HEADER + len(blob), uncovered)
            self._add_snapshot(self._journal.append(Kind.SNAPSHOT, seq, 0, self._time, blob))
            self._covered = self._size - sum(map(_size, uncovered))
            self._asked_at = float("-inf")
            self._trim()

    def get_snapshot(self, at_most: int | None = None) -> Snapshot:
        """The latest snapshot, or the latest behind no later entry than `at_most`. Raises LogTrimmed when that is
        gone."""
        with self._changed:
            frame = self._find(at_most)
            return Snapshot(0, b"") if frame is None else Snapshot(frame.seq, self._journal.payload(frame))

    def find_snapshot(self, at_most: int | None = None) -> SnapshotPlace:
        """Which one `get_snapshot` would give. Raises LogTrimmed."""
        with self._changed:
            frame = self._find(at_most)
            return SnapshotPlace(0, 0) if frame is None else SnapshotPlace(frame.seq, frame.length)

    def read_snapshot(self, seq: int, start: int, size: int) -> bytes:
        """A piece of a snapshot. Raises LogTrimmed, and ValueError for what is no piece."""
        if start < 0 or size < 0:
            raise ValueError(f"{size} bytes of a snapshot from {start} on")
        with self._changed:
            for snapshot in reversed(self._snapshots):
                if snapshot.seq == seq and seq >= self._first - 1:
                    return self._journal.payload(snapshot, start, size)
            raise LogTrimmed(f"no snapshot of entry {seq}")

    def ping(self) -> int:
        """The number of the last entry: whoever asks hears that the log's process runs."""
        return self._last

    # --- the journal

    def _load(self) -> None:
        """Go on from what is in the journal."""
        self._journal.take()
        for frame in self._journal.frames():
            if frame.kind is Kind.RECORD:
                self._add_record(frame)
            else:
                self._add_snapshot(frame)
            self._time = frame.time
        self._covered = sum(_size(record) for record in self._records if record.last <= self._covered_to)
        self._trim()

    def _add_record(self, record: Frame) -> None:
        self._records.append(record)
        self._last = record.last
        self._size += _size(record)

    def _add_snapshot(self, snapshot: Frame) -> None:
        if self._snapshots:
            self._older += self._snapshots[-1].length
        self._snapshots.append(snapshot)
        # In a journal that was seeded there is no such entry.
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
        """Whether room enough is left behind a snapshot of this size that does not cover these. Raises LogFull."""
        self._check_size(size)
        # Snapshots behind the first record that is to stay cannot be forgotten before it.
        start = uncovered[0].position if uncovered else self._journal.head
        stuck = sum(HEADER + snapshot.length for snapshot in self._snapshots if snapshot.position > start)
        if stuck + size > self._tail + self._snapshot_bytes + self._snapshot_most:
            raise LogFull(f"{stuck} bytes of snapshots behind entry {uncovered[0].seq}: a newer one is needed")

    def _trim(self) -> None:
        """Forget the front of the journal as far as the bounds say and what must be kept allows."""
        while (
            self._covered > self._tail
            or self._older > self._snapshot_bytes
            or len(self._snapshots) > KEEP_SNAPSHOTS
        ) and self._drop_first():
            pass
        fronts = [frames[0].position for frames in (self._records, self._snapshots) if frames]
        self._journal.trim(min(fronts, default=self._journal.tail))

    def _drop_first(self) -> bool:
        """Forget the first frame, and say so, unless it must be kept. There is a snapshot."""
        if self._records and self._records[0].position < self._snapshots[0].position:
            if self._records[0].last > self._covered_to:
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
        """The number of the oldest entry that is kept, or of the next one."""
        return self._records[0].seq if self._records else self._last + 1

    @property
    def _covered_to(self) -> int:
        """The last entry that the latest snapshot covers."""
        return self._snapshots[-1].seq if self._snapshots else 0

    def _find(self, at_most: int | None) -> Frame | None:
        """The latest snapshot behind no later entry; None if that is the state before the first. Raises LogTrimmed."""
        most = self._last if at_most is None else at_most
        for snapshot in reversed(self._snapshots):
            # Who starts from one of which the records behind it are forgotten cannot read on.
            if self._first - 1 <= snapshot.seq <= most:
                return snapshot
        if self._first == 1 and most >= 0:
            return None
        raise LogTrimmed(f"no snapshot from before entry {most}; the log begins with {self._first}")

    def _records_behind(self, after: int) -> list[Frame]:
        """All records behind entry `after`, which must be the last of a record. Raises LogTrimmed."""
        if after == self._last:
            return []
        first = self._first
        if not first - 1 <= after < self._last:
            raise LogTrimmed(f"asked for what follows entry {after}; there are {first} to {self._last}")
        # From the newest backwards: a reader is nearly always nearly there.
        behind: list[Frame] = []
        for record in reversed(self._records):
            if record.last <= after:
                break
            behind.append(record)
        if behind[-1].seq != after + 1:
            raise LogTrimmed(f"asked for what follows entry {after}, in the middle of a record")
        behind.reverse()
        return behind

    def _ask_for_snapshot(self) -> bool:
        """Whether the reader at hand is the one to be asked."""
        now = self._clock()
        latest = self._snapshots[-1].length if self._snapshots else 0
        enough = max(self._snapshot_every, LARGER * latest)
        due = self._size - self._covered >= min(enough, self._capacity // 2)
        if not due or now - self._asked_at < ASK_AGAIN:
            return False
        self._asked_at = now
        return True


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
