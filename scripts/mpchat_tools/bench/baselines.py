#!/usr/bin/env python3
"""The baselines of the benchmark: small broadcast servers to compare with, each in one process.

The first line of a client is its name and its room; every other line goes to all others in the room as `name: line`.
They promise one order and nothing else: they have no bounds and no limits.

    threads  the textbook server: a thread per client, and one `sendall` per line and receiver, under one lock; a
             client that does not read stops all others
    asyncio  asyncio's streams, and one `write` per line and receiver
    blocks   does as little per message as one process of Python can: it handles whole received blocks, not lines, and
             joins what arrives in one turn of its loop into one block per room. So it shows about how much the load
             generator and the kernel allow.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import threading
from collections import defaultdict, deque

RECEIVE_BYTES = 1 << 18
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def accept(listener: socket.socket) -> socket.socket:
    client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


# --- threads


def run_threads(listener: socket.socket) -> None:
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
            for receiver in rooms[room] - {sender}:
                try:
                    receiver.sendall(line)
                except OSError:  # its own thread takes it out
                    rooms[room].discard(receiver)

    while True:
        threading.Thread(target=serve, args=(accept(listener),), daemon=True).start()


# --- asyncio


def run_asyncio(listener: socket.socket) -> None:
    import asyncio  # here, so that it takes no memory of the other baselines

    rooms: defaultdict[bytes, set[asyncio.StreamWriter]] = defaultdict(set)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name, _, room = (await reader.readline()).strip().partition(b" ")
        rooms[room].add(writer)
        writer.write(b"ok\n")
        try:
            while line := await reader.readline():
                for receiver in rooms[room]:
                    if receiver is not writer:
                        receiver.write(name + b": " + line)
                await writer.drain()
        except ConnectionError:
            pass  # it has gone
        finally:
            rooms[room].discard(writer)
            writer.close()

    async def listen() -> None:
        await (await asyncio.start_server(serve, sock=listener, backlog=4096)).serve_forever()

    asyncio.run(listen())


# --- blocks


class Client:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.prefix = b""
        self.room = b""
        self.rest = b""
        self.unsent: deque[bytes] = deque()


class Blocks:
    def __init__(self, listener: socket.socket) -> None:
        self._selector = selectors.DefaultSelector()
        self._listener = listener
        self._selector.register(listener, READ, None)
        self._rooms: defaultdict[bytes, set[Client]] = defaultdict(set)
        self._said: defaultdict[bytes, list[tuple[Client, bytes]]] = defaultdict(list)  # in this turn, by room

    def run(self) -> None:
        while True:
            self._said.clear()
            for key, mask in self._selector.select():
                if key.data is None:
                    self._accept()
                    continue
                if mask & WRITE:
                    self._send(key.data)
                if mask & READ:
                    self._receive(key.data)
            for room, parts in self._said.items():
                self._spread(room, parts)

    def _accept(self) -> None:
        sock = accept(self._listener)
        sock.setblocking(False)
        self._selector.register(sock, READ, Client(sock))

    def _receive(self, client: Client) -> None:
        try:
            data = client.sock.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        if not data:
            self._rooms[client.room].discard(client)
            self._selector.unregister(client.sock)
            client.sock.close()
            return
        lines, end, client.rest = (client.rest + data).rpartition(b"\n")
        if end and not client.prefix:
            first, _, lines = lines.partition(b"\n")
            name, _, client.room = first.partition(b" ")
            client.prefix = name + b": "
            self._rooms[client.room].add(client)
            client.sock.send(b"ok\n")
        if lines:
            block = client.prefix + lines.replace(b"\n", b"\n" + client.prefix) + b"\n"
            self._said[client.room].append((client, block))

    def _spread(self, room: bytes, parts: list[tuple[Client, bytes]]) -> None:
        block = b"".join(part for _, part in parts)
        senders = {sender for sender, _ in parts}
        for receiver in list(self._rooms[room]):
            own = receiver in senders
            mine = b"".join(part for sender, part in parts if sender is not receiver) if own else block
            if mine:
                receiver.unsent.append(mine)
                if len(receiver.unsent) == 1:
                    self._send(receiver)

    def _send(self, client: Client) -> None:
        try:
            while client.unsent:
                sent = client.sock.send(client.unsent[0])
                if sent < len(client.unsent[0]):
                    client.unsent[0] = client.unsent[0][sent:]
                    break
                client.unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:
            client.unsent.clear()  # the next read shows that it has gone
        wanted = READ | (WRITE if client.unsent else 0)
        if self._selector.get_key(client.sock).events != wanted:
            self._selector.modify(client.sock, wanted, client)


def run_blocks(listener: socket.socket) -> None:
    Blocks(listener).run()


RUNNERS = {"threads": run_threads, "asyncio": run_asyncio, "blocks": run_blocks}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a baseline of the benchmark.")
    parser.add_argument("kind", choices=RUNNERS)
    parser.add_argument("--port", type=int, default=4000)
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", options.port), backlog=4096) as listener:
        RUNNERS[options.kind](listener)


if __name__ == "__main__":
    main()
