"""An outage: the log cannot be reached. Input of clients waits, and after a while clients are told so.

Owns the time that an outage has lasted, and the notice. Promises that clients are told once in an outage, TELL_AFTER
seconds after it began, and not at all in a shorter one. Never touches a client: the worker tells its own.

The notice cannot be in the log, which is what is missing. It is the same bytes in every process for all clients of one
dialect, so the ledger only has to say where in a client's output it is.
"""

import asyncio
from collections.abc import Callable

from mpchat.chat.events import Stalled
from mpchat.wire.dialect import Dialect

TELL_AFTER = 10.0
"""Seconds without the log until clients are told. The next sequencer usually serves within one second; a sequencer that
hangs is killed after `--beat-timeout`, which is 5 s by default."""

TRY_AGAIN = 0.1
"""Seconds until `tell` is called again after it could not tell the clients."""


class Outage:
    """The outages of one worker, one after the other. `tell` tells the clients, and returns whether it could."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Callable[[], bool]) -> None:
        self.told = False
        """Whether there is an outage of which clients have been told."""
        self._loop = loop
        self._tell = tell
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Note that the log is lost. Harmless when it was lost before."""
        if self._timer is None:
            self._timer = self._loop.call_later(TELL_AFTER, self._expire)

    def end(self) -> None:
        """Note that the log can be reached again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self.told = False

    def _expire(self) -> None:
        self.told = self._tell()
        if not self.told:
            self._timer = self._loop.call_later(TRY_AGAIN, self._expire)


def encode_notice(dialect: Dialect) -> bytes:
    """Return what clients of this dialect are told in an outage.

    It depends neither on a client's settings, which are in the log, nor on the time, which comes with an entry.
    """
    return dialect.encode(Stalled(), 0, dialect.view(None, None))
