"""What `log.port` promises, asked of every log: in memory, in the sequencer's process, and one that goes on from
another's journal before each call.

No test sleeps: who waits in the log is woken by a publication. Where a log must wait, a broken one that does not
reads nothing, and one that does not wake reads for LONG, which fails at the deadline. The clocks can be
handed in only in this process, so what hangs on them is asked of `MemoryLog`, and so is the comparison with a model.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any, Protocol

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mpchat.log.local.journal import SEGMENT, Journal
from mpchat.log.local.memory import (
    ASK_AGAIN,
    KEEP_SNAPSHOTS,
    LARGER,
    READ_MOST,
    RECORD_OVERHEAD,
    SNAPSHOT_MOST,
    MemoryLog,
    journal_size,
)
from mpchat.log.local.process import Sequencer
from mpchat.log.local.proxy import LogProxy
from mpchat.log.port import PIECE, Log, LogError, LogFull, LogTrimmed, Record, Snapshot, SnapshotPlace

DEADLINE_S = 20.0
LONG = 30.0  # seconds: a read that waits so long has missed its publication


class MakeLog(Protocol):
    def __call__(self, *, capacity: int = ..., snapshot_every: int = ..., tail: int = ...) -> Log: ...


class Successor:
    """A log that is another one after each change: what is known to a sequencer whose predecessors were all killed.

    It does the waiting itself: who waits in a log whose process is killed is told so, and asks the next one.
    """

    def __init__(self, **bounds: Any) -> None:
        self._bounds = bounds
        self._journal = Journal.make_private(journal_size())
        self._changed = threading.Condition()
        with self._changed:
            self._succeed()

    def _succeed(self) -> None:
        self._log = MemoryLog(**self._bounds, journal=self._journal)
        self._changed.notify_all()

    def publish(self, payload: bytes) -> int:
        with self._changed:
            seq = self._log.publish(payload)
            self._succeed()
            return seq

    def read(self, after: int, wait: float) -> list[Record]:
        with self._changed:
            if self._log.ping() == after:
                self._changed.wait(wait)
            return self._log.read(after, 0)

    def claim_snapshot(self) -> bool:
        with self._changed:
            return self._log.claim_snapshot()

    def put_snapshot(self, seq: int, blob: bytes) -> None:
        with self._changed:
            self._log.put_snapshot(seq, blob)
            self._succeed()

    def get_snapshot(self, at_most: int | None = None) -> Snapshot:
        with self._changed:
            return self._log.get_snapshot(at_most)

    def find_snapshot(self, at_most: int | None = None) -> SnapshotPlace:
        with self._changed:
            return self._log.find_snapshot(at_most)

    def read_snapshot(self, seq: int, start: int, size: int) -> bytes:
        with self._changed:
            return self._log.read_snapshot(seq, start, size)


@contextmanager
def memory() -> Iterator[MakeLog]:
    yield MemoryLog


@contextmanager
def successor() -> Iterator[MakeLog]:
    yield Successor


@contextmanager
def sequencer() -> Iterator[MakeLog]:
    """A log of its own for each test, all of them in one process."""
    process = Sequencer()
    try:
        process.start()
        yield process.make_log
    finally:
        process.stop()


@pytest.fixture(scope="module", params=[memory, successor, sequencer])
def implementation(request: pytest.FixtureRequest) -> Iterator[MakeLog]:
    enter: Callable[[], AbstractContextManager[MakeLog]] = request.param
    with enter() as make:
        yield make


@pytest.fixture
def make_log(implementation: MakeLog) -> Iterator[MakeLog]:
    made: list[Log] = []

    def make(**bounds: int) -> Log:
        made.append(implementation(**bounds))
        return made[-1]

    yield make
    for log in made:
        if isinstance(log, LogProxy):
            log.close()


@pytest.fixture
def log(make_log: MakeLog) -> Log:
    return make_log()


def room_for(records: int, payload: bytes = b"x") -> int:
    """So many records with this payload, as the bounds of a log count them."""
    return records * (len(payload) + RECORD_OVERHEAD)


def publish_all(log: Log, *payloads: bytes) -> list[int]:
    """Publish each; return their numbers."""
    return [log.publish(payload) for payload in payloads]


def payloads(records: list[Record]) -> list[bytes]:
    return [record.payload for record in records]


def read_up_to(log: Log, last: int) -> list[Record]:
    """Everything from the start up to record `last`, which may be yet to come."""
    records: list[Record] = []
    while not records or records[-1].seq < last:
        come = log.read(records[-1].seq if records else 0, LONG)
        assert come, "waited, and nothing came"
        records += come
    return records


# --- publish and read


def test_numbers_are_consecutive_from_1(log: Log) -> None:
    assert publish_all(log, b"a", b"b", b"") == [1, 2, 3]
    assert [(record.seq, record.payload) for record in log.read(0, 0)] == [(1, b"a"), (2, b"b"), (3, b"")]


def test_records_arrive_as_what_they_are(log: Log) -> None:
    log.publish(b"\x00\xff")
    records = log.read(0, 0)
    assert type(records) is list
    assert [type(record) for record in records] == [Record]
    assert payloads(records) == [b"\x00\xff"]


def test_an_empty_log_has_nothing(log: Log) -> None:
    assert log.read(0, 0) == []
    assert log.get_snapshot() == Snapshot(0, b"")


def test_reading_takes_nothing_away(log: Log) -> None:
    publish_all(log, b"a", b"b")
    assert payloads(log.read(0, 0)) == [b"a", b"b"]
    assert log.read(0, 0) == log.read(0, 0)


def test_a_reader_may_start_behind_any_record(log: Log) -> None:
    publish_all(log, *[b"x"] * 4)
    records = log.read(0, 0)
    for number, record in enumerate(records, start=1):
        assert log.read(record.seq, 0) == records[number:]


def test_times_are_milliseconds_that_never_go_back(log: Log) -> None:
    # Half an hour to both sides: seconds or microseconds would be further off, a clock that is set would not.
    around, half_an_hour = time.time() * 1000, 1_800_000
    publish_all(log, *[b"x"] * 20)
    times = [record.time for record in log.read(0, 0)]
    assert times == sorted(times)
    assert all(abs(each - around) < half_an_hour for each in times)


def test_time_stands_still_while_the_wall_clock_is_behind() -> None:
    wall_clock = iter([100, 50, 99, 100, 120])
    log = MemoryLog(wall_clock=lambda: next(wall_clock))
    publish_all(log, *[b"x"] * 5)
    assert [record.time for record in log.read(0, 0)] == [100, 100, 100, 100, 120]


def test_a_reading_is_bounded(log: Log) -> None:
    exactly_a_quarter = bytes(READ_MOST // 4 - RECORD_OVERHEAD)
    publish_all(log, *[exactly_a_quarter] * 9)
    assert [len(log.read(after, 0)) for after in (0, 4, 8, 9)] == [4, 4, 1, 0]


def test_a_record_over_the_bound_comes_alone(log: Log) -> None:
    publish_all(log, b"before", bytes(READ_MOST + 1), b"behind")
    assert [[record.seq for record in log.read(after, 0)] for after in (0, 1, 2)] == [[1], [2], [3]]


# --- waiting


def test_read_returns_at_once_when_something_is_there(log: Log) -> None:
    log.publish(b"there")
    with ThreadPoolExecutor(1) as pool:
        assert payloads(pool.submit(log.read, 0, LONG).result(DEADLINE_S)) == [b"there"]


def test_read_gives_nothing_when_nothing_came(log: Log) -> None:
    log.publish(b"x")
    started = time.monotonic()
    assert log.read(1, 0.05) == []
    assert time.monotonic() - started >= 0.05


def test_who_waits_is_woken(log: Log) -> None:
    """Two play ping-pong: each waits for the other's publication 100 times, so each has to sleep, and to wake."""

    def play(first: int) -> None:
        for after in range(first, 200, 2):
            assert [record.seq for record in log.read(after, LONG)] == [after + 1]
            log.publish(b"your turn")

    log.publish(b"begin")
    with ThreadPoolExecutor(2) as pool:
        players = [pool.submit(play, 0), pool.submit(play, 1)]
        for player in players:
            player.result(DEADLINE_S)


def test_one_publication_wakes_all_who_wait(log: Log) -> None:
    readers, rounds = 5, 10
    ready = threading.Barrier(readers + 1)

    def wait_for_each() -> list[bytes]:
        come = []
        for after in range(rounds):
            ready.wait(DEADLINE_S)
            come += payloads(log.read(after, LONG))
        return come

    with ThreadPoolExecutor(readers) as pool:
        waiting = [pool.submit(wait_for_each) for _ in range(readers)]
        for after in range(rounds):
            ready.wait(DEADLINE_S)
            # A moment for them to fall asleep: with less of it this test could miss a fault, never see one too many.
            assert log.read(after, 0.01) == []
            log.publish(b"for all")
        assert [reader.result(DEADLINE_S) for reader in waiting] == [[b"for all"] * rounds] * readers


# --- many at once


def publish_series(log: Log, name: str, count: int) -> list[tuple[int, bytes]]:
    """The number that was returned for each, and its payload."""
    published = []
    for number in range(count):
        payload = f"{name} {number}".encode()
        published.append((log.publish(payload), payload))
    return published


def test_all_readers_see_one_order_of_concurrent_publishers(log: Log) -> None:
    publishers, count = 4, 50
    with ThreadPoolExecutor(publishers + 3) as pool:
        reading = [pool.submit(read_up_to, log, publishers * count) for _ in range(3)]
        publishing = [pool.submit(publish_series, log, str(name), count) for name in range(publishers)]
        told = [each for publisher in publishing for each in publisher.result(DEADLINE_S)]
        seen = [reader.result(DEADLINE_S) for reader in reading]

    records = log.read(0, 0)
    assert seen == [records] * 3
    assert records[0].seq == 1 and records[-1].seq == publishers * count
    assert all(after.seq == before.seq + 1 for before, after in pairwise(records))
    assert sorted(told) == [(record.seq, record.payload) for record in records]
    for name in range(publishers):
        own = [record.payload for record in records if record.payload.startswith(f"{name} ".encode())]
        assert own == [f"{name} {number}".encode() for number in range(count)]


# --- what is not there


def test_asking_beyond_the_end_is_refused(log: Log) -> None:
    log.publish(b"x")
    for after in (2, 100):
        with pytest.raises(LogTrimmed):
            log.read(after, LONG)


def test_asking_before_the_start_is_refused(log: Log) -> None:
    log.publish(b"x")
    with pytest.raises(LogTrimmed):
        log.read(-1, LONG)


def test_asking_for_what_a_snapshot_took_is_refused(make_log: MakeLog) -> None:
    log = make_log(tail=0)
    publish_all(log, b"a", b"b", b"c")
    log.put_snapshot(2, b"state")
    for after in (0, 1):
        with pytest.raises(LogTrimmed):
            log.read(after, LONG)
    assert payloads(log.read(2, 0)) == [b"c"]


# --- snapshots


def test_the_latest_snapshot_is_kept_and_read_on_from(make_log: MakeLog) -> None:
    log = make_log(tail=0)
    publish_all(log, b"a", b"b", b"c")
    log.put_snapshot(1, b"after a")
    assert log.get_snapshot() == Snapshot(1, b"after a")
    log.put_snapshot(3, b"after c")
    assert log.get_snapshot() == Snapshot(3, b"after c")
    assert log.read(3, 0) == []
    assert log.publish(b"d") == 4
    assert payloads(log.read(3, 0)) == [b"d"]


def test_an_older_snapshot_is_given_to_who_needs_one_from_before(make_log: MakeLog) -> None:
    log = make_log()
    for number in range(1, 7):
        log.publish(b"x")
        if number % 2 == 0:
            log.put_snapshot(number, b"state %d" % number)
    assert [log.get_snapshot(at_most).seq for at_most in (1, 2, 3, 4, 5, 6, 99, None)] == [0, 2, 2, 4, 4, 6, 6, 6]
    assert log.get_snapshot(3).blob == b"state 2"


def test_a_snapshot_is_read_in_pieces(make_log: MakeLog) -> None:
    log = make_log(tail=0)
    assert log.find_snapshot() == SnapshotPlace(0, 0)
    publish_all(log, b"a", b"b")
    log.put_snapshot(1, b"after a")
    assert log.find_snapshot() == log.find_snapshot(1) == SnapshotPlace(1, 7)
    pieces = [log.read_snapshot(1, start, size) for start, size in ((0, 3), (3, 0), (3, 2), (5, 100), (7, 1), (99, 1))]
    assert pieces == [b"aft", b"", b"er", b" a", b"", b""]
    for start, size in ((-1, 3), (0, -1)):
        with pytest.raises(ValueError, match="bytes of a snapshot"):
            log.read_snapshot(1, start, size)
    with pytest.raises(LogTrimmed):
        log.read_snapshot(2, 0, 1)
    log.put_snapshot(2, b"after b")
    with pytest.raises(LogTrimmed):
        log.read_snapshot(1, 0, 1)
    with pytest.raises(LogTrimmed):
        log.find_snapshot(1)


def test_a_snapshot_that_is_left_over_is_not_read() -> None:
    """It is in the journal still, but what comes behind it is not."""
    log = MemoryLog(tail=RECORD_OVERHEAD + 1)
    publish_all(log, b"a", b"b", b"c")
    log.put_snapshot(1, b"after a")
    publish_all(log, b"d")
    log.put_snapshot(4, b"after d")
    assert [snapshot.seq for snapshot in log._snapshots] == [1, 4]
    with pytest.raises(LogTrimmed):
        log.find_snapshot(1)
    with pytest.raises(LogTrimmed):
        log.read_snapshot(1, 0, 1)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 5])
def test_snapshots_of_all_sizes_come_back_as_they_were(make_log: MakeLog, size: int) -> None:
    log = make_log()
    publish_all(log, b"a")
    blob = os.urandom(size)
    log.put_snapshot(1, blob)
    assert log.get_snapshot() == Snapshot(1, blob)
    assert log.find_snapshot() == SnapshotPlace(1, size)


def test_only_so_many_snapshots_are_kept(make_log: MakeLog) -> None:
    log = make_log()
    for number in range(1, KEEP_SNAPSHOTS + 2):
        log.publish(b"x")
        log.put_snapshot(number, b"state")
    assert log.get_snapshot(2).seq == 2
    with pytest.raises(LogTrimmed):
        log.get_snapshot(1)


def test_only_so_many_bytes_of_older_snapshots_are_kept() -> None:
    log = MemoryLog(snapshot_bytes=10)
    for number in range(1, 5):
        log.publish(b"x")
        log.put_snapshot(number, bytes(5))
    log.publish(b"x")
    log.put_snapshot(5, bytes(500))
    assert [log.get_snapshot(at_most).seq for at_most in (3, 4, 5)] == [3, 4, 5]
    with pytest.raises(LogTrimmed):
        log.get_snapshot(2)


def test_an_older_snapshot_goes_with_the_records_behind_it(make_log: MakeLog) -> None:
    log = make_log(tail=room_for(1))
    publish_all(log, b"1", b"2", b"3")
    log.put_snapshot(1, b"first")
    log.put_snapshot(2, b"second")
    assert log.get_snapshot(1).blob == b"first"
    log.put_snapshot(3, b"third")
    assert log.get_snapshot(2).blob == b"second"
    assert payloads(log.read(2, 0)) == [b"3"]
    with pytest.raises(LogTrimmed):
        log.get_snapshot(1)


def test_a_snapshot_that_is_not_newer_is_ignored(log: Log) -> None:
    publish_all(log, b"a", b"b", b"c")
    log.put_snapshot(2, b"first")
    for stale in (2, 1, 0):
        log.put_snapshot(stale, b"stale")
        assert log.get_snapshot() == Snapshot(2, b"first")


def test_a_snapshot_that_nobody_could_read_on_from_is_refused(log: Log) -> None:
    publish_all(log, b"a")
    log.put_snapshot(1, b"state")
    publish_all(log, b"b")
    for beyond in (3, 100):
        with pytest.raises(LogTrimmed):
            log.put_snapshot(beyond, b"of another log")
        assert log.get_snapshot() == Snapshot(1, b"state")
    log.put_snapshot(2, b"newer")
    assert log.get_snapshot() == Snapshot(2, b"newer")


def test_a_tail_of_what_a_snapshot_covers_is_kept(make_log: MakeLog) -> None:
    log = make_log(tail=room_for(2))
    publish_all(log, *[b"x"] * 5)
    log.put_snapshot(4, b"state")
    assert [record.seq for record in log.read(2, 0)] == [3, 4, 5]
    log.put_snapshot(5, b"state")
    assert [record.seq for record in log.read(3, 0)] == [4, 5]
    with pytest.raises(LogTrimmed):
        log.read(2, 0)


def test_a_full_log_refuses_until_there_is_a_snapshot(make_log: MakeLog) -> None:
    log = make_log(capacity=room_for(3), tail=room_for(10))
    assert publish_all(log, b"1", b"2", b"3") == [1, 2, 3]
    for _ in range(2):
        with pytest.raises(LogFull):
            log.publish(b"4")
    assert payloads(log.read(0, 0)) == [b"1", b"2", b"3"]
    log.put_snapshot(2, b"state")
    # What was refused took no number, and the tail takes no room.
    assert publish_all(log, b"4", b"5") == [4, 5]
    with pytest.raises(LogFull):
        log.publish(b"6")
    assert payloads(log.read(0, 0)) == [b"1", b"2", b"3", b"4", b"5"]


def journal_for(snapshot: int, **bounds: int) -> Journal:
    """One in which a log with these bounds has room for snapshots of so many bytes, to the page."""
    size = journal_size(**bounds) - SEGMENT - 2 * (SNAPSHOT_MOST - snapshot)
    return Journal.make_private(size + mmap.PAGESIZE, segment=mmap.PAGESIZE)


def test_a_snapshot_too_large_for_the_journal_is_refused_and_changes_nothing() -> None:
    log = MemoryLog(journal=journal_for(1000))
    publish_all(log, b"a", b"b")
    log.put_snapshot(1, bytes(1000))
    with pytest.raises(LogFull):
        log.put_snapshot(2, bytes(1000 + mmap.PAGESIZE))
    assert log.get_snapshot() == Snapshot(1, bytes(1000))
    assert payloads(log.read(0, 0)) == [b"a", b"b"]
    log.put_snapshot(2, b"small")
    assert log.get_snapshot() == Snapshot(2, b"small")


def test_the_largest_snapshots_fit_into_a_full_log() -> None:
    bounds: dict[str, Any] = {
        "capacity": room_for(3, bytes(10_000)),
        "tail": room_for(1, bytes(10_000)),
        "snapshot_bytes": 20_000,
    }
    log = MemoryLog(**bounds, journal=journal_for(50_000, **bounds))
    last = 0
    for _ in range(20):
        last = publish_all(log, *[bytes(10_000)] * 3)[-1]
        with pytest.raises(LogFull):
            log.publish(bytes(10_000))
        log.put_snapshot(last, bytes(50_000))
    assert log.get_snapshot() == Snapshot(last, bytes(50_000))


def test_snapshots_of_old_states_leave_room_for_what_the_log_promises() -> None:
    """They lie behind records that no snapshot covers yet, so that they cannot be forgotten."""
    bounds: dict[str, Any] = {"capacity": room_for(100), "tail": 100_000, "snapshot_bytes": 0}
    log = MemoryLog(**bounds, journal=journal_for(10_000, **bounds))
    publish_all(log, *[b"x"] * 90)
    with pytest.raises(LogFull, match="newer"):
        for seq in range(1, 90):
            log.put_snapshot(seq, bytes(10_000))
    taken = log.get_snapshot().seq
    assert 5 < taken < 20
    publish_all(log, *[b"x"] * (10 + taken))
    with pytest.raises(LogFull):
        log.publish(b"x")
    assert len(log.read(taken, 0)) == 100
    log.put_snapshot(100 + taken, bytes(10_000))
    assert publish_all(log, b"x") == [101 + taken]


def test_a_journal_that_is_too_small_for_the_bounds_is_refused() -> None:
    with pytest.raises(LogError, match="too small"):
        MemoryLog(journal=Journal.make_private(1 << 20))


# --- a journal that has something in it


def test_a_successor_goes_on_where_the_last_one_ended() -> None:
    journal = Journal.make_private(journal_size())
    wall_clock = iter([100, 200, 50, 60, 300])
    log = MemoryLog(journal=journal, wall_clock=lambda: next(wall_clock))
    publish_all(log, b"1", b"2")
    log.put_snapshot(1, b"state")
    log = MemoryLog(journal=journal, wall_clock=lambda: next(wall_clock))
    assert log.read(0, 0) == [Record(1, 100, b"1"), Record(2, 200, b"2")]
    assert log.get_snapshot() == Snapshot(1, b"state")
    assert log.ping() == 2
    assert log.publish(b"3") == 3
    assert log.read(2, 0) == [Record(3, 200, b"3")]


def test_time_does_not_go_back_when_only_a_snapshot_is_left() -> None:
    journal = Journal.make_private(journal_size(tail=0))
    log = MemoryLog(tail=0, journal=journal, wall_clock=lambda: 1000)
    log.publish(b"x")
    log.put_snapshot(1, b"state")
    log = MemoryLog(tail=0, journal=journal, wall_clock=lambda: 5)
    log.publish(b"y")
    assert log.read(1, 0) == [Record(2, 1000, b"y")]


def test_a_successor_with_tighter_bounds_keeps_to_them() -> None:
    journal = Journal.make_private(journal_size())
    log = MemoryLog(journal=journal)
    publish_all(log, b"1", b"2", b"3", b"4")
    log.put_snapshot(3, b"state")
    log = MemoryLog(tail=room_for(1), journal=journal)
    assert [record.seq for record in log.read(2, 0)] == [3, 4]
    with pytest.raises(LogTrimmed):
        log.read(1, 0)


def test_a_seeded_journal_begins_with_its_snapshot() -> None:
    journal = Journal.make_private(journal_size())
    journal.seed(Snapshot(41, b"state"), time=1000)
    log = MemoryLog(journal=journal, wall_clock=lambda: 5)
    assert log.ping() == 41
    assert log.get_snapshot() == log.get_snapshot(41) == Snapshot(41, b"state")
    for before in (40, 0):
        with pytest.raises(LogTrimmed):
            log.get_snapshot(before)
        with pytest.raises(LogTrimmed):
            log.read(before, LONG)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(log.read, 41, LONG)
        assert log.publish(b"next") == 42
        assert waiting.result(DEADLINE_S) == [Record(42, 1000, b"next")]
    log.put_snapshot(42, b"newer")
    assert MemoryLog(journal=journal).get_snapshot() == Snapshot(42, b"newer")


def test_each_snapshot_that_is_due_can_be_claimed_once(make_log: MakeLog) -> None:
    log = make_log(snapshot_every=room_for(2))
    for number in (1, 3, 5):
        log.publish(b"x")
        assert not log.claim_snapshot()
        log.publish(b"x")
        assert [log.claim_snapshot() for _ in range(3)] == [True, False, False]
        log.put_snapshot(number + 1, b"state")
        assert not log.claim_snapshot()


def test_one_of_many_at_once_has_the_claim(make_log: MakeLog) -> None:
    log = make_log(snapshot_every=room_for(1))
    readers = 8
    together = threading.Barrier(readers)

    def claims() -> bool:
        log.get_snapshot()  # opens the thread's connection: what comes behind the barrier comes close together
        together.wait(DEADLINE_S)
        return log.claim_snapshot()

    with ThreadPoolExecutor(readers) as pool:
        log.publish(b"x")
        claiming = [pool.submit(claims) for _ in range(readers)]
        assert sum(reader.result(DEADLINE_S) for reader in claiming) == 1


def test_a_full_log_can_be_claimed(make_log: MakeLog) -> None:
    """However rarely snapshots are to be made: a snapshot is due when half of the capacity is used."""
    log = make_log(capacity=room_for(3))
    publish_all(log, *[b"x"] * 3)
    with pytest.raises(LogFull):
        log.publish(b"x")
    assert log.claim_snapshot()


def test_a_claim_lapses_when_nothing_is_delivered() -> None:
    now = 1000.0
    log = MemoryLog(snapshot_every=room_for(1), clock=lambda: now)
    log.publish(b"x")
    assert log.claim_snapshot()
    now += ASK_AGAIN - 0.5
    assert not log.claim_snapshot()
    now += 0.5
    assert [log.claim_snapshot() for _ in range(2)] == [True, False]


def test_a_claim_goes_on_while_pieces_of_a_snapshot_come() -> None:
    now = 1000.0
    log = MemoryLog(snapshot_every=room_for(1), clock=lambda: now)
    log.publish(b"x")
    log.expect_snapshot(1)  # it was not claimed, and may never come
    assert log.claim_snapshot()
    for size in range(1, 4):
        now += ASK_AGAIN - 0.5
        log.expect_snapshot(size)
    now += ASK_AGAIN - 0.5
    assert not log.claim_snapshot()
    now += 0.5
    assert log.claim_snapshot()


# --- any sequence of calls, compared with a model that remembers everything


def size_of(records: list[Record]) -> int:
    return sum(len(record.payload) + RECORD_OVERHEAD for record in records)


class AgainstModel(RuleBasedStateMachine):
    """The model keeps all records for ever and works out from them, the slow way, what the log must answer."""

    @initialize(
        capacity=st.sampled_from([0, 1500, 5000, 5 << 20]),
        snapshot_every=st.sampled_from([1, 1000, 2 << 20]),
        tail=st.sampled_from([0, 700, 3000, 3 << 20]),
        snapshot_bytes=st.sampled_from([0, 5, 900, 3 << 20]),
        tight=st.booleans(),
    )
    def make_log(self, capacity: int, snapshot_every: int, tail: int, snapshot_bytes: int, tight: bool) -> None:
        self.now = 0.0
        self.wall_time = 0
        self.capacity, self.snapshot_every, self.tail = capacity, snapshot_every, tail
        self.snapshot_bytes = snapshot_bytes
        bounds: dict[str, Any] = {"capacity": capacity, "tail": tail, "snapshot_bytes": snapshot_bytes}
        self.journal = journal_for(400, **bounds) if tight else Journal.make_private(journal_size(**bounds))
        self.records: list[Record] = []
        self.kept: list[Record | Snapshot] = []
        self.open_log()

    @rule()
    def open_log(self) -> None:
        """Another log on the same journal knows all the same, but for who has claimed a snapshot."""
        self.log = MemoryLog(
            self.capacity,
            self.snapshot_every,
            self.tail,
            self.snapshot_bytes,
            wall_clock=lambda: self.wall_time,
            clock=lambda: self.now,
            journal=self.journal,
        )
        self.claimed_at: float | None = None

    @property
    def kept_snapshots(self) -> list[Snapshot]:
        return [kept for kept in self.kept if isinstance(kept, Snapshot)]

    @property
    def snapshot(self) -> Snapshot:
        return [Snapshot(0, b""), *self.kept_snapshots][-1]

    @property
    def last(self) -> int:
        return self.records[-1].seq if self.records else 0

    def behind_snapshot(self) -> list[Record]:
        return [record for record in self.records if record.seq > self.snapshot.seq]

    def remembered(self) -> list[Record]:
        return [kept for kept in self.kept if isinstance(kept, Record)]

    def exceeds(self) -> bool:
        """Whether more is kept than the bounds allow of what could be forgotten."""
        older = self.kept_snapshots[:-1]
        return (
            size_of([record for record in self.remembered() if record.seq <= self.snapshot.seq]) > self.tail
            or sum(len(snapshot.blob) for snapshot in older) > self.snapshot_bytes
            or len(older) >= KEEP_SNAPSHOTS
        )

    def may_go(self, front: Record | Snapshot) -> bool:
        return front.seq <= self.snapshot.seq if isinstance(front, Record) else front is not self.snapshot

    def expected_reading(self, after: int) -> list[Record]:
        records: list[Record] = []
        for record in self.remembered():
            if record.seq > after:
                if records and size_of([*records, record]) > READ_MOST:
                    break
                records.append(record)
        return records

    @rule()
    def claim_snapshot(self) -> None:
        enough = min(max(self.snapshot_every, LARGER * len(self.snapshot.blob)), self.capacity // 2)
        due = size_of(self.behind_snapshot()) >= enough
        is_free = self.claimed_at is None or self.now - self.claimed_at >= ASK_AGAIN
        assert self.log.claim_snapshot() == (due and is_free)
        if due and is_free:
            self.claimed_at = self.now

    @rule(seconds=st.sampled_from([0.5, ASK_AGAIN - 0.5, ASK_AGAIN]), wall_time=st.integers(0, 10))
    def pass_time(self, seconds: float, wall_time: int) -> None:
        self.now += seconds
        self.wall_time = wall_time

    @rule(size=st.sampled_from([0, 1, 300, 1000, READ_MOST // 2, READ_MOST + 1]))
    def publish(self, size: int) -> None:
        self.publish_one(size)

    @rule(sizes=st.lists(st.sampled_from([0, 100, 700]), min_size=2, max_size=6))
    def publish_some(self, sizes: list[int]) -> None:
        for size in sizes:
            self.publish_one(size)

    def publish_one(self, size: int) -> None:
        time_now = max([self.wall_time, *(record.time for record in self.records)])
        record = Record(self.last + 1, time_now, bytes(size))
        if size_of([*self.behind_snapshot(), record]) > self.capacity:
            with pytest.raises(LogFull):
                self.log.publish(record.payload)
            return
        assert self.log.publish(record.payload) == record.seq
        self.records.append(record)
        self.kept.append(record)

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        after = data.draw(st.integers(-1, self.last + 1), label="after")
        if after not in {self.last, *(record.seq - 1 for record in self.remembered())}:
            with pytest.raises(LogTrimmed):
                self.log.read(after, 0)
            return
        assert self.log.read(after, 0) == self.expected_reading(after)

    @rule(data=st.data(), blob=st.sampled_from([b"", b"xy", bytes(400)]))
    def put_snapshot(self, data: st.DataObject, blob: bytes) -> None:
        ends = [record.seq for record in self.records if record.seq > self.snapshot.seq]
        # The next ones most of the time: then many snapshots are kept.
        seq = data.draw(st.integers(0, self.last + 1) | st.sampled_from(ends[:2] or [0]), label="seq")
        if seq > self.snapshot.seq and seq not in {record.seq for record in self.records}:
            with pytest.raises(LogTrimmed):
                self.log.put_snapshot(seq, blob)
            return
        try:
            self.log.put_snapshot(seq, blob)
        except LogFull:
            # Others are in its way, which one behind the last entry would take out of it.
            assert seq < self.last
            return
        if seq > self.snapshot.seq:
            self.kept.append(Snapshot(seq, blob))
            self.claimed_at = None
            while self.exceeds() and self.may_go(self.kept[0]):
                del self.kept[0]

    @rule(at_most=st.none() | st.integers(0, 100))
    def get_snapshot(self, at_most: int | None) -> None:
        first = self.remembered()[0].seq if self.remembered() else self.last + 1
        usable = [each for each in [Snapshot(0, b""), *self.kept_snapshots] if each.seq >= first - 1]
        fitting = [snapshot for snapshot in usable if at_most is None or snapshot.seq <= at_most]
        if not fitting:
            with pytest.raises(LogTrimmed):
                self.log.get_snapshot(at_most)
            return
        snapshot = self.log.get_snapshot(at_most)
        assert snapshot == fitting[-1]
        assert self.log.find_snapshot(at_most) == (snapshot.seq, len(snapshot.blob))
        if snapshot.seq:
            assert self.log.read_snapshot(snapshot.seq, 1, 300) == snapshot.blob[1:301]
        # And it is of use: the log goes on from there.
        self.log.read(snapshot.seq, 0)


AgainstModel.TestCase.settings = settings(max_examples=200)
TestAgainstModel = AgainstModel.TestCase
