"""A sequencer that the test plays, byte by byte where that matters, at the other end of a real link."""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from multiprocessing.connection import Connection
from typing import Any

from onloop import DEADLINE, turn

from mpchat.log.local.link import ManagerLink


def frame(kind: str, result: object) -> bytes:
    data = pickle.dumps((kind, result))
    return struct.pack("!i", len(data)) + data


class PlayedSequencer:
    """The other end of a link."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair()
        self.link = ManagerLink(Connection(ours.detach()), "log")
        self.socket.setblocking(False)

    async def send(self, data: bytes) -> None:
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self.socket, data), DEADLINE)
        await turn()

    async def take_call(self) -> tuple[str, tuple[Any, ...]]:
        (length,) = struct.unpack("!i", await self._receive(4))
        _, method, arguments, _ = pickle.loads(await self._receive(length))
        return method, arguments

    async def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            received = asyncio.get_running_loop().sock_recv(self.socket, size - len(data))
            data += await asyncio.wait_for(received, DEADLINE)
        return bytes(data)
