"""A listener: one listening socket, and the dialect that its clients speak.

Owns the socket and its options, and how addresses are written: with the scope of a link-local one
(``fe80::1%eth0``), and an IPv4 address that came through an IPv6 socket as IPv4. An accepted socket inherits the
options (tcp(7); macOS does the same), which saves four calls a client. Promises that `accept` never waits. Never
decides which clients are admitted.
"""

import errno
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from mpchat.errors import ListenError, in_words
from mpchat.server.main.connection import set_patience

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait to be accepted. The kernel lowers it to net.core.somaxconn, whose default is this."""

ACCEPT_MOST = 512
"""Connections accepted at once, before main looks at other events."""

# There is no descriptor or memory for another connection. It stays in the backlog (accept(2)).
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_ANY_IPV4, _ANY_IPV6 = "0.0.0.0", "::"
_MAPPED = "::ffff:"  # before an IPv4 address that is mapped into IPv6 (RFC 4291, 2.5.5.2)

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
    """A socket that listens on `host` and `port`. Raises ListenError when the system refuses it.

    On ``::`` it takes IPv4 connections too if `dual` says so and the system can; the log says which.
    """

    def __init__(
        self, host: str, port: int, dialect: str, dual: bool = True, inherited: socket.socket | None = None
    ) -> None:
        self.dialect = dialect
        """The id of the dialect that its clients speak."""
        self._socket = inherited or _listen(host, port, dual)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What is sent as urgent data is part of the stream: telnet's Data Mark is (RFC 854, "Synch"). Without this the
        # kernel takes the byte out, and the next one stands in its place.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        set_patience(self._socket)

    @classmethod
    def inherit(cls, descriptor: int, dialect: str) -> "Listener":
        """A listener of the previous program in this process."""
        return cls("", 0, dialect, inherited=socket.socket(fileno=descriptor))

    @property
    def address(self) -> str:
        """Where it listens, as ``host:port``."""
        address = self._socket.getsockname()
        return _join(_write_host(address), address[1])

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can connect to it."""
        host = str(self._socket.getsockname()[0])
        return host == "::1" or host.removeprefix(_MAPPED).startswith("127.")

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
                    raise Shortage(in_words(error)) from error
                break
            arrivals.append(Arrival(accepted, _write_host(address), self.dialect))
        return arrivals

    def close(self) -> None:
        self._socket.close()


def open_listeners(hosts: Sequence[str], port: int, dialect: str) -> list[Listener]:
    """Listen on each of `hosts`. Raises ListenError, and then leaves none open."""
    listeners: list[Listener] = []
    try:
        for host in hosts:
            # Otherwise both would want the IPv4 port.
            listeners.append(Listener(host, port, dialect, dual=_ANY_IPV4 not in hosts))
    except ListenError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listen(host: str, port: int, dual: bool) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ListenError(_explain(error, host, port)) from error
    try:
        # A port whose last server has just ended is free; on Linux, no other socket can listen on it (socket(7)).
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            _choose_versions(listening, address, dual)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ListenError(_explain(error, host, port)) from error
    return listening


def _choose_versions(listening: socket.socket, address: Sequence[Any], dual: bool) -> None:
    """Have it take IPv4 connections too, if it listens on every address and `dual` says so (ipv6(7))."""
    wanted = dual and address[0] == _ANY_IPV6
    if wanted and socket.has_dualstack_ipv6():
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        log.info("IPv4 is taken too address=%s", _join(_ANY_IPV6, address[1]))
        return
    if wanted:
        log.warning("IPv4 is not taken: add --host 0.0.0.0 for it address=%s", _join(_ANY_IPV6, address[1]))
    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _explain(error: Exception, host: str, port: int) -> str:
    address = _join(host, port)
    if isinstance(error, UnicodeError | socket.gaierror):
        return f"cannot listen: there is no host {host!r}"
    match error.errno if isinstance(error, OSError) else None:
        case errno.EADDRINUSE:
            return f"cannot listen: the address {address} is in use"
        case errno.EADDRNOTAVAIL:
            return f"cannot listen: this machine does not have the address {address}"
        case errno.EACCES:
            return f"cannot listen: this user may not listen on {address}"
    return f"cannot listen on {address}: {in_words(error)}"


def _write_host(address: Sequence[Any]) -> str:
    """Return the host of a socket address: with its scope if it has one, and as IPv4 if it is a mapped IPv4 address."""
    host = str(address[0])
    if len(address) < 4:
        return host
    if host.startswith(_MAPPED) and "." in host:
        return host.removeprefix(_MAPPED)
    scope = address[3]
    if not scope or "%" in host:
        return host
    with suppress(OSError):  # the interface has just been removed
        return f"{host}%{socket.if_indextoname(scope)}"
    return f"{host}%{scope}"


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
