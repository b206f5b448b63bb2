"""The log in the sequencer, for callers that can wait; and its address, from which every connection to it is opened.

A `LogProxy` speaks as `multiprocessing.managers.BaseProxy` does, over one connection for each thread, but is none. A
BaseProxy announces itself to the Manager when it is made and when it goes, and waits for an answer. The log lives as
long as its process, so a LogProxy has nothing to announce: it can be made and dropped while the sequencer is dead or
hangs. Every failure of the connection is a LogLost.
"""

import hmac  # noqa: F401 - multiprocessing.connection would look for it on the disk at the first connection
import os
import socket
import struct
import threading
from contextlib import suppress
from multiprocessing import AuthenticationError, connection, current_process
from typing import Any, NamedTuple

from mpchat.errors import in_words
from mpchat.log.local.link import ManagerLink
from mpchat.log.port import CONNECT_SECONDS, PIECE, LogError, LogLost, LogTrimmed, Record, Snapshot, SnapshotPlace

LOST = (EOFError, OSError)
"""What the ways of losing a Manager raise: the end of the stream, a reset or refused connection, a closed handle."""


class ManagerAddress(NamedTuple):
    """A `port.LogAddress`: the Manager's socket, and the log's name in the Manager. It is of use to main and its
    children only, which have main's key."""

    socket: str
    ident: str

    def open_log(self) -> "LogProxy":
        """Connect this thread to the log. Raises LogLost."""
        proxy = LogProxy(self)
        proxy.connect()
        return proxy

    def open_link(self, name: str, patience: float = CONNECT_SECONDS) -> ManagerLink:
        """Open a connection for an event loop. The Manager names the thread that lets it in `name`. Each step may take
        `patience` seconds. Raises LogLost."""
        raw = connect_manager(self.socket, current_process().authkey, patience)
        # With no object, this call makes the connection one that calls methods (`Server.handle_request`).
        introduction = ManagerLink(raw, None, patience)
        try:
            introduction.call("accept_connection", name)
            introduction.receive()
        except LogError:
            introduction.close()
            raise
        return ManagerLink(raw, self.ident)


class LogProxy:
    """A `port.Log` in the sequencer. Threads may share it, and it can be sent to a process that is being started."""

    def __init__(self, address: ManagerAddress) -> None:
        self.address = address
        self._links = threading.local()

    def publish(self, payload: bytes) -> int:
        return int(self._call("publish", payload))

    def read(self, after: int, wait: float) -> list[Record]:
        records: list[Record] = self._call("read", after, wait)
        return records

    def claim_snapshot(self) -> bool:
        return bool(self._call("claim_snapshot"))

    def put_snapshot(self, seq: int, blob: bytes) -> None:
        if len(blob) <= PIECE:
            self._call("put_snapshot", seq, blob)
            return
        for start in range(0, len(blob), PIECE):
            self._call("stage_snapshot", start, blob[start : start + PIECE])
        self._call("put_staged_snapshot", seq)

    def get_snapshot(self, at_most: int | None = None) -> Snapshot:
        while True:
            place = self.find_snapshot(at_most)
            with suppress(LogTrimmed):  # it was dropped meanwhile, so there is a newer one
                pieces = [self.read_snapshot(place.seq, start, PIECE) for start in range(0, place.size, PIECE)]
                return Snapshot(place.seq, b"".join(pieces))

    def find_snapshot(self, at_most: int | None = None) -> SnapshotPlace:
        return SnapshotPlace(*self._call("find_snapshot", at_most))

    def read_snapshot(self, seq: int, start: int, size: int) -> bytes:
        return bytes(self._call("read_snapshot", seq, start, size))

    def ping(self) -> int:
        """Return the number of the last record."""
        return int(self._call("ping"))

    def connect(self) -> None:
        """Open a connection for this thread, if it has none. Raises LogLost."""
        if getattr(self._links, "link", None) is None:
            self._links.link = self.address.open_link(threading.current_thread().name)

    def close(self) -> None:
        """Close the connections of all threads, none of which has a call under way. A later call opens another."""
        self._links = threading.local()

    def _call(self, method: str, *arguments: object) -> Any:
        self.connect()
        link: ManagerLink = self._links.link
        # If this is interrupted before the answer is received, the link is good for no other call.
        self._links.link = None
        try:
            link.call(method, *arguments)
            answer = link.receive()
        except LogLost:
            link.close()
            raise
        except LogError:
            self._links.link = link
            raise
        self._links.link = link
        return answer

    def __enter__(self) -> "LogProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return LogProxy, (self.address,)


def connect_manager(listens_at: str, key: bytes, patience: float) -> "connection.Connection[Any, Any]":
    """Connect to the Manager; each side shows the other that it has the key. Each step may take `patience` seconds,
    where `connection.Client` would wait for ever. Raises LogLost."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            _limit_waiting(client.fileno(), patience)
            client.connect(listens_at)
            raw: connection.Connection[Any, Any] = connection.Connection(client.detach())
    except OSError as error:
        raise LogLost(f"the sequencer does not answer: {in_words(error)}") from error
    try:
        connection.answer_challenge(raw, key)
        connection.deliver_challenge(raw, key)
    except (*LOST, AuthenticationError) as error:
        raw.close()
        raise LogLost(f"the sequencer does not answer: {in_words(error)}") from error
    return raw


def _limit_waiting(descriptor: int, seconds: float) -> None:
    """Limit how long a receive or a send on this socket waits (socket(7), SO_RCVTIMEO)."""
    with socket.socket(fileno=os.dup(descriptor)) as same:
        interval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)
