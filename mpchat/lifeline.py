"""A child process ends when main does, whatever killed main; and when main says so, whatever it is doing.

`tie_to_main` is called once in every child. It needs no word from main: the kernel closes main's end of a pipe. So
nothing stays behind when main is killed with -9, and the port is free at once.
"""

import fcntl
import os
import select
import shutil
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing import connection, parent_process, util

END_SECONDS = 5.0
"""How long a process that was killed may take to end: it may have much memory to give back, or wait for a disk."""

MAINS_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
"""What main listens to, and only main."""


def tie_to_main() -> None:
    """End this process, at once and without clean-up of its own, when main has ended.

    Also ignores the signals that main listens to, which a terminal or a service manager sends to the whole group, and
    SIGHUP, which the kernel sends when main is killed while one of us is stopped (setpgid(2), orphaned process groups):
    main decides.
    """
    for number in MAINS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_main, name="end-with-main", daemon=True).start()


def die_with_main() -> None:
    """Have the kernel kill this process when main has ended, also while it is stopped and runs no thread.

    The pipe whose other end main has sends SIGKILL in the place of SIGIO (fcntl(2), F_SETSIG). PR_SET_PDEATHSIG would
    not do: the parent is the fork server, which ends only after all that it has forked. Linux only; elsewhere a process
    that is stopped when main is killed stays until it is continued.
    """
    main = parent_process()
    if sys.platform != "linux" or main is None:
        return
    fcntl.fcntl(main.sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(main.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(main.sentinel, fcntl.F_GETFL)
    fcntl.fcntl(main.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


class Grip:
    """A hold on a child process: what ends it, and tells when it has.

    A number can belong to another process by the time that it is used, and whose fork server is dead is believed to be
    dead by multiprocessing; a descriptor of the process (pidfd_open(2), Linux 5.3) knows better. Elsewhere, the number
    has to do.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor: int | None = None
        if hasattr(os, "pidfd_open"):
            with suppress(ProcessLookupError):  # it has ended already
                self._descriptor = os.pidfd_open(pid)

    def kill(self) -> None:
        """Have it end, whatever it is doing. Harmless when it has."""
        with suppress(ProcessLookupError):
            if self._descriptor is not None:
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            elif not hasattr(os, "pidfd_open"):
                os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it, and wait until it does nothing more; then let go of it."""
        self.kill()
        if self._descriptor is not None:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            poll.poll(END_SECONDS * 1000)
            os.close(self._descriptor)
            self._descriptor = None


def _end_with_main() -> None:
    main = parent_process()
    if main is not None:
        connection.wait([main.sentinel])
        # The folder of main's and the Manager's sockets: main takes it away itself unless it was killed.
        shutil.rmtree(util.get_temp_dir(), ignore_errors=True)
    os._exit(0)
