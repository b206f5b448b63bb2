"""What the system refuses: one line that says what, and a documented exit code. A fault of ours keeps its traceback."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys

import pytest
from server import ROOT, SERVER, run_mpchat, running_server, starting_server

from mpchat.errors import BootError, ServeError, blame_system, is_refusal

LIMITED = """
import os, resource, sys
resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[2]), int(sys.argv[2])))
os.execv(sys.argv[3], sys.argv[3:])
"""
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\S+Z \S+ (DEBUG|INFO|WARNING|ERROR) .+")
REFUSED = (sys.executable, str(ROOT / "tests" / "support" / "refused_server.py"))

linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS keeps no limit on addresses, and counts otherwise")


# --- whose fault it is --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "cannot do it: Too many open files"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "cannot do it: Cannot allocate memory"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "cannot do it: x: Permission denied"),
        (MemoryError(), "cannot do it: out of memory"),
    ],
)
def test_a_refusal_is_an_error_of_ours_that_says_what_cannot_be_done(error: Exception, words: str) -> None:
    assert is_refusal(error)
    with pytest.raises(ServeError, match=f"^{re.escape(words)}$") as raised, blame_system(ServeError, "do it"):
        raise error
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [OSError(errno.EBADF, "Bad file descriptor"), BlockingIOError(errno.EAGAIN, "x"), ValueError(), OSError()]
)
def test_a_fault_of_ours_stays_what_it_is(error: Exception) -> None:
    assert not is_refusal(error)
    with pytest.raises(type(error)) as raised, blame_system(BootError, "do it"):
        raise error
    assert raised.value is error


# --- at the start -------------------------------------------------------------------------------------------


def limited(limit: str, value: int) -> tuple[str, ...]:
    """The server command under this limit, hard and soft."""
    return (sys.executable, "-c", LIMITED, limit, str(value), *SERVER)


def see_refusal(*command: str) -> tuple[list[str], str]:
    """Start the server, which cannot come up; give what it has logged until then, and the line that says why."""
    done = run_mpchat("--port", "0", "--workers", "1", command=command)
    *log, last = done.stderr.splitlines()
    assert all(LOG_LINE.fullmatch(line) for line in log), done.stderr
    assert (done.returncode, done.stdout) == (3, "")
    assert last.startswith("mpchat-server: ")
    return log, last.removeprefix("mpchat-server: ")


@linux
@pytest.mark.parametrize("descriptors", [6, 8, 10, 12, 14, 16, 18])
def test_no_descriptors(descriptors: int) -> None:
    """However far it gets; what fails again and again is in the log."""
    log, line = see_refusal(*limited("RLIMIT_NOFILE", descriptors))
    assert "Too many open files" in [*log, line][-2 if "workers" in line else -1]


@pytest.fixture
def somebody() -> tuple[str, ...]:
    """Run what follows as a user whose processes are limited: root's are not (RLIMIT_NPROC in setrlimit(2))."""
    if os.geteuid() != 0:
        return ()
    # Somebody who may read what root may, the Python that runs this included.
    capabilities = "+dac_read_search,+dac_override"
    command = ("setpriv", "--reuid=54321", "--inh-caps", capabilities, "--ambient-caps", capabilities)
    try:
        subprocess.run([*command, sys.executable, "-c", ""], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"root has no limit on processes, and cannot become somebody else here: {error}")
    return command


@linux
def test_no_processes(somebody: tuple[str, ...]) -> None:
    _, line = see_refusal(*somebody, *limited("RLIMIT_NPROC", 1))
    reason = os.strerror(errno.EAGAIN)
    assert line.startswith("the sequencer does not come up: ")
    assert line.endswith(f"no process can be started: {reason}")


@linux
@pytest.mark.parametrize(
    ("mebibytes", "what"), [(60, "get the memory for clients"), (500, "get the memory for the log")]
)
def test_no_memory(mebibytes: int, what: str) -> None:
    log, line = see_refusal(*limited("RLIMIT_AS", mebibytes << 20))
    assert (log, line) == ([], f"cannot {what}: Cannot allocate memory")


@linux
def test_no_files_as_large_as_memory_is() -> None:
    """It is memory, and has a size all the same (SIGXFSZ, which Python ignores; then EFBIG: ftruncate(2))."""
    log, line = see_refusal(*limited("RLIMIT_FSIZE", 1 << 20))
    assert (log, line) == ([], "cannot get the memory for clients: File too large")


# --- later --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("memory", "mpchat-server: cannot serve: out of memory"),
        ("files", f"mpchat-server: cannot serve: {os.strerror(errno.ENFILE)}"),
    ],
)
def test_refused_in_the_middle_of_its_life(error: str, line: str) -> None:
    with running_server("--workers", "1", command=(*REFUSED, error)) as server:
        server.process.send_signal(signal.SIGUSR1)
        server.expect_exit(1)
        assert server.stderr[-1] == line


def test_a_fault_of_ours_shows_where_it_is() -> None:
    with starting_server("--workers", "1", command=(*REFUSED, "fault")) as server:
        server.wait_ready()
        server.process.send_signal(signal.SIGUSR1)
        assert server.process.wait(60) == 1
        server.expect_log("Traceback (most recent call last):")
        server.expect_log("in raise_error")
