"""Children forked from this process: what they keep of it, how their end is noticed, and what a shortage does."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path

import psutil
import pytest
from conftest import SETTLE_S, Footprint

from mpchat.child import start_child
from mpchat.errors import ForkError

DEADLINE_S = 20.0

# Main: starts a child, stops it if {stop}, says its pid, and waits to be killed.
MAIN = """
import os, signal, sys, time
from mpchat.child import start_child

ours, theirs = os.pipe()
child = start_child(lambda: os.write(theirs, b"!") and time.sleep(600) or 0, [theirs])
os.read(ours, 1)
if {stop}:
    os.kill(child.pid, signal.SIGSTOP)
print(child.pid, flush=True)
sys.stdin.read()
"""


def wait_for_end(sentinel: int) -> None:
    assert connection.wait([sentinel], DEADLINE_S), "the child does not end"


def fail() -> int:
    raise ValueError("a fault")


def leave() -> int:
    sys.exit(3)


def forget() -> int:
    return None  # type: ignore[return-value]


@pytest.mark.parametrize(("run", "code"), [(lambda: 0, 0), (lambda: 7, 7), (fail, 1), (leave, 1), (forget, 1)])
def test_its_exit_code_is_what_it_returns(run: Callable[[], int], code: int) -> None:
    before = Footprint.take()
    child = start_child(run)
    wait_for_end(child.sentinel)
    assert child.reap() == code
    assert child.reap() == code  # harmless
    child.kill()  # so is this
    assert before.leaks() == []


def wait_for_kill() -> int:
    time.sleep(600)
    return 0


def test_it_can_be_killed_and_ended() -> None:
    child = start_child(wait_for_kill)
    assert not connection.wait([child.sentinel], 0)
    child.kill()
    wait_for_end(child.sentinel)
    assert child.reap() == -signal.SIGKILL
    stopped = start_child(wait_for_kill)
    os.kill(stopped.pid, signal.SIGSTOP)
    assert stopped.end() == -signal.SIGKILL


def list_descriptors(pipe: int) -> int:
    found = []
    for number in range(100):
        try:
            os.fstat(number)
            found.append(number)
        except OSError:
            pass
    os.write(pipe, repr(found).encode())
    return 0


def test_it_keeps_the_descriptors_that_it_is_given_and_no_others() -> None:
    ours, theirs = os.pipe()
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    try:
        child = start_child(lambda: list_descriptors(theirs), [theirs, others[7]])
        wait_for_end(child.sentinel)
        child.reap()
        found = set(eval(os.read(ours, 4096)))
        # And two pipes: one that ends with it, and one that ends with us.
        assert found >= {0, 1, 2, theirs, others[7]}
        assert len(found) == 7
        assert not found & {*others[:7], *others[8:], ours}
    finally:
        for descriptor in (ours, theirs, *others):
            os.close(descriptor)


def test_the_end_of_one_child_is_not_hidden_by_another() -> None:
    """A sibling that was forked later has nothing of the first one's pipes."""
    first = start_child(wait_for_kill)
    second = start_child(wait_for_kill)
    first.kill()
    wait_for_end(first.sentinel)
    assert first.reap() == -signal.SIGKILL
    assert not connection.wait([second.sentinel], 0)
    second.end()


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "USR2", "TTIN", "TTOU"])
def test_signals_for_main_are_nothing_to_it(name: str) -> None:
    ours, theirs = os.pipe()

    def run() -> int:
        os.kill(os.getpid(), signal.Signals[f"SIG{name}"])
        os.write(theirs, b"!")
        return 0

    child = start_child(run, [theirs])
    assert os.read(ours, 1) == b"!"
    wait_for_end(child.sentinel)
    assert child.reap() == 0
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    "stop", [False, pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="needs F_SETSIG"))]
)
def test_it_ends_with_main(stop: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAIN.format(stop=stop)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as main:
        assert main.stdout is not None
        child = psutil.Process(int(main.stdout.readline()))
        assert child.is_running()
        main.kill()
        deadline = time.monotonic() + SETTLE_S
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_shortage_of_descriptors_is_an_error_that_leaves_nothing_behind() -> None:
    before = Footprint.take()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 3, limits[1]))
        with pytest.raises(ForkError, match="Too many open files"):
            start_child(lambda: 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(taken[0])
    assert before.leaks() == []


def test_a_shortage_of_processes_is_an_error_that_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = Footprint.take()
    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(ForkError, match="temporarily unavailable"):
        start_child(lambda: 0)
    assert before.leaks() == []
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_nothing_is_read_from_the_disk(tmp_path: Path) -> None:
    """Neither the working directory nor a temporary one, nor the code."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, shutil, sys, tempfile\n"
        "from mpchat.child import start_child\n"
        "os.chdir(sys.argv[1])\n"
        "shutil.rmtree(sys.argv[1])\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, arguments: event in ('open', 'import') and opened.append(arguments[0]))\n"
        "child = start_child(lambda: len(opened))\n"
        "os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)\n"
        "print(child.reap(), opened)\n"
    )
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        [sys.executable, str(program), str(gone)], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    assert done.stdout == "0 []\n"
