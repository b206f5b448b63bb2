"""Rejections: which of them are logged. Pure: told of each, with the time, it answers.

Owns the counts of those that are not. Promises that an address has two lines in INTERVAL at most, however often it is
refused, the first at once and one that says how many more there were; and all addresses together MOST and one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mpchat.server.main.intake.admission import address_key

INTERVAL = 10.0
"""Seconds in which one address has one line, and after which the rest is told."""

MOST = 1000
"""Addresses told apart at a time."""

OTHERS = "other addresses"


@dataclass(slots=True)
class _Count:
    until: float
    left_out: int = 0


class Rejections:
    """Those of one listening socket."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}  # the first to be due first

    def add(self, address: str, now: float) -> bool:
        """One more from this address; whether it is to be logged."""
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
        """When there may be something to `take`; infinity when there is nothing."""
        return next((count.until for count in self._counts.values()), float("inf"))

    def take(self, now: float) -> Iterator[tuple[str, int]]:
        """The addresses (IPv6: networks) whose time is over, and how many rejections of each were not logged."""
        while self._counts:
            key = next(iter(self._counts))
            if self._counts[key].until > now:
                return
            count = self._counts.pop(key)
            if count.left_out:
                yield key, count.left_out
