"""Deadlines that are all equally far away, with one timer for all of them.

Owns the keys that wait and the timer. Promises that each key expires once, in the order in which the keys were added,
unless it is discarded before. Knows nothing of clients. A timer of the loop for each key would take more memory than
the rest of an idle client.
"""

import asyncio
from collections.abc import Callable, Hashable
from itertools import takewhile
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """Calls `on_expired` with each key, `seconds` after the key was added."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, on_expired: Callable[[K], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._on_expired = on_expired
        self._due: dict[K, float] = {}  # the first to be due comes first
        self._timer: asyncio.TimerHandle | None = None

    def add(self, key: K) -> None:
        """Have `key` expire `seconds` from now. It must not wait already."""
        self._due[key] = self._loop.time() + self._seconds
        if self._timer is None:
            self._set_timer()

    def discard(self, key: K) -> None:
        """Forget `key`. Harmless when it does not wait."""
        self._due.pop(key, None)

    def _set_timer(self) -> None:
        first = next(iter(self._due.values()), None)
        self._timer = None if first is None else self._loop.call_at(first, self._expire)

    def _expire(self) -> None:
        now = self._loop.time()
        for key in [key for key, _ in takewhile(lambda item: item[1] <= now, self._due.items())]:
            # Another one's end may have discarded it.
            if self._due.pop(key, None) is not None:
                self._on_expired(key)
        self._set_timer()
