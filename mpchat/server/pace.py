"""The pace of the fan-out: when what waits for the clients is flushed.

The first message after quiet goes out at once. Under load flushes are further apart: the next one waits about as long
as the last one took, so that fan-out takes no more than half of a worker's time; but not later than FLUSH_LATEST, and
at once when FLUSH_SOON waits. So a small room notices nothing, and in a flood flushes become fewer and fuller.
"""

import asyncio
import time

from mpchat.server.fanout import Fanout
from mpchat.server.reader import FLUSH_SOON

FLUSH_LATEST = 0.05
"""Seconds that a flush is put off at most, however long the last one took."""


class Pace:
    """Flushes one fan-out in time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fanout: Fanout) -> None:
        self._loop = loop
        self._fanout = fanout
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0

    def plan(self) -> None:
        """Something may wait for the flush: flush now, or see that it is flushed in time."""
        pending = self._fanout.pending
        if not pending:
            return
        now = time.monotonic()
        if now >= self._next or pending >= FLUSH_SOON:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._next - now, self.flush)

    def flush(self) -> None:
        """Flush what waits, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        start = time.monotonic()
        self._fanout.flush()
        end = time.monotonic()
        self._next = end + min(end - start, FLUSH_LATEST)
