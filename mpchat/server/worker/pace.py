"""The pace of a worker: what has been applied is flushed at once, and then it rests for a while.

The first message after quiet goes out at once, since the worker is then waiting for it. Under load it reads again only
RESTS times as long after a flush as that took, REST_MOST at most: what has come meanwhile comes in one reading, and
goes out in one flush. So fan-out never takes more than a part of its time, a small room notices nothing, and a flood
costs less per message, not more: fewer and fuller readings, and fewer sends. But it does not rest when so much came
that there must be more.

A flush that brings a room a single message is the dearest there is: a reading, and a send for each receiver, for it
alone. After one, the next message waits for company: it is read with the one behind it, or when ALONE times as long as
the flush took have passed since that, ALONE_MOST at most. So what comes every 5 ms to a room of 200 (workload A of
scripts/benchmark.py) is flushed by one and by two in turn: two of three messages wait for nothing. Where none comes in
time (two who answer each other, a slower stream), waiting is a loss: each time that nothing came of it, it is done more
rarely, down to once in SKIP_MOST flushes.
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
"""Seconds that it is put off at most: less than anybody notices. (The sequencer counts in whole milliseconds.)"""

SKIP_MOST = 64
"""How many flushes of single messages may go by, at most, before it is tried again whether waiting brings company."""


class Pace(Generic[S]):
    """Flushes one fan-out. `notice` is told who is sent something, before it is."""

    def __init__(self, fanout: Fanout[S], notice: Callable[[Iterable[S]], None]) -> None:
        self._fanout = fanout
        self._notice = notice
        self._is_waiting = False  # for company, as far as we have said
        self._skips = 0
        self._skipped = 0

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
        rest = Rest() if pending >= FLUSH_SOON else choose_rest(took, fill)
        return rest if self._is_worth_waiting(fill, rest) else Rest(rest.silent)

    def _is_worth_waiting(self, fill: float, rest: Rest) -> bool:
        """Whether company can be hoped for after this flush, by what came of the last hopes."""
        if fill >= COMPANY:
            self._skips = self._skipped = 0
        elif self._is_waiting:
            self._skips, self._skipped = min(max(1, 2 * self._skips), SKIP_MOST), 0
        self._is_waiting = rest.alone > 0 and self._skipped >= self._skips
        self._skipped += not self._is_waiting
        return self._is_waiting


def choose_rest(took: float, fill: float) -> Rest:
    """How to rest after a flush that took so many seconds and brought a room `fill` messages, on average."""
    silent = min(RESTS * took, REST_MOST)
    alone = min(ALONE * took, ALONE_MOST) - silent
    return Rest(silent, max(alone, 0.0) if fill < COMPANY else 0.0)
