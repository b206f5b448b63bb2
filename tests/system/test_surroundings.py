"""What surrounds a running server fails: the disk goes, resources run out, new processes do not come up.

Clients stay served, and what is missing is tried again until it is there.
"""

from __future__ import annotations

import platform
import resource
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from server import (
    DEADLINE,
    ROOT,
    SERVER,
    Chatter,
    Server,
    eventually,
    expect_next,
    kill_sequencer,
    kill_worker_of,
    running_server,
    starting_server,
    survivable,
    wait_settled,
)

FAULTY = (sys.executable, str(ROOT / "tests" / "support" / "faulty_worker.py"))
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="takes what only Linux has")


class Installation:
    """A copy of the program, a working directory and a temporary one, all of which can be taken away."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.bin = folder / "bin"
        self.working = folder / "working"
        self.temporary = folder / "temporary"
        self.package = self.bin / "mpchat"
        shutil.copytree(ROOT / "mpchat", self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.working.mkdir()
        self.temporary.mkdir()
        self.script = self.bin / "mpchat-server"
        self.script.write_text(f"#!{sys.executable}\nimport sys\nfrom mpchat.cli import main\nsys.exit(main())\n")
        self.script.chmod(self.script.stat().st_mode | stat.S_IXUSR)

    @property
    def command(self) -> tuple[str, ...]:
        # The fixture starts servers in the repository: this one goes where it is to be first.
        return ("sh", "-c", f'cd "{self.working}" && exec "{self.script}" "$@"', "mpchat-server")

    def take_away(self) -> None:
        for path in (self.bin, self.working, self.temporary):
            shutil.rmtree(path)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def chat_of_two(server: Server) -> tuple[Chatter, Chatter]:
    alice, bob = server.chat("alice"), server.chat("bob")
    alice.expect("* bob joined #lobby")
    return alice, bob


def talk(alice: Chatter, bob: Chatter, text: str) -> None:
    alice.say(text)
    expect_next(bob, f"alice: {text}")


# --- the disk goes ------------------------------------------------------------------------------------------


@survivable
def test_a_running_server_needs_nothing_from_the_disk(installation: Installation) -> None:
    with running_server("--workers", "2", command=installation.command) as server:
        alice, bob = chat_of_two(server)
        assert not list(installation.temporary.iterdir())
        installation.take_away()
        for text in ("one", "two"):
            kill_worker_of(server, alice)
            kill_sequencer(server)
            talk(alice, bob, text)
            wait_settled(server, [alice, bob])
        server.process.send_signal(signal.SIGTTIN)
        server.expect_log("worker-2 started")
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("reloaded")
        wait_settled(server, [alice, bob])
        server.process.send_signal(signal.SIGUSR1)
        server.expect_log("status process=main pid=")
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("no upgrade")
        talk(alice, bob, "three")


def test_the_code_of_the_working_directory_is_not_run(installation: Installation) -> None:
    """Nor by the processes that main starts."""
    other = installation.working / "mpchat"
    other.mkdir()
    (other / "__init__.py").write_text('raise ImportError("the code of the working directory")')
    (installation.working / "asyncio.py").write_text('raise ImportError("the code of the working directory")')
    with running_server("--workers", "2", command=installation.command) as server:
        alice, bob = chat_of_two(server)
        kill_sequencer(server)
        kill_worker_of(server, alice)
        talk(alice, bob, "hello") if sys.platform == "linux" else None
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("the program is replaced")
        server.chat("carol")


@pytest.mark.parametrize("length", [70, 150])
def test_the_length_of_the_path_of_temporary_files_is_no_matter(length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("x" * (length - len(folder) - 1))
        path.mkdir()
        with running_server("--workers", "1", env={"TMPDIR": str(path)}) as server:
            alice = server.chat("alice")
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("the program is replaced")
            assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"


# --- what is started does not come up -----------------------------------------------------------------------


@contextmanager
def faulty(what: str, path: Path, *options: str) -> Iterator[Server]:
    """A server whose processes of this kind fail while the file exists."""
    with running_server(*options, command=(*FAULTY, what, str(path))) as server:
        yield server


def test_a_reload_whose_workers_do_not_come_up_is_given_up(tmp_path: Path) -> None:
    broken, settings = tmp_path / "broken", tmp_path / "mpchat.toml"
    settings.write_text("workers = 2\nmax_clients = 100\n")
    with faulty("workers", broken, "--config", str(settings)) as server:
        alice, bob = chat_of_two(server)
        workers = server.workers()
        broken.touch()
        settings.write_text("workers = 3\nmax_clients = 2\n")
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("reload cancelled", "workers in a row ended before they were ready")
        talk(alice, bob, "still here")
        assert [each.pid for each in workers if each.is_running()] == [each.pid for each in workers]
        carol = server.chat("carol")  # by the configuration from before
        broken.unlink()
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: not any(each.is_running() for each in workers), "all workers are fresh ones")
        wait_settled(server, [alice, bob, carol])


@survivable
def test_a_worker_that_does_not_come_up_is_tried_again_for_ever(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with faulty("workers", broken, "--workers", "2") as server:
        alice, bob = chat_of_two(server)
        broken.touch()
        server.worker_of(alice).kill()
        # More often than ends a server that starts.
        server.expect_log("worker-", "ended code=9", count=7)
        talk(alice, bob, "still here")
        carol = server.chat("carol")
        carol.say("hello")
        expect_next(bob, "* carol joined #lobby", "carol: hello")
        carol.close()
        broken.unlink()
        wait_settled(server, [alice, bob])


@survivable
def test_nobody_is_lost_while_no_worker_comes_up(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with faulty("workers", broken, "--workers", "1") as server:
        alice, bob = chat_of_two(server)
        broken.touch()
        server.worker_of(alice).kill()
        server.expect_log("worker-0 ended code=9", count=7)
        alice.say("is anybody there")
        dave = server.connect()
        broken.unlink()
        expect_next(bob, "alice: is anybody there")
        dave.sign_on("dave")


def test_nobody_is_lost_while_no_sequencer_comes_up(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with faulty("sequencer", broken, "--workers", "2") as server:
        alice, bob = chat_of_two(server)
        broken.touch()
        server.sequencer().kill()
        # A server that starts gives up after five. And pauses grow.
        server.expect_log("sequencer failed retry_s=0.5 reason=ended with exit code 9", count=3)
        assert len([line for line in server.stderr if "ended with exit code 9" in line]) < 20
        alice.say("is anybody there")
        broken.unlink()
        expect_next(bob, "alice: is anybody there")
        # What came up is started again at once, as ever.
        kill_sequencer(server)
        talk(alice, bob, "hello")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_obeyed_while_no_sequencer_comes_up(tmp_path: Path, number: signal.Signals) -> None:
    broken = tmp_path / "broken"
    command = (*FAULTY, "sequencer", str(broken))
    with starting_server("--workers", "2", "--drain-timeout", "1", command=command) as server:
        server.wait_ready()
        server.chat("alice")
        broken.touch()
        server.sequencer().kill()
        server.expect_log("reason=ended with exit code 9", count=3)
        server.close_chatters()
        server.stop(number)


def test_a_sequencer_that_never_comes_up_ends_the_start(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    with starting_server(command=(*FAULTY, "sequencer", str(broken))) as server:
        server.expect_exit(3)
        assert "mpchat-server: the sequencer does not come up: ended with exit code 9" in server.stderr
        assert len(server.stderr) < 10


# --- the system is out of something -------------------------------------------------------------------------


@linux_only
@survivable
def test_a_shortage_of_descriptors_passes() -> None:
    with running_server("--workers", "2") as server:
        alice, bob = chat_of_two(server)
        pid, limits = server.process.pid, resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        # Fewer than main has open: it can open none.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (5, limits[1]))
        server.worker_of(alice).kill()
        server.expect_log("worker-", "cannot be started reason=no process can be started", count=3)
        talk(alice, bob, "meanwhile")
        server.sequencer().kill()
        server.expect_log("sequencer failed", "reason=no process can be started", count=2)
        alice.say("late")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        expect_next(bob, "alice: late")
        wait_settled(server, [alice, bob])


@survivable
def test_main_does_not_wait_for_a_sequencer_that_is_stopped_during_an_upgrade() -> None:
    """Whatever step of the upgrade it is: the clients go over, or stay."""
    with running_server("--workers", "2", "--beat-timeout", "600", "--drain-timeout", "2") as server:
        alice, bob = chat_of_two(server)
        sequencer = server.sequencer()
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("trying")
        sequencer.suspend()
        server.expect_log("no upgrade reason=the workers have timed out")
        started = time.monotonic()
        server.process.send_signal(signal.SIGUSR1)
        server.expect_log("status process=sequencer pid=")
        assert time.monotonic() - started < DEADLINE
        sequencer.resume()
        talk(alice, bob, "hello")
        assert psutil.pid_exists(server.process.pid)


# --- signals that come late ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_that_come_during_the_end_change_nothing_about_it(number: signal.Signals) -> None:
    with running_server("--workers", "2") as server:
        server.process.send_signal(signal.SIGINT)
        while server.process.poll() is None:
            server.process.send_signal(number)
        server.expect_exit(0)


# --- what forking asks for ----------------------------------------------------------------------------------


def test_main_has_no_thread() -> None:
    """A lock that another thread held at a fork would never be released in the child (fork(2))."""
    with running_server("--workers", "2") as server:
        chat_of_two(server)
        assert psutil.Process(server.process.pid).num_threads() == 1


# --- system calls that there are not ------------------------------------------------------------------------

RESTRICTED = (sys.executable, str(ROOT / "tests" / "support" / "restricted.py"))


@linux_only
@survivable
@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="knows the numbers of two processors only")
def test_calls_that_the_kernel_refuses_are_done_without() -> None:
    """As in a container whose runtime is older than the calls."""
    refused = "memfd_create,pidfd_open,pidfd_send_signal,close_range"
    with running_server("--workers", "2", command=(*RESTRICTED, refused, *SERVER)) as server:
        server.expect_log("memfd_create", "/dev/shm")
        alice, bob = chat_of_two(server)
        kill_worker_of(server, alice)
        kill_sequencer(server)
        talk(alice, bob, "hello")
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("the program is replaced")
        talk(alice, bob, "hello again")
        assert len([line for line in server.stderr if "memfd_create" in line]) == 2  # one for each program
