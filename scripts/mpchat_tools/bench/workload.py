"""A workload of the benchmark: which client is in which room and process, what each sends, and when.

Owns the numbering of clients and messages. Promises that all load processes and the check agree on it without
talking, since it is a function of the workload alone. PURE: never touches a socket, a process or a clock.

A message's text is `RUN:SENDER:NUMBER:xxx` with fields of fixed width, so that all deliveries of a run have the same
length and can be counted by bytes; `SENDER:NUMBER` is its *key*.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from mpchat_tools.common.placement import Placement

SENDER_DIGITS = 5
NUMBER_DIGITS = 7
RUN_DIGITS = 8
SHORTEST = RUN_DIGITS + SENDER_DIGITS + NUMBER_DIGITS + 3  # with the colons


class Kind(enum.Enum):
    """How senders send."""

    FLOOD = "as fast as the sockets take them"
    CONVERSATION = "each sender waits until its last message was seen"
    PACED = "at fixed times"
    SIGN_ON = "nobody says anything"


@dataclass(frozen=True, slots=True)
class Workload(Placement):
    """Clients are numbered from 0. The first `senders` of each room say `messages` each; PACED: `load` a second in all.

    `burst` is how many messages of a flood a sender writes at once; 0: all that the socket takes.
    `processes` is over how many load processes the clients are spread.
    """

    name: str
    kind: Kind
    clients: int
    rooms: int = 1
    senders: int = 0
    messages: int = 0
    burst: int = 0
    load: float = 0.0
    size: int = 64
    processes: int = 2
    run: bytes = b"0123abcd"

    def is_sender(self, client: int) -> bool:
        return client < self.rooms * self.senders

    def senders_of(self, room: int) -> range:
        return range(room, min(self.rooms * self.senders, self.clients), self.rooms)

    def key(self, sender: int, number: int) -> bytes:
        return b"%0*d:%0*d" % (SENDER_DIGITS, sender, NUMBER_DIGITS, number)

    def text(self, sender: int, number: int) -> bytes:
        return (b"%s:%s:" % (self.run, self.key(sender, number))).ljust(self.size, b"x")

    @property
    def padding(self) -> int:
        """How many bytes stand behind the key of a text. Without a `run`, texts can be shorter than SHORTEST."""
        return self.size - len(self.run) - (SHORTEST - RUN_DIGITS)

    def texts(self, sender: int) -> Iterator[bytes]:
        return (self.text(sender, number) for number in range(self.messages))

    def expected_keys(self, client: int, echoes: bool) -> list[bytes]:
        """What a client should receive, sender by sender."""
        senders = self.senders_of(self.room_of(client))
        return [self.key(s, n) for s in senders if echoes or s != client for n in range(self.messages)]

    def expected(self, client: int, echoes: bool) -> int:
        """How many deliveries a client should receive."""
        others = len(self.senders_of(self.room_of(client))) - (self.is_sender(client) and not echoes)
        return others * self.messages

    def deliveries(self, echoes: bool) -> int:
        return sum(self.expected(client, echoes) for client in range(self.clients))

    def due_ns(self, sender: int, number: int) -> int:
        """PACED: when a message is to be sent, from the start on. The senders take turns."""
        turn = number * self.rooms * self.senders + sender
        return int(turn / self.load * 1e9)

    def schedule(self, process: int) -> list[tuple[int, int, int]]:
        """PACED: what a process has to say, as (due, sender, number), in the order of time."""
        senders = [client for client in self.clients_in(process) if self.is_sender(client)]
        return sorted((self.due_ns(s, n), s, n) for s in senders for n in range(self.messages))

    def describe(self) -> str:
        where = "1 room" if self.rooms == 1 else f"{self.rooms} rooms"
        if self.kind is Kind.SIGN_ON:
            return f"{self.clients:,} clients sign on into {where} and are idle"
        who = f"{self.clients:,} clients in {where}, {self.rooms * self.senders:,} send {self.messages} each"
        load = f" ({self.load:g} messages/s in all)" if self.kind is Kind.PACED else ""
        burst = f" ({self.burst} a write)" if self.kind is Kind.FLOOD and self.burst else ""
        return f"{who}, {self.size} bytes, {self.kind.value}{load}{burst}"
