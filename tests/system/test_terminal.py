"""A server that was started in a terminal, and what becomes of it when the terminal is closed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from server import DEADLINE, ROOT, SERVER, Chatter, eventually

from mpchat.server.main.terminal import CLOSING

# What a terminal runs first: the leader of its session, like a shell. It starts the server in a group of its own, and
# ends when it is told to or its terminal is closed. Then it sends HUP to the server, if {passes_on}.
SHELL = """
import fcntl, os, signal, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
if {ignore}:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
server = subprocess.Popen(sys.argv[1:], process_group=0, stdin=subprocess.DEVNULL)
if {foreground}:
    os.tcsetpgrp(0, server.pid)
told = []
signal.signal(signal.SIGHUP, lambda *_: told.append(1))
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
while not told:
    signal.pause()
if {passes_on}:
    os.killpg(server.pid, signal.SIGHUP)
"""


class Window:
    """A terminal with a shell and a server in it, which logs to a file."""

    def __init__(self, log: Path, ignore: bool = False, foreground: bool = True, passes_on: bool = True) -> None:
        self._log = log
        self._master, slave = pty.openpty()
        shell = SHELL.format(ignore=ignore, foreground=foreground, passes_on=passes_on)
        command = [sys.executable, "-c", shell, *SERVER, "--port", "0", "--workers", "1", "--log-file", str(log)]
        with os.fdopen(slave) as terminal:
            self._shell = subprocess.Popen(
                command, cwd=ROOT, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
            )
        said = b""
        while b"1 worker" not in said:
            said += os.read(self._master, 1000)
        self.port = int(said.split(b":")[-1].split(b",")[0])
        [self.server] = psutil.Process(self._shell.pid).children()

    def close(self) -> None:
        """Close the window."""
        os.close(self._master)
        self._master = -1

    def leave(self) -> None:
        """Have the shell end, with the window open."""
        self._shell.terminate()
        self._shell.wait(DEADLINE)

    def kill_shell(self) -> None:
        """Kill the shell, with the window open."""
        self._shell.kill()
        self._shell.wait(DEADLINE)

    def expect_log(self, part: str) -> None:
        eventually(lambda: part in self._log.read_text(), f"{part} in {self._log.read_text()}")

    def expect_end(self) -> None:
        eventually(lambda: not self.server.is_running(), f"the server ends: {self._log.read_text()}")

    def end(self) -> None:
        if self._master >= 0:
            self.close()
        if self.server.is_running():
            self.server.send_signal(signal.SIGINT)
            self.expect_end()
        self._shell.wait(DEADLINE)


@contextmanager
def window(log: Path, **how: bool) -> Iterator[Window]:
    opened = Window(log, **how)
    try:
        yield opened
    finally:
        opened.end()


def reload(opened: Window) -> None:
    opened.server.send_signal(signal.SIGHUP)
    opened.expect_log("worker-0 retired")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.mark.parametrize("passes_on", [True, False])
def test_in_the_foreground_it_ends_in_good_order(log: Path, passes_on: bool) -> None:
    """The shell sends it HUP, or else the kernel does when the shell ends."""
    with window(log, passes_on=passes_on) as opened:
        alice = Chatter("127.0.0.1", opened.port)
        alice.sign_on("alice")
        opened.close()
        assert alice.expect_end()[-1] == "! The server is stopping."
        alice.close()
        opened.expect_end()
        opened.expect_log("main INFO terminal closed\n")
        assert "reloaded" not in log.read_text()


def test_when_its_shell_is_killed_and_the_window_closes_then(log: Path) -> None:
    """The kernel sends HUP when the shell is gone; the window closes when it has noticed."""
    with window(log) as opened:
        opened.kill_shell()
        opened.expect_log("reloaded")
        opened.close()
        opened.expect_end()
        opened.expect_log("main INFO terminal closed\n")


def test_in_the_background_of_a_shell_that_sends_hup_too(log: Path) -> None:
    with window(log, foreground=False) as opened:
        opened.close()
        opened.expect_end()
        opened.expect_log("main INFO terminal closed\n")


def test_hup_reloads_while_the_terminal_is_there(log: Path) -> None:
    with window(log) as opened:
        reload(opened)
        assert "terminal closed" not in log.read_text()


def test_without_hup_it_stays_and_later_ones_reload(log: Path) -> None:
    """As after `mpchat-server &` and `exit`."""
    with window(log, foreground=False, passes_on=False) as opened:
        opened.leave()
        opened.close()
        time.sleep(CLOSING + 0.1)  # what is waited for is that time passes
        reload(opened)
        assert "terminal closed" not in log.read_text()


def test_with_hup_ignored_it_stays(log: Path) -> None:
    """As under nohup. HUP still reloads, when the end of the terminal is long ago."""
    with window(log, ignore=True) as opened:
        alice = Chatter("127.0.0.1", opened.port)
        alice.sign_on("alice")
        opened.close()
        opened.expect_log("terminal closed: the server goes on")
        alice.ask("/who", "* 1 in #lobby: alice")
        alice.close()
        assert "reloaded" not in log.read_text()


def test_an_upgrade_remembers_what_was_ignored(log: Path) -> None:
    with window(log, ignore=True) as opened:
        opened.server.send_signal(signal.SIGUSR2)
        opened.expect_log("the program is replaced old=")
        opened.close()
        opened.expect_log("terminal closed: the server goes on")
