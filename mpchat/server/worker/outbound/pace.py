"""The pace of a worker: it flushes what it has applied at once, and then rests for a while.

The first message after quiet goes out at once, since the worker is then waiting for it. Under load, the worker reads
again only RESTS times as long after a flush as that flush took, REST_MOST at most. What comes meanwhile comes in one
reading and goes out in one flush. So fan-out never takes more than a part of a worker's time, a small room notices
nothing, and a flood costs less per message, not more: fewer and fuller readings, and fewer sends. A worker does not
rest when so much came that there must be more.
"""

import time
from collections.abc import Callable, Iterable
from typing import Generic

from mpchat.server.worker.outbound.fanout import Fanout, S
from mpchat.server.worker.outbound.reader import FLUSH_SOON

RESTS = 1.0
"""How many times as long as the last flush took it rests."""

REST_MOST = 0.05
"""Seconds that it rests at most, however long the last flush took."""


class Pace(Generic[S]):
    """Flushes one fan-out. `notice` is told which sinks are sent something, before they are."""

    def __init__(self, fanout: Fanout[S], notice: Callable[[Iterable[S]], None]) -> None:
        self._fanout = fanout
        self._notice = notice

    def flush(self) -> float:
        """Flush what waits, if anything does; give for how many seconds to rest then."""
        pending = self._fanout.pending
        if not pending:
            # What brings nobody anything to read may still end somebody's connection.
            self._fanout.flush(self._notice)
            return 0.0
        start = time.monotonic()
        self._fanout.flush(self._notice)
        return 0.0 if pending >= FLUSH_SOON else choose_rest(time.monotonic() - start)


def choose_rest(took: float) -> float:
    """For how many seconds to rest after a flush that took `took` seconds."""
    return min(RESTS * took, REST_MOST)
