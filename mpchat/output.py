"""Output that waits for nobody, and the standard descriptors of this process.

Owns how lines are written to a descriptor: each whole, without a buffer, and only if there is room for it now.
Promises: `Outlet.write` does not block on a pipe, a socket or a terminal that nobody reads; it changes no flag of a
description that other programs share; and a terminal's TOSTOP (termios(3)) neither stops this process nor sends it
SIGTTOU for its own output, while a SIGTTOU that somebody sends keeps its meaning. A regular file takes what is written
as fast as its disk does. One gap is left: a terminal of another user, that may not be opened anew, blocks when it has
room for a part of a line only.
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
"""Bytes written at once: a pipe takes so many as a whole or not at all (pipe(7)), and one that is ready for writing has
room for them (Python's documentation of select.PIPE_BUF)."""

# The kernel, or what stands for one, knows no RWF_NOWAIT for this kind of file.
_CANNOT_BE_TOLD = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ESPIPE})


class Outlet:
    """Where lines go: an open descriptor, which remains the caller's and must stay open."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._put = _choose_way(descriptor)
        self._torn = False  # what was written last is the beginning of a line

    def write(self, data: bytes) -> None:
        """Write whole lines. Raises OSError (BlockingIOError: there is no room now) when not all of them were written;
        then the next line starts on a line of its own."""
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
    """Pieces of at most PIECE bytes, which end where lines do if that can be."""
    start = 0
    while len(data) - start > PIECE:
        end = data.rfind(b"\n", start, start + PIECE) + 1 or start + PIECE
        yield data[start:end]
        start = end
    yield data[start:]


# --- one write, by what the descriptor stands for -----------------------------------------------------------

_Put = Callable[[int, memoryview], int]
"""Writes some bytes, and gives how many. Raises OSError; never blocks."""


def _choose_way(descriptor: int) -> _Put:
    """The way to write there. A descriptor that is closed has one, too: it raises OSError then."""
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
    """For a description that blocks, since it is shared with others and could not be opened anew."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    # Another process that writes there can have been faster. Linux can be told not to wait even so (pwritev(2)).
    if hasattr(os, "RWF_NOWAIT"):
        try:
            return os.pwritev(descriptor, [data], -1, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _CANNOT_BE_TOLD:
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
    """Let this thread write to a terminal from the background, whatever its TOSTOP says.

    The kernel asks whether the writing thread blocks SIGTTOU, and then sends none (tty_check_change() in
    drivers/tty/tty_jobctrl.c; POSIX, 11.1.4). One that somebody else sends meanwhile waits, or goes to another thread.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- the standard descriptors -------------------------------------------------------------------------------


def open_standard_descriptors() -> None:
    """Open on /dev/null those of them that are closed, before another file gets their numbers, and what is written to
    standard error goes there. No standard stream is None any more."""
    for descriptor in STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(opened, True)
    # They last as long as the process.
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115


def unblock_standard_output() -> None:
    """Let nobody who writes to standard output or standard error wait for room, in this process and its children.

    A pipe or a terminal is opened anew, since O_NONBLOCK would hold for all programs that share the description. Where
    that cannot be done (no /proc, another user's terminal), an Outlet finds another way.
    """
    for descriptor in STANDARD[1:]:
        if os.get_blocking(descriptor) and _is_pipe_or_terminal(descriptor):
            opened = _open_anew(descriptor)
            if opened is not None:
                os.dup2(opened, descriptor)
                os.close(opened)


def settle_standard_streams() -> None:
    """Write what the standard streams hold, or drop it. What cannot be written would be tried again when the
    interpreter ends, and make the exit code 120."""
    for stream in sys.stdout, sys.stderr:
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _is_pipe_or_terminal(descriptor: int) -> bool:
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor)


def _open_anew(descriptor: int) -> int | None:
    """Another description, that does not block, of the same pipe or terminal; None if there can be none."""
    access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    for find_path in _proc_path, os.ttyname:
        try:
            return os.open(find_path(descriptor), access | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            continue
    return None


def _proc_path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"
