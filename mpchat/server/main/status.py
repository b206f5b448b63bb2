"""The status: what the processes of a running server use. It answers SIGUSR1, with one line of the log each.

Owns the wording. Reads the figures from the system through psutil. Never asks a process, since it may hang.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import psutil


class Part(NamedTuple):
    """One process of the server. `clients`: how many it has; None for a process that has nothing to do with clients."""

    name: str
    pid: int
    clients: int | None = None


def describe_processes(parts: Iterable[Part]) -> Iterator[str]:
    """Yield a line for each of `parts`, with CPU time in seconds since its start and resident memory in MiB."""
    for part in parts:
        try:
            process = psutil.Process(part.pid)
            with process.oneshot():
                times = process.cpu_times()
                memory = process.memory_info().rss / (1 << 20)
                figures = f"state={process.status()} cpu_s={times.user + times.system:.1f} memory_mib={memory:.1f}"
        except psutil.Error as error:
            figures = f"state=unknown reason={type(error).__name__}"
        clients = "" if part.clients is None else f" clients={part.clients}"
        yield f"status process={part.name} pid={part.pid}{clients} {figures}"
