"""What the system allows a tool: open files, and moments in which no signal ends it."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from mpchat_tools.common.errors import ToolError


def raise_file_limit(needed: int) -> None:
    """Raise the soft limit to the hard one; child processes inherit it. Raises ToolError if `needed` is more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # macOS has a hard limit that it does not grant
            pass
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise ToolError(f"{needed} open files are needed, the limit is {soft}")


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Defer INT and TERM while processes are started, so that every process is known when the run is interrupted."""
    came: list[int] = []
    # Handlers, because children inherit ignored and blocked signals.
    old = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt
