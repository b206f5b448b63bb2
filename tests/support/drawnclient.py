"""The client for people at a terminal that is emulated (pyte): what a person would see."""

from __future__ import annotations

import codecs
import fcntl
import os
import select
import shlex
import struct
import termios
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyte
from clientruns import SHELL, Terminal, draw_command
from playedserver import DEADLINE

ROWS = 24
LOOK_AGAIN = 0.05


class Drawn(Terminal):
    """The client at a terminal whose screen can be looked at."""

    def __init__(self, program: list[str], columns: int, environment: dict[str, str]) -> None:
        super().__init__(program, {**os.environ, "TERM": "xterm-256color", **environment}, (ROWS, columns))
        self._screen = pyte.HistoryScreen(columns, ROWS, history=10_000, ratio=0.01)
        self._stream = pyte.Stream(self._screen)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.raw = b""
        """All that was written to the terminal."""

    @property
    def rows(self) -> list[str]:
        """The rows of the screen, without the spaces at their ends."""
        return [row.rstrip() for row in self._screen.display]

    @property
    def scrolled(self) -> list[str]:
        """The rows that have left the screen at its top."""
        columns = range(self._screen.columns)
        return ["".join(row[column].data for column in columns).rstrip() for row in self._screen.history.top]

    @property
    def last_row(self) -> str:
        """The last row that is not blank."""
        return next((row for row in reversed(self.rows) if row), "")

    @property
    def cursor(self) -> tuple[int, int]:
        """Row and column of the cursor, from 0."""
        return self._screen.cursor.y, self._screen.cursor.x

    @property
    def input_line(self) -> str:
        """What stands from the prompt to the row before the status line, squeezed."""
        rows = self.rows
        while rows and not rows[-1]:
            rows.pop()
        start = max(number for number, row in enumerate(rows) if row.startswith(">"))
        return squeeze("".join(rows[start:-1]))

    def styles_of(self, text: str) -> pyte.screens.Char:
        """The first character of `text` where it is seen last, with its style."""
        for number in reversed(range(ROWS)):
            column = self.rows[number].find(text)
            if column >= 0:
                return self._screen.buffer[number][column]
        raise AssertionError(f"{text!r} is not on the screen: {self.rows}")

    def look(self) -> None:
        """Take what the client has written by now."""
        while select.select([self.master], [], [], 0)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # EIO: the client is gone
                return
            self.raw += data
            self._stream.feed(self._decoder.decode(data))

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Look until `condition` holds."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not on the screen\n" + "\n".join(self.rows)
            select.select([self.master], [], [], LOOK_AGAIN)
            self.look()

    def see(self, text: str) -> None:
        """Look until a row has `text` in it."""
        self.until(lambda: any(text in row for row in self.rows), text)

    def see_once(self, text: str) -> None:
        """Look until `text` is on the screen just once, be it in one row or in several."""
        self.until(lambda: squeeze("".join(self.rows)).count(squeeze(text)) == 1, f"once: {text}")

    def see_line(self, text: str) -> None:
        """Look until the input line, with its prompt, is `text` (but for spaces)."""
        text = squeeze(text)
        self.until(lambda: any(row.startswith(">") for row in self.rows) and self.input_line == text, text)

    def resize(self, columns: int, rows: int = ROWS) -> None:
        """Make the terminal another size, which sends SIGWINCH (ioctl_tty(2))."""
        self._screen.resize(rows, columns)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self) -> int:
        self.until(lambda: self.process.poll() is not None, "the end")
        self.look()
        return super().wait()


@contextmanager
def drawn(*args: str, columns: int = 80, timing: str = "", **environment: str) -> Iterator[Drawn]:
    with closing(Drawn(draw_command(*args, timing=timing), columns, environment)) as terminal:
        yield terminal


@contextmanager
def drawn_at_shell(*args: str, columns: int = 80, timing: str = "") -> Iterator[Drawn]:
    """The same as a job of a shell that takes commands when the client has ended."""
    with closing(Drawn(["sh", "-c", SHELL, "sh", *draw_command(*args, timing=timing)], columns, {})) as terminal:
        yield terminal


INTERACTIVE = """
exec <"$(tty)"
PS1="shell> "; export PS1; exec sh -i
"""


@contextmanager
def drawn_by_hand(*args: str, path: Path, columns: int = 80) -> Iterator[Drawn]:
    """The same, started by typing `path`, a script, in an interactive shell with job control."""
    path.write_text("#!/bin/sh\nexec " + shlex.join(draw_command(*args)))
    path.chmod(0o700)
    with closing(Drawn(["sh", "-c", INTERACTIVE], columns, {})) as terminal:
        terminal.type(bytes(path) + b"\n")
        yield terminal


def squeeze(text: str) -> str:
    """Without spaces, which cannot be seen at the ends of rows; composed, as the emulator does it."""
    return unicodedata.normalize("NFC", "".join(text.split()))
