#!/usr/bin/env python3
"""A baseline of the benchmark: the plain broadcast server that textbooks have, one thread per client.

The first line of a client is its name and its room; every other line goes to all others in the room as `name: line`,
one `sendall` each, under one lock, which is what gives one order. Promises no more than that: no bound, no limit,
whoever does not read stops everybody.
"""

from __future__ import annotations

import argparse
import socket
import threading
from collections import defaultdict

rooms: defaultdict[bytes, set[socket.socket]] = defaultdict(set)
lock = threading.Lock()


def serve(client: socket.socket) -> None:
    with client, client.makefile("rb") as lines:
        name, _, room = lines.readline().strip().partition(b" ")
        with lock:
            rooms[room].add(client)
            client.sendall(b"ok\n")
        try:
            for line in lines:
                broadcast(client, room, name + b": " + line)
        except OSError:
            pass  # it has gone
        finally:
            with lock:
                rooms[room].discard(client)


def broadcast(sender: socket.socket, room: bytes, line: bytes) -> None:
    with lock:
        for receiver in list(rooms[room]):
            if receiver is sender:
                continue
            try:
                receiver.sendall(line)
            except OSError:  # its own thread takes it out
                rooms[room].discard(receiver)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=4000)
    with socket.create_server(("127.0.0.1", parser.parse_args().port), backlog=4096) as listener:
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(client,), daemon=True).start()


if __name__ == "__main__":
    main()
