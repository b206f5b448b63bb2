"""Getting from a host and a port to a connected socket.

Promises: a dead address hides no living one of the same host, nothing outlives the deadline (not even a resolver
that hangs, at exit), and the system's errors come out as ConnectFailed.
"""

import asyncio
import os
import socket
import threading
from dataclasses import dataclass
from typing import Any

from mpchat.client.errors import ConnectFailed
from mpchat.client.net.address import Address

KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""A silent peer is found dead after two minutes (tcp(7); macOS calls the first of them TCP_KEEPALIVE)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the addresses of a host, as the socket module wants it."""

    family: socket.AddressFamily
    target: tuple[Any, ...]


async def dial(address: Address, deadline: float, silence: float | None) -> socket.socket:
    """A connected socket. Each of several addresses gets its share of the time, so a dead one hides no living one.

    A peer that takes nothing for `silence` seconds ends the connection, where the system can do that; None: for longer.
    """
    loop = asyncio.get_running_loop()
    candidates = await resolve(address)
    problem: OSError | None = None
    for tried, candidate in enumerate(candidates):
        share = (deadline - loop.time()) / (len(candidates) - tried)
        try:
            async with asyncio.timeout(share):
                return await dial_one(candidate, silence)
        except OSError as error:  # TimeoutError is one
            problem = error
    if isinstance(problem, ConnectionRefusedError):
        raise ConnectFailed(f"Nobody listens on {address}: connection refused.") from problem
    if problem is None or not problem.errno:
        raise TimeoutError from problem
    raise ConnectFailed(f"Cannot connect to {address}: {os.strerror(problem.errno)}.") from problem


async def dial_one(candidate: Candidate, silence: float | None) -> socket.socket:
    sock = socket.socket(candidate.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        set_keepalive(sock)
        await asyncio.get_running_loop().sock_connect(sock, candidate.target)
        if silence is not None:
            # Only now: before, it would also bound the time for an answer to our SYN, which is the caller's to bound.
            limit_silence(sock, silence)
    except BaseException:  # cancelled by Ctrl-C or by the time, too
        sock.close()
        raise
    return sock


def set_keepalive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def limit_silence(sock: socket.socket, silence: float) -> None:
    """Keep-alive does not see a dead peer while output waits for its acknowledgement: this does (tcp(7)).

    It also ends a connection whose peer is alive and has had no room for so long (tcp_probe_timer(), net/ipv4).
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        sock.setsockopt(socket.IPPROTO_TCP, option, int(silence * 1000))


async def resolve(address: Address) -> list[Candidate]:
    """The socket addresses of the host. Raises ConnectFailed.

    Not loop.getaddrinfo(): its thread would be waited for at exit, and a resolver can take minutes to give up.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Candidate] | Exception] = loop.create_future()

    def deliver(found: list[Candidate] | Exception) -> None:
        if not answer.done():
            answer.set_result(found)

    def look_up() -> None:
        found: list[Candidate] | Exception
        try:
            records = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            found = [Candidate(family, target) for family, _, _, _, target in records]
        except (OSError, UnicodeError) as error:  # UnicodeError: no such name can exist, "a..b"
            found = error
        try:
            loop.call_soon_threadsafe(deliver, found)
        except RuntimeError:  # the loop is closed: nobody waits for this any more
            return

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    found = await answer
    if isinstance(found, Exception):
        reason = found.strerror if isinstance(found, OSError) else "not a host name"
        raise ConnectFailed(f"Cannot find {address.host}: {reason}.") from found
    return found
