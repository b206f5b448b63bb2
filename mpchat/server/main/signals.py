"""Signals as events of main's wait loop: a handler notes the signal, and the interpreter wakes the loop up.

Owns the handlers and the pipe that wakes the loop. Promises that each signal is seen, however many come: the same one
several times before main looks counts once, as it does in the kernel (signal(7)). A signal that came while they were
blocked, between two programs of the same process, is seen by the second.
"""

import signal
import socket
from collections.abc import Callable, Iterable

from mpchat.lifeline import MAINS_SIGNALS
from mpchat.server.main.waitloop import WaitLoop


class Signals:
    """Catches MAINS_SIGNALS, and those in `more`, from `__init__` until `restore`."""

    def __init__(
        self, loop: WaitLoop, react: Callable[[signal.Signals], None], more: Iterable[signal.Signals] = ()
    ) -> None:
        self._loop = loop
        self._react = react
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._noted: dict[int, None] = {}
        self._before = {number: signal.signal(number, self._note) for number in {*MAINS_SIGNALS, *more}}
        # When it is full, the loop is about to wake up anyway.
        self._descriptor_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        loop.watch(self._reader, lambda events: self._read())
        unblock()

    def restore(self, ending: bool) -> None:
        """Catch them no more. `ending`: so does this process, and a second Ctrl-C has nothing to add to that."""
        signal.set_wakeup_fd(self._descriptor_before)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if ending else handler)
        self._reader.close()
        self._writer.close()

    def _note(self, number: int, frame: object) -> None:
        self._noted[number] = None

    def _read(self) -> None:
        self._reader.recv(1 << 16)
        noted, self._noted = self._noted, {}
        for number in noted:
            self._react(signal.Signals(number))


def reset_inherited() -> None:
    """Undo what whoever started us has done to signals: what is ignored or blocked stays so across exec (signal(7)).

    With SIGCHLD ignored, children leave no exit status, and each failure would pass as a success (wait(2), ECHILD).
    Those that main listens to stay blocked, if they are, until there is somebody to hear them.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals() - set(MAINS_SIGNALS))


def block() -> None:
    """Let signals wait; children started now and the program that takes our place begin so (signal(7))."""
    signal.pthread_sigmask(signal.SIG_BLOCK, MAINS_SIGNALS)


def unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, MAINS_SIGNALS)
