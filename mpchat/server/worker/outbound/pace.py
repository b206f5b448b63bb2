"""The pace of a worker: it flushes what it has applied at once, and then rests for a while.

The first message after quiet goes out at once, since the worker is waiting for it. Under load, the worker rests after
each flush, RESTS times as long as the flush took and REST_MOST at most, before it reads again. All that comes meanwhile
is read at once and goes out in one flush. So fan-out never takes more than a part of a worker's time, a small room
notices nothing, and under a flood a message costs less, since there are fewer and fuller readings and fewer sends. A
worker does not rest after a flush of FLUSH_SOON bytes or more, since there is probably more to read.
"""

import time
from collections.abc import Callable, Iterable
from typing import Generic

from mpchat.server.worker.outbound.fanout import Fanout, S
from mpchat.server.worker.outbound.reader import FLUSH_SOON

RESTS = 1.0
"""The length of a rest, as a multiple of the time that the last flush took."""

REST_MOST = 0.05
"""The longest rest, in seconds."""


class Pace(Generic[S]):
    """Flushes one fan-out. `on_sending` is called with the sinks that are about to be sent something."""

    def __init__(self, fanout: Fanout[S], on_sending: Callable[[Iterable[S]], None]) -> None:
        self._fanout = fanout
        self._on_sending = on_sending

    def flush(self) -> float:
        """Flush what waits, and return for how many seconds to rest."""
        pending = self._fanout.pending
        if not pending:
            # There may still be connections to end.
            self._fanout.flush(self._on_sending)
            return 0.0
        start = time.monotonic()
        self._fanout.flush(self._on_sending)
        return 0.0 if pending >= FLUSH_SOON else choose_rest(time.monotonic() - start)


def choose_rest(took: float) -> float:
    """Return for how many seconds to rest after a flush that took `took` seconds."""
    return min(RESTS * took, REST_MOST)
