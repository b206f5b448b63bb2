"""Child processes, forked from main with its code and memory, so that starting one needs nothing from the disk.

Owns the fork, what a child keeps of main, and the two pipes between them: one ends when the child does, the other when
main does. Promises:

* A child runs the code that main runs, even if the files have changed.
* It keeps the descriptors that it is given, closes main's others, and handles none of main's signals.
* It ends when main has ended, on Linux even while it is stopped.
* `Child.sentinel` tells when it has ended, and no other process gets its pid before `reap`.
* Starting a child never waits. When the system is out of processes, descriptors or memory, it raises ForkError.

Main must have no thread: in a child, a lock that another thread held would never be released (fork(2)). Never reads a
file. Nothing but `end` waits for a child that has not ended.
"""

import gc
import logging
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from mpchat.errors import ForkError, MpchatError, in_words, is_refusal
from mpchat.lifeline import MAINS_SIGNALS, die_with_main, tie_to_main
from mpchat.logs import log_descriptors
from mpchat.output import STANDARD
from mpchat.title import set_title

log = logging.getLogger(__name__)

END_SECONDS = 5.0
"""How long a killed process may take to end: it may have much memory to free, or wait for a disk."""

DESCRIPTORS_MOST = 1 << 20
"""No descriptor is larger, unless the hard limit is. This is the default of fs.nr_open (proc(5))."""


class Child:
    """A running child. `sentinel` is a descriptor that becomes readable when the process has ended."""

    def __init__(self, pid: int, sentinel: int, lifeline: int) -> None:
        self.pid = pid
        self.sentinel = sentinel
        self._lifeline = lifeline
        self._reaped = False
        self._code: int | None = None

    def kill(self) -> None:
        """Kill it, whatever it is doing. Harmless when it has ended."""
        if not self._reaped:  # until then, no other process has its pid
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int | None:
        """Reap a process whose sentinel says that it has ended. From here on it touches no shared memory.

        Return its exit code (negative: the signal that killed it), None if something else has reaped it. Harmless when
        called again.
        """
        if not self._reaped:
            self._reaped = True
            try:
                # Its descriptors are closed, so its memory is freed too (do_exit() in kernel/exit.c). This waits only
                # for its last steps in the kernel.
                _, status = os.waitpid(self.pid, 0)
                self._code = os.waitstatus_to_exitcode(status)
            except ChildProcessError:
                log.warning("exit status of a child is lost pid=%d", self.pid)
            os.close(self.sentinel)
            os.close(self._lifeline)
        return self._code

    def end(self) -> int | None:
        """Kill it and wait until it has ended, up to END_SECONDS. Return its exit code, None if it is unknown."""
        if not self._reaped:
            self.kill()
            poll = select.poll()
            poll.register(self.sentinel, select.POLLIN)
            if not poll.poll(END_SECONDS * 1000):
                log.error("killed process does not end pid=%d seconds=%g", self.pid, END_SECONDS)
                return None
        return self.reap()


def start_child(run: Callable[[], int], keep: Iterable[int] = (), title: str = "") -> Child:
    """Fork a process that calls `run` and ends with the exit code that `run` returns, or with 1 if it raises.

    The child keeps the standard descriptors, that of the log, and those in `keep`. `title`: see `title.set_title`.
    Raises ForkError.
    """
    pipes: list[int] = []
    try:
        for _ in range(2):
            pipes += os.pipe()
        sentinel, running, lifeline, alive = pipes
        # A signal that the child gets while it still has main's handlers would reach main a second time.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, MAINS_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                _be_child(run, {*STANDARD, *log_descriptors(), *keep, running, lifeline}, lifeline, title)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except (OSError, MemoryError) as error:
        for descriptor in pipes:
            os.close(descriptor)
        raise ForkError(f"no process can be started: {in_words(error)}") from error
    os.close(running)
    os.close(lifeline)
    return Child(pid, sentinel, alive)


def _be_child(run: Callable[[], int], keep: set[int], lifeline: int, title: str) -> NoReturn:
    """Be the child, to its end. Main's frames are below this one on the stack, and it never returns to them."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in MAINS_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        # The child must not collect main's objects: they would close descriptors whose numbers are in use again.
        gc.freeze()
        _close_all_but(keep)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, MAINS_SIGNALS)
        if title:
            set_title(title)
        die_with_main(lifeline)
        tie_to_main(lifeline)
        # Even if `run` returns something other than a number, this process must end here.
        code = int(run())
    except BaseException as error:  # nothing may be raised into main's frames
        if isinstance(error, MpchatError) or is_refusal(error):
            log.error("process ends reason=%s", in_words(error))
        else:
            log.exception("process ends after an internal error")
    finally:
        # Not sys.exit: it would flush main's buffers and run main's exit handlers.
        os._exit(code)


def _close_all_but(keep: set[int]) -> None:
    """Close all descriptors but these."""
    if sys.platform != "linux":
        # There is no close_range(2).
        for name in os.listdir("/dev/fd"):  # noqa: PTH208 - names are all we need
            if int(name) not in keep:
                _close(int(name))
        return
    start, end = 0, _find_last() + 1
    for number in sorted(keep):
        if start < number:  # closerange takes an empty range for one without an end
            os.closerange(start, number)
        start = number + 1
    if start < end:
        os.closerange(start, end)


def _find_last() -> int:
    """Return the highest open descriptor, or a bound above it. Without close_range(2), each one up to it is closed."""
    try:
        return max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208 - names are all we need
    except OSError:
        # There is no descriptor left to list them with, or no /proc. The soft limit is no bound: it may have been
        # lowered since.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return max(DESCRIPTORS_MOST, 0 if hard == resource.RLIM_INFINITY else hard)


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass  # the listing itself had this one open
