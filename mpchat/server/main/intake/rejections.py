"""Rejections: which rejected clients are logged. Pure: it gets each rejection and the time, and decides.

Owns the counts of those that are not logged. Promises that one address causes at most two lines in INTERVAL, however
often it is rejected: one for the first rejection, and one with the count of the others. All addresses together cause at
most MOST lines of each kind, and one line for the remaining addresses.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mpchat.server.main.intake.admission import address_key

INTERVAL = 10.0
"""Seconds after the first rejection of an address in which its others are only counted."""

MOST = 1000
"""Addresses that are counted separately at a time."""

OTHERS = "other addresses"


@dataclass(slots=True)
class _Count:
    until: float
    left_out: int = 0


class Rejections:
    """The counts of rejections by address."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}  # in the order in which they become due

    def add(self, address: str, now: float) -> bool:
        """Count a rejection of this address. Return whether to log it now."""
        key = address_key(address)
        if key not in self._counts and len(self._counts) >= MOST:
            key = OTHERS
        count = self._counts.get(key)
        if count is None:
            self._counts[key] = _Count(now + INTERVAL, left_out=int(key == OTHERS))
            return key != OTHERS
        count.left_out += 1
        return False

    def deadline(self) -> float:
        """When `take` may have something; infinity when it has not."""
        return next((count.until for count in self._counts.values()), float("inf"))

    def take(self, now: float) -> Iterator[tuple[str, int]]:
        """Yield the addresses (IPv6: networks) whose interval is over, and how many rejections were not logged."""
        while self._counts:
            key = next(iter(self._counts))
            if self._counts[key].until > now:
                return
            count = self._counts.pop(key)
            if count.left_out:
                yield key, count.left_out
