"""The acceptor: clients of all listeners are admitted together, and each is placed with the dialect of its listener."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from unittest import mock

import pytest

from mpchat.chat.entries import SessionId
from mpchat.config import Config
from mpchat.server.ledger import Ledger, Shape
from mpchat.server.main.connection import Held
from mpchat.server.main.intake.acceptor import Acceptor
from mpchat.server.main.intake.listener import Listener
from mpchat.server.main.waitloop import WaitLoop
from mpchat.wire import registry

DEADLINE = 10.0
DIALECTS = ("line", "another")


class Queue:
    """A taker that keeps the clients, by dialect."""

    def __init__(self) -> None:
        self.placed: dict[str, list[Held]] = {dialect: [] for dialect in DIALECTS}
        self.count = 0

    def place(self, sid: SessionId, held: Held) -> None:
        self.placed[held.dialect].append(held)
        self.count += 1

    def hand_off(self) -> None:
        pass

    def close(self) -> None:
        for helds in self.placed.values():
            for held in helds:
                held.release()


class Door:
    """An acceptor with a listener for each of DIALECTS, and the clients that have come."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.loop = WaitLoop()
        stack.callback(self.loop.close)
        stack.enter_context(mock.patch.dict(registry.DIALECTS, {DIALECTS[1]: registry.DIALECTS[registry.LINE]}))
        self.listeners = [stack.enter_context(closing(Listener("127.0.0.1", 0, dialect))) for dialect in DIALECTS]
        self.ledger = stack.enter_context(closing(Ledger(Shape(pages=3, workers=1, ring=1 << 14))))
        self.acceptor = Acceptor(self.loop, self.listeners, self.ledger, Config(max_clients=3, workers=1))
        self.taker = stack.enter_context(closing(Queue()))
        self.acceptor.watch(self.taker, 0.0)

    def connect(self, dialect: str) -> socket.socket:
        host, _, port = self.listeners[DIALECTS.index(dialect)].address.rpartition(":")
        return self._stack.enter_context(socket.create_connection((host, int(port)), DEADLINE))

    def wait_until_placed(self, count: int) -> None:
        while self.taker.count < count:
            before = self.taker.count
            self.loop.wait(DEADLINE, lambda: None)
            assert self.taker.count > before


@pytest.fixture
def door() -> Iterator[Door]:
    with ExitStack() as stack:
        yield Door(stack)


def test_each_client_is_placed_with_the_dialect_of_its_listener(door: Door) -> None:
    for dialect in ("line", "another", "another"):
        door.connect(dialect)
    door.wait_until_placed(3)
    assert {dialect: len(helds) for dialect, helds in door.taker.placed.items()} == {"line": 1, "another": 2}
    assert sorted(held.page for helds in door.taker.placed.values() for held in helds) == [0, 1, 2]


def test_one_limit_holds_for_all_listeners(door: Door) -> None:
    for dialect in ("line", "another", "line"):
        door.connect(dialect)
    door.wait_until_placed(3)
    rejected = door.connect("another")
    door.loop.wait(DEADLINE, lambda: None)
    assert rejected.recv(1000).startswith(b"! The server is full: 3 clients.")
    assert door.taker.count == door.acceptor.clients == 3


def test_without_workers_no_listener_accepts(door: Door) -> None:
    door.acceptor.watch(None, 0.0)
    for dialect in DIALECTS:
        door.connect(dialect)
    door.loop.wait(0.0, lambda: None)
    assert door.taker.count == 0
    door.acceptor.watch(door.taker, 0.0)
    door.wait_until_placed(2)
    assert all(len(helds) == 1 for helds in door.taker.placed.values())


def test_stopping_closes_every_listener(door: Door) -> None:
    addresses = [listener.address.rpartition(":") for listener in door.listeners]
    door.acceptor.stop()
    for host, _, port in addresses:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), DEADLINE)
