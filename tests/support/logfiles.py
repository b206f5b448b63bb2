"""Log files: what was logged to them, and logging put back as it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def restored_logging() -> Iterator[None]:
    """Put the package's logging back as it was, whatever the block does with it."""
    root = logging.getLogger("mpchat")
    before = root.handlers[:], root.level, root.propagate, logging.lastResort
    yield
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], root.level, root.propagate, logging.lastResort = before


@contextmanager
def open_fifo(path: Path) -> Iterator[tuple[str, int]]:
    """A log file that is a FIFO, and the end that reads it."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield str(path), reader
    os.close(reader)


def read_lines(path: Path) -> list[str]:
    """The lines of a log file, without their times."""
    return [line.partition("Z ")[2] for line in path.read_text().splitlines()]


def read_now(descriptor: int) -> list[str]:
    """The lines that wait in a pipe, without their times."""
    data = os.read(descriptor, 1 << 20).decode()
    assert data.endswith("\n")
    return [line.partition("Z ")[2] for line in data.splitlines()]
