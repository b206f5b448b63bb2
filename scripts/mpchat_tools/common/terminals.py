"""A program on a pseudo terminal of its own, as a person would start it in a window.

Promises that the terminal is the program's controlling terminal, and that `close` ends the program and everything that
it has started, in whatever process group. Never looks at what is written there.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil


class OwnTerminal:
    """One program. `session` is the id of the session of all that runs there."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], columns: int = 80, lines: int = 24
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        name = os.ttyname(slave)
        # A session leader without a terminal gets the first one that it opens as its controlling terminal, tty(4).
        start = ["bash", "-c", f'exec "$@" <{name} >{name} 2>&1', "bash", *command]
        self._process = subprocess.Popen(start, cwd=folder, env=environment, start_new_session=True)
        # Until the program has opened its end, there must be another one: else a read fails (EIO).
        self._slave = slave
        self.session = self._process.pid

    def fileno(self) -> int:
        return self._master

    def write(self, data: bytes) -> None:
        os.write(self._master, data)

    def read(self, seconds: float = 0.0) -> bytes:
        """Return what was written since the last read, and wait for it up to `seconds`."""
        data = b""
        while select.select([self._master], [], [], 0.0 if data else seconds)[0]:
            data += os.read(self._master, 1 << 16)
        return data

    def close(self) -> None:
        """End the program and all of its descendants. A shell gives each job a process group of its own."""
        with suppress(psutil.NoSuchProcess):
            for descendant in psutil.Process(self.session).children(recursive=True):
                with suppress(ProcessLookupError):
                    os.kill(descendant.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        os.close(self._slave)
        os.close(self._master)
