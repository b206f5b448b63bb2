"""The pace of a worker: what has been applied is flushed at once, and then it rests for a while.

The first message after quiet goes out at once, since the worker is then waiting for it. Under load it reads again only
RESTS times as long after a flush as that took, REST_MOST at most: what has come meanwhile comes in one reading, and
goes out in one flush. So fan-out never takes more than a part of its time, a small room notices nothing, and a flood
costs less per message, not more: fewer and fuller readings, and fewer sends. But it does not rest when so much came
that there must be more.

A flush that brings a room a single message is the dearest there is: a reading, and a send for each receiver, for it
alone. After one, the next message waits for company: it is read with the one behind it, or when ALONE times as long as
the flush took have passed since that, ALONE_MOST at most. So what comes at a steady pace is flushed by one and by two
in turn: two of three messages wait for nothing.
"""

import time
from collections.abc import Callable, Iterable
from typing import Generic

from mpchat.server.worker.fanout import Fanout, S
from mpchat.server.worker.reader import FLUSH_SOON, Rest

RESTS = 1.0
"""How many times as long as the last flush took it rests."""

REST_MOST = 0.05
"""Seconds that it rests at most, however long the last flush took."""

COMPANY = 2
"""How many messages for each room a flush has to bring, on average, not to be one of single messages."""

ALONE = 16.0
"""How many times as long as a flush of single messages took another is put off."""

ALONE_MOST = 0.01
"""Seconds that it is put off at most: less than anybody notices."""


class Pace(Generic[S]):
    """Flushes one fan-out. `notice` is told who is sent something, before it is."""

    def __init__(self, fanout: Fanout[S], notice: Callable[[Iterable[S]], None]) -> None:
        self._fanout = fanout
        self._notice = notice

    def flush(self) -> Rest:
        """Flush what waits, if anything does; say how to rest."""
        pending, fill = self._fanout.pending, self._fanout.fill
        if not pending:
            # What brings nobody anything to read may still end somebody's connection.
            self._fanout.flush(self._notice)
            return Rest()
        start = time.monotonic()
        self._fanout.flush(self._notice)
        took = time.monotonic() - start
        return Rest() if pending >= FLUSH_SOON else choose_rest(took, fill)


def choose_rest(took: float, fill: float) -> Rest:
    """How to rest after a flush that took so many seconds and brought a room `fill` messages, on average."""
    silent = min(RESTS * took, REST_MOST)
    alone = min(ALONE * took, ALONE_MOST) - silent
    return Rest(silent, max(alone, 0.0) if fill < COMPANY else 0.0)
