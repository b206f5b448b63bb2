"""Main's wait loop: the descriptors that main watches, and the callbacks for them.

Owns the selector. Promises to call a callback only for a descriptor that is still watched, since an earlier event of
the same round may have closed it. Never waits for anything but readiness and time.
"""

import selectors
from collections.abc import Callable
from typing import Protocol

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class HasDescriptor(Protocol):
    """An object that has a descriptor."""

    def fileno(self) -> int: ...


Watched = HasDescriptor | int
Callback = Callable[[int], object]
"""Called with the events that the descriptor is ready for: READ, WRITE or both."""


class WaitLoop:
    """A selector with callbacks: the one place where main waits."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, watched: Watched, callback: Callback, events: int = READ) -> None:
        """Call `callback` whenever `watched` is ready for `events`. To change the events, call it again with the same
        callback."""
        key = self._selector.get_map().get(_number(watched))
        if key is None:
            self._selector.register(watched, events, callback)
        elif key.events != events:
            self._selector.modify(watched, events, callback)

    def unwatch(self, watched: Watched) -> None:
        """Stop watching it. Harmless when it is not watched."""
        if self.watches(watched):
            self._selector.unregister(watched)

    def watches(self, watched: Watched) -> bool:
        return self._selector.get_map().get(_number(watched)) is not None

    def wait(self, seconds: float, woken: Callable[[], None]) -> None:
        """Wait up to `seconds` (infinity: for ever) for events, call `woken`, and then the callbacks of the events."""
        happened = self._selector.select(None if seconds == float("inf") else max(0.0, seconds))
        woken()
        for key, events in happened:
            if self._selector.get_map().get(key.fd) is key:
                key.data(events)

    def close(self) -> None:
        self._selector.close()


def _number(watched: Watched) -> int:
    return watched if isinstance(watched, int) else watched.fileno()
