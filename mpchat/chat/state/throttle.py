"""The throttle: a token bucket that says how many frames of one client may pass now.

Promises that no more than `burst + rate * t` frames pass in any t seconds. A frame over the rate is read later, never
dropped; the throttle only says when. It never sleeps and has no clock.
"""

import math


class Throttle:
    """One client's bucket. `rate` is in frames a second (0: no limit), `burst` in frames, `now` in seconds."""

    __slots__ = ("_burst", "_filled_at", "_rate", "_tokens")

    UNLIMITED = 1 << 30

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = now

    def allowance(self, now: float) -> int:
        """How many frames may pass at `now`."""
        if not self._rate:
            return self.UNLIMITED
        earned = max(0.0, now - self._filled_at) * self._rate
        self._tokens = min(float(self._burst), self._tokens + earned)
        self._filled_at = max(self._filled_at, now)
        return int(self._tokens)

    def spend(self, frames: int) -> None:
        """Note that frames have passed; no more than the last `allowance` said."""
        if self._rate:
            self._tokens -= frames

    def is_full(self, now: float) -> bool:
        """Whether a whole burst may pass at `now`: the client has kept to its rate for a while."""
        return self.allowance(now) >= self._burst

    def ready_at(self, now: float) -> float:
        """When the next frame may pass, in seconds of the same clock; `now` if one may pass at once."""
        if self.allowance(now) >= 1:
            return now
        # A microsecond late: the float of a clock that has run for years is only exact to some hundredths of that, and
        # waking up with a billionth of a token missing would mean waking up again.
        return now + (math.ceil((1.0 - self._tokens) / self._rate * 1e6) + 1) / 1e6
