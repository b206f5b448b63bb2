"""A program on a terminal of its own, and what the screen shows, read by a terminal emulator."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyte

from mpchat_tools.common.terminals import OwnTerminal

DEADLINE = 20.0
"""Seconds for something to be shown."""


class Run(NamedTuple):
    """Characters of one row with one look. `column` counts from 0."""

    column: int
    text: str
    color: str
    bold: bool


Row = tuple[Run, ...]


class Terminal:
    """One program. `rows` is what its screen shows."""

    def __init__(
        self, command: Sequence[str], columns: int, lines: int, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        looks = {**environment, "TERM": "xterm-256color"}
        self._terminal = OwnTerminal(command, folder, looks, columns, lines)
        self.session = self._terminal.session

    @property
    def rows(self) -> list[Row]:
        return [self._read_row(line) for line in range(self._screen.lines)]

    @property
    def text(self) -> str:
        return "\n".join(self._screen.display)

    def fileno(self) -> int:
        return self._terminal.fileno()

    def type(self, text: str) -> None:
        self._terminal.write(text.encode())

    def take(self, seconds: float = 0.0) -> None:
        """Let the emulator read what has come, and wait for it up to `seconds`.

        Answers a program that asks where the cursor is.
        """
        data = self._terminal.read(seconds)
        if b"\x1b[6n" in data:
            self.type(f"\x1b[{self._screen.cursor.y + 1};{self._screen.cursor.x + 1}R")
        self._stream.feed(data)

    def wait_for(self, text: str) -> None:
        """Wait until the screen shows `text`. Raises TimeoutError."""
        deadline = time.monotonic() + DEADLINE
        while text not in self.text:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{text!r} is not shown; what is:\n{self.text}")
            self.take(0.02)

    def close(self) -> None:
        """End the program, and all that it has started."""
        self._terminal.close()

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
