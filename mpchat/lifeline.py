"""The lifeline: how a child process ends when main ends, even when main is killed.

The lifeline is a pipe whose other end only main holds. The kernel closes that end when main ends, so main need not do
anything. Promises that a SIGKILL of main leaves no process behind and frees the port. `child` calls both functions in
every child.
"""

import fcntl
import os
import signal
import sys
import threading

from mpchat.errors import ForkError

MAINS_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
"""The signals that main handles and children ignore. A terminal or a service manager sends them to the whole process
group, and the kernel sends SIGHUP when main is killed while a child is stopped (setpgid(2), orphaned groups)."""


def tie_to_main(lifeline: int) -> None:
    """End this process, at once and without any clean-up, when the lifeline ends. Raises ForkError."""
    try:
        threading.Thread(target=_end_with_main, args=(lifeline,), name="end-with-main", daemon=True).start()
    except RuntimeError as error:
        raise ForkError(f"no thread can be started: {error}") from error


def die_with_main(lifeline: int) -> None:
    """Have the kernel kill this process when main has ended, even if this process is stopped.

    The lifeline sends SIGKILL instead of SIGIO when its other end is closed (fcntl(2), F_SETSIG). Linux only: elsewhere
    a process that is stopped when main is killed stays until it is continued.
    """
    if sys.platform != "linux":
        return
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


def _end_with_main(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(0)
