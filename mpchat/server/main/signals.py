"""Signals as events of main's wait loop: a handler does nothing, what the interpreter writes to a pipe says it all.

Owns the handlers and that pipe. Promises that a signal that came while they were blocked, between two programs of the
same process, is seen by the second.
"""

import signal
import socket
from collections.abc import Callable

from mpchat.lifeline import MAINS_SIGNALS
from mpchat.server.main.waitloop import WaitLoop


class Signals:
    """Catches them from `__init__` until `restore`."""

    def __init__(self, loop: WaitLoop, react: Callable[[signal.Signals], None]) -> None:
        self._loop = loop
        self._react = react
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in MAINS_SIGNALS}
        self._descriptor_before = signal.set_wakeup_fd(self._writer.fileno())
        loop.watch(self._reader, lambda events: self._read())
        unblock()

    def restore(self) -> None:
        """Catch them no more."""
        signal.set_wakeup_fd(self._descriptor_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._reader.close()
        self._writer.close()

    def _read(self) -> None:
        for number in self._reader.recv(64):
            self._react(signal.Signals(number))


def block() -> None:
    """Let signals wait; children started now and the program that takes our place begin so (signal(7))."""
    signal.pthread_sigmask(signal.SIG_BLOCK, MAINS_SIGNALS)


def unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, MAINS_SIGNALS)
