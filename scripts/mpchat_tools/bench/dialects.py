"""The protocols of the load generator: how to sign on, and what a message and its delivery look like.

Owns one small class per protocol. Promises that all deliveries of a run have one length, so that they can be counted
by bytes, and a pattern that finds whole deliveries in a stream. PURE: bytes only, no socket.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

from mpchat_tools.bench.workload import NUMBER_DIGITS, SENDER_DIGITS, Workload

Steps = Sequence[tuple[bytes, bytes]]
"""Signing on: what to send, and the bytes that are there when the answer is."""


def name_of(client: int) -> bytes:
    """Short enough for every server (IRC: 9 characters)."""
    return b"c%0*d" % (SENDER_DIGITS, client)


def room_name(room: int) -> bytes:
    return b"r%03d" % room


class Dialect(ABC):
    """One protocol. `echoes`: a sender gets its own messages too. `one_order`: all receivers see the same order."""

    echoes = False
    one_order = True

    @abstractmethod
    def steps(self, client: int, workload: Workload) -> Steps:
        """How a client gets into its room."""

    @abstractmethod
    def message(self, room: int, text: bytes) -> bytes:
        """The bytes that a sender writes."""

    @abstractmethod
    def delivery(self, name: bytes, room: int, text: bytes) -> bytes:
        """The bytes that a receiver gets."""

    def learn(self, received: bytes) -> None:  # noqa: B027 - most have nothing to learn
        """Take from what a client got while signing on what deliveries will look like."""

    def length(self, workload: Workload) -> int:
        """Bytes of a delivery."""
        return len(self.delivery(name_of(0), 0, workload.text(0, 0)))

    def pattern(self, workload: Workload, room: int) -> re.Pattern[bytes]:
        """Finds the deliveries of a room; a match's last group is the key, and a name in it is that of the sender."""
        name, text = b"\x01" * len(name_of(0)), b"\x02" * workload.size
        before, after = re.escape(self.delivery(name, room, text)).split(text)
        named = before.replace(name, rb"c(\d{%d})" % SENDER_DIGITS)
        sender = rb"\d{%d}" % SENDER_DIGITS if named == before else rb"\1"
        key = rb"(%s:\d{%d})" % (sender, NUMBER_DIGITS)
        return re.compile(rb"%s%s:%s:x{%d}%s" % (named, workload.run, key, workload.padding, after))


class Line(Dialect):
    """mpchat's own. In many rooms, clients leave the lobby: they are in one room each, as with the other servers."""

    def steps(self, client: int, workload: Workload) -> Steps:
        name = name_of(client)
        if workload.rooms == 1:
            return [(name + b"\n", b"* Hello, %s." % name)]
        # An unknown command is a fence: its error arrives after everything before it has been done.
        room = room_name(workload.room_of(client))
        return [(b"%s\n/join #%s\n/leave #lobby\n/benchmark-fence\n" % (name, room), b"\n! ")]

    def message(self, room: int, text: bytes) -> bytes:
        return text + b"\n"

    def delivery(self, name: bytes, room: int, text: bytes) -> bytes:
        return b"%s: %s\n" % (name, text)


class Plain(Line):
    """The baselines': first a line with name and room, then one line a message, as mpchat has it."""

    def steps(self, client: int, workload: Workload) -> Steps:
        return [(b"%s %s\n" % (name_of(client), room_name(workload.room_of(client))), b"ok\n")]


class Irc(Dialect):
    """RFC 2812. Servers differ in what follows a sender's nick, so the client learns it from a JOIN."""

    def __init__(self) -> None:
        self._mask = b"!u@127.0.0.1"

    def steps(self, client: int, workload: Workload) -> Steps:
        join = b"JOIN #%s\r\n" % room_name(workload.room_of(client))
        return [(b"NICK %s\r\nUSER u 0 * :u\r\n" % name_of(client), b" 001 "), (join, b" 366 ")]

    def learn(self, received: bytes) -> None:
        if found := re.search(rb":c\d{%d}(!\S+) JOIN" % SENDER_DIGITS, received):
            self._mask = found[1]

    def message(self, room: int, text: bytes) -> bytes:
        return b"PRIVMSG #%s :%s\r\n" % (room_name(room), text)

    def delivery(self, name: bytes, room: int, text: bytes) -> bytes:
        return b":%s%s PRIVMSG #%s :%s\r\n" % (name, self._mask, room_name(room), text)


class Nats(Dialect):
    """NATS, without echo and without verbose answers. Its order is one per publisher."""

    one_order = False
    CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"echo":false}\r\n'

    def steps(self, client: int, workload: Workload) -> Steps:
        subscribe = b"SUB %s 1\r\nPING\r\n" % room_name(workload.room_of(client))
        return [(self.CONNECT + subscribe, b"PONG\r\n")]

    def message(self, room: int, text: bytes) -> bytes:
        return b"PUB %s %d\r\n%s\r\n" % (room_name(room), len(text), text)

    def delivery(self, name: bytes, room: int, text: bytes) -> bytes:
        return b"MSG %s 1 %d\r\n%s\r\n" % (room_name(room), len(text), text)


class Redis(Dialect):
    """RESP3, in which a subscriber may publish. It gets its own messages too. The answers to PUBLISH are off."""

    echoes = True

    def steps(self, client: int, workload: Workload) -> Steps:
        room = room_name(workload.room_of(client))
        commands = [[b"HELLO", b"3"], [b"SUBSCRIBE", room], [b"CLIENT", b"REPLY", b"OFF"]]
        return [(b"".join(map(self._encode, commands)), b"$%d\r\n%s\r\n:1\r\n" % (len(room), room))]

    def message(self, room: int, text: bytes) -> bytes:
        return self._encode([b"PUBLISH", room_name(room), text])

    def delivery(self, name: bytes, room: int, text: bytes) -> bytes:
        return b">3\r\n" + b"".join(map(self._bulk, [b"message", room_name(room), text]))

    def _encode(self, words: Sequence[bytes]) -> bytes:
        return b"*%d\r\n" % len(words) + b"".join(map(self._bulk, words))

    @staticmethod
    def _bulk(word: bytes) -> bytes:
        return b"$%d\r\n%s\r\n" % (len(word), word)


DIALECTS: dict[str, type[Dialect]] = {"line": Line, "plain": Plain, "irc": Irc, "nats": Nats, "redis": Redis}
