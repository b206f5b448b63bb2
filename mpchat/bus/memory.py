"""The log itself, in the memory of one process: for tests, for simulations, and inside the sequencer.

Owns the records since the last snapshot and a tail of older ones, for readers who are a little behind. Thread-safe: the
Manager calls it from one thread per connection and does not lock for us. Never looks into a payload or a snapshot.

Bounds, in bytes of payload plus `RECORD_OVERHEAD` a record: a snapshot is asked for when `snapshot_every` has come
since the last, and LARGER times its size (or half of `capacity`); of what a snapshot covers, `tail` is kept, with the
snapshots in it as far as `snapshot_bytes` goes; when `capacity` has come since the last, `publish` refuses.
"""

import time
from collections import deque
from collections.abc import Callable
from threading import Condition

from mpchat.bus.contract import LogFull, LogTrimmed, Reading, Record, Snapshot

RECORD_OVERHEAD = 200
"""About what a record of CPython costs beside its payload: tuple, three integers, bytes header, place in the deque."""

READ_MOST = 1 << 20
"""How many bytes one read gives at most (always at least one record): what a worker applies before it looks around."""

KEEP_SNAPSHOTS = 64
"""How many snapshots are kept at most: the latest, and older ones that the records still kept lead on from."""

LARGER = 4
"""How many times the size of the last snapshot has to come before the next one: making one takes time with its size."""

ASK_AGAIN = 5.0
"""Seconds after which another reader is asked for the snapshot that the first one asked has not delivered."""


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


class MemoryLog:
    """A `contract.Log`. `wall_clock` gives ms since the epoch, `clock` seconds of a clock that never goes back."""

    def __init__(
        self,
        capacity: int = 256 << 20,
        snapshot_every: int = 1 << 18,
        tail: int = 16 << 20,
        snapshot_bytes: int = 64 << 20,
        wall_clock: Callable[[], int] = _wall_clock,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._snapshot_every = snapshot_every
        self._tail = tail
        self._snapshot_bytes = snapshot_bytes
        self._wall_clock = wall_clock
        self._clock = clock
        self._changed = Condition()
        self._records: deque[Record] = deque()
        self._last = 0
        self._time = 0
        self._size = 0  # of all records
        self._covered = 0  # of those of them that the snapshot covers
        self._snapshots: deque[Snapshot] = deque([Snapshot(0, b"")], KEEP_SNAPSHOTS)
        self._asked_at = float("-inf")

    def publish(self, payload: bytes, entries: int) -> int:
        """Append so many entries; give the number of the first. Raises LogFull."""
        if entries < 1:
            raise ValueError(f"a publication of {entries} entries")
        with self._changed:
            size = len(payload) + RECORD_OVERHEAD
            if self._size - self._covered + size > self._capacity:
                raise LogFull(f"{self._size - self._covered} bytes have come since the last snapshot")
            self._time = max(self._time, self._wall_clock())
            record = Record(self._last + 1, entries, self._time, payload)
            self._records.append(record)
            self._last = record.last
            self._size += size
            self._changed.notify_all()
            return record.seq

    def read(self, after: int, wait: float) -> Reading:
        """The records behind entry `after`. Raises LogTrimmed."""
        with self._changed:
            if after == self._last and wait > 0:
                self._changed.wait_for(lambda: self._last > after, wait)
            return Reading(self._records_behind(after), self._ask_for_snapshot())

    def put_snapshot(self, seq: int, blob: bytes) -> None:
        """Here is a state behind `seq`: forget what it covers, but for the tail. Raises LogTrimmed."""
        with self._changed:
            if seq <= self._snapshots[-1].seq:
                return
            covered = [record for record in self._records if record.last <= seq]
            if not covered or covered[-1].last != seq:
                raise LogTrimmed(f"a snapshot behind entry {seq}, which ends no record; the last entry is {self._last}")
            self._snapshots.append(Snapshot(seq, blob))
            self._asked_at = float("-inf")
            self._covered = sum(map(_size, covered))
            while self._covered > self._tail:
                size = _size(self._records.popleft())
                self._covered -= size
                self._size -= size
            while self._snapshots[0].seq < self._first - 1 or self._older_snapshots() > self._snapshot_bytes:
                self._snapshots.popleft()

    def get_snapshot(self, at_most: int | None = None) -> Snapshot:
        """The latest snapshot, or the latest behind no later entry than `at_most`. Raises LogTrimmed when that is
        gone."""
        with self._changed:
            for snapshot in reversed(self._snapshots):
                if at_most is None or snapshot.seq <= at_most:
                    return snapshot
            raise LogTrimmed(f"no snapshot from before entry {at_most}; the oldest is {self._snapshots[0].seq}")

    def _older_snapshots(self) -> int:
        """The bytes of all snapshots but the latest."""
        return sum(len(snapshot.blob) for snapshot in self._snapshots) - len(self._snapshots[-1].blob)

    @property
    def _first(self) -> int:
        """The number of the oldest entry that is kept, or of the next one."""
        return self._records[0].seq if self._records else self._last + 1

    def ping(self) -> None:
        """Answer: whoever asks hears that the log's process runs."""

    def _records_behind(self, after: int) -> list[Record]:
        if after == self._last:
            return []
        first = self._first
        if not first - 1 <= after < self._last:
            raise LogTrimmed(f"asked for what follows entry {after}; there are {first} to {self._last}")
        # From the newest backwards: a reader is nearly always nearly there.
        behind: list[Record] = []
        for record in reversed(self._records):
            if record.last <= after:
                break
            behind.append(record)
        if behind[-1].seq != after + 1:
            raise LogTrimmed(f"asked for what follows entry {after}, in the middle of a record")
        behind.reverse()
        return _first_bytes(behind)

    def _ask_for_snapshot(self) -> bool:
        """Whether the reader at hand is the one to be asked."""
        now = self._clock()
        enough = max(self._snapshot_every, LARGER * len(self._snapshots[-1].blob))
        due = self._size - self._covered >= min(enough, self._capacity // 2)
        if not due or now - self._asked_at < ASK_AGAIN:
            return False
        self._asked_at = now
        return True


def _size(record: Record) -> int:
    return len(record.payload) + RECORD_OVERHEAD


def _first_bytes(records: list[Record]) -> list[Record]:
    """The first of `records`, up to READ_MOST bytes, but at least one."""
    size = 0
    for number, record in enumerate(records):
        size += _size(record)
        if size > READ_MOST and number:
            return records[:number]
    return records
