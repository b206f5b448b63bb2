"""Tests leave nothing behind, unit tests start no process, and hypothesis behaves alike on every machine.

Owns the comparison of what exists before and after each test (and before and after the whole run, for the
fixtures that live longer than a test): processes, descriptors, shared memory, threads. A test that leaves
some of them fails, with a line for each that says what it is.

A process is ours when pytest is its parent or when it carries the mark of this run in its environment. The
mark is what finds orphans: the workers of a server that was killed have init for a parent. It cannot find
the orphans of a process that was forked from pytest without an exec, nor of one started with an empty
environment. What the processes of a wider fixture start (a server that replaces a worker, say) is left
to the check at the end of the run.

Promises: other programs on the machine, another run of these tests included, fail no test (but for the named
shared memory that one of them loses by crashing in just that moment: files do not say who made them); what is
about to end is waited for, SETTLE_S at most. Never ends or closes anything itself: a leak is to be seen, not
swept up.
"""

from __future__ import annotations

import gc
import multiprocessing.forkserver
import multiprocessing.heap
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import socket
import stat
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

# The children of a killed main are gone within two seconds; more, because the machine may be busy.
SETTLE_S = 5.0
POLL_S = 0.01
# Not MPCHAT_...: those are options of the server, and it reports the ones it does not know.
RUN_MARK = "TEST_RUN_OF_MPCHAT"
DESCRIPTORS = Path("/dev/fd")  # on Linux a link to /proc/self/fd; macOS has nothing else
SHARED_MEMORY = Path("/dev/shm")
# SharedMemory, SemLock and the arenas of multiprocessing.heap, and what mpchat names itself.
SHARED_MEMORY_NAMES = ("psm_*", "sem.mp-*", "pym-*", "mpchat*")
# multiprocessing starts these once in a process and keeps them until its end.
HELPER_PROGRAMS = ("from multiprocessing.resource_tracker import", "from multiprocessing.forkserver import")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An open descriptor: its number, and what fstat(2) says it stands for."""

    number: int
    kind: int
    device: int
    inode: int


STANDARD_ERROR = 2


@dataclass(frozen=True, slots=True)
class Footprint:
    """What existed at one moment: all process ids of the machine, and what this process holds."""

    processes: frozenset[int]
    descriptors: frozenset[Descriptor]
    shared_memory: frozenset[Path]
    threads: frozenset[threading.Thread]

    @classmethod
    def take(cls) -> Footprint:
        return cls(
            processes=frozenset(psutil.pids()),
            descriptors=frozenset(list_descriptors()),
            shared_memory=frozenset(list_shared_memory()),
            threads=frozenset(threading.enumerate()),
        )

    def leaks(self) -> list[str]:
        """What exists now, is ours, and did not exist when this was taken: one line each."""
        now = Footprint.take()
        return [
            *(line for pid in sorted(now.processes - self.processes) if (line := self._judge_process(pid))),
            *(
                describe_descriptor(descriptor)
                for descriptor in sorted(now.descriptors - self.descriptors, key=lambda each: each.number)
                if (descriptor.device, descriptor.inode) not in kept_by_multiprocessing()
            ),
            *(
                f"shared memory: {path}"
                for path in sorted(now.shared_memory - self.shared_memory)
                if not is_mapped_by_strangers(path)
            ),
            *(f"thread: {thread!r}" for thread in now.threads - self.threads if not thread.daemon),
        ]

    def settled_leaks(self) -> list[str]:
        """The leaks that are still there when what was about to go has gone; waits SETTLE_S at most."""
        if not self.leaks():
            return []
        # What only a reference cycle keeps open is closed here; its ResourceWarning then fails the test.
        gc.collect()
        deadline = time.monotonic() + SETTLE_S
        while (found := self.leaks()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return found

    def _judge_process(self, pid: int) -> str | None:
        """The line for a process that appeared, or None when it is not ours, a helper, or gone by now."""
        try:
            process = psutil.Process(pid)
            if not is_ours(process) or is_helper(process) or self._has_older_parent(process):
                return None
            return describe_process(process)
        except psutil.NoSuchProcess:
            return None

    def _has_older_parent(self, process: psutil.Process) -> bool:
        """Whether it descends from a process of ours that was there before, as those of a wider fixture do."""
        return any(
            parent.pid in self.processes and is_ours(parent) and not is_helper(parent) for parent in process.parents()
        )


def is_ours(process: psutil.Process) -> bool:
    """Whether it is a child of this process or was started, however indirectly, in this run."""
    try:
        if process.ppid() == os.getpid():
            return True
        return process.environ().get(RUN_MARK, "").startswith(os.environ[RUN_MARK])
    except psutil.Error:  # gone, a zombie, or somebody else's: those have no environment to be read
        return False


def is_helper(process: psutil.Process) -> bool:
    """Whether it is the resource tracker or the fork server of this very process."""
    if process.ppid() != os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
        return False
    return any(program in word for word in process.cmdline() for program in HELPER_PROGRAMS)


def kept_by_multiprocessing() -> set[tuple[int, int]]:
    """Device and inode of what it keeps open for later: its helpers' pipes, and its heap, which mmap opens again."""
    # There is no public way to any of the three.
    tracker: Any = multiprocessing.resource_tracker._resource_tracker
    server: Any = multiprocessing.forkserver._forkserver
    buffers: Any = multiprocessing.heap.BufferWrapper
    arenas = {arena.fd for arena in buffers._heap._arenas}
    numbers = ({tracker._fd, server._forkserver_alive_fd} | arenas) - {None}
    return {(found.st_dev, found.st_ino) for found in map(os.fstat, numbers)}


def describe_process(process: psutil.Process) -> str:
    status = process.status()
    if status == psutil.STATUS_ZOMBIE:
        return f"process {process.pid}: {process.name()}, ended but never waited for"
    return f"process {process.pid} ({status}, parent {process.ppid()}): {' '.join(process.cmdline())}"


def list_descriptors() -> Iterator[Descriptor]:
    for name in os.listdir(DESCRIPTORS):  # noqa: PTH208 (names are all we need, and this runs twice a test)
        try:
            found = os.fstat(int(name))
        except OSError:  # the one that listdir itself had open
            continue
        if int(name) <= STANDARD_ERROR:  # pytest's capture puts its own there, and not at all when a run is cut short
            continue
        yield Descriptor(int(name), stat.S_IFMT(found.st_mode), found.st_dev, found.st_ino)


def describe_descriptor(descriptor: Descriptor) -> str:
    return f"descriptor {descriptor.number}: {describe_target(descriptor)}"


def describe_target(descriptor: Descriptor) -> str:
    try:
        if descriptor.kind == stat.S_IFSOCK:
            return describe_socket(descriptor.number)
        return str((DESCRIPTORS / str(descriptor.number)).readlink())
    except OSError:  # closed by another thread since, or a system where these are no links
        return f"kind {descriptor.kind:o}, inode {descriptor.inode}"


def describe_socket(number: int) -> str:
    """Family, state and addresses of the socket behind a descriptor, which stays open and unchanged."""
    with socket.socket(fileno=os.dup(number)) as copy:
        if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return f"{copy.family.name} socket listening on {copy.getsockname()}"
        return f"{copy.family.name} socket at {copy.getsockname()}"


def list_shared_memory() -> Iterator[Path]:
    """Named shared memory, where it can be listed: macOS has no such directory."""
    for pattern in SHARED_MEMORY_NAMES:
        yield from SHARED_MEMORY.glob(pattern)


def is_mapped_by_strangers(path: Path) -> bool:
    """Whether a process that is not of this run has the file mapped, so that it is no business of ours."""
    return any(
        path in mapped_files(process) and process.pid != os.getpid() and not is_ours(process)
        for process in psutil.process_iter()
    )


def mapped_files(process: psutil.Process) -> set[Path]:
    """The files a process has mapped (proc(5), "maps"); none when it is gone or not for us to see."""
    try:
        lines = Path(f"/proc/{process.pid}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return {Path(fields[5]) for line in lines if len(fields := line.split(maxsplit=5)) == 6}


def pytest_configure(config: pytest.Config) -> None:
    # A run inside a run (test_leaks.py) appends, so that its processes are known to both.
    os.environ[RUN_MARK] = f"{os.environ.get(RUN_MARK, '')}/{uuid.uuid4().hex}"
    # It would hide what a buffer keeps until the end of a process.
    os.environ.pop("PYTHONUNBUFFERED", None)
    # They would be options of every server that a test starts.
    for name in [name for name in os.environ if name.startswith("MPCHAT_")]:
        del os.environ[name]
    # A shell ignores INT and QUIT in what it runs in the background, and so would all that is started from here (POSIX,
    # sh, "Asynchronous Lists").
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    # No deadlines: on a shared machine they judge the neighbours. A developer runs the tests often: few examples, other
    # ones each time. In CI the same examples each time, and more.
    # Hypothesis takes tox for CI too, and would not look further than last time.
    settings.register_profile("local", derandomize=False, deadline=None, max_examples=50)
    settings.register_profile(
        "ci",
        derandomize=True,
        deadline=None,
        max_examples=200,
        suppress_health_check=[HealthCheck.too_slow],
    )
    # For the other Pythons: what one of them does otherwise, few examples show.
    settings.register_profile("brief", settings.get_profile("ci"), max_examples=25)
    settings.load_profile({"": "local", "brief": "brief"}.get(os.environ.get("CI", ""), "ci"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than cores: most tests wait for processes. More would make them wait for each other."""
    return (os.cpu_count() or 1) + 1


def check_leaks(what: str) -> Iterator[None]:
    before = Footprint.take()
    yield
    if leaks := before.settled_leaks():
        pytest.fail("\n  ".join([f"{what} left behind:", *leaks]), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _run_leaves_nothing() -> Iterator[None]:
    """For the fixtures of modules and of the whole run; it also tells once more what single tests left."""
    yield from check_leaks("the run")


@pytest.fixture(autouse=True)
def _test_leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    yield from check_leaks(request.node.nodeid)


UNIT_TESTS = Path(__file__).parent / "unit"


def refuse_process(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("a unit test starts a process: it belongs in tests/process")


@pytest.fixture(autouse=True)
def _unit_test_starts_no_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse unit tests every way in which the standard library starts a process."""
    if request.path.is_relative_to(UNIT_TESTS):
        for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"):
            monkeypatch.setattr(os, name, refuse_process)
        monkeypatch.setattr(subprocess, "Popen", refuse_process)
        monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", refuse_process)
