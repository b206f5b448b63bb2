"""The server serves, stops and reports errors even when its output is closed, full, or a terminal that stops it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from server import DEADLINE, ROOT, SERVER, WELCOME, Chatter, eventually, run_mpchat, running_server

from mpchat.output import PIECE

CLIENT = (sys.executable, "-m", "mpchat.client")


# --- the commands: exit codes -------------------------------------------------------------------------------

BROKEN = (">/dev/full", "2>/dev/full", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-")
"""What a shell can do to the standard descriptors."""


def run_broken(command: Sequence[str], broken: str) -> subprocess.CompletedProcess[str]:
    return run_mpchat(*command, command=("sh", "-c", f'exec "$@" {broken}', "sh"))


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ((*SERVER, "--help"), 0),
        ((*SERVER, "--version"), 0),
        ((*SERVER, "--bogus"), 2),
        ((*SERVER, "--workers", "0"), 2),
        ((*SERVER, "--host", "192.0.2.1", "--port", "0"), 4),
        ((*CLIENT, "--help"), 0),
        ((*CLIENT, "--version"), 0),
        ((*CLIENT, "--bogus"), 2),
        ((*CLIENT, "127.0.0.1:1"), 1),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, tuple) else "",
)
def test_exit_codes_stay_what_they_are(command: Sequence[str], code: int, broken: str) -> None:
    assert run_broken(command, broken).returncode == code


# --- a server whose output is broken ------------------------------------------------------------------------


class Started:
    """A server with standard descriptors of the test's choice, whose port answers."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def lines(self) -> list[str]:
        """The log, if it is a file."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def expect_log(self, part: str, count: int = 1) -> str:
        def find() -> list[str]:
            return [line for line in self.lines() if part in line]

        eventually(lambda: len(find()) >= count, f"{count} times {part!r} in {self.lines()}", 3 * DEADLINE)
        return find()[count - 1]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    @contextmanager
    def chat(self, name: str) -> Iterator[Chatter]:
        found: list[Chatter] = []

        def enter() -> bool:
            found.append(Chatter("127.0.0.1", self.port))
            if found[-1].expect_start("") == WELCOME:
                return True
            found.pop().close()  # the one who was there before is still being seen off
            return False

        eventually(enter, f"{name} is let in")
        with closing(found[-1]) as chatter:
            chatter.say(name)
            chatter.expect_start(f"* Hello, {name}. ")
            yield chatter

    def stop(self) -> None:
        children = self.children()
        self.process.terminate()
        assert self.process.wait(2 * DEADLINE) == 0, self.lines()
        eventually(lambda: not any(child.is_running() for child in children), "all children have ended")


@contextmanager
def started(broken: str, *options: str, log: Path, output: int | None = None) -> Iterator[Started]:
    """A server, started by a shell that breaks its standard descriptors, with a log file at `log`; or with this
    descriptor for standard output and error, and no log file."""
    port = free_port()
    words = [*SERVER, "--port", str(port), "--workers", "1", *options]
    if output is None:
        words += ["--log-file", str(log)]
    with (
        tempfile.TemporaryDirectory(prefix="mpc") as folder,
        subprocess.Popen(
            ["sh", "-c", f'exec "$@" {broken}', "sh", *words],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            server = Started(process, port, log)
            wait_served(server)
            yield server
        finally:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_served(server: Started) -> None:
    """Wait until the server greets."""

    def greets() -> bool:
        assert server.process.poll() is None, server.lines()
        try:
            with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as client:
                client.settimeout(DEADLINE)
                return client.recv(1) == b"*"
        except OSError:
            return False

    eventually(greets, f"the server serves; log: {server.lines()}", 3 * DEADLINE)


def replace_program(server: Started) -> None:
    """USR2, until the next program serves."""
    before = len([line for line in server.lines() if "the program is replaced" in line])
    server.process.send_signal(signal.SIGUSR2)
    server.expect_log("the program is replaced", before + 1)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_server_with_broken_output_serves_is_replaced_and_stops(broken: str, tmp_path: Path) -> None:
    with started(broken, log=tmp_path / "log") as server, server.chat("alice") as alice:
        replace_program(server)
        alice.say("still here")
        alice.ask("/who", "* 1 in #lobby: alice")
        alice.close()
        server.stop()


def test_a_server_that_can_log_nowhere_serves_and_stops(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with started("", log=tmp_path / "log", output=full) as server, server.chat("alice") as alice:
            server.process.send_signal(signal.SIGHUP)
            alice.ask("/who", "* 1 in #lobby: alice")
            alice.close()
            server.stop()
    finally:
        os.close(full)


def test_no_connection_becomes_standard_error(tmp_path: Path) -> None:
    with started("<&- >&- 2>&-", log=tmp_path / "log") as server, server.chat("alice"):
        for process in [psutil.Process(server.process.pid), *server.children()]:
            descriptors = Path(f"/proc/{process.pid}/fd")
            if descriptors.exists():
                assert {str((descriptors / str(number)).readlink()) for number in range(3)} == {"/dev/null"}
        server.stop()


def knock(port: int, times: int) -> None:
    """Come so many times when the server is full, and wait until it has said so."""
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.settimeout(DEADLINE)
            while client.recv(1000):
                pass


@pytest.fixture(params=["pipe", "socket"])
def unread(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """Two ends of what nobody reads, the second is written to; it takes little."""
    if request.param == "pipe":
        ends = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIECE)
    else:
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
        ends = ours.detach(), theirs.detach()
    yield ends
    for end in ends:
        os.close(end)


def test_main_never_waits_for_a_reader_of_its_log(unread: tuple[int, int], tmp_path: Path) -> None:
    reader, writer = unread
    with started("", "--max-clients", "1", log=tmp_path / "log", output=writer) as server:
        with server.chat("alice"):
            for _ in range(100):
                server.process.send_signal(signal.SIGUSR1)  # three lines
                knock(server.port, 15)
        server.stop()
    lines = os.read(reader, 1 << 20).decode().splitlines()
    assert len(lines) > 10
    assert [line for line in lines if not re.match(r"\d{4}-\d\d-\d\dT|mpchat ready on ", line)] == [], "none is torn"
    assert os.get_blocking(writer), "others share it"


def test_the_count_of_lost_lines_is_logged_when_there_is_room_again(unread: tuple[int, int], tmp_path: Path) -> None:
    reader, writer = unread
    with started("", log=tmp_path / "log", output=writer) as server:
        for _ in range(40):
            server.process.send_signal(signal.SIGUSR1)  # three lines
            with server.chat("alice"):
                pass  # main has seen the signal before
        said = b""
        while b" main WARNING " not in said:
            assert select.select([reader], [], [], DEADLINE)[0], said
            said += os.read(reader, 1 << 16)
        assert re.search(rb" main WARNING log lines lost count=\d+\n", said)
        server.stop()


def test_refusals_of_one_address_are_logged_once_and_counted() -> None:
    with running_server("--max-clients", "1") as server:
        server.chat("alice")
        knock(server.port, 300)
        server.expect_log("client rejected address=127.0.0.1 reason=server_full")
        server.close_chatters()
        server.stop()
        rejected = [line for line in server.stderr if "rejected" in line]
        assert len(rejected) == 2, rejected
        assert "more clients rejected address=127.0.0.1 count=299 seconds=10" in rejected[1]


# --- a log file ---------------------------------------------------------------------------------------------


def files_of(server: Started) -> set[Path]:
    """The regular files that the processes of a server have open."""
    processes = [psutil.Process(server.process.pid), *server.children()]
    return {Path(file.path) for process in processes for file in process.open_files()}


def test_all_processes_follow_the_log_file(tmp_path: Path) -> None:
    log, moved = tmp_path / "log", tmp_path / "log.1"
    with started("", log=log) as server, server.chat("alice") as alice:
        server.expect_log("worker-0 started")
        assert log in files_of(server)
        log.rename(moved)
        server.process.send_signal(signal.SIGHUP)
        server.expect_log(" main INFO log file reopened")
        # At a worker's next beat, and when main next asks the sequencer whether it lives.
        eventually(lambda: moved not in files_of(server), "nobody has the old one open")
        server.expect_log("worker-0 retired")
        alice.ask("/who", "* 1 in #lobby: alice")
        alice.close()
        server.stop()
        assert " main INFO stopping" in "\n".join(server.lines())


def test_the_log_file_is_reopened_even_if_the_configuration_is_wrong(tmp_path: Path) -> None:
    log, config = tmp_path / "log", tmp_path / "mpchat.toml"
    config.write_text(f"log_level = 'debug'\nlog_file = '{log}'\n")
    with started("", "--config", str(config), log=log) as server:
        log.rename(tmp_path / "log.1")
        config.write_text("nonsense")
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("reload rejected: nothing is changed reason=")
        server.stop()


def test_the_server_goes_on_if_the_log_file_cannot_be_reopened(tmp_path: Path) -> None:
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    with started("", log=folder / "log") as server, server.chat("alice") as alice:
        folder.rename(moved)
        server.log = moved / "log"
        server.process.send_signal(signal.SIGHUP)
        line = server.expect_log(" main ERROR log file cannot be reopened: the destination stays reason=")
        assert line.endswith(f"{folder / 'log'}: No such file or directory")
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("no upgrade reason=")
        server.expect_log(f"log_file = {folder / 'log'}: No such file or directory")
        alice.ask("/who", "* 1 in #lobby: alice")
        alice.close()
        server.stop()


def test_its_path_does_not_change_while_the_server_runs(tmp_path: Path) -> None:
    log, config = tmp_path / "log", tmp_path / "mpchat.toml"
    config.write_text(f"log_file = '{log}'\n")
    with running_server("--config", str(config)) as server:
        config.write_text(f"log_file = '{tmp_path / 'other'}'\n")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "while the server runs options=log_file" in log.read_text(), "the log says so")
    assert not (tmp_path / "other").exists()
    assert server.stderr == []


def test_a_log_file_that_cannot_be_opened_is_bad_configuration(tmp_path: Path) -> None:
    path = tmp_path / "none" / "log"
    done = run_mpchat("--port", "0", "--log-file", str(path))
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == f"mpchat-server: log_file = {path}: No such file or directory\n"


def test_why_the_server_ended_is_in_the_log_file_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = run_mpchat("--host", "192.0.2.1", "--port", "0", "--log-file", str(log))
    assert done.returncode == 4
    reason = "cannot listen: this machine does not have the address 192.0.2.1:0"
    assert done.stderr == f"mpchat-server: {reason}\n"
    assert f" main ERROR server ends code=4 reason={reason}\n" in log.read_text()


# --- a terminal ---------------------------------------------------------------------------------------------

SHELL = """
import fcntl, os, signal, subprocess, sys, termios

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
modes = termios.tcgetattr(0)
modes[3] |= termios.TOSTOP
termios.tcsetattr(0, termios.TCSANOW, modes)
os.tcsetpgrp(0, os.getpgrp())
job = subprocess.Popen(sys.argv[1:], process_group=0)
signal.signal(signal.SIGTERM, lambda *_: job.terminate())
sys.exit(job.wait())
"""
"""A shell with job control, after `stty tostop`, that starts its arguments in the background."""


class Terminal:
    """A terminal in which a command runs in the background, and what has been shown on it."""

    def __init__(self, *command: str) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        shell = [sys.executable, "-c", SHELL, *command]
        self._shell = subprocess.Popen(shell, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        eventually(lambda: psutil.Process(self._shell.pid).children(), "the job is started")
        self.job = psutil.Process(self._shell.pid).children()[0]

    def expect(self, part: str) -> None:
        while part not in self.shown:
            assert select.select([self._master], [], [], DEADLINE)[0], self.shown
            self.shown += os.read(self._master, 1 << 16).decode()

    def wait(self) -> int:
        """Wait for the job to end; give its exit code."""
        return self._shell.wait(2 * DEADLINE)

    def close(self) -> None:
        if self.job.is_running():
            self.job.kill()
        self._shell.wait(DEADLINE)
        os.close(self._master)


def test_a_job_of_a_terminal_that_stops_output_from_the_background_serves() -> None:
    with tempfile.TemporaryDirectory(prefix="mpc") as folder:
        command = ("env", f"TMPDIR={folder}", *SERVER, "--port", "0", "--workers", "2")
        with closing(Terminal(*command)) as terminal:
            terminal.expect("2 workers\r\n")  # by which it says that it is ready
            terminal.job.send_signal(signal.SIGUSR1)
            terminal.expect(" status process=worker-1 pid=")
            # What somebody sends still means what it meant.
            terminal.job.send_signal(signal.SIGTTOU)
            terminal.expect(" main INFO workers from now on count=1")
            terminal.job.send_signal(signal.SIGTERM)
            terminal.expect(" main INFO stopping")
            assert terminal.wait() == 0
            assert terminal.shown.count("workers from now on") == 1


def test_a_job_that_cannot_start_says_so_and_ends() -> None:
    with closing(Terminal(*SERVER, "--workers", "0")) as terminal:
        terminal.expect("mpchat-server: --workers 0: must be an integer from 1 to 256")
        assert terminal.wait() == 2
