"""The progress of a run on standard error: a progress bar of rich (the extra `tools`) on a terminal, else a
line every few seconds."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any, TextIO

LINE_S = 5.0


class Bar:
    """Shows what is done of one thing after the other."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started = self._shown = time.monotonic()
        self._stack = ExitStack()
        self._bar: Any = None
        self._task: Any = None
        if out.isatty():
            self._open()

    def show(self, doing: str, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=doing, completed=done, total=total)
            return
        now = time.monotonic()
        if now - self._shown >= LINE_S:
            self._shown = now
            print(f"{doing} {done:,}/{total:,} {now - self._started:.1f} s", file=self._out, flush=True)

    def close(self) -> None:
        self._stack.close()

    def _open(self) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        except ImportError:
            return
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        bar = Progress(*columns, console=Console(file=self._out), transient=True)
        self._bar = self._stack.enter_context(bar)
        self._task = bar.add_task("", total=None)
