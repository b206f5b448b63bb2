"""A listener: one listening socket, and the dialect that its clients speak.

Owns the socket and its options. An accepted socket inherits the options (tcp(7); macOS does the same), which saves four
calls a client. Promises that `accept` never waits. Never decides which clients are admitted.
"""

import errno
import socket
from typing import NamedTuple

from mpchat.errors import ListenError, in_words

BACKLOG = 4096
"""Connections that may wait to be accepted. The kernel lowers it to net.core.somaxconn, whose default is this."""

ACCEPT_MOST = 512
"""Connections accepted at once, before main looks at other events."""

# A peer that has vanished is detected after 60 + 4 x 15 = 120 s without any traffic.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPALIVE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))

# There is no descriptor or memory for another connection. It stays in the backlog (accept(2)).
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
    """A connection that was just accepted: its socket, which is the receiver's, the peer's address, and the id of the
    dialect that the peer speaks."""

    socket: socket.socket
    address: str
    dialect: str


class Shortage(Exception):
    """There is no descriptor or memory for another connection."""


class Listener:
    """A socket that listens on `host` and `port`. Raises ListenError when the system refuses it."""

    def __init__(self, host: str, port: int, dialect: str, inherited: socket.socket | None = None) -> None:
        self.dialect = dialect
        """The id of the dialect that its clients speak."""
        self._socket = inherited or _listen(host, port)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # What is sent as urgent data is part of the stream: telnet's Data Mark is (RFC 854, "Synch"). Without this the
        # kernel takes the byte out, and the next one stands in its place.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    @classmethod
    def inherit(cls, descriptor: int, dialect: str) -> "Listener":
        """A listener of the previous program in this process."""
        return cls("", 0, dialect, socket.socket(fileno=descriptor))

    @property
    def address(self) -> str:
        """Where it listens, as ``host:port``."""
        host, port = self._socket.getsockname()[:2]
        return _join(host, port)

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> list[Arrival]:
        """The connections that wait, up to ACCEPT_MOST. Raises Shortage when a shortage lets none be accepted."""
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
        raise ListenError(f"cannot listen on {_join(host, port)}: {in_words(error)}") from error


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
