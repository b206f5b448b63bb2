"""Signals as events of main's wait loop: the handler notes the signal, and the interpreter wakes the loop.

Owns the handlers and the socket pair that wakes the loop. Promises that no kind of signal is missed. A signal that
comes several times before main handles it counts once, as it does in the kernel (signal(7)). During an upgrade signals
are blocked, and the next program handles those that came meanwhile.
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
        # When the socket is full, the loop is about to wake anyway.
        self._descriptor_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        loop.watch(self._reader, lambda events: self._read())
        unblock()

    @property
    def hup_was_ignored(self) -> bool:
        """Whether this process was started with HUP ignored, as nohup(1) does it."""
        return self._before[signal.SIGHUP] is signal.SIG_IGN

    def restore(self, ending: bool) -> None:
        """Stop catching them. If this process is `ending`, ignore them: a second Ctrl-C changes nothing."""
        # CPython complains about a pending signal whose handler has been removed (Modules/signalmodule.c, "ignored due
        # to race condition"). Once the signals are blocked, none becomes pending, and this call runs the handlers of
        # those that are pending.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._before)
        signal.set_wakeup_fd(self._descriptor_before)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if ending else handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
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
    """Undo what the parent process has done to signals: ignored and blocked ones stay so across exec (signal(7)).

    If SIGCHLD were ignored, children would leave no exit status, and a failure would look like a success (wait(2),
    ECHILD). The signals that main handles stay blocked, if they are, until `Signals` catches them.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals() - set(MAINS_SIGNALS))


def block() -> None:
    """Block main's signals. Children started now and the next program begin with them blocked (signal(7))."""
    signal.pthread_sigmask(signal.SIG_BLOCK, MAINS_SIGNALS)


def unblock() -> None:
    """Unblock main's signals. Those that came meanwhile are delivered."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, MAINS_SIGNALS)
