"""How many lines one client may say now: a token bucket that is told the time.

Promises that over any span of t seconds no more than `burst + rate * t` lines pass. A line over the rate is read later,
never dropped: this only says when. Never sleeps and has no clock.
"""

import math


class Throttle:
    """One client's allowance. `rate` in lines a second (0: no limit at all), `burst` in lines, `now` in seconds."""

    __slots__ = ("_burst", "_filled_at", "_rate", "_tokens")

    UNLIMITED = 1 << 30

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = now

    def allowance(self, now: float) -> int:
        """How many lines may pass at `now`."""
        if not self._rate:
            return self.UNLIMITED
        earned = max(0.0, now - self._filled_at) * self._rate
        self._tokens = min(float(self._burst), self._tokens + earned)
        self._filled_at = max(self._filled_at, now)
        return int(self._tokens)

    def spend(self, lines: int) -> None:
        """`lines` lines have passed; not more than the last allowance() said."""
        if self._rate:
            self._tokens -= lines

    def ready_at(self, now: float) -> float:
        """When the next line may pass, in seconds of the same clock; `now` when one may pass at once."""
        if self.allowance(now) >= 1:
            return now
        # A microsecond more than it takes: a clock that has run for years is rounded to some hundredths of that, and by
        # then a billionth of a line must not be missing.
        return now + (math.ceil((1.0 - self._tokens) / self._rate * 1e6) + 1) / 1e6
