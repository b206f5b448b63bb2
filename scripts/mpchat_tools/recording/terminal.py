"""A program on a terminal of its own, and what the screen shows, read by a terminal emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pyte

DEADLINE = 20.0
"""Seconds for something to be shown."""


class Run(NamedTuple):
    """Characters of one row with one look. `column` counts from 0."""

    column: int
    text: str
    color: str
    bold: bool


Row = tuple[Run, ...]


def list_descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


class Terminal:
    """One program. `rows` is what its screen shows."""

    def __init__(
        self, command: Sequence[str], columns: int, lines: int, folder: Path, environment: dict[str, str]
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        name = os.ttyname(slave)
        # A session leader without a terminal gets the first one that it opens as its controlling terminal, tty(4).
        start = ["bash", "-c", f'exec "$@" <{name} >{name} 2>&1', "bash", *command]
        self._process = subprocess.Popen(
            start, cwd=folder, env={**environment, "TERM": "xterm-256color"}, start_new_session=True
        )
        os.close(slave)

    @property
    def session(self) -> int:
        """The session of all that runs here."""
        return self._process.pid

    @property
    def rows(self) -> list[Row]:
        return [self._read_row(line) for line in range(self._screen.lines)]

    @property
    def text(self) -> str:
        return "\n".join(self._screen.display)

    def fileno(self) -> int:
        return self._master

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def take(self) -> None:
        """Let the emulator read what has come. Answers the questions that programs ask of a terminal."""
        while select.select([self._master], [], [], 0)[0]:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # EIO: nobody has the terminal open any more
                return
            if b"\x1b[6n" in data:
                self.type(f"\x1b[{self._screen.cursor.y + 1};{self._screen.cursor.x + 1}R")
            self._stream.feed(data)

    def wait_for(self, text: str) -> None:
        """Wait until the screen shows `text`. Raises TimeoutError."""
        deadline = time.monotonic() + DEADLINE
        while text not in self.text:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{text!r} is not shown; what is:\n{self.text}")
            select.select([self._master], [], [], 0.02)
            self.take()

    def close(self) -> None:
        """End the program, and all that it has started. A shell gives each job a process group of its own."""
        for process in reversed([self._process.pid, *list_descendants(self._process.pid)]):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()
        os.close(self._master)

    def _read_row(self, line: int) -> Row:
        runs: list[Run] = []
        cells = self._screen.buffer[line]
        for column in range(self._screen.columns):
            cell = cells[column]
            look = (cell.bg if cell.reverse and cell.bg != "default" else cell.fg, cell.bold)
            if runs and (runs[-1].color, runs[-1].bold) == look:
                runs[-1] = runs[-1]._replace(text=runs[-1].text + cell.data)
            else:
                runs.append(Run(column, cell.data, *look))
        kept = [run._replace(text=run.text.rstrip()) if run is runs[-1] else run for run in runs]
        return tuple(run for run in kept if run.text.strip())
