"""The series of growth.py: the values in each, and the run for each value.

Owns the sizes, full and quick. Within a series one thing grows and everything else stays the same. PURE: describes the
runs and does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mpchat_tools.bench.workload import SHORTEST, Kind, Workload

ROOM_OF_IDLE = 50  # members of the rooms in which idle clients are
WORKERS = 2  # except in the series `workers`


@dataclass(frozen=True, slots=True)
class Idle:
    """Clients that sign on first and then stay silent: each in `each` of the `rooms`, none in a room with talk."""

    clients: int
    rooms: int
    each: int = 1

    def rooms_of(self, client: int) -> list[int]:
        return [(client + turn * self.clients) % self.rooms for turn in range(self.each)]


@dataclass(frozen=True, slots=True)
class Talk:
    """A workload of the benchmark, beside idle clients. `more`: other rooms of each client that talks."""

    workload: Workload
    workers: int = WORKERS
    idle: Idle | None = None
    more: int = 0

    @property
    def clients(self) -> int:
        return self.workload.clients + (self.idle.clients if self.idle else 0)


@dataclass(frozen=True, slots=True)
class Start:
    """A server comes up."""

    workers: int
    clients: int = 0


@dataclass(frozen=True, slots=True)
class Quiet:
    """A server with idle clients for so many seconds."""

    idle: Idle | None
    seconds: float
    workers: int = 4

    @property
    def clients(self) -> int:
        return self.idle.clients if self.idle else 0


@dataclass(frozen=True, slots=True)
class Sequencing:
    """Processes that publish batches of entries as fast as they are answered, and others that read all of it."""

    publishers: int
    readers: int
    batch: int
    seconds: float
    clients: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One of the parts that a delivery is made of, alone in one process (see `parts`)."""

    name: str
    batch: int
    seconds: float
    clients: int = 0


@dataclass(frozen=True, slots=True)
class Archiving:
    """An archivist that writes messages into a database with `kept` of them; `batch` are in one record of the log."""

    kept: int
    batch: int
    messages: int
    clients: int = 0


What = Talk | Start | Quiet | Sequencing | Part | Archiving


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a table."""

    series: str
    row: str
    what: What


def conversation(messages: int, clients: int = 200, senders: int = 20, size: int = 64) -> Workload:
    return Workload("talk", Kind.CONVERSATION, clients, senders=senders, messages=messages, size=size)


def flood(messages: int, clients: int = 200, senders: int = 20, size: int = 64) -> Workload:
    load = Workload("flood", Kind.FLOOD, clients, senders=senders, messages=messages, size=size)
    return replace(load, run=b"") if size <= SHORTEST else load


def paced(messages: int, clients: int, senders: int) -> Workload:
    return Workload("paced", Kind.PACED, clients, senders=senders, messages=messages, load=10.0)


# --- the series


def list_workers(quick: bool) -> Iterator[Case]:
    """The three floods of the benchmark with more and more workers."""
    counts, part = ((2,), 50) if quick else ((1, 2, 4, 8), 1)
    many = Workload("C", Kind.FLOOD, clients=1000 // part, rooms=100 // part, senders=10, messages=200 // part)
    loads = {"B": flood(1000 // part, 200 // part, 20 // part or 1), "B1": conversation(500 // part), "C": many}
    for name, workload in list(loads.items())[: 1 if quick else 3]:
        for workers in counts:
            yield Case("workers", f"{name}, {workers}", Talk(workload, workers))


def list_room(quick: bool) -> Iterator[Case]:
    """One room, more and more members. A talk and a flood with the same number of deliveries; and messages so far apart
    that each goes out by itself, as many for all sizes: their costs differ by that of the deliveries alone."""
    sizes, senders, part = ((6,), 4, 1000) if quick else ((10, 50, 200, 1000, 5000), 10, 1)
    for make, name, deliveries in ((conversation, "talk", 200_000), (flood, "flood", 1_000_000)):
        for size in sizes:
            messages = max(1, round(deliveries / part / (size - 1) / senders))
            yield Case("room", f"{name}, {size:,}", Talk(make(messages, size, senders)))
    for size in sizes:
        yield Case("room", f"paced, {size:,}", Talk(paced(1 if quick else 5, size, senders)))


def list_rooms(quick: bool) -> Iterator[Case]:
    """The same 200 talk in the lobby; beside them, 200 idle clients hold more and more rooms. 9,999 and the lobby are
    all that a server has."""
    counts, clients = ((40,), 20) if quick else ((1, 10, 100, 1000, 9999), 200)
    for rooms in counts:
        idle = Idle(clients, rooms, each=-(-rooms // clients))
        yield Case("rooms", f"{rooms + 1:,}", Talk(small_talk(quick), idle=idle))


def list_memberships(quick: bool) -> Iterator[Case]:
    """The same 200 talk in the lobby, and each of them is in more and more other rooms, in which nobody talks."""
    for more in (3,) if quick else (0, 1, 9, 49):
        yield Case("memberships", f"{more + 1}", Talk(small_talk(quick), more=more))


def list_idle(quick: bool) -> Iterator[Case]:
    for count in (20,) if quick else (0, 1000, 2000, 4000, 8000):
        yield Case("idle", f"{count:,}", Talk(small_talk(quick), idle=idle_clients(count)))


def small_talk(quick: bool) -> Workload:
    return conversation(4, 24, 4) if quick else conversation(200)


def idle_clients(count: int) -> Idle | None:
    return Idle(count, -(-count // ROOM_OF_IDLE)) if count else None


def list_size(quick: bool) -> Iterator[Case]:
    """As many messages as make 200 MB of deliveries, and no more than 1,000,000 deliveries."""
    sizes, most, volume, clients = ((16,), 2_000, 10**6, 24) if quick else ((16, 64, 256, 1000, 3000), 10**6, 2e8, 200)
    for size in sizes:
        messages = max(1, round(min(most, volume / size) / clients / 20))
        yield Case("size", f"{size:,}", Talk(flood(messages, clients, 20, size)))


def list_sequencer(quick: bool) -> Iterator[Case]:
    """First without readers; then as many publishers and readers as there would be workers."""
    counts, batches, seconds = ((0, 2), (10,), 0.1) if quick else ((0, 1, 2, 4, 8), (1, 10, 100), 1.0)
    for batch in batches:
        for workers in counts:
            row = f"{batch}, {workers or 'nobody reads'}"
            yield Case("sequencer", row, Sequencing(max(1, workers), workers, batch, seconds))


def list_start(quick: bool) -> Iterator[Case]:
    for workers in (2,) if quick else (1, 2, 4, 8):
        yield Case("start", f"{workers}", Start(workers))


def list_quiet(quick: bool) -> Iterator[Case]:
    for count in (20,) if quick else (0, 2000):
        yield Case("quiet", f"{count:,}", Quiet(idle_clients(count), 0.5 if quick else 10.0))


def list_crowd(quick: bool) -> Iterator[Case]:
    """160 rooms of 50 clients; in each, a message is sent once a second, then more often."""
    rooms, members, senders, seconds, paces = (4, 10, 5, 1, (5,)) if quick else (160, 50, 5, 5, (1, 5, 10, 15))
    clients = rooms * members
    for pace in paces:
        load, messages = float(rooms * pace), pace * seconds // senders
        workload = Workload("crowd", Kind.PACED, clients, rooms, senders, messages=messages, load=load)
        yield Case("crowd", f"{clients:,}, {load:,.0f}", Talk(workload))


def list_parts(quick: bool) -> Iterator[Case]:
    seconds = 0.01 if quick else 0.5
    for name in ("read", "apply", "show", "flush", "send"):
        for batch in (1, 10, 100):
            yield Case("parts", f"{name}, {batch}", Part(name, batch, seconds))
    yield Case("parts", "remember, 1", Part("remember", 1, seconds))


def list_archive(quick: bool) -> Iterator[Case]:
    kept, batches, messages = ((100,), (20,), 200) if quick else ((0, 1_000_000), (1, 20, 100), 200_000)
    for count in kept:
        for batch in batches:
            yield Case("archive", f"{count:,}, {batch}", Archiving(count, batch, messages))


SERIES: dict[str, Callable[[bool], Iterator[Case]]] = {
    "workers": list_workers,
    "room": list_room,
    "rooms": list_rooms,
    "memberships": list_memberships,
    "idle": list_idle,
    "size": list_size,
    "sequencer": list_sequencer,
    "parts": list_parts,
    "start": list_start,
    "quiet": list_quiet,
    "crowd": list_crowd,
    "archive": list_archive,
}
