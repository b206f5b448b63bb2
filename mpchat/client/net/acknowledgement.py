"""How much of what was sent has reached the other system, as the kernel knows it.

Linux only; elsewhere all counts as acknowledged. It has reached the system, and not always the program: one that is
killed may have left it unread.
"""

import socket
import struct
import sys

_BYTES_ACKED = 120
"""Where struct tcp_info has tcpi_bytes_acked, 64 bits wide (linux/tcp.h; since Linux 4.1)."""


def count_acknowledged(sock: socket.socket, written: int) -> int:
    """How many of the `written` bytes are acknowledged. Never raises."""
    if sys.platform != "linux":
        return written
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
    except OSError:
        return written
    if len(info) < _BYTES_ACKED + 8:
        return written
    acknowledged: int = struct.unpack_from("=Q", info, _BYTES_ACKED)[0]
    return min(max(acknowledged - 1, 0), written)  # the SYN counts as one
