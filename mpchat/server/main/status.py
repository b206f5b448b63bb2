"""What the processes of a running server take: the answer to SIGUSR1, one line of the log each.

Owns the wording. Reads the figures from the system through psutil; never asks the processes, which may hang.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import psutil


class Part(NamedTuple):
    """One process of the server; `load` says what it has to do, such as ``12 clients``."""

    name: str
    pid: int
    load: str


def describe_processes(parts: Iterable[Part]) -> Iterator[str]:
    """A line for each of `parts`, with CPU time in seconds since its start and resident memory in MiB."""
    for part in parts:
        try:
            process = psutil.Process(part.pid)
            with process.oneshot():
                times = process.cpu_times()
                memory = process.memory_info().rss / (1 << 20)
                figures = f"{process.status()}, CPU {times.user + times.system:.1f} s, memory {memory:.1f} MiB"
        except psutil.Error as error:
            figures = f"not to be seen: {type(error).__name__}"
        yield f"{part.name}: pid {part.pid}, {figures}, {part.load}"
