"""Main's wait loop: what is watched, and what happens when it is ready.

Owns the selector. Promises: a callback is called only for what is still watched, since an earlier event of the same
round may have ended what this one is about. Never waits for anything but readiness and time.
"""

import selectors
from collections.abc import Callable
from typing import Protocol

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class HasDescriptor(Protocol):
    """What can be watched."""

    def fileno(self) -> int: ...


Watched = HasDescriptor | int
Callback = Callable[[int], object]
"""Called with what it is ready for: READ, WRITE or both."""


class WaitLoop:
    """The one place where main waits."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, watched: Watched, callback: Callback, events: int = READ) -> None:
        """Call `callback` when it is ready; from now on for these events, when it is watched already."""
        key = self._selector.get_map().get(_number(watched))
        if key is None:
            self._selector.register(watched, events, callback)
        elif key.events != events:
            self._selector.modify(watched, events, callback)

    def unwatch(self, watched: Watched) -> None:
        """Harmless when it is not watched."""
        if self.watches(watched):
            self._selector.unregister(watched)

    def watches(self, watched: Watched) -> bool:
        return self._selector.get_map().get(_number(watched)) is not None

    def wait(self, seconds: float, woken: Callable[[], None]) -> None:
        """Wait up to `seconds` (infinity: for ever) for something to happen, and see to it; `woken` comes first."""
        happened = self._selector.select(None if seconds == float("inf") else max(0.0, seconds))
        woken()
        for key, events in happened:
            if self._selector.get_map().get(key.fd) is key:
                key.data(events)

    def close(self) -> None:
        self._selector.close()


def _number(watched: Watched) -> int:
    return watched if isinstance(watched, int) else watched.fileno()
