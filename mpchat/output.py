"""Output that never waits for a reader, and the standard descriptors of this process.

Owns how lines are written to a descriptor: each as a whole, without a buffer, and only if there is room for it now.
Promises:

* `Outlet.write` does not block on a pipe, a socket or a terminal that nothing reads.
* It changes no flag of an open file description that other programs share (open(2)).
* A terminal's TOSTOP (termios(3)) does not stop this process, and causes no SIGTTOU for its output. A SIGTTOU that
  something else sends keeps its meaning.

A write to a regular file takes as long as the disk needs. One gap is left: a terminal of another user, which this
process may not reopen, blocks when it has room for a part of a line only.
"""

import errno
import fcntl
import os
import select
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STANDARD = (0, 1, 2)

PIECE = select.PIPE_BUF
"""Bytes to write at once. A pipe takes this many as a whole or not at all (pipe(7)), and a pipe that is ready for
writing has room for them (Python's documentation of select.PIPE_BUF)."""

# The kernel, or an emulation of it, does not support RWF_NOWAIT for this kind of file.
_NOWAIT_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ESPIPE})


class Outlet:
    """A descriptor to write lines to. The caller owns it and keeps it open."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._put = _choose_write(descriptor)
        self._torn = False  # the last write ended in the middle of a line

    def write(self, data: bytes) -> None:
        """Write whole lines. Raises OSError when not all of them were written (BlockingIOError: there is no room now).

        After a line that was cut off, the next one starts on a line of its own.
        """
        for piece in _cut(b"\n" + data if self._torn else data):
            self._write_piece(piece)

    def _write_piece(self, piece: bytes) -> None:
        rest = memoryview(piece)
        try:
            while rest:
                taken = self._put(self.descriptor, rest)
                if not taken:
                    raise BlockingIOError
                rest = rest[taken:]
        finally:
            written = len(piece) - len(rest)
            if written:
                self._torn = piece[written - 1 : written] != b"\n"


def _cut(data: bytes) -> Iterator[bytes]:
    """Yield pieces of at most PIECE bytes, which end at the ends of lines if possible."""
    start = 0
    while len(data) - start > PIECE:
        end = data.rfind(b"\n", start, start + PIECE) + 1 or start + PIECE
        yield data[start:end]
        start = end
    yield data[start:]


# --- one write, by the kind of file -------------------------------------------------------------------------

_Put = Callable[[int, memoryview], int]
"""Writes some bytes, and returns how many. Raises OSError; never blocks."""


def _choose_write(descriptor: int) -> _Put:
    """Return the function that writes to this descriptor. It raises OSError if the descriptor is closed."""
    try:
        mode = os.fstat(descriptor).st_mode
        waits = os.get_blocking(descriptor)
    except OSError:
        return os.write
    if stat.S_ISSOCK(mode):
        return _send
    if os.isatty(descriptor):
        return _write_if_room_on_terminal if waits else _write_on_terminal
    if stat.S_ISFIFO(mode) and waits:
        return _write_if_room
    return os.write


def _send(descriptor: int, data: memoryview) -> int:
    with _borrowed_socket(descriptor) as peer:
        return peer.send(data, socket.MSG_DONTWAIT)


@contextmanager
def _borrowed_socket(descriptor: int) -> Iterator[socket.socket]:
    borrowed = socket.socket(fileno=descriptor)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _write_if_room(descriptor: int, data: memoryview) -> int:
    """Write to a blocking description that other programs share and that could not be reopened."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    # Another process may have taken the room meanwhile. With RWF_NOWAIT, Linux does not wait in that case (pwritev(2)).
    if hasattr(os, "RWF_NOWAIT"):
        try:
            return os.pwritev(descriptor, [data], -1, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NOWAIT_UNSUPPORTED:
                raise
    return os.write(descriptor, data)


def _write_on_terminal(descriptor: int, data: memoryview) -> int:
    with _without_job_control():
        return os.write(descriptor, data)


def _write_if_room_on_terminal(descriptor: int, data: memoryview) -> int:
    with _without_job_control():
        return _write_if_room(descriptor, data)


@contextmanager
def _without_job_control() -> Iterator[None]:
    """Let this thread write to a terminal from the background, even with TOSTOP.

    The kernel sends no SIGTTOU to a thread that blocks it (tty_check_change() in drivers/tty/tty_jobctrl.c; POSIX,
    11.1.4). One that something else sends meanwhile waits, or goes to another thread.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- the standard descriptors -------------------------------------------------------------------------------


def open_standard_descriptors() -> None:
    """Open standard descriptors that are closed on /dev/null, before a file or a client gets their numbers.

    After this, neither sys.stdout nor sys.stderr is None.
    """
    for descriptor in STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
            os.set_inheritable(opened, True)
    # These files stay open as long as the process runs.
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115


def unblock_standard_output() -> None:
    """Make standard output and standard error non-blocking, for this process and its children.

    A pipe or a terminal is reopened, since O_NONBLOCK holds for all programs that share a description. Where that is
    impossible (no /proc, another user's terminal), the descriptor stays blocking, and `Outlet` checks for room first.
    """
    for descriptor in STANDARD[1:]:
        if os.get_blocking(descriptor) and _is_pipe_or_terminal(descriptor):
            opened = _reopen(descriptor)
            if opened is not None:
                os.dup2(opened, descriptor)
                os.close(opened)


def settle_standard_streams() -> None:
    """Flush the standard streams, or drop their content if that fails.

    The interpreter would flush them again at its end, and exit with 120 if that failed.
    """
    for stream in sys.stdout, sys.stderr:
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _is_pipe_or_terminal(descriptor: int) -> bool:
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor)


def _reopen(descriptor: int) -> int | None:
    """Open the same pipe or terminal again, non-blocking. Return the descriptor, None if that is impossible."""
    access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    for find_path in _proc_path, os.ttyname:
        try:
            return os.open(find_path(descriptor), access | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            continue
    return None


def _proc_path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"
