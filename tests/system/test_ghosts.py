"""Peers whose network has gone: the system gives them up, also while output waits for them, and their name is free.

The peer's kernel drops all that comes for it (SO_ATTACH_FILTER, socket(7)), so nothing is acknowledged: that is what a
cable pulled out looks like from here. The server's patience is two seconds instead of 120.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import Chatter, Server, running_server, survivable

IMPATIENT = (sys.executable, str(Path(__file__).parents[1] / "support" / "impatient_server.py"), "2")

_SO_ATTACH_FILTER = 26  # include/uapi/asm-generic/socket.h
_RETURN = 0x06  # BPF_RET | BPF_K: how many bytes of the packet are kept

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="socket filters and TCP_USER_TIMEOUT are Linux's")


class Vanishing(Chatter):
    """A client whose network goes away."""

    def vanish(self) -> None:
        """From here on nothing reaches it, and it acknowledges nothing."""
        program = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server("--workers", "2", "--rate", "0", command=IMPATIENT) as running:
        yield running


def sign_on(server: Server, name: str, receive_buffer: int | None = None) -> Vanishing:
    chatter = server.connect_as(Vanishing, receive_buffer)
    chatter.sign_on(name)
    return chatter


def test_a_peer_that_acknowledges_nothing_is_given_up(server: Server) -> None:
    ghost, alice = sign_on(server, "ghost"), server.chat("alice")
    ghost.vanish()
    alice.say("hello")
    alice.expect("* ghost left the chat (connection lost)")
    back = server.chat("ghost")
    alice.say("/msg ghost hello again")
    back.expect("[alice] hello again")


@survivable
def test_a_peer_that_was_carried_on_with_is_given_up_as_well(server: Server) -> None:
    ghost, bob = sign_on(server, "ghost-of-bob"), server.chat("bob")
    server.worker_of(ghost).kill()
    ghost.say("still here")
    bob.expect("ghost-of-bob: still here")
    ghost.vanish()
    bob.say("hello")
    bob.expect("* ghost-of-bob left the chat (connection lost)")


def test_a_peer_that_takes_nothing_is_given_up(server: Server) -> None:
    """It acknowledges, and its window stays shut."""
    stuck, carol = sign_on(server, "stuck", receive_buffer=4096), server.chat("carol")
    for _ in range(20):
        carol.say("x" * 4000)
    carol.expect("* stuck left the chat (connection lost)")
    stuck.expect_end()
