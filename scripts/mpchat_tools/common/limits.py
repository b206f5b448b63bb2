"""What the system allows a tool: open files, and moments in which no signal ends it."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from mpchat_tools.common.errors import ToolError


def raise_file_limit(needed: int) -> None:
    """Take all descriptors that we may have; the processes we start inherit the limit, and one must do with it."""
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
    """Let INT and TERM wait while processes are started, so that none is started and not known."""
    came: list[int] = []
    # Handlers, for what is ignored or blocked here would be so in the processes too.
    old = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt
