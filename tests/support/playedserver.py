"""Small servers that play a part, each a thread of this process that handles one connection.

Each has DEADLINE for all it does, and what it finds wrong fails the test. None of them is mpchat's own server: a client
has to get on with others, and with broken ones.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
from collections.abc import Callable

DEADLINE = 30.0
HELLO = b"* Hello, %s. You are in #lobby with ann. /help lists the commands.\n"
QUESTION = b"* Welcome to mpchat. What is your name?\n"

Handler = Callable[[socket.socket], None]


class Server:
    """Listens on 127.0.0.1 and gives its connections to the handlers, one after another, in a thread."""

    def __init__(self, *handlers: Handler) -> None:
        self._handlers = handlers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._problem: Exception | None = None
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.join(DEADLINE if kind is None else 0.1)
        self._listener.close()
        if kind is None:
            assert not self._thread.is_alive(), "the server has not come to its end"
            if self._problem is not None:
                raise self._problem

    def _serve(self) -> None:
        try:
            for handler in self._handlers:
                with self._listener.accept()[0] as conn:
                    conn.settimeout(DEADLINE)
                    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is sent is there before a reset
                    handler(conn)
        except Exception as error:  # noqa: BLE001 (raised again in the test's thread)
            self._problem = error


class Lines:
    """The lines that a connection receives, one by one."""

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn
        self._held = b""

    def next(self) -> bytes | None:
        """The next line without its end; None at the end of the stream."""
        while b"\n" not in self._held:
            data = self._conn.recv(4096)
            if not data:
                assert not self._held, "the client did not end its last line"
                return None
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        return line

    def rest(self) -> list[bytes]:
        return list(iter(self.next, None))


def sign_on(conn: socket.socket) -> Lines:
    """Ask for the name as mpchat does, and say hello to whatever it is."""
    lines = Lines(conn)
    conn.sendall(QUESTION)
    conn.sendall(HELLO % (next_name(lines) or b""))
    return lines


def next_name(lines: Lines) -> bytes | None:
    """The next line that is not the wish of a program to be shown nothing of what was said earlier."""
    line = lines.next()
    return lines.next() if line == b"/history off" else line


def received_by(received: list[bytes]) -> Handler:
    """A faithful server in small: it signs on, keeps what it gets, leaves when the client does."""

    def handle(conn: socket.socket) -> None:
        lines = sign_on(conn)
        while (line := lines.next()) is not None:
            received.append(line)
            if line.startswith(b"/quit"):
                conn.sendall(b"* Bye.\n")
                return

    return handle


def receive_segments(segments: list[bytes]) -> Handler:
    """The simplest of servers: greets nobody, and each chunk is a message, which it sends to all (here: back)."""

    def handle(conn: socket.socket) -> None:
        while data := conn.recv(1024):
            segments.append(data)
            conn.sendall(b"<" + data + b">")

    return handle


def drop_all(conn: socket.socket) -> None:
    """Be gone: from now on the kernel drops all that comes for this socket, so nothing is acknowledged (socket(7))."""
    drop = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K: keep 0 bytes
    program = struct.pack("HL", 1, ctypes.addressof(drop))  # struct sock_fprog (linux/filter.h)
    conn.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_ATTACH_FILTER", 26), program)


def reset(conn: socket.socket) -> None:
    """Close with an RST (SO_LINGER with no time: socket(7))."""
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()
