"""Housekeeping: what is deleted from the database, in small transactions, and from the memory of the server.

Owns the granting of wishes (`mpchat-admin forget`) and the horizon behind which lines are too old (`--keep`). Promises
that a line which is to be forgotten is gone from memory before it is gone from the database, and that a wish is granted
only when both have happened. Each step is short. Never deletes anything because the clock has jumped: see `Horizon`.
"""

from mpchat.archive.database import Database, Wish
from mpchat.chat.entries import Forgot, encode_entries
from mpchat.log.port import Log

DAY = 86_400_000
"""Milliseconds of a day."""

LOOK_EVERY = 1.0
"""Seconds between two looks for wishes."""

EXPIRE_EVERY = 60.0
"""Seconds between two looks for lines that are too old."""

GRACE = 3600.0
"""Seconds for which a clock must have been going on from a time before lines are deleted because of it."""


class Horizon:
    """Before which moment lines are too old. `keep` in ms; `known`: a moment that is certainly past.

    It follows the clock, but GRACE seconds late. A clock that jumps forward can be set right until then, and nothing is
    deleted. It is never later than the newest record less `keep`, so that a server in which nobody talks keeps its last
    lines while its own clock runs away.
    """

    def __init__(self, keep: int, known: int) -> None:
        self._keep = keep
        self._trusted = known
        self._candidate: tuple[int, float] | None = None  # a moment, and since when the clock goes on from it

    def move(self, now: float, wall: int, newest: int) -> int:
        """Return the moment (ms since the epoch). `now`: seconds of a clock that is never set; `wall`: the time of day,
        and `newest` that of the newest record, in ms since the epoch."""
        current = min(wall, newest)
        if self._candidate is None or current < self._candidate[0]:
            self._candidate = current, now
        elif now - self._candidate[1] >= GRACE:
            self._trusted = max(self._trusted, self._candidate[0])
            self._candidate = current, now
        return min(self._trusted, current) - self._keep


class Housekeeping:
    """Call `advance` from its `deadline` on, when nothing waits to be written. `keep` in ms; 0: for ever."""

    def __init__(self, source: Log, database: Database, keep: int) -> None:
        self.deadline = 0.0
        self._source = source
        self._database = database
        self._horizon = Horizon(keep, database.newest) if keep else None
        self._wish: tuple[Wish, int] | None = None  # and the record that says so
        self._expire_at = 0.0
        self._expiring: int | None = None  # the moment, while there are lines from before it

    def advance(self, now: float, wall: int, position: int) -> None:
        """Take a step. All lines up to record `position` are written. Raises LogLost, LogFull, ArchiveRefused."""
        busy = self._grant(position) or self._expire(now, wall)
        self.deadline = now if busy else now + LOOK_EVERY

    def postpone(self, now: float) -> None:
        """Try again later: something does not work."""
        self.deadline = now + EXPIRE_EVERY

    def _grant(self, position: int) -> bool:
        """Take a step towards granting a wish, and say whether more is to be done at once."""
        if self._wish is None:
            wishes = self._database.list_wishes()
            if wishes:
                seq = self._publish(Forgot(wishes[0].kind, wishes[0].key))
                self._wish = wishes[0], seq
            return False
        wish, seq = self._wish
        if position < seq:
            return False
        if not self._database.forget(wish):
            self._database.grant(wish)
            self._wish = None
        return True

    def _expire(self, now: float, wall: int) -> bool:
        """Delete some lines that are too old, and say whether there are more."""
        if self._horizon is None or now < self._expire_at:
            return False
        if self._expiring is None:
            moment = self._horizon.move(now, wall, self._database.place.time)
            if not self._database.has_before(moment):
                self._expire_at = now + EXPIRE_EVERY
                return False
            self._publish(Forgot("before", str(moment)))
            self._expiring = moment
        if not self._database.expire(self._expiring):
            self._expiring = None
        return True

    def _publish(self, entry: Forgot) -> int:
        return self._source.publish(encode_entries([entry]))
