"""Child processes: forked from main, with main's code and memory, so that starting one needs nothing from the disk.

Owns the fork, what a child keeps of main, and the two pipes between them: one ends when the child does, the other when
main does. Promises: a child runs the very code that main runs, whatever has become of the files; of main's descriptors
it keeps those it is given, and of its signals none; it ends when main has ended, also while it is stopped (Linux); its
end is seen through `Child.sentinel`, and its pid belongs to nobody else before `reap`. Starting a child waits for
nothing, and fails with ForkError when the system is out of processes, descriptors or memory.

Main must have no thread: in a child, a lock that another thread held would never be released (fork(2)). Never reads a
file, and never waits for a child that has not ended, but for `end`.
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

from mpchat.errors import ForkError, MpchatError, is_refusal
from mpchat.lifeline import MAINS_SIGNALS, die_with_main, tie_to_main
from mpchat.logs import log_descriptors
from mpchat.output import STANDARD

log = logging.getLogger(__name__)

END_SECONDS = 5.0
"""How long a process that was killed may take to end: it may have much memory to give back, or wait for a disk."""

DESCRIPTORS_MOST = 1 << 20
"""No descriptor is larger, unless the hard limit is: the default of fs.nr_open (proc(5))."""


class Child:
    """A running child. `sentinel` is a descriptor that becomes readable when the process has ended."""

    def __init__(self, pid: int, sentinel: int, lifeline: int) -> None:
        self.pid = pid
        self.sentinel = sentinel
        self._lifeline = lifeline
        self._reaped = False
        self._code: int | None = None

    def kill(self) -> None:
        """Have it end, whatever it is doing. Harmless when it has."""
        if not self._reaped:  # until then, nobody else has its pid
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int | None:
        """Take leave of a process whose sentinel says that it has ended; it touches no memory any more. Give its exit
        code (negative: the signal that killed it), None if somebody else has taken it. Harmless when called again."""
        if not self._reaped:
            self._reaped = True
            try:
                # Its descriptors are closed, so its memory is given back too (do_exit() in kernel/exit.c), and this
                # waits for no more than the last steps in the kernel.
                _, status = os.waitpid(self.pid, 0)
                self._code = os.waitstatus_to_exitcode(status)
            except ChildProcessError:
                log.warning("somebody else has taken the exit status of process pid=%d", self.pid)
            os.close(self.sentinel)
            os.close(self._lifeline)
        return self._code

    def end(self) -> int | None:
        """Kill it and wait until it has ended, up to END_SECONDS. Give its exit code, None if it is not known."""
        if not self._reaped:
            self.kill()
            poll = select.poll()
            poll.register(self.sentinel, select.POLLIN)
            if not poll.poll(END_SECONDS * 1000):
                log.error("process pid=%d was killed and does not end", self.pid)
                return None
        return self.reap()


def start_child(run: Callable[[], int], keep: Iterable[int] = ()) -> Child:
    """Fork a process that calls `run` and ends with the exit code that it returns, or with 1 if it raises.

    Of this process's descriptors it has the standard ones, the log's and those in `keep`. Raises ForkError.
    """
    pipes: list[int] = []
    try:
        for _ in range(2):
            pipes += os.pipe()
        sentinel, running, lifeline, alive = pipes
        # A signal for main that comes while the child still has main's handlers would be told to main twice.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, MAINS_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                _be_child(run, {*STANDARD, *log_descriptors(), *keep, running, lifeline}, lifeline)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except (OSError, MemoryError) as error:
        for descriptor in pipes:
            os.close(descriptor)
        raise ForkError(f"no process can be started: {error}") from error
    os.close(running)
    os.close(lifeline)
    return Child(pid, sentinel, alive)


def _be_child(run: Callable[[], int], keep: set[int], lifeline: int) -> NoReturn:
    """All of the life of the child. Main's frames are still below this one, and are never returned to."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in MAINS_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        # Main's objects are not ours to collect: their descriptors are closed, and the numbers are used again.
        gc.freeze()
        _close_all_but(keep)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, MAINS_SIGNALS)
        die_with_main(lifeline)
        tie_to_main(lifeline)
        code = run()
    except BaseException as error:  # nothing may be raised into main's frames
        if isinstance(error, MpchatError) or is_refusal(error):
            log.error("this process ends: %s", error)
        else:
            log.exception("a fault of ours ends this process")
    finally:
        # Not sys.exit: main's buffers and exit handlers are main's.
        os._exit(code)


def _close_all_but(keep: set[int]) -> None:
    """Close all descriptors but these."""
    if sys.platform != "linux":
        # There is no close_range(2), and a descriptor that is closed already is no matter.
        for name in os.listdir("/dev/fd"):  # noqa: PTH208 - names are all we need
            if int(name) not in keep:
                _close(int(name))
        return
    # By ranges, with close_range(2) where there is one: listing them would need a descriptor more. Not up to the soft
    # limit: that may have been lowered below what is open.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    start = 0
    for number in sorted(keep):
        if start < number:  # an empty range would be taken for one without end
            os.closerange(start, number)
        start = number + 1
    os.closerange(start, max(DESCRIPTORS_MOST, 0 if hard == resource.RLIM_INFINITY else hard))


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass  # the one that the listing itself had open
