"""A client's connection as main holds it, between workers and beside the one that serves the client.

Owns what main does to a connection by itself: close its duplicate of the descriptor, disconnect, refuse. Never reads a
byte from a client.
"""

import os
import socket
from contextlib import suppress
from typing import NamedTuple

from mpchat.chat.problems import Refusal
from mpchat.wire.dialect import Dialect


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
