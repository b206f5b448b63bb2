"""The pace of a worker: what has been applied is flushed at once, and then it rests for a while.

The first message after quiet goes out at once, since the worker is then waiting for it. Under load it reads again only
RESTS times as long after a flush as that took, REST_MOST at most: what has come meanwhile comes in one reading, and
goes out in one flush. So fan-out never takes more than a part of its time, a small room notices nothing, and a flood
costs less per message, not more: fewer and fuller readings, and fewer sends. But it does not rest when so much came
that there must be more.
"""

import time
from collections.abc import Callable, Iterable
from typing import Generic

from mpchat.server.worker.fanout import Fanout, S
from mpchat.server.worker.reader import FLUSH_SOON

RESTS = 1.0
"""How many times as long as the last flush took it rests."""

REST_MOST = 0.05
"""Seconds that it rests at most, however long the last flush took."""


class Pace(Generic[S]):
    """Flushes one fan-out. `notice` is told who is sent something, before it is."""

    def __init__(self, fanout: Fanout[S], notice: Callable[[Iterable[S]], None]) -> None:
        self._fanout = fanout
        self._notice = notice

    def flush(self) -> float:
        """Flush what waits, if anything does; give for how many seconds to rest."""
        pending = self._fanout.pending
        if not pending:
            # What brings nobody anything to read may still end somebody's connection.
            self._fanout.flush(self._notice)
            return 0.0
        start = time.monotonic()
        self._fanout.flush(self._notice)
        took = time.monotonic() - start
        return 0.0 if pending >= FLUSH_SOON else min(RESTS * took, REST_MOST)
