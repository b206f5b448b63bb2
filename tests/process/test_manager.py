"""The sequencer as a process, the ways to it, and what is left when it or main ends: real processes throughout."""

from __future__ import annotations

import asyncio
import gc
import itertools
import multiprocessing
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from multiprocessing import connection

import psutil
import pytest
from conftest import SETTLE_S, Footprint

from mpchat.log.local.journal import WARM, Journal
from mpchat.log.local.link import ManagerLink
from mpchat.log.local.memory import RECORD_OVERHEAD, TAIL, journal_size
from mpchat.log.local.process import Sequencer
from mpchat.log.local.proxy import LogProxy, ManagerAddress
from mpchat.log.port import LogError, LogFull, LogLost, LogTrimmed, Record, Snapshot

CONTEXT = multiprocessing.get_context("forkserver")
DEADLINE_S = 20.0
LONG = 30.0  # seconds: a read that waits so long has missed its publication

# Main: a sequencer that is used. Says its process, then does what {ending} says.
MAIN = """
import sys
from mpchat.log.local.process import Sequencer

sequencer = Sequencer()
log = sequencer.start()
log.publish(b"x")
print(sequencer.pid, flush=True)
{ending}
"""


@pytest.fixture
def sequencer() -> Iterator[Sequencer]:
    """Not started yet."""
    sequencer = Sequencer()
    yield sequencer
    sequencer.stop()


@pytest.fixture
def log(sequencer: Sequencer) -> LogProxy:
    return sequencer.start()


@pytest.fixture
def link(log: LogProxy) -> Iterator[ManagerLink]:
    link = log.address.open_link("test")
    yield link
    link.close()


def ask(link: ManagerLink, method: str, *arguments: object) -> object:
    link.call(method, *arguments)
    return link.receive()


def kill(sequencer: Sequencer) -> None:
    """Kill -9; the process has ended when this returns."""
    os.kill(sequencer.pid, signal.SIGKILL)
    assert connection.wait([sequencer.sentinel], DEADLINE_S)


# --- links


def test_a_link_does_what_a_proxy_does(log: LogProxy, link: ManagerLink) -> None:
    assert ask(link, "publish", b"a") == 1
    assert log.publish(b"b") == 2
    records = ask(link, "read", 0, 0)
    assert records == log.read(0, 0)
    assert isinstance(records, list) and [type(record) for record in records] == [Record, Record]
    assert ask(link, "claim_snapshot") is log.claim_snapshot() is False
    ask(link, "put_snapshot", 2, b"state")
    assert ask(link, "get_snapshot") == log.get_snapshot() == Snapshot(2, b"state")


def test_a_link_is_readable_when_its_answer_is_there(log: LogProxy, link: ManagerLink) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ)
        link.call("read", 0, LONG)
        assert selector.select(0) == []
        log.publish(b"come")
        assert selector.select(DEADLINE_S)
        assert [record.payload for record in link.receive()] == [b"come"]
        assert selector.select(0) == []


def test_two_links_serve_an_event_loop(log: LogProxy) -> None:
    """As in a worker: one link waits in `read` while the other publishes, and the loop goes on."""

    async def receive(link: ManagerLink) -> object:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        loop.add_reader(link.fileno(), readable.set_result, None)
        try:
            await asyncio.wait_for(readable, DEADLINE_S)
        finally:
            loop.remove_reader(link.fileno())
        return link.receive()

    async def publish_and_read(publisher: ManagerLink, reader: ManagerLink) -> None:
        for number in range(5):
            reader.call("read", number, LONG)
            come = asyncio.create_task(receive(reader))
            publisher.call("publish", b"%d" % number)
            assert await receive(publisher) == number + 1
            records = await come
            assert isinstance(records, list)
            assert [record.payload for record in records] == [b"%d" % number]

    links = log.address.open_link("publish"), log.address.open_link("read")
    try:
        asyncio.run(publish_and_read(*links))
    finally:
        for link in links:
            link.close()


def publish_series(log: LogProxy, name: str, count: int) -> None:
    """Runs in a process of its own: half by the proxy it was given, half by a link."""
    for number in range(count // 2):
        log.publish(f"{name} {number}".encode())
    link = log.address.open_link(name)
    for number in range(count // 2, count):
        ask(link, "publish", f"{name} {number}".encode())
    link.close()


def test_publishers_in_other_processes_share_one_order(log: LogProxy) -> None:
    count = 40
    processes = [CONTEXT.Process(target=publish_series, args=(log, name, count)) for name in ("a", "b", "c")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(DEADLINE_S)
        assert process.exitcode == 0
        process.close()
    records = log.read(0, 0)
    assert records[0].seq == 1
    assert all(after.seq == before.seq + 1 for before, after in pairwise(records))
    for name in ("a", "b", "c"):
        own = [record.payload.decode() for record in records if record.payload.startswith(name.encode())]
        assert own == [f"{name} {number}" for number in range(count)]


# --- what goes wrong in the log


def test_errors_of_the_log_arrive_as_themselves(sequencer: Sequencer) -> None:
    log = sequencer.start(capacity=RECORD_OVERHEAD + 1)
    link = log.address.open_link("test")
    log.publish(b"x")
    with pytest.raises(LogFull):
        log.publish(b"x")
    with pytest.raises(LogFull):
        ask(link, "publish", b"x")
    with pytest.raises(LogTrimmed):
        log.read(2, 0)
    with pytest.raises(LogTrimmed):
        ask(link, "read", 2, 0)
    # Neither way is the worse for it.
    assert len(log.read(0, 0)) == 1
    assert ask(link, "get_snapshot") == Snapshot(0, b"")
    link.close()


def test_what_the_log_cannot_do_is_an_error_of_the_log(log: LogProxy, link: ManagerLink) -> None:
    with pytest.raises(LogError, match="clear"):
        ask(link, "clear")
    with pytest.raises(LogError, match="KeyError"):
        ask(ManagerLink(link._link, "no such object"), "read", 0, 0)
    nowhere = LogProxy(log.address._replace(ident="no such object"))
    with pytest.raises(LogError, match="KeyError"):
        nowhere.read(0, 0)


# --- the sequencer is killed


@pytest.mark.parametrize(
    "use",
    [
        lambda log, link: log.publish(b"x"),
        lambda log, link: log.read(0, LONG),
        lambda log, link: log.put_snapshot(1, b"state"),
        lambda log, link: log.get_snapshot(),
        lambda log, link: log.address.open_link("new"),
        lambda log, link: ask(link, "publish", b"x"),
    ],
    ids=["publish", "read", "put_snapshot", "get_snapshot", "open_link", "link"],
)
def test_after_its_death_everything_raises_log_lost(
    sequencer: Sequencer, log: LogProxy, link: ManagerLink, use: Callable[[LogProxy, ManagerLink], object]
) -> None:
    log.publish(b"x")
    kill(sequencer)
    for _ in range(2):  # the second time, the connection is known to be broken
        with pytest.raises(LogLost):
            use(log, link)
    with ThreadPoolExecutor(1) as pool, pytest.raises(LogLost):
        pool.submit(use, log, link).result(DEADLINE_S)  # a thread that has no connection yet
    with pytest.raises(LogLost):
        sequencer.make_log()


def test_its_death_wakes_a_link_that_waits(sequencer: Sequencer, link: ManagerLink) -> None:
    link.call("read", 0, LONG)
    kill(sequencer)
    assert connection.wait([link], DEADLINE_S)  # type: ignore[list-item]
    with pytest.raises(LogLost):
        link.receive()


def test_its_death_wakes_a_proxy_that_waits(sequencer: Sequencer, log: LogProxy) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(log.read, 0, LONG)
        kill(sequencer)
        with pytest.raises(LogLost):
            waiting.result(DEADLINE_S)


def test_it_ends_when_it_is_asked_to_as_any_manager_does(sequencer: Sequencer, log: LogProxy) -> None:
    address = log.address.socket
    with connection.Client(address, authkey=multiprocessing.current_process().authkey) as client:
        client.send((None, "shutdown", (), {}))
        assert connection.wait([sequencer.sentinel], DEADLINE_S)
    assert sequencer.stop() == 0


def test_main_has_a_link_from_the_start(sequencer: Sequencer) -> None:
    """It needs no connecting, so main never waits for a sequencer that is stopped."""
    sequencer.launch()
    os.kill(sequencer.pid, signal.SIGSTOP)
    sequencer.link.call("ping")
    assert not connection.wait([sequencer.link.fileno()], 0.05)
    os.kill(sequencer.pid, signal.SIGCONT)
    assert connection.wait([sequencer.link.fileno()], DEADLINE_S)
    assert sequencer.link.receive() == 0


def test_nobody_waits_long_to_be_let_in_by_one_that_is_stopped(sequencer: Sequencer, log: LogProxy) -> None:
    os.kill(sequencer.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool, pytest.raises(LogLost):
        pool.submit(log.address.open_link, "test", 0.2).result(DEADLINE_S)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not_let_in(sequencer: Sequencer, log: LogProxy) -> None:
    knock = f"""
import os, socket
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as client:
    client.connect({log.address.socket!r})
    print(client.recv(100))
"""
    said = subprocess.run([sys.executable, "-c", knock], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert said.stdout == "b''\n"
    assert log.ping() == 0


def test_another_can_be_started_after_its_death(sequencer: Sequencer, log: LogProxy) -> None:
    log.publish(b"x")
    kill(sequencer)
    successor = Sequencer()
    try:
        assert successor.start().publish(b"y") == 1
    finally:
        successor.stop()


def open_log_elsewhere(pipe: connection.Connection[object, object], address: ManagerAddress) -> None:
    """Runs in a process of its own, which has the address only."""
    log = address.open_log()
    log.publish(b"from elsewhere")
    pipe.send(log.ping())
    pipe.recv()  # the sequencer is killed
    with pytest.raises(LogLost):
        log.ping()
    with pytest.raises(LogLost):
        address.open_log()
    pipe.send("lost")


def test_an_address_is_all_that_a_child_needs(sequencer: Sequencer, log: LogProxy) -> None:
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=open_log_elsewhere, args=(theirs, log.address))
    process.start()
    theirs.close()
    with ours:
        assert ours.recv() == 1
        assert log.ping() == 1
        kill(sequencer)
        ours.send("killed")
        assert ours.recv() == "lost"
    process.join(DEADLINE_S)
    assert process.exitcode == 0
    process.close()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_the_ways_to_a_dead_log_are_dropped_without_a_word(
    sequencer: Sequencer, log: LogProxy, end: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    used, unused = log.address.open_log(), LogProxy(log.address)
    used.publish(b"x")
    references = weakref.ref(used), weakref.ref(unused)
    os.kill(sequencer.pid, end)
    with ThreadPoolExecutor(1) as pool:

        def drop() -> None:
            nonlocal used, unused
            del used, unused
            gc.collect()

        pool.submit(drop).result(DEADLINE_S)
    assert [reference() for reference in references] == [None, None]
    assert capfd.readouterr() == ("", "")


def test_another_key_is_not_let_in(log: LogProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "authkey", b"another")
    with pytest.raises(LogLost):
        log.address.open_log()


# --- the sequencer is killed, and another one goes on


@pytest.fixture
def journal() -> Iterator[Journal]:
    journal = Journal.make(journal_size())
    yield journal
    journal.close()


class Succession:
    """One sequencer after the other on one journal, as main has them; others ask for the latest."""

    def __init__(self, journal: Journal, **bounds: int) -> None:
        self._journal = journal
        self._bounds = bounds
        self._changed = threading.Condition()
        self._sequencer = Sequencer(journal)
        self._address = self._sequencer.start(**bounds).address

    def replace(self) -> None:
        kill(self._sequencer)
        self._sequencer.stop()
        self._sequencer = Sequencer(self._journal)
        with self._changed:
            self._address = self._sequencer.start(**self._bounds).address
            self._changed.notify_all()

    def connect(self, lost: LogProxy | None = None) -> LogProxy:
        """The log as it is now; not the one that was lost."""
        with self._changed:
            assert self._changed.wait_for(lambda: lost is None or self._address != lost.address, DEADLINE_S)
            return LogProxy(self._address)

    def stop(self) -> None:
        self._sequencer.stop()


@pytest.fixture
def succession(journal: Journal) -> Iterator[Succession]:
    succession = Succession(journal, snapshot_every=1 << 16)
    yield succession
    succession.stop()


def test_a_successor_has_all_that_was_answered(succession: Succession) -> None:
    before = succession.connect()
    before.publish(b"1")
    before.publish(b"2")
    before.publish(bytes(3 << 20))
    before.put_snapshot(2, b"state")
    records, more = before.read(0, 0), before.read(2, 0)
    succession.replace()
    after = succession.connect(before)
    assert after.ping() == 3
    assert after.read(0, 0) == records
    assert after.read(2, 0) == more
    assert after.get_snapshot() == Snapshot(2, b"state")
    assert after.publish(b"4") == 4
    assert after.read(3, 0)[0].time >= more[-1].time


class Publisher:
    """Says one thing after the other, again when it does not know whether it was heard."""

    def __init__(self, succession: Succession, name: str, answered: threading.Semaphore, over: threading.Event) -> None:
        self._succession = succession
        self._name = name
        self._answered = answered
        self._over = over
        self.told: dict[bytes, int] = {}
        self.tried: list[bytes] = []

    def run(self) -> None:
        log = self._succession.connect()
        for number in itertools.count():
            if self._over.is_set():
                return
            for attempt in itertools.count():
                payload = f"{self._name} {number} {attempt} ".encode().ljust(100 + number * 7919 % 50_000, b".")
                self.tried.append(payload)
                try:
                    self.told[payload] = log.publish(payload)
                except LogLost:
                    log = self._succession.connect(log)
                    continue
                self._answered.release()
                break


class Reader:
    """Reads on, whoever answers; makes a snapshot when one is due."""

    def __init__(self, succession: Succession) -> None:
        self._succession = succession
        self.records: list[Record] = []
        self.snapshots = [Snapshot(0, b"")]

    def run(self) -> None:
        """Read until there is the word that ends all."""
        log = self._succession.connect()
        while not self.records or self.records[-1].payload != b"the end":
            try:
                self.records += log.read(self.records[-1].seq if self.records else 0, LONG)
                if log.claim_snapshot():
                    snapshot = Snapshot(self.records[-1].seq, b"state %d" % len(self.records))
                    log.put_snapshot(*snapshot)
                    self.snapshots.append(snapshot)
            except LogLost:
                log = self._succession.connect(log)


def test_sequencers_killed_under_load_lose_nothing(succession: Succession, journal: Journal) -> None:
    answered, over = threading.Semaphore(0), threading.Event()
    publishers = [Publisher(succession, name, answered, over) for name in ("a", "b", "c")]
    readers = [Reader(succession), Reader(succession)]
    with ThreadPoolExecutor(len(publishers) + len(readers)) as pool:
        reading = [pool.submit(reader.run) for reader in readers]
        publishing = [pool.submit(publisher.run) for publisher in publishers]
        for _ in range(6):
            for _ in range(60):
                assert answered.acquire(timeout=DEADLINE_S)
            succession.replace()
        over.set()
        for running in publishing:
            running.result(DEADLINE_S)
        end = succession.connect().publish(b"the end")
        for running in reading:
            running.result(DEADLINE_S)

    assert readers[0].records == readers[1].records
    records = readers[0].records
    assert records[0].seq == 1 and records[-1].seq == end
    assert all(after.seq == before.seq + 1 for before, after in pairwise(records))
    assert all(after.time >= before.time for before, after in pairwise(records))
    places = {record.payload: record.seq for record in records[:-1]}
    assert len(places) == len(records) - 1, "something is there twice"
    for publisher in publishers:
        assert publisher.told.items() <= places.items()
        own = [payload for payload in places if payload in set(publisher.tried)]
        assert own == [payload for payload in publisher.tried if payload in places]
    assert set(places) <= {payload for publisher in publishers for payload in publisher.tried}
    # The last snapshot may be one that was taken and not answered for.
    latest = succession.connect().get_snapshot()
    assert latest.seq >= max(snapshot.seq for reader in readers for snapshot in reader.snapshots)
    assert latest.seq == 0 or latest.blob.startswith(b"state ")


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_memory_is_given_back_whoever_has_filled_it(succession: Succession, journal: Journal) -> None:
    assert journal.descriptor is not None
    log, last = succession.connect(), 0
    for _ in range(100):
        last = log.publish(bytes(1 << 20))
    assert os.fstat(journal.descriptor).st_blocks * 512 > 100 << 20
    succession.replace()
    log = succession.connect(log)
    log.put_snapshot(last, b"state")
    assert os.fstat(journal.descriptor).st_blocks * 512 < TAIL + WARM + (4 << 20)


def test_a_sequencer_does_not_go_on_from_a_damaged_journal() -> None:
    before = Footprint.take()
    journal = Journal.make(journal_size())
    journal.seed(Snapshot(1, b"state"))
    journal._memory[journal._start : journal._start + 8] = b"no frame"
    sequencer = Sequencer(journal)
    with pytest.raises(LogError, match="damaged"):
        sequencer.start()
    journal.close()
    assert before.leaks() == []


# --- how it starts and ends


def test_signals_to_the_whole_group_do_not_end_it(sequencer: Sequencer, log: LogProxy, link: ManagerLink) -> None:
    for number, signum in enumerate([signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGTERM]):
        os.kill(sequencer.pid, signum)
        assert log.publish(b"x") == 2 * number + 1
        assert ask(link, "publish", b"x") == 2 * number + 2
    assert not connection.wait([sequencer.sentinel], 0)


@pytest.mark.parametrize("end", [None, signal.SIGKILL, signal.SIGSTOP], ids=["running", "killed", "hanging"])
def test_stop_leaves_nothing_behind(end: signal.Signals | None) -> None:
    before = Footprint.take()
    sequencer = Sequencer()
    log = sequencer.start()
    link = log.address.open_link("test")
    assert ask(link, "publish", b"x") == log.get_snapshot().seq + 1
    pid = sequencer.pid
    if end is not None:
        os.kill(pid, end)
    link.close()
    del log
    sequencer.stop()
    assert not psutil.pid_exists(pid)
    assert before.leaks() == []


def test_stop_is_harmless_at_any_time() -> None:
    sequencer = Sequencer()
    sequencer.stop()
    sequencer.start()
    for _ in range(2):
        sequencer.stop()


def test_a_sequencer_that_ends_at_once_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Footprint.take()
    monkeypatch.setattr("mpchat.child.tie_to_main", sys.exit)
    sequencer = Sequencer()
    with pytest.raises(LogLost):
        sequencer.start()
    assert before.leaks() == []


def run_main(ending: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN.format(ending=ending)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_running(pid: int) -> bool:
    """Not gone, and no zombie: an orphan is waited for by whatever is process 1 here."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_main_killed_takes_the_sequencer_along() -> None:
    with run_main("sys.stdin.read()") as main:
        assert main.stdout is not None
        pid = int(main.stdout.readline())
        assert is_running(pid)
        main.kill()
        deadline = time.monotonic() + SETTLE_S
        while is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_running(pid)


@pytest.mark.parametrize("ending", ["sequencer.stop()", "pass", "sys.exit()"])
def test_main_that_ends_leaves_nothing_behind(ending: str) -> None:
    with run_main(ending) as main:
        said, errors = main.communicate(timeout=DEADLINE_S)
        assert (main.returncode, errors) == (0, "")
        deadline = time.monotonic() + SETTLE_S
        while is_running(int(said)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_running(int(said))
