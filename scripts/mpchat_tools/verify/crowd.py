"""Many clients in one loop over non-blocking sockets.

Owns their connections. Promises to keep reading while the server does not accept what a client sends, and to serve
observers first, so that the reference is ahead of the other streams. It never judges a stream.
"""

from __future__ import annotations

import random
import selectors
import socket
from collections.abc import Callable, Collection
from typing import Any, Generic, TypeVar

from mpchat.errors import in_words
from mpchat_tools.common.errors import ToolError
from mpchat_tools.verify.check import RoomCheck, Stream

RECEIVE_BYTES = 256 << 10  # per recv: more than a socket's receive buffer usually holds
SLOW_BYTES = 8 << 10  # and of a client that reads slowly
TICK_S = 0.005  # at most, when something waits to be sent

AStream = TypeVar("AStream", bound=Stream)


class Client(Generic[AStream]):
    """One connection. It keeps what the socket does not accept."""

    def __init__(self, address: tuple[str, int], stream: AStream, patience: float, slow: bool = False) -> None:
        """Raises ToolError if there is no connection within `patience` seconds."""
        self.stream = stream
        self.slow = slow
        self.gone = False
        self.paused = False  # not read for now
        self.unsent = bytearray()
        self.socket = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        try:
            if slow:
                # So that what it does not read waits in the server.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * SLOW_BYTES)
            self.socket.settimeout(patience)
            self.socket.connect(address)
            self.socket.setblocking(False)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            self.socket.close()
            raise ToolError(f"{stream.name.decode()} could not connect: {in_words(error)}") from error

    def push(self, dice: random.Random | None) -> None:
        """Send what waits, or with `dice` a part of random size. The rest is tried again, unless the connection is
        over, which reading shows."""
        part = self.unsent[: dice.randint(1, len(self.unsent))] if dice else self.unsent
        try:
            del self.unsent[: self.socket.send(part)]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent.clear()

    def pull(self) -> bytes | None:
        """Return what has arrived: empty when the connection is over, None when there is nothing yet."""
        try:
            return self.socket.recv(SLOW_BYTES if self.slow else RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError:  # reset
            return b""


AClient = TypeVar("AClient", bound=Client[Any])


class Crowd(Generic[AClient]):
    """All clients of one process, who are in `rooms`. `receive` is called with all that a client receives, `end` when
    its connection is over. With `dice`, clients send in pieces of any size."""

    def __init__(
        self,
        receive: Callable[[AClient, bytes], None],
        end: Callable[[AClient], None],
        rooms: Collection[RoomCheck] = (),
        dice: random.Random | None = None,
    ) -> None:
        self.clients: list[AClient] = []
        self._receive = receive
        self._end = end
        self._rooms = rooms
        self._dice = dice
        self._selector = selectors.DefaultSelector()
        self._sending: dict[AClient, None] = {}

    def watch(self, file: Any, callback: Callable[[], None]) -> None:
        """Also call `callback` when `file` is readable."""
        self._selector.register(file, selectors.EVENT_READ, callback)

    def add(self, client: AClient) -> None:
        self.clients.append(client)
        self._selector.register(client.socket, selectors.EVENT_READ, client)

    def say(self, client: AClient, data: bytes) -> None:
        if not client.gone:
            client.unsent += data
            self._sending[client] = None

    def pause(self, client: AClient) -> None:
        """Do not read from it until `resume`."""
        client.paused = True
        self._selector.unregister(client.socket)

    def resume(self, client: AClient) -> None:
        client.paused = False
        self._selector.register(client.socket, selectors.EVENT_READ, client)

    def turn(self, timeout: float) -> None:
        """Send and receive what is possible; wait at most `timeout` seconds for it."""
        for client in list(self._sending):
            client.push(self._dice)
            if not client.unsent:
                self._sending.pop(client, None)
        ready = self._selector.select(min(timeout, TICK_S) if self._sending else timeout)
        ready.sort(key=lambda event: not (isinstance(event[0].data, Client) and event[0].data.stream.silent))
        for key, _ in ready:
            if callable(key.data):
                key.data()
            elif data := key.data.pull():
                self._receive(key.data, data)
            elif data is not None:
                self._drop(key.data)
        for room in self._rooms:
            room.wake()

    def _drop(self, client: AClient) -> None:
        client.gone = True
        if not client.paused:
            self._selector.unregister(client.socket)
        client.socket.close()
        self._sending.pop(client, None)
        self.clients.remove(client)
        self._end(client)

    def close(self) -> None:
        """Disconnect everybody, in whatever state they are."""
        for client in self.clients:
            client.socket.close()
        self._selector.close()
