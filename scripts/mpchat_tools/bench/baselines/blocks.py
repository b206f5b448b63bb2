#!/usr/bin/env python3
"""A yardstick of the benchmark: a broadcast server that does as little per message as one process of Python can.

It handles whole received blocks, not lines, and joins all that came in one turn of its loop into one block per room.
No other server here does less for a delivery, so what it reaches is about what the load generator and the kernel leave
room for. Promises nothing else: no bound, no limits, one order because it is one loop.
"""

from __future__ import annotations

import argparse
import selectors
import socket
from collections import defaultdict, deque

RECEIVE_BYTES = 1 << 18
Part = tuple["Client", bytes]


class Client:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.prefix = b""
        self.room = b""
        self.rest = b""
        self.unsent: deque[bytes] = deque()


class Server:
    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._rooms: defaultdict[bytes, set[Client]] = defaultdict(set)

    def run(self) -> None:
        while True:
            said: defaultdict[bytes, list[Part]] = defaultdict(list)
            for key, mask in self._selector.select():
                if key.data is None:
                    self._accept()
                    continue
                if mask & selectors.EVENT_WRITE:
                    self._send(key.data)
                if mask & selectors.EVENT_READ:
                    self._receive(key.data, said)
            for room, parts in said.items():
                self._spread(room, parts)

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, Client(sock))

    def _receive(self, client: Client, said: defaultdict[bytes, list[Part]]) -> None:
        try:
            data = client.sock.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        if not data:
            self._lose(client)
            return
        lines, end, client.rest = (client.rest + data).rpartition(b"\n")
        if end and not client.prefix:
            lines = self._sign_on(client, lines)
        if lines:
            block = client.prefix + lines.replace(b"\n", b"\n" + client.prefix) + b"\n"
            said[client.room].append((client, block))

    def _sign_on(self, client: Client, lines: bytes) -> bytes:
        first, _, others = lines.partition(b"\n")
        name, _, client.room = first.partition(b" ")
        client.prefix = name + b": "
        self._rooms[client.room].add(client)
        client.sock.send(b"ok\n")
        return others

    def _spread(self, room: bytes, parts: list[Part]) -> None:
        block = b"".join(part for _, part in parts)
        senders = {sender for sender, _ in parts}
        for receiver in list(self._rooms[room]):
            own = receiver in senders
            mine = b"".join(part for sender, part in parts if sender is not receiver) if own else block
            if not mine:
                continue
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
            client.unsent.clear()  # reading tells that it has gone
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)
        if self._selector.get_key(client.sock).events != wanted:
            self._selector.modify(client.sock, wanted, client)

    def _lose(self, client: Client) -> None:
        self._rooms[client.room].discard(client)
        self._selector.unregister(client.sock)
        client.sock.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=4000)
    Server(parser.parse_args().port).run()


if __name__ == "__main__":
    main()
