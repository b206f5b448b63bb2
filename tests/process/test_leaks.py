"""The leak check of conftest.py finds what is left behind, and nothing else."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import shared_memory
from pathlib import Path
from types import SimpleNamespace

import conftest
import psutil
import pytest
from conftest import Footprint

DEADLINE_S = 20.0
WAIT_FOR_STDIN = "import sys; sys.stdin.read()"
# Runs {program} in a process of its own, says its number when that prints a line, and leaves it alone:
# what a killed server does to its workers.
LEAVE_AN_ORPHAN = """
import subprocess, sys
orphan = subprocess.Popen(
    [sys.executable, "-c", {program!r}], stdout=subprocess.PIPE, start_new_session=True)
assert orphan.stdout.readline()
print(orphan.pid, flush=True)
orphan.returncode = 0  # no warning about leaving it
"""
SAY_READY_AND_WAIT = "import sys; print('ready', flush=True); sys.stdin.read()"
MAP_AND_WAIT = (
    """
import mmap
with open({path!r}, "r+b") as file:
    held = mmap.mmap(file.fileno(), 0)
"""
    + SAY_READY_AND_WAIT
)

# Uses what multiprocessing keeps for later and what hypothesis opens lazily: none of it is a leak.
CLEAN_TESTS = """
import multiprocessing
from hypothesis import given, settings, strategies as st

def test_fork_server_and_its_tracker():
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=print)
    process.start()
    process.join()
    process.close()

def test_heap_and_semaphores():
    array = multiprocessing.Array("b", 100)
    assert len(array) == 100

def test_manager():
    with multiprocessing.get_context("spawn").Manager() as manager:
        assert manager.list([1])[0] == 1

@given(st.text())
def test_hypothesis_has_our_profile(text):
    expected = {expected!r}
    assert (settings().derandomize, settings().max_examples, settings().deadline) == expected
"""
LEAKY_TESTS = """
import socket, conftest, pytest

conftest.SETTLE_S = 0.0

@pytest.fixture(scope="module")
def server():
    yield socket.create_server(("127.0.0.1", 0)).detach()

def test_leaks_a_descriptor():
    socket.create_server(("127.0.0.1", 0)).detach()

def test_leaves_the_server_to_the_end(server):
    pass

def test_leaks_nothing():
    pass
"""


def only(leaks: list[str]) -> str:
    assert len(leaks) == 1, leaks
    return leaks[0]


def processes_in(leaks: list[str]) -> list[str]:
    return [leak for leak in leaks if leak.startswith("process")]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.01)


@contextmanager
def waiting_process(
    program: str = WAIT_FOR_STDIN, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process, running until the block is left."""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        yield process


@contextmanager
def orphan(program: str = SAY_READY_AND_WAIT, environment: dict[str, str] | None = None) -> Iterator[psutil.Process]:
    """A process whose parent has ended, running until the block is left."""
    inherited, held = os.pipe()
    try:
        parent = subprocess.run(
            [sys.executable, "-c", LEAVE_AN_ORPHAN.format(program=program)],
            stdin=inherited,
            stdout=subprocess.PIPE,
            env=environment,
            check=True,
            timeout=DEADLINE_S,
        )
        os.close(inherited)
        process = psutil.Process(int(parent.stdout))
        yield process
    finally:
        os.close(held)
    process.wait(DEADLINE_S)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For leaks that will not go: how long one waits for them makes no difference."""
    monkeypatch.setattr(conftest, "SETTLE_S", 0.0)


@pytest.fixture
def before(impatient: None) -> Footprint:
    return Footprint.take()


def test_nothing_new_is_no_leak(before: Footprint) -> None:
    assert before.settled_leaks() == []


def test_running_child_is_a_leak(before: Footprint) -> None:
    with waiting_process() as process:
        leak = only(processes_in(before.settled_leaks()))
    assert leak.startswith(f"process {process.pid} (")
    assert WAIT_FOR_STDIN in leak
    assert before.settled_leaks() == []


def test_child_with_another_environment_is_a_leak(before: Footprint) -> None:
    with waiting_process(environment={}) as process:
        assert only(processes_in(before.settled_leaks())).startswith(f"process {process.pid} (")


def test_orphan_is_a_leak(before: Footprint) -> None:
    with orphan() as process:
        assert process.ppid() != os.getpid()
        assert only(processes_in(before.settled_leaks())).startswith(f"process {process.pid} (")


def test_process_of_another_run_is_no_leak(before: Footprint) -> None:
    with orphan(environment={conftest.RUN_MARK: "/another"}):
        assert processes_in(before.settled_leaks()) == []


def test_child_that_nobody_waited_for_is_a_leak(before: Footprint) -> None:
    with waiting_process() as process:
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert "ended but never waited for" in only(processes_in(before.settled_leaks()))


def test_child_that_is_about_to_end_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Footprint.take()
    with waiting_process() as process:
        end_it = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: process.communicate())
        monkeypatch.setattr(conftest, "time", end_it)
        assert before.settled_leaks() == []
        assert process.returncode == 0


def test_server_of_a_wider_fixture_may_replace_its_workers(before: Footprint) -> None:
    start_a_worker = LEAVE_AN_ORPHAN.format(program=SAY_READY_AND_WAIT) + WAIT_FOR_STDIN
    with waiting_process(start_a_worker) as server:
        assert server.stdout is not None
        worker = int(server.stdout.readline())
        assert len(processes_in(before.settled_leaks())) == 2
        before = dataclasses.replace(before, processes=before.processes | {server.pid})
        assert processes_in(before.settled_leaks()) == []
        assert server.stdin is not None
        server.stdin.close()
        psutil.wait_procs([psutil.Process(worker)], DEADLINE_S)


def test_listening_socket_is_a_leak(before: Footprint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        leak = only(before.settled_leaks())
        assert leak == f"descriptor {listener.fileno()}: AF_INET socket listening on {listener.getsockname()}"
    assert before.settled_leaks() == []


def test_open_file_is_a_leak(before: Footprint, tmp_path: Path) -> None:
    with (tmp_path / "left open").open("w") as file:
        assert only(before.settled_leaks()).startswith(f"descriptor {file.fileno()}: ")


def test_other_file_under_an_old_number_is_a_leak() -> None:
    first, second = os.pipe()
    before = Footprint.take()
    with Path(os.devnull).open() as other:
        os.dup2(other.fileno(), first)
    assert [leak.split(":")[0] for leak in before.leaks()] == [f"descriptor {first}"]
    os.close(first)
    os.close(second)


def test_thread_is_a_leak_unless_it_is_a_daemon(before: Footprint) -> None:
    end = threading.Event()
    threads = [
        threading.Thread(target=end.wait, args=[DEADLINE_S], name="left running"),
        threading.Thread(target=end.wait, args=[DEADLINE_S], name="daemon", daemon=True),
    ]
    for thread in threads:
        thread.start()
    leak = only(before.settled_leaks())
    end.set()
    for thread in threads:
        thread.join()
    assert leak.startswith("thread: <Thread(left running")


@pytest.mark.skipif(not conftest.SHARED_MEMORY.is_dir(), reason="named shared memory cannot be listed here")
class TestSharedMemory:
    def test_that_stays_is_a_leak(self, before: Footprint) -> None:
        memory = shared_memory.SharedMemory(create=True, size=1)
        memory.close()
        leaks = before.settled_leaks()
        memory.unlink()
        assert leaks == [f"shared memory: {conftest.SHARED_MEMORY / memory.name}"]

    def test_of_another_run_is_no_leak(self, before: Footprint) -> None:
        memory = shared_memory.SharedMemory(create=True, size=1)
        memory.close()
        path = str(conftest.SHARED_MEMORY / memory.name)
        with orphan(MAP_AND_WAIT.format(path=path), environment={}):
            leaks = before.settled_leaks()
        memory.unlink()
        assert [leak for leak in leaks if leak.startswith("shared memory")] == []


def run_tests(directory: Path, tests: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs pytest on the source of some tests, with a copy of our conftest.py beside it."""
    shutil.copy(conftest.__file__, directory / "conftest.py")
    (directory / "test_inner.py").write_text(tests)
    outside_of_ci = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "--rootdir", str(directory), str(directory)],
        cwd=directory,
        env=outside_of_ci | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S * 3,
    )


@pytest.mark.parametrize(("environment", "expected"), [({}, (False, 50, None)), ({"CI": "true"}, (True, 200, None))])
def test_run_without_leaks_passes(
    tmp_path: Path, environment: dict[str, str], expected: tuple[bool, int, None]
) -> None:
    result = run_tests(tmp_path, CLEAN_TESTS.format(expected=expected), environment)
    assert result.returncode == 0, result.stdout
    assert "4 passed" in result.stdout


def test_a_run_with_leaks_fails_and_names_the_tests(tmp_path: Path) -> None:
    result = run_tests(tmp_path, LEAKY_TESTS, {})
    assert result.returncode == 1, result.stdout
    assert "3 passed, 2 errors" in result.stdout
    assert "test_inner.py::test_leaks_a_descriptor left behind:\n  descriptor" in result.stdout
    assert "the run left behind:\n  descriptor" in result.stdout
    assert "AF_INET socket listening on ('127.0.0.1', " in result.stdout
