"""The listening socket, and what comes in through it.

Owns the socket and its options; what is accepted inherits them (tcp(7); so on macOS), which saves four calls a client.
Promises that `accept` never waits. Never decides who may come in.
"""

import errno
import socket
from typing import NamedTuple

from mpchat.errors import ListenError
from mpchat.wire.registry import LINE

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel cuts it to net.core.somaxconn, whose default is this."""

ACCEPT_MOST = 512
"""Connections accepted before main looks at its other business."""

# A peer that has gone without a word is found after 60 + 4 x 15 = 120 s without any traffic.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPALIVE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))

# No descriptor or no memory for another connection: it stays in the backlog (accept(2)).
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# Errors of the one connection that would have been accepted (accept(2), "Error handling").
_GONE = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.EPERM,
    }
)


class Arrival(NamedTuple):
    """A connection just accepted. The socket belongs to who gets it. `dialect` is the id of what is spoken here."""

    socket: socket.socket
    address: str
    dialect: str


class Shortage(Exception):
    """There is no descriptor or memory to accept another connection with."""


class Listener:
    """The listening socket of the server. Raises ListenError when it cannot be had."""

    def __init__(self, host: str, port: int, inherited: socket.socket | None = None) -> None:
        self.dialect = LINE
        """The id of the dialect that clients speak here."""
        self._socket = inherited or _listen(host, port)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    @classmethod
    def inherit(cls, descriptor: int) -> "Listener":
        """The one that the program before this one in the same process had."""
        return cls("", 0, socket.socket(fileno=descriptor))

    @property
    def address(self) -> str:
        """Where it listens, as ``host:port``."""
        host, port = self._socket.getsockname()[:2]
        return _join(host, port)

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> list[Arrival]:
        """The connections that wait, up to ACCEPT_MOST. Raises Shortage when there are none because of one."""
        arrivals: list[Arrival] = []
        while len(arrivals) < ACCEPT_MOST:
            try:
                accepted, address = self._socket.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _GONE:
                    continue
                if error.errno not in _SHORTAGE:
                    raise
                if not arrivals:
                    raise Shortage(str(error)) from error
                break
            arrivals.append(Arrival(accepted, str(address[0]), self.dialect))
        return arrivals

    def close(self) -> None:
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {_join(host, port)}: {error}") from error


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
