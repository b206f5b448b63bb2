"""A client's connection as main holds it, between workers and beside the one that serves the client.

Owns what main does to a connection by itself: set how long its peer may be silent, close its duplicate of the
descriptor, disconnect, refuse. Never reads a byte from a client.
"""

import os
import socket
from contextlib import suppress
from typing import NamedTuple

from mpchat.chat.problems import Refusal
from mpchat.wire.dialect import Dialect

SILENCE = 120
"""Seconds after which the system gives up a peer that does not answer."""

_PROBES = 4
"""How often keep-alive asks in the second half of SILENCE."""


class Held(NamedTuple):
    """A client's connection: main's duplicate of its descriptor, the peer's address, the connection's page of the
    ledger, and the id of the dialect that the client speaks.

    `epoch` counts the workers that have had the connection before. `name` and `since` are for the next program only:
    under which name the client is in the access log, and since when (seconds of CLOCK_MONOTONIC).
    """

    descriptor: int
    address: str
    page: int
    dialect: str
    epoch: int = 0
    name: str = ""
    since: int = 0

    def next(self) -> "Held":
        """The same connection, for the next worker."""
        return self._replace(epoch=self.epoch + 1)

    def set_patience(self) -> None:
        """Have the system give up a peer that does not answer: the program before may not have asked for that."""
        with socket.socket(fileno=os.dup(self.descriptor)) as client, suppress(OSError):
            # An error means that the peer has gone already.
            set_patience(client)

    def disconnect(self) -> None:
        """End the connection for every process that has it, and close main's duplicate."""
        with socket.socket(fileno=self.descriptor) as client, suppress(OSError):
            # An error means that the peer has gone already.
            client.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Close main's duplicate. The worker has ended the connection."""
        os.close(self.descriptor)

    def turn_away(self, dialect: Dialect, refusal: Refusal) -> None:
        """Disconnect, after telling a client that no worker has served yet why it cannot come in.

        A client that a worker has served is not told: the stream may end in the middle of a line.
        """
        if self.epoch:
            self.disconnect()
        else:
            refuse(socket.socket(fileno=self.descriptor), dialect, refusal)


def refuse(client: socket.socket, dialect: Dialect, refusal: Refusal) -> None:
    """Tell a new client why it cannot come in, if its socket has room for that, and disconnect it."""
    with client, suppress(OSError):
        client.setblocking(False)
        client.send(dialect.refuse(refusal))
        client.shutdown(socket.SHUT_RDWR)


def set_patience(connection: socket.socket) -> None:
    """Have the system give up a peer that does not answer for SILENCE seconds, as far as the system can."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = SILENCE // 2
    options = {
        # Keep-alive detects that a peer has vanished while nothing is sent to it.
        "TCP_KEEPIDLE": idle,
        "TCP_KEEPALIVE": idle,  # the same on macOS
        "TCP_KEEPINTVL": max(1, (SILENCE - idle) // _PROBES),
        "TCP_KEEPCNT": _PROBES,
        # While output is not acknowledged there are no probes, and the kernel would send it again for 15 minutes
        # (tcp(7), tcp_retries2). This also counts while a peer acknowledges and keeps its window shut: one that takes
        # nothing at all for so long is given up, too (tcp_probe_timer() in net/ipv4/tcp_timer.c). In milliseconds.
        "TCP_USER_TIMEOUT": SILENCE * 1000,
    }
    for name, value in options.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
