"""The pure half of stress.py: who says what, and whether everybody received it.

Owns the plan of a run, the recognition of a received line and the check of every delivery. It promises to
name each line that was lost, doubled, out of order for its sender, in another order than at a second
receiver of the room, torn or misdelivered. It never touches a socket, a process or a clock: bytes in,
faults out, however the bytes were cut.

How the check keeps up. In every client process each room has one *observer*, a client that only listens
and so sees the whole order of the room: the *reference*. What any other client receives must be the
reference without its own lines, so whole blocks are compared with it at the speed of memcmp. A client
that departs from its reference has *strayed*: from there on its lines are read one by one, and in the end
it is judged by what it should have received. Observers are judged in the same way, and the observers of
one room in different processes against each other.

Memory: the text of each reference and about 300 bytes per message of it; HELD_BYTES at most for each
client; 8 bytes per line for each client that strayed, at most twice as many lines as it should receive.
"""

from __future__ import annotations

import enum
import math
import re
import zlib
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

EXAMPLES = 10  # of each kind of fault are kept and printed
HELD_BYTES = 256 * 1024  # a client may be this far ahead of its reference before it strays


# ---------------------------------------------------------------------------------------------- faults


class Kind(enum.Enum):
    """What can be wrong with a run."""

    LOST = "lost"
    DOUBLED = "doubled"
    REORDERED = "out of order for its sender"
    DISAGREED = "different order at two receivers"
    TORN = "torn"
    MISDELIVERED = "misdelivered"
    DISCONNECTED = "disconnected"
    STUCK = "not finished in time"
    SERVER = "server's own conduct"


@dataclass(slots=True)
class Faults:
    """How often each kind occurred, with the first EXAMPLES of each in words."""

    counts: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[str]] = field(default_factory=dict)

    def add(self, kind: Kind, *examples: str, count: int = 1) -> None:
        """Count `count` faults of a kind; what is beyond EXAMPLES is counted only."""
        self.counts[kind] += count
        kept = self.examples.setdefault(kind, [])
        kept.extend(examples[: EXAMPLES - len(kept)])

    def merge(self, other: Faults) -> None:
        """Take over all that another process found."""
        for kind, count in other.counts.items():
            self.add(kind, *other.examples[kind], count=count)


# ------------------------------------------------------------------------------------ who says what


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is in which room and process, and what each one says. Clients are numbered from 0.

    A message is known by its *key*, `client * messages + n`. The run id keeps apart what an earlier run
    left in a room's history. `rate` is messages/s in all, 0 for as fast as they can be sent; `deadline`
    is on the monotonic clock, which all processes of a machine share.
    """

    clients: int
    messages: int
    rooms: int = 1
    processes: int = 2
    size: int = 70
    rate: float = 0.0
    seed: int = 0
    run: str = "0123abcd"
    host: str = "127.0.0.1"
    port: int = 0
    deadline: float = math.inf

    def room_of(self, client: int) -> int:
        return client % self.rooms

    def process_of(self, client: int) -> int:
        """A room stays in one process when there are enough rooms: that takes the fewest observers."""
        return self.room_of(client) % self.processes if self.rooms >= self.processes else client % self.processes

    def members(self, room: int) -> range:
        """The talking clients of a room."""
        return range(room, self.clients, self.rooms)

    def clients_in(self, process: int) -> list[int]:
        return [client for client in range(self.clients) if self.process_of(client) == process]

    def rooms_in(self, process: int) -> list[int]:
        return sorted({self.room_of(client) for client in self.clients_in(process)})

    @property
    def observers(self) -> int:
        return sum(len(self.rooms_in(process)) for process in range(self.processes))

    @property
    def deliveries(self) -> int:
        """Lines that all clients and observers together must receive."""
        among = sum(len(self.members(room)) * (len(self.members(room)) - 1) for room in range(self.rooms))
        watched = sum(len(self.members(r)) for p in range(self.processes) for r in self.rooms_in(p))
        return (among + watched) * self.messages

    def name_of(self, client: int) -> str:
        return f"k{self.run}-{client}"

    def keys_of(self, client: int) -> range:
        return range(client * self.messages, (client + 1) * self.messages)

    def keys_in(self, room: int) -> set[int]:
        return {key for client in self.members(room) for key in self.keys_of(client)}

    def compose(self, client: int, n: int, sent_ns: int) -> bytes:
        """The line a client types as its n-th message; the checksum tells a whole line from a torn one."""
        text = f"{self.run} {self.room_of(client)} {client} {n} {sent_ns} "
        text = text.ljust(self.size - 9, "x")  # 9: the space and the checksum
        return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()

    def describe(self, key: int) -> str:
        client, n = divmod(key, self.messages)
        return f"message {n} of {self.name_of(client)}"


class Stray(enum.Enum):
    """A line that is no message of this run."""

    ANSWER = "an error line: a marker's answer, or a complaint"
    NOTICE = "a notice"
    FOREIGN = "a line of somebody else, or of an earlier run"
    TORN = "no whole line of the dialect"


@dataclass(frozen=True, slots=True)
class Talk:
    """A whole message of this run, as a receiver sees it; `room` is None if marked as of another room."""

    key: int
    client: int
    room: int | None
    sent_ns: int


FOREIGN = re.compile(rb"(?:\*\* \S+|\[[^\]\n]+\]|(?:#\S+ )?\S+:) .*\n")


class Recogniser:
    """Tells what a received line is."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._run = plan.run.encode()
        self._talk = re.compile(
            rb"(#\S+ )?(\S+): (%b (\d+) (\d+) (\d+) (\d+) x*) ([0-9a-f]{8})\n" % self._run, re.ASCII
        )

    def recognise(self, line: bytes) -> Talk | Stray:
        """`line` ends in a newline."""
        if line.startswith(b"! "):
            return Stray.ANSWER
        if line.startswith(b"* "):
            return Stray.NOTICE
        if self._run not in line:
            return Stray.FOREIGN if FOREIGN.fullmatch(line) else Stray.TORN
        match = self._talk.fullmatch(line)
        if match is None or int(match[8], 16) != zlib.crc32(match[3]):
            return Stray.TORN
        client, n = int(match[5]), int(match[6])
        if match[2] != self._plan.name_of(client).encode():
            return Stray.TORN
        return Talk(client * self._plan.messages + n, client, None if match[1] else int(match[4]), int(match[7]))


# ----------------------------------------------------------------------------------------- the checker


class Reference:
    """The order of one room as its observer sees it, and where in it each client's own lines are."""

    def __init__(self) -> None:
        self.text = bytearray()
        self.keys = array("Q")
        self.own: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        self.closed = False  # nothing more will come: who is ahead now has strayed
        self._ends = array("Q")

    def extend(self, line: bytes, talk: Talk) -> None:
        start = len(self.text)
        self.text += line
        self.keys.append(talk.key)
        self._ends.append(len(self.text))
        self.own[talk.client].append((start, len(self.text)))

    def keys_before(self, position: int) -> array[int]:
        return self.keys[: bisect_right(self._ends, position)]

    def agree(self, position: int, block: bytes, start: int, stop: int) -> int:
        """The end of the whole lines of block[start:stop] that stand at `position` too.

        Halving with startswith stays at C speed where the two differ, and copies only what it compares.
        """
        low, high = start, stop + 1
        probe = stop
        while high - low > 1:
            if self.text.startswith(block[low:probe], position + low - start):
                low = probe
            else:
                high = probe
            probe = (low + high) // 2
        return stop if low == stop else block.rfind(b"\n", start, low) + 1 or start


class Stream(ABC):
    """What one connection received; the parts that observers and talking clients have in common."""

    def __init__(self, name: str, room: RoomCheck) -> None:
        self.name = name
        self.room = room
        self.arrived = 0  # messages of this run
        self.answers = 0
        self.notices = 0
        self._held = b""

    @abstractmethod
    def feed(self, data: bytes, now_ns: int) -> None:
        """Take received bytes, cut anywhere; `now_ns` is when they came."""

    def end(self) -> None:
        """No more bytes come: the rest of a line is torn."""
        if self._held:
            self.room.faults.add(Kind.TORN, f"{self.name} was left with {self._held[:80]!r}")
            self._held = b""

    def _keep(self, rest: bytes) -> None:
        """Hold what cannot be read yet. So much of it can only be a line without an end."""
        self._held = rest
        if len(rest) > HELD_BYTES:
            self.end()

    def _sort(self, line: bytes) -> Talk | None:
        """A message of this room, or None for anything else, which is counted as what it is."""
        what = self.room.recogniser.recognise(line)
        if isinstance(what, Talk):
            if what.room == self.room.number:
                return what
            self.room.faults.add(Kind.MISDELIVERED, f"{self.name} in room {self.room.number} got {line[:80]!r}")
        elif what is Stray.TORN:
            self.room.faults.add(Kind.TORN, f"{self.name} got {line[:80]!r}")
        elif what is Stray.NOTICE:
            self.notices += 1
        elif what is Stray.ANSWER:
            self.answers += 1
            self.room.remark(line)
        return None


class Observer(Stream):
    """Listens only; writes the reference of its room and the latency of each message."""

    def __init__(self, name: str, room: RoomCheck) -> None:
        super().__init__(name, room)
        self.latencies_ns = array("q")

    def feed(self, data: bytes, now_ns: int) -> None:
        *lines, rest = (self._held + data).split(b"\n")
        self._keep(rest)
        for line in lines:
            whole = line + b"\n"
            talk = self._sort(whole)
            if talk is not None and self.arrived < self.room.most_lines:
                self.arrived += 1
                self.room.reference.extend(whole, talk)
                self.latencies_ns.append(now_ns - talk.sent_ns)
            elif talk is not None:
                self.room.faults.add(Kind.DOUBLED, f"{self.name} got far too many lines")
        self.room.wake()

    def close(self) -> None:
        """Nothing more can come: whoever is ahead of the reference will not be caught up with."""
        self.room.reference.closed = True
        self.room.wake()


class Reader(Stream):
    """A talking client's stream: its room's reference without its own lines, as long as all is well."""

    def __init__(self, client: int, name: str, room: RoomCheck) -> None:
        super().__init__(name, room)
        self.client = client
        self._position = 0  # in the reference; all before it has arrived or is our own
        self._own = room.reference.own[client]
        self._own_seen = 0
        self._strayed: array[int] | None = None

    def feed(self, data: bytes, now_ns: int = 0) -> None:
        block = self._held + data if self._held else data
        used = self._match(block, block.rfind(b"\n") + 1)
        self._keep(block[used:])
        if self._held and not self.room.reference.closed:
            self.room.waiting.add(self)

    def complete(self) -> bool:
        """Whether this was the reference without our own lines, to its end and not a byte more."""
        return self._strayed is None and not self._held and self._frontier() == self._position

    def keys(self) -> Iterator[int]:
        """The messages that arrived, in their order."""
        for key in self.room.reference.keys_before(self._position):
            if key not in self.room.plan.keys_of(self.client):
                yield key
        yield from self._strayed or ()

    def _match(self, block: bytes, end: int) -> int:
        """Take whole lines from block[:end]; the number of bytes taken."""
        reference, at = self.room.reference, 0
        while at < end:
            if self._strayed is None:
                stop = at + min(end - at, self._frontier() - self._position)
                agreed = reference.agree(self._position, block, at, stop)
                if agreed > at:
                    self._position += agreed - at
                    self.arrived += block.count(b"\n", at, agreed)
                    at = agreed
                    continue
            line = block[at : block.index(b"\n", at) + 1]
            if not self._take(line, len(block) - at):
                break
            at += len(line)
        return at

    def _frontier(self) -> int:
        """Where the comparable part of the reference ends: at our next own line, or at its end."""
        while self._own_seen < len(self._own):
            start, end = self._own[self._own_seen]
            if start != self._position:
                return start
            self._position = end
            self._own_seen += 1
        return len(self.room.reference.text)

    def _take(self, line: bytes, held: int) -> bool:
        """Read one line that is not in the reference here; False if the reference may yet bring it."""
        if self._strayed is None and self._may_come(line, held):
            return False
        talk = self._sort(line)
        if talk is None:
            return True
        if talk.client == self.client:
            self.room.faults.add(Kind.MISDELIVERED, f"{self.name} got its own {line[:80]!r}")
            return True
        if self._strayed is None:
            self._strayed = array("Q")
        if len(self._strayed) < self.room.most_lines:
            self._strayed.append(talk.key)
            self.arrived += 1
        else:
            self.room.faults.add(Kind.DOUBLED, f"{self.name} got far too many lines")
        return True

    def _may_come(self, line: bytes, held: int) -> bool:
        reference = self.room.reference
        if reference.closed or held > HELD_BYTES or self._position < len(reference.text):
            return False
        what = self.room.recogniser.recognise(line)
        return isinstance(what, Talk) and what.room == self.room.number and what.client != self.client


class RoomCheck:
    """All streams of one room in one process. Pure: bytes in, faults out."""

    def __init__(self, plan: Plan, number: int, process: int = 0) -> None:
        self.plan = plan
        self.number = number
        self.faults = Faults()
        self.remarks: list[str] = []
        self.recogniser = Recogniser(plan)
        self.reference = Reference()
        self.waiting: set[Reader] = set()
        # More lines than this from one stream can only be doubles; this bounds what a mad server costs.
        self.most_lines = 2 * len(plan.members(number)) * plan.messages
        self.observer = Observer(f"k{plan.run}-o{number}-{process}", self)
        self.readers = [
            Reader(client, plan.name_of(client), self)
            for client in plan.members(number)
            if plan.process_of(client) == process
        ]

    def remark(self, line: bytes) -> None:
        """Keep what the server complained of; a marker's answer is none if it quotes the marker."""
        if b"stress-marker" not in line and len(self.remarks) < EXAMPLES:
            self.remarks.append(line.decode(errors="replace").strip())

    def wake(self) -> None:
        """The reference has grown, or was closed: go on with who was ahead of it."""
        waiting, self.waiting = self.waiting, set()
        for reader in waiting:
            reader.feed(b"")

    def hurry(self) -> None:
        """Nothing has come for long: whoever is ahead of the reference need not wait for it."""
        if self.waiting and not self.reference.closed:
            self.reference.closed = True
            self.wake()
            self.reference.closed = False

    def streams(self) -> Sequence[Stream]:
        return self.observer, *self.readers

    def missing(self) -> bool:
        """Whether a stream has fewer lines than it should receive."""
        messages, members = self.plan.messages, len(self.plan.members(self.number))
        few = any(reader.arrived < messages * (members - 1) for reader in self.readers)
        return few or self.observer.arrived < messages * members

    def judge(self) -> Faults:
        """End all streams and name what was wrong with them; call once."""
        self.observer.close()
        for stream in self.streams():
            stream.end()
        expected = self.plan.keys_in(self.number)
        rank = rank_keys(self.reference.keys)
        before = self.faults.counts.total()
        self._judge(self.observer.name, self.reference.keys, expected, rank)
        sound = self.faults.counts.total() == before
        for reader in self.readers:
            if not (sound and reader.complete()):
                theirs = expected.difference(self.plan.keys_of(reader.client))
                self._judge(reader.name, reader.keys(), theirs, rank)
        return self.faults

    def _judge(self, name: str, keys: Iterable[int], expected: set[int], rank: Mapping[int, int]) -> None:
        times = Counter(keys)  # a dict, so it keeps the order in which the keys first came
        doubled = [key for key, count in times.items() if count > 1]
        self._blame(Kind.DOUBLED, doubled, f"{name} got {{}} again", times.total() - len(times))
        self._blame(Kind.REORDERED, out_of_turn(times, self.plan.messages), f"{name} got {{}} after a later one")
        self._blame(Kind.DISAGREED, late(times, rank), f"{name} got {{}} later than {self.observer.name} did")
        self._blame(Kind.LOST, sorted(expected.difference(times)), f"{name} never got {{}}")

    def _blame(self, kind: Kind, keys: Sequence[int], words: str, count: int | None = None) -> None:
        if keys:
            examples = (words.format(self.plan.describe(key)) for key in keys[:EXAMPLES])
            self.faults.add(kind, *examples, count=len(keys) if count is None else count)


def rank_keys(keys: Iterable[int]) -> dict[int, int]:
    """The place of each key in the order in which they first came."""
    return {key: place for place, key in enumerate(dict.fromkeys(keys))}


def late(keys: Iterable[int], rank: Mapping[int, int]) -> list[int]:
    """The keys that come after one which `rank` puts behind them; keys without a rank do not count."""
    found, last = [], -1
    for key in keys:
        place = rank.get(key, last)
        if place < last:
            found.append(key)
        last = max(place, last)
    return found


def out_of_turn(keys: Iterable[int], messages: int) -> list[int]:
    """The keys that come after a later one of the same sender."""
    found = []
    newest: dict[int, int] = {}
    for key in keys:
        client = key // messages
        if key < newest.get(client, -1):
            found.append(key)
        else:
            newest[client] = key
    return found


def compare_orders(plan: Plan, room: int, orders: Sequence[Sequence[int]]) -> Faults:
    """What the observers of one room in several processes disagree about."""
    faults = Faults()
    rank = rank_keys(orders[0])
    for order in orders[1:]:
        for key in late(dict.fromkeys(order), rank):
            words = f"two observers of room {room} got {plan.describe(key)} in different places"
            faults.add(Kind.DISAGREED, words)
    return faults
