"""Check that the receivers of a benchmark got each message once, and all in the same order.

Owns the reading of received streams after the clock has stopped. A stream of any protocol becomes lines
`SENDER: NUMBER`, and these go through the checker that stress.py and chaos.py use (`verify.check`). PURE: bytes in,
findings out.

One order. The reference is the stream of a receiver that gets everything. A room where everybody talks has none; there
it is merged from three streams, since for each pair of messages at least one of the three has both. Where the server
promises one order per sender only, streams are sorted by sender before they are compared.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from operator import itemgetter

from mpchat_tools.bench.dialects import Dialect
from mpchat_tools.bench.workload import NUMBER_DIGITS, SENDER_DIGITS, Workload
from mpchat_tools.common.faults import Faults, Kind
from mpchat_tools.verify.check import Resident, RoomCheck
from mpchat_tools.verify.reference import compare_orders
from mpchat_tools.verify.talk import Said

Keys = list[bytes]
MERGED = 3  # streams

sender_of = itemgetter(slice(0, SENDER_DIGITS))


@dataclass(slots=True)
class Findings:
    """Sums over receivers. `streams` and `deliveries` say how many were read; `strange` is bytes of anything else."""

    streams: int = 0
    deliveries: int = 0
    lost: int = 0
    doubled: int = 0  # or not meant for the receiver
    reordered: int = 0
    ordered: int = 0  # receivers whose order was compared with another's
    disagreed: int = 0  # how many of those saw a different order
    strange: int = 0

    def add(self, other: Findings) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def faults(self) -> int:
        return self.lost + self.doubled + self.reordered + self.disagreed


def find_keys(pattern: re.Pattern[bytes], stream: bytes) -> Keys:
    """The keys of all deliveries in a stream, in their order."""
    found = pattern.findall(stream)
    return [key for _, key in found] if pattern.groups == 2 else found


class Receivers:
    """The receivers of one room in one process, each with its whole stream."""

    def __init__(self, workload: Workload, dialect: Dialect, room: int, streams: Sequence[tuple[int, bytes]]) -> None:
        """`streams`: client and stream. Those of clients that only listen come first."""
        self._workload, self._dialect, self._streams = workload, dialect, streams
        self._pattern = dialect.pattern(workload, room)
        self._senders = {b"%0*d" % (SENDER_DIGITS, sender) for sender in workload.senders_of(room)}
        self._check = RoomCheck(b"", Faults(), self._read)
        self._residents = [Resident(self._own(client), self._check, b"") for client, _ in streams]

    def judge(self) -> tuple[Findings, list[Keys]]:
        """Compare every stream with the reference; also give the orders that it was made of, for other processes."""
        chosen = self._choose()
        self._make_reference(list(chosen.values()))
        total, same, block = Findings(), Findings(), b""
        for number in [*chosen, *(each for each in range(len(self._streams)) if each not in chosen)]:
            client, stream = self._streams[number]
            if block and stream == block and not self._own(client):
                total.add(same)  # an equal stream has the same findings
                continue
            keys = chosen[number] if number in chosen else self._find(stream)
            judged = self._judge_stream(self._residents[number], keys)
            judged.strange = len(stream) - len(keys) * self._dialect.length(self._workload)
            judged.ordered = int(total.streams > 0 and self._dialect.one_order and judged.faults == judged.disagreed)
            if not (block or judged.faults or self._own(client)):
                block, same = stream, replace(judged, ordered=int(self._dialect.one_order))
            total.add(judged)
        return total, list(chosen.values()) if self._dialect.one_order else []

    def _choose(self) -> dict[int, Keys]:
        """The streams that make the reference: those without a fault of their own, if there are any."""
        needed = MERGED if self._own(self._streams[0][0]) else 1
        right: dict[int, Keys] = {}
        wrong: dict[int, Keys] = {}
        for number, (client, stream) in enumerate(self._streams):
            if len(right) == needed or (needed == 1 and self._own(client)):
                break
            keys = self._find(stream)
            expected = self._workload.expected_keys(client, self._dialect.echoes)
            (right if sorted(keys, key=sender_of) == expected else wrong)[number] = keys
        return dict(list((right | wrong).items())[:needed])

    def _own(self, client: int) -> bytes:
        """The sender whose messages this client does not get; empty if it gets all."""
        gets_all = self._dialect.echoes or not self._workload.is_sender(client)
        return b"" if gets_all else b"%0*d" % (SENDER_DIGITS, client)

    def _find(self, stream: bytes) -> Keys:
        keys = find_keys(self._pattern, stream)
        return keys if self._dialect.one_order else sorted(keys, key=sender_of)  # stable: keeps each sender's order

    def _read(self, line: bytes) -> Said:
        name, number = line[:SENDER_DIGITS], int(line[SENDER_DIGITS + 2 :])
        known = name in self._senders and number < self._workload.messages
        return Said(name, self._check.name if known else b"?", number + 1)

    def _make_reference(self, found: Sequence[Keys]) -> None:
        reference = self._check.reference
        for key in found[0] if len(found) == 1 else merge_orders(found):
            line = write_line(key)
            said = self._read(line)
            if said.room == self._check.name and said.number > reference.heard[said.name]:
                reference.extend(line, said)
        reference.said.update(dict.fromkeys(self._senders, self._workload.messages))
        reference.close()

    def _judge_stream(self, resident: Resident, keys: Keys) -> Findings:
        self._check.faults = Faults()
        resident.feed(b"".join(map(write_line, keys)))
        resident.judge()
        counts = self._check.faults.counts
        findings = Findings(1, len(keys), counts[Kind.LOST], counts[Kind.DOUBLED] + counts[Kind.MISDELIVERED])
        findings.reordered = counts[Kind.REORDERED]
        findings.disagreed = int(counts[Kind.DISAGREED] > 0 and not findings.faults)
        return findings


def write_line(key: bytes) -> bytes:
    return b"%b: %b\n" % (key[:SENDER_DIGITS], key[SENDER_DIGITS + 1 :])


def merge_orders(orders: Sequence[Keys]) -> Keys:
    """One order from those of up to three receivers, each of whom lacks its own messages."""
    one, two, three = [*orders, [], []][:MERGED]
    in_one, in_two, rank = set(one), set(two), {key: place for place, key in enumerate(three)}
    taken: dict[bytes, None] = {}
    left, right = 0, 0
    while left < len(one) and right < len(two):
        mine, other = one[left], two[right]
        if mine in taken or other in taken:
            left, right = left + (mine in taken), right + (other in taken)
        elif (mine in in_two) == (other in in_one):
            taken[mine if rank.get(mine, 0) <= rank.get(other, 0) else other] = None
        else:
            taken[other if mine in in_two else mine] = None
    return list(taken | dict.fromkeys(one[left:] + two[right:]))


def compare_processes(groups: Sequence[Sequence[Keys]]) -> Findings:
    """The orders that several processes saw of one room."""
    findings = Findings()
    for others, group in combinations(groups, 2):
        findings.ordered += len(group)
        findings.disagreed += sum(any(compare_orders([mine, other]) for other in others) for mine in group)
    return findings


def measure_latencies(
    matches: Iterable[tuple[int, bytes]], arrivals: Iterable[tuple[int, int]], workload: Workload, start_ns: int
) -> array[int]:
    """ns from when each message was due to its arrival.

    `matches`: end offset and key of each delivery. `arrivals`: time, and offset up to which had been received then.
    """
    latencies = array("q")
    times = iter(arrivals)
    now, received = 0, -1
    for end, key in matches:
        while received < end:
            now, received = next(times)
        due = start_ns + workload.due_ns(int(key[:SENDER_DIGITS]), int(key[-NUMBER_DIGITS:]))
        latencies.append(now - due)
    return latencies
