"""Whether the receivers of a benchmark got what was sent: nothing lost, doubled, out of order, or in another order.

Owns the reading of received streams after the clock has stopped. Promises that of each stream which was kept, every
delivery is found and compared: with what was sent, in the order of its sender, and, where the server has one order
for all, with what other receivers saw. PURE: bytes in, findings out.

One order. Who gets its own messages not cannot be compared directly: from both of two streams, the messages of both
receivers are left out, and the rest must be equal. A receiver that sends nothing is a sufficient *reference*; if there
is none, three senders are, since for each pair of messages one of the three has sent neither.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from operator import itemgetter

from mpchat_tools.bench.dialects import Dialect
from mpchat_tools.bench.workload import NUMBER_DIGITS, SENDER_DIGITS, Workload

Keys = list[bytes]
REFERENCES = 3

sender_of = itemgetter(slice(0, SENDER_DIGITS))


@dataclass(slots=True)
class Findings:
    """Sums over receivers. `streams` and `deliveries` say how many were read; `strange` is bytes of anything else."""

    streams: int = 0
    deliveries: int = 0
    lost: int = 0
    doubled: int = 0  # or never meant for the receiver
    reordered: int = 0
    ordered: int = 0  # receivers whose order was compared with another's
    disagreed: int = 0  # of those, how many saw another order
    strange: int = 0

    def add(self, other: Findings) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def faults(self) -> int:
        return self.lost + self.doubled + self.reordered + self.disagreed


@dataclass(frozen=True, slots=True)
class Reference:
    """What one receiver saw; `own` is the sender whose messages it does not get, or empty."""

    own: bytes
    keys: Keys


def find_keys(pattern: re.Pattern[bytes], stream: bytes) -> Keys:
    """The keys of all deliveries in a stream, in their order."""
    found = pattern.findall(stream)
    return [key for _, key in found] if pattern.groups == 2 else found


def judge_keys(keys: Keys, expected: Keys) -> Findings:
    """One stream against what was sent. `expected` is sorted."""
    findings = Findings(streams=1, deliveries=len(keys))
    if sorted(keys, key=sender_of) == expected:  # the sort is stable: it keeps the order of each sender
        return findings
    counts, wanted = Counter(keys), set(expected)
    findings.lost = len(wanted - counts.keys())
    findings.doubled = counts.total() - len(counts.keys() & wanted)
    findings.reordered = count_reordered(keys)
    return findings


def count_reordered(keys: Keys) -> int:
    """How many came after a later one of the same sender, for the first time."""
    latest: dict[bytes, bytes] = {}
    seen: set[bytes] = set()
    late = 0
    for key in keys:
        sender = sender_of(key)
        if key not in seen and key < latest.get(sender, b""):
            late += 1
        latest[sender] = max(key, latest.get(sender, b""))
        seen.add(key)
    return late


def agree(one: Reference, two: Reference) -> bool:
    """Whether two receivers saw the same order."""
    return leave_out(one.keys, two.own) == leave_out(two.keys, one.own)


def leave_out(keys: Keys, sender: bytes) -> Keys:
    return [key for key in keys if sender_of(key) != sender] if sender else keys


def compare_references(groups: Sequence[Sequence[Reference]]) -> Findings:
    """The references of one room in several processes."""
    findings = Findings()
    for number, group in enumerate(groups):
        for other in groups[:number]:
            findings.ordered += len(group)
            findings.disagreed += sum(not all(agree(mine, theirs) for theirs in other) for mine in group)
    return findings


@dataclass(slots=True)
class RoomCheck:
    """The receivers of one room in one process. Feed the listeners first: they are the best references."""

    workload: Workload
    dialect: Dialect
    room: int
    findings: Findings = field(default_factory=Findings)
    references: list[Reference] = field(default_factory=list)
    _block: bytes = b""  # the first listener's stream, if all is well with it
    _block_keys: Keys = field(default_factory=list)

    def feed(self, client: int, stream: bytes) -> Keys:
        """Judge a receiver's whole stream; the keys in it, in their order."""
        gets_all = self.dialect.echoes or not self.workload.is_sender(client)
        if gets_all and self._block and stream == self._block:
            # What is equal byte for byte need not be read again.
            same = Findings(streams=1, deliveries=len(self._block_keys), ordered=int(self.dialect.one_order))
            self.findings.add(same)
            return self._block_keys
        keys = find_keys(self.dialect.pattern(self.workload, self.room), stream)
        judged = judge_keys(keys, self.workload.expected_keys(client, self.dialect.echoes))
        judged.strange = len(stream) - len(keys) * self.dialect.length(self.workload)
        if not judged.faults and self.dialect.one_order:
            self._compare(Reference(b"" if gets_all else b"%0*d" % (SENDER_DIGITS, client), keys), judged)
        if gets_all and not self._block and not judged.faults and not judged.strange:
            self._block, self._block_keys = stream, keys
        self.findings.add(judged)
        return keys

    def _compare(self, mine: Reference, judged: Findings) -> None:
        if self.references:
            judged.ordered = 1
            judged.disagreed = int(not all(agree(mine, other) for other in self.references))
        if not self.references or (self.references[0].own and len(self.references) < REFERENCES):
            self.references.append(mine)


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
