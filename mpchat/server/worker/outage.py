"""An outage: the log cannot be reached. What clients send is kept, and after a while they are told so.

Owns the time that an outage has lasted, and the notice. Promises that `tell` is done once in an outage, TELL_AFTER
seconds after its beginning, and not at all in a shorter one. Never touches a client: the worker tells its own.

The notice is not in the log, which is just what is missing. It is the same bytes in every process all the same, for all
clients of one dialect, so that the ledger need not say more than where in a client's output it stands.
"""

import asyncio
from collections.abc import Callable

from mpchat.chat.events import Stalled
from mpchat.wire.dialect import Dialect

TELL_AFTER = 10.0
"""Seconds without the log until clients are told. Another sequencer mostly serves within one, and one that hangs is
killed after `--beat-timeout`, 5 s unless set."""

TRY_AGAIN = 0.1
"""Seconds until a `tell` that could not be done is tried again."""


class Outage:
    """The outages of one worker, one after the other. `tell` says whether it could be done."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Callable[[], bool]) -> None:
        self.told = False
        """Whether there is an outage, and clients have been told."""
        self._loop = loop
        self._tell = tell
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The log is lost; harmless when it was before."""
        if self._timer is None:
            self._timer = self._loop.call_later(TELL_AFTER, self._expire)

    def end(self) -> None:
        """The log can be reached again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self.told = False

    def _expire(self) -> None:
        self.told = self._tell()
        if not self.told:
            self._timer = self._loop.call_later(TRY_AGAIN, self._expire)


def encode_notice(dialect: Dialect) -> bytes:
    """What clients of this dialect are told, whatever their settings, which are in the log, and without the time, which
    would come with the entry."""
    return dialect.encode(Stalled(), 0, dialect.view(None, None))
