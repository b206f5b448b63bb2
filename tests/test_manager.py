"""The sequencer as a process, the ways to it, and what is left when it or main ends: real processes throughout."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from multiprocessing import connection, forkserver, util
from pathlib import Path

import psutil
import pytest
from conftest import SETTLE_S, Footprint

from mpchat.bus.contract import LogError, LogFull, LogLost, LogTrimmed, Reading, Record, Snapshot
from mpchat.bus.manager import LogLink, LogProxy, Sequencer
from mpchat.bus.memory import RECORD_OVERHEAD

CONTEXT = multiprocessing.get_context("forkserver")
DEADLINE_S = 20.0
LONG = 30.0  # seconds: a read that waits so long has missed its publication

# Main: a sequencer that is used. Says its process and the folder of its sockets, then does what {ending} says.
MAIN = """
import multiprocessing, sys
from multiprocessing import util
from mpchat.bus.manager import Sequencer

sequencer = Sequencer(multiprocessing.get_context("forkserver"))
log = sequencer.start()
log.publish(b"x", 1)
print(sequencer.pid, util.get_temp_dir(), flush=True)
{ending}
"""


@pytest.fixture
def sequencer() -> Iterator[Sequencer]:
    """Not started yet."""
    sequencer = Sequencer(CONTEXT)
    yield sequencer
    sequencer.stop()


@pytest.fixture
def log(sequencer: Sequencer) -> LogProxy:
    return sequencer.start()


@pytest.fixture
def link(log: LogProxy) -> Iterator[LogLink]:
    link = log.open_link("test")
    yield link
    link.close()


def ask(link: LogLink, method: str, *arguments: object) -> object:
    link.call(method, *arguments)
    return link.receive()


def kill(sequencer: Sequencer) -> None:
    """Kill -9; the process has ended when this returns."""
    os.kill(sequencer.pid, signal.SIGKILL)
    assert connection.wait([sequencer.sentinel], DEADLINE_S)


# --- links


def test_a_link_does_what_a_proxy_does(log: LogProxy, link: LogLink) -> None:
    assert ask(link, "publish", b"a", 2) == 1
    assert log.publish(b"b", 1) == 3
    link.call("read", 0, 0)
    reading = link.receive_reading()
    assert reading == log.read(0, 0)
    assert type(reading) is Reading and [type(record) for record in reading.records] == [Record, Record]
    ask(link, "put_snapshot", 2, b"state")
    assert ask(link, "get_snapshot") == log.get_snapshot() == Snapshot(2, b"state")


def test_a_link_is_readable_when_its_answer_is_there(log: LogProxy, link: LogLink) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ)
        link.call("read", 0, LONG)
        assert selector.select(0) == []
        log.publish(b"come", 1)
        assert selector.select(DEADLINE_S)
        assert [record.payload for record in link.receive_reading().records] == [b"come"]
        assert selector.select(0) == []


def test_two_links_serve_an_event_loop(log: LogProxy) -> None:
    """As in a worker: one link waits in `read` while the other publishes, and the loop goes on."""

    async def receive(link: LogLink) -> object:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        loop.add_reader(link.fileno(), readable.set_result, None)
        try:
            await asyncio.wait_for(readable, DEADLINE_S)
        finally:
            loop.remove_reader(link.fileno())
        return link.receive()

    async def publish_and_read(publisher: LogLink, reader: LogLink) -> None:
        for number in range(5):
            reader.call("read", number, LONG)
            come = asyncio.create_task(receive(reader))
            publisher.call("publish", b"%d" % number, 1)
            assert await receive(publisher) == number + 1
            reading = await come
            assert isinstance(reading, Reading)
            assert [record.payload for record in reading.records] == [b"%d" % number]

    links = log.open_link("publish"), log.open_link("read")
    try:
        asyncio.run(publish_and_read(*links))
    finally:
        for link in links:
            link.close()


def publish_series(log: LogProxy, name: str, count: int) -> None:
    """Runs in a process of its own: half by the proxy it was given, half by a link."""
    for number in range(count // 2):
        log.publish(f"{name} {number}".encode(), number % 3 + 1)
    link = log.open_link(name)
    for number in range(count // 2, count):
        ask(link, "publish", f"{name} {number}".encode(), number % 3 + 1)
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
    records = log.read(0, 0).records
    assert records[0].seq == 1
    assert all(after.seq == before.last + 1 for before, after in pairwise(records))
    for name in ("a", "b", "c"):
        own = [record.payload.decode() for record in records if record.payload.startswith(name.encode())]
        assert own == [f"{name} {number}" for number in range(count)]


# --- what goes wrong in the log


def test_errors_of_the_log_arrive_as_themselves(sequencer: Sequencer) -> None:
    log = sequencer.start(capacity=RECORD_OVERHEAD + 1)
    link = log.open_link("test")
    log.publish(b"x", 1)
    with pytest.raises(LogFull):
        log.publish(b"x", 1)
    with pytest.raises(LogFull):
        ask(link, "publish", b"x", 1)
    with pytest.raises(LogTrimmed):
        log.read(2, 0)
    with pytest.raises(LogTrimmed):
        ask(link, "read", 2, 0)
    # Neither way is the worse for it.
    assert len(log.read(0, 0).records) == 1
    assert ask(link, "get_snapshot") == Snapshot(0, b"")
    link.close()


def test_what_the_log_cannot_do_is_an_error_of_the_log(log: LogProxy, link: LogLink) -> None:
    with pytest.raises(LogError, match="clear"):
        ask(link, "clear")
    with pytest.raises(LogError, match="KeyError"):
        ask(LogLink(link._link, "no such object"), "read", 0, 0)
    log._id = "no such object"  # type: ignore[attr-defined]  # as after the log was forgotten
    with pytest.raises(LogError, match="KeyError"):
        log.read(0, 0)


# --- the sequencer is killed


@pytest.mark.parametrize(
    "use",
    [
        lambda log, link: log.publish(b"x", 1),
        lambda log, link: log.read(0, LONG),
        lambda log, link: log.put_snapshot(1, b"state"),
        lambda log, link: log.get_snapshot(),
        lambda log, link: log.open_link("new"),
        lambda log, link: ask(link, "publish", b"x", 1),
    ],
    ids=["publish", "read", "put_snapshot", "get_snapshot", "open_link", "link"],
)
def test_after_its_death_everything_raises_log_lost(
    sequencer: Sequencer, log: LogProxy, link: LogLink, use: Callable[[LogProxy, LogLink], object]
) -> None:
    log.publish(b"x", 1)
    kill(sequencer)
    for _ in range(2):  # the second time, the connection is known to be broken
        with pytest.raises(LogLost):
            use(log, link)
    with ThreadPoolExecutor(1) as pool, pytest.raises(LogLost):
        pool.submit(use, log, link).result(DEADLINE_S)  # a thread that has no connection yet
    with pytest.raises(LogLost):
        sequencer.make_log()


def test_its_death_wakes_a_link_that_waits(sequencer: Sequencer, link: LogLink) -> None:
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


def test_another_can_be_started_after_its_death(sequencer: Sequencer, log: LogProxy) -> None:
    log.publish(b"x", 5)
    kill(sequencer)
    successor = Sequencer(CONTEXT)
    try:
        assert successor.start().publish(b"y", 1) == 1
    finally:
        successor.stop()


# --- how it starts and ends


def test_signals_to_the_whole_group_do_not_end_it(sequencer: Sequencer, log: LogProxy, link: LogLink) -> None:
    for number, signum in enumerate([signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGTERM]):
        os.kill(sequencer.pid, signum)
        assert log.publish(b"x", 1) == 2 * number + 1
        assert ask(link, "publish", b"x", 1) == 2 * number + 2
    assert not connection.wait([sequencer.sentinel], 0)


def sockets_of_multiprocessing() -> set[Path]:
    return set(Path(util.get_temp_dir()).iterdir())


@pytest.mark.parametrize("end", [None, signal.SIGKILL, signal.SIGSTOP], ids=["running", "killed", "hanging"])
def test_stop_leaves_nothing_behind(end: signal.Signals | None) -> None:
    forkserver.ensure_running()  # which stays, with its socket
    files, before = sockets_of_multiprocessing(), Footprint.take()
    sequencer = Sequencer(CONTEXT)
    log = sequencer.start()
    link = log.open_link("test")
    assert ask(link, "publish", b"x", 1) == log.get_snapshot().seq + 1
    pid = sequencer.pid
    if end is not None:
        os.kill(pid, end)
    link.close()
    del log
    sequencer.stop()
    assert not psutil.pid_exists(pid)
    assert before.leaks() == []
    assert sockets_of_multiprocessing() == files


def test_stop_is_harmless_at_any_time() -> None:
    sequencer = Sequencer(CONTEXT)
    sequencer.stop()
    sequencer.start()
    for _ in range(2):
        sequencer.stop()


def refuse(*_: object) -> None:
    raise BlockingIOError("no more processes")


@pytest.mark.parametrize(
    ("what", "instead"),
    [("mpchat.bus.manager.tie_to_main", sys.exit), ("multiprocessing.context.ForkServerProcess.start", refuse)],
    ids=["ends at once", "no process"],
)
def test_a_sequencer_that_does_not_come_up_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, what: str, instead: Callable[..., None]
) -> None:
    forkserver.ensure_running()  # which stays, with its socket
    files, before = sockets_of_multiprocessing(), Footprint.take()
    monkeypatch.setattr(what, instead)
    sequencer = Sequencer(CONTEXT)
    with pytest.raises(LogLost, match="does not come up"):
        sequencer.start()
    assert before.leaks() == []
    assert sockets_of_multiprocessing() == files


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


def test_main_killed_takes_the_sequencer_and_its_folder_along() -> None:
    with run_main("sys.stdin.read()") as main:
        assert main.stdout is not None
        pid, folder = main.stdout.readline().split()
        assert is_running(int(pid)) and Path(folder).is_dir()
        main.kill()
        deadline = time.monotonic() + SETTLE_S
        while (is_running(int(pid)) or Path(folder).exists()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_running(int(pid))
        assert not Path(folder).exists()


@pytest.mark.parametrize("ending", ["sequencer.stop()", "pass", "sys.exit()"])
def test_main_that_ends_leaves_nothing_behind(ending: str) -> None:
    with run_main(ending) as main:
        said, errors = main.communicate(timeout=DEADLINE_S)
        pid, folder = said.split()
        assert (main.returncode, errors) == (0, "")
        assert not is_running(int(pid))
        assert not Path(folder).exists()
