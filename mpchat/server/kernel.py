"""What the kernel knows of a TCP connection: how many bytes the process that has it, dead or alive, received and sent.

Owns the numbers of Linux's interface and nothing else. Sources: struct tcp_info in include/uapi/linux/tcp.h
(`tcpi_state` at 0, `tcpi_bytes_acked` at 120, `tcpi_bytes_received` at 128, since Linux 4.1), tcp(7) and ioctl_tty(2)
for SIOCINQ, which is FIONREAD, and SIOCOUTQ. On other systems `AVAILABLE` is false, and the clients of a worker that
dies are disconnected.
"""

import enum
import errno
import fcntl
import socket
import struct
import sys
import termios
from typing import NamedTuple

AVAILABLE = sys.platform == "linux"

_TCP_INFO = 11
_TCP_INFO_SIZE = 192
_SIOCOUTQ = 0x5411
_COUNTERS = struct.Struct("QQ")
_COUNTERS_AT = 120

_ESTABLISHED = 1
_CLOSE = 7
_CLOSE_WAIT = 8

READS = 100
"""How often to read the counters until two reads agree. They differ only if an acknowledgement arrives in between."""


class Progress(NamedTuple):
    """How far a connection has come, in bytes since it began.

    `consumed`: bytes that were received from the kernel. `written`: bytes that the kernel has taken in sends, arrived
    or not. `writable`: whether our side of the stream is still open. `reset`: whether the connection broke before the
    peer had ended its side. If not `exact`, it is unknown whether the peer had, and `consumed` may count that end as a
    byte.
    """

    consumed: int
    written: int
    writable: bool
    reset: bool = False
    exact: bool = True


class Peer(enum.Enum):
    """What the kernel knows of the process at the other end."""

    HERE = enum.auto()
    ENDED = enum.auto()  # it has ended its side, and may still read
    GONE = enum.auto()  # the connection is broken


def find_peer(connection: socket.socket) -> Peer:
    """Look at the peer without receiving anything. HERE, too, where the system does not say."""
    try:
        state = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] if AVAILABLE else _ESTABLISHED
    except OSError:
        return Peer.HERE
    return {_CLOSE: Peer.GONE, _CLOSE_WAIT: Peer.ENDED}.get(state, Peer.HERE)


def read_progress(connection: socket.socket) -> Progress:
    """Ask the kernel. No process may receive or send on the connection meanwhile. Raises OSError if it does not say.

    This takes the pending error of a broken connection. Later reads only see its end; `reset` says that it broke.
    """
    for _ in range(READS):
        before = _read_counters(connection)
        unread = _ask(connection, termios.FIONREAD)
        unacked = _ask(connection, _SIOCOUTQ)
        after = _read_counters(connection)
        if before == after:
            break
    else:
        raise OSError("the counters of a connection do not stop changing")
    state, acked, received = after
    # The end of the peer's stream counts as a byte received, but not as one to read. After a reset the state does not
    # say whether that end had come. The error does: it is EPIPE if so (tcp_reset() in net/ipv4/tcp_input.c). But an
    # error is reported once, perhaps to the dead worker.
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if state == _CLOSE else 0
    ended = state == _CLOSE_WAIT or error == errno.EPIPE
    writable = state in (_ESTABLISHED, _CLOSE_WAIT)
    exact = writable or bool(error)
    return Progress(received - ended - unread, acked + unacked, writable, state == _CLOSE and not ended, exact)


def _read_counters(connection: socket.socket) -> tuple[int, int, int]:
    info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_SIZE)
    if len(info) < _COUNTERS_AT + _COUNTERS.size:
        raise OSError("the system does not count the bytes of connections")
    acked, received = _COUNTERS.unpack_from(info, _COUNTERS_AT)
    return info[0], acked, received


def _ask(connection: socket.socket, request: int) -> int:
    answer = fcntl.ioctl(connection.fileno(), request, b"\0\0\0\0")
    return int.from_bytes(answer, sys.byteorder)
