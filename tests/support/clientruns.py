"""The client as a process: in pipes, and at a pseudo terminal."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from playedserver import DEADLINE

# Opening the terminal makes it the controlling one of the new session, so that Ctrl-C is a signal (setsid(2)).
DRIVER = """
import os, sys
from mpchat.client.cli import main
from mpchat.client.timing import Timing
if os.isatty(0):
    os.close(os.open(os.ttyname(0), os.O_RDWR))
sys.exit(main(timing=Timing({timing})))
"""


def command(*args: str, timing: str = "") -> list[str]:
    """The program and its arguments; the plain client, also at a terminal."""
    return draw_command("--plain", *args, timing=timing)


def draw_command(*args: str, timing: str = "") -> list[str]:
    """The same for the client that fits the terminal."""
    return [sys.executable, "-W", "error", "-c", DRIVER.format(timing=timing), *args]


def pipe_through(*args: str, given: bytes = b"", timing: str = "") -> subprocess.CompletedProcess[bytes]:
    program = command(*args, timing=timing)
    return subprocess.run(program, input=given, capture_output=True, timeout=DEADLINE, check=False)


@contextmanager
def running(*args: str, timing: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """The client with pipes that stay open."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command(*args, timing=timing), stdin=pipe, stdout=pipe, stderr=pipe) as client:
        try:
            yield client
        finally:
            client.kill()


class Terminal:
    """The client at a pseudo terminal; what it writes, standard error included, is what a person would see."""

    def __init__(
        self, program: Sequence[str], environment: Mapping[str, str] | None = None, size: tuple[int, int] = (24, 80)
    ) -> None:
        self.master, slave = os.openpty()
        try:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
            self.process = subprocess.Popen(
                program, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment
            )
        finally:
            os.close(slave)
        self.seen = b""

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def expect(self, text: bytes) -> None:
        """Read until `text` is seen after what was expected before."""
        while text not in self.seen:
            assert select.select([self.master], [], [], DEADLINE)[0], f"{text!r} is not in {self.seen!r}"
            try:
                self.seen += os.read(self.master, 4096)
            except OSError as error:  # EIO: the client is gone
                raise AssertionError(f"{text!r} is not in {self.seen!r}") from error
        self.seen = self.seen.partition(text)[2]

    def child(self) -> int:
        """The pid of the only child of what runs at this terminal."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def wait(self) -> int:
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        os.close(self.master)


@contextmanager
def at_terminal(*args: str, timing: str = "") -> Iterator[Terminal]:
    with closing(Terminal(command(*args, timing=timing))) as terminal:
        yield terminal


SHELL = """
exec <"$(tty)" 2>&1
set -m
"$@"
echo ended $?
PS1=; exec sh -i
"""


@contextmanager
def at_shell(*args: str, timing: str = "") -> Iterator[Terminal]:
    """The client as a job of a shell that has the terminal, and that takes commands when the client has ended."""
    with closing(Terminal(["sh", "-c", SHELL, "sh", *command(*args, timing=timing)])) as terminal:
        yield terminal


def wait_for_signals(pid: int) -> None:
    """Until the process catches SIGINT by its event loop, which it does just before it connects (proc(5), SigCgt)."""
    bit = 1 << (signal.SIGTERM - 1)
    for _ in range(int(DEADLINE / 0.01)):
        status = Path(f"/proc/{pid}/status").read_text()
        if int(status.partition("SigCgt:")[2].split()[0], 16) & bit:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the client does not catch signals")
