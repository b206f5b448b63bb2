"""How much machines of several sizes should carry, computed from the measurements of growth.py on this one.

Owns the model, which docs/explanation/performance.md explains. Promises to compute with medians of the tables printed
above it, and to name the first wall of each machine. PURE: figures in, text out. Says nothing about machines whose
cores are faster or slower than those measured on, nor about networks.

With a message of one line a publication entry, rooms of n members, and W workers on as many cores:

    CPU of a message        = line + W * entry + sequencer + (n - 1) * delivery
    sequencer of a message  = publication + W * reading     (slope over the readers, in batches of BATCH)
    memory of a client      = client + (W - 2) * replica    (client was measured with two workers)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpchat_tools.common.figures import Figure, format_table
from mpchat_tools.growth.sample import Sample

BUSY = 0.7  # of all cores, and of the sequencer's core; the rest is for bursts
CORES = (2, 8, 32, 64)
ROOMS = (10, 50, 1000)
BATCH = 10  # entries of a publication under load
SILENCE_S = 60.0  # between two messages of a client
SMALL, LARGE = 50, 5000  # members of the rooms between which the cost of a delivery is the slope
MEASURED_WORKERS = 2
CROWD = "8,000, 160"
CROWDED = 50  # members of the rooms of the series `crowd`, which has two workers
GIB = 1 << 30

Book = Mapping[str, Mapping[str, Sequence[Sample]]]


@dataclass(frozen=True, slots=True)
class Costs:
    """In us of CPU; the last two in bytes."""

    line: float
    entry: float
    delivery: float
    publication: float
    reading: float
    client: float
    replica: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a machine carries at BUSY. Rates are per second."""

    messages: float
    deliveries: float
    clients: float
    memory: float
    wall: str


def find_costs(book: Book) -> Costs | None:
    """Return None if a measurement is missing."""

    def median(series: str, row: str, name: str) -> float:
        figure = Figure.of([sample.figures.get(name) for sample in book[series][row]])
        if figure is None:
            raise KeyError(name)
        return figure.median

    try:
        one, many = (median("sequencer", f"{BATCH}, {readers}", "entry_us") for readers in (1, 8))
        small, large = (median("room", f"paced, {size:,}", "message_us") for size in (SMALL, LARGE))
        reading = max(0.0, (many - one) / 7)
        return Costs(
            line=median("parts", f"read, {BATCH}", "us"),
            entry=median("parts", f"show, {BATCH}", "us"),
            delivery=(large - small) / (LARGE - SMALL),
            publication=one - reading,
            reading=reading,
            client=median("crowd", CROWD, "client_kib") * 1024,
            replica=median("parts", "remember, 1", "bytes"),
        )
    except KeyError:
        return None


def cost_message(costs: Costs, workers: int, members: int) -> float:
    """us of CPU of all processes."""
    everywhere = workers * (costs.entry + costs.reading)
    return costs.line + costs.publication + everywhere + (members - 1) * costs.delivery


def compute(costs: Costs, cores: int, members: int) -> Capacity:
    sequencer = costs.publication + cores * costs.reading
    shares = {
        "sending": (members - 1) * costs.delivery,
        "every worker applies every entry": cores * costs.entry,
        "reading lines": costs.line,
        "the sequencer": sequencer,
    }
    whole = BUSY * cores * 1e6 / cost_message(costs, cores, members)
    messages = min(whole, BUSY * 1e6 / sequencer)
    wall = "the sequencer is one process" if messages < whole else max(shares, key=lambda share: shares[share])
    clients = messages * SILENCE_S
    memory = clients * (costs.client + (cores - MEASURED_WORKERS) * costs.replica)
    return Capacity(messages, messages * (members - 1), clients, memory, wall)


def format_capacity(costs: Costs, book: Book) -> str:
    rows = [["cores, workers", "members", "messages/s", "deliveries/s", "clients", "GiB", "first wall"]]
    rows += [list(format_row(costs, cores, members)) for cores in CORES for members in ROOMS]
    return "\n".join([*format_heading(costs), *format_table(rows), format_check(costs, book)])


def format_check(costs: Costs, book: Book) -> str:
    """Compare the model with the measured cost of the same message."""
    measured = [
        f"{figure.median:,.0f} at {row.rpartition(' ')[2]} messages/s"
        for row, samples in book["crowd"].items()
        if (figure := Figure.of([sample.figures.get("message_us") for sample in samples]))
    ]
    wanted = cost_message(costs, MEASURED_WORKERS, CROWDED)
    return f"  check: us of CPU of a message to {CROWDED}: computed {wanted:,.0f}; in crowd {', '.join(measured)}"


def format_heading(costs: Costs) -> Iterator[str]:
    yield f"capacity: computed, not measured; {BUSY:.0%} busy, each client says something every {SILENCE_S:g} s"
    yield (
        f"  us of CPU: line {costs.line:.1f}, entry {costs.entry:.1f} in each worker, delivery {costs.delivery:.1f}; "
        f"sequencer {costs.publication:.1f} an entry, and {costs.reading:.2f} more for each worker"
    )
    yield f"  bytes: client {costs.client:,.0f}, with two workers; {costs.replica:,.0f} more for each further worker"


def format_row(costs: Costs, cores: int, members: int) -> Iterator[str]:
    found = compute(costs, cores, members)
    yield f"{cores}"
    yield f"{members:,}"
    yield f"{found.messages:,.0f}"
    yield f"{found.deliveries:,.0f}"
    yield f"{found.clients:,.0f}"
    yield f"{found.memory / GIB:.1f}"
    yield found.wall
