"""The tables of growth.py: one per series, a line per row, with what others did to the machine meanwhile.

Owns the columns. Promises that each figure is the median over the rounds, with the least and the most beside those that
matter most, and that all that was wrong is under its table. PURE: samples in, text out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpchat_tools.common.figures import FOREIGN_MUCH, STOLEN_MUCH, Column, Figure, format_table
from mpchat_tools.growth.sample import Sample

Rows = Mapping[str, Sequence[Sample]]
"""The samples of a series, one a round, by row."""


def column(heading: str, name: str, form: str = ",.0f", ranged: bool = False) -> Column[Sample]:
    """The figure of this name."""
    return Column(heading, lambda sample: sample.figures.get(name), form, ranged)


@dataclass(frozen=True, slots=True)
class Table:
    """What a series shows: the thing that grows, and its figures."""

    title: str
    grows: str
    columns: tuple[Column[Sample], ...]


RATE = column("deliveries/s", "rate", ranged=True)
CPU = column("CPU us/delivery", "cpu_us", ".2f", ranged=True)
SPLIT = (
    column("workers", "workers_us", ".2f"),
    column("sequencer", "sequencer_us", ".3f"),
    column("main", "main_us", ".3f"),
)
MESSAGE = column("us/message", "message_us")
SECONDS = column("seconds", "seconds", ".2f")
LOAD = column("load busy", "load_share", ".0%")
MIB = column("MiB", "mib")
TALK = (RATE, CPU, *SPLIT, MESSAGE, SECONDS, LOAD, MIB)

TABLES: dict[str, Table] = {
    "workers": Table("B, B1 and C of benchmark.py with more and more workers", "workload, workers", TALK),
    "room": Table(
        "one room, more and more members, 10 of whom talk (each waits to be seen), flood, or say 10 messages/s in all",
        "load, members",
        (*TALK, column("p50 ms", "p50_ms", ".2f"), column("p99 ms", "p99_ms", ".2f")),
    ),
    "rooms": Table(
        "200 clients in the lobby, 20 of whom talk, beside 200 idle clients who are in more and more rooms",
        "rooms",
        TALK,
    ),
    "memberships": Table(
        "200 clients in the lobby, 20 of whom talk, and each is in more and more other rooms", "rooms of each", TALK
    ),
    "idle": Table(
        "200 clients in the lobby, 20 of whom talk, beside more and more idle clients in rooms of 50",
        "idle clients",
        (*TALK, column("KiB/client", "client_kib", ".1f")),
    ),
    "size": Table(
        "200 clients in one room, 20 of whom flood it with larger and larger messages",
        "bytes",
        (
            RATE,
            column("MB/s", "mb_per_s"),
            CPU,
            *SPLIT,
            column("CPU ns/byte", "byte_ns", ".2f"),
            SECONDS,
            LOAD,
            MIB,
        ),
    ),
    "sequencer": Table(
        "the sequencer alone: so many processes publish batches of entries of 64 bytes, and as many read all of it",
        "batch, of each",
        (
            column("publications/s", "publishes_per_s", ranged=True),
            column("readings/s", "reads_per_s"),
            column("calls/s", "calls_per_s"),
            column("entries/s", "entries_per_s"),
            column("CPU us/call", "call_us", ".0f"),
            column("us/publication", "publish_us", ".0f", ranged=True),
            column("us/entry", "entry_us", ".2f"),
            column("busy", "share", ".0%"),
            column("full at publications/s", "full_per_s"),
        ),
    ),
    "parts": Table(
        "the parts of a delivery, alone in one process (see scripts/mpchat_tools/growth/parts.py)",
        "part, batch",
        (column("CPU us", "us", ".2f", ranged=True), column("bytes", "bytes")),
    ),
    "start": Table(
        "from the start of the program to the line that says it is ready",
        "workers",
        (
            column("seconds", "ready_s", ".2f", ranged=True),
            column("CPU s", "cpu_s", ".2f"),
            column("workers MiB", "workers_mib", ".1f"),
            column("sequencer", "sequencer_mib", ".1f"),
            column("main", "main_mib", ".1f"),
            column("rest", "rest_mib", ".1f"),
        ),
    ),
    "quiet": Table(
        "4 workers, idle clients in rooms of 50, and nobody says anything; per second",
        "idle clients",
        (
            column("CPU ms", "cpu_ms", ".2f", ranged=True),
            column("workers", "workers_ms", ".2f"),
            column("sequencer", "sequencer_ms", ".2f"),
            column("main", "main_ms", ".2f"),
            column("rest", "rest_ms", ".2f"),
            column("wakings", "wakings", ".1f"),
        ),
    ),
    "crowd": Table(
        "all of these clients at once, in rooms of 50, and more and more messages/s in all",
        "clients, messages/s",
        (
            column("p50 ms", "p50_ms", ".2f", ranged=True),
            column("p99 ms", "p99_ms", ".2f", ranged=True),
            column("deliveries/s", "rate"),
            CPU,
            *SPLIT,
            MESSAGE,
            column("sent late ms", "late_ms", ".2f"),
            MIB,
            column("KiB/client", "client_kib", ".1f"),
            column("workers KiB", "workers_kib", ".1f"),
            column("main KiB", "main_kib", ".1f"),
        ),
    ),
}

NOTES = """\
Median over the rounds (least to most). CPU: user and system time, of all processes of the server unless a kind is
named (rest: other processes). MiB: PSS. load busy: of one core per load process. KiB/client:
what the server has grown by since its start. Latency is from when a message was due to its arrival at each receiver
noted."""


def format_series(name: str, rows: Rows) -> str:
    table = TABLES[name]
    # A column of which nothing is known in this series is left out.
    columns = [c for c in table.columns if any(c.figure(samples) for samples in rows.values())]
    cells = [[table.grows, *(heading for column in columns for heading in column.headings())]]
    cells += [[row, *(cell for column in columns for cell in column.cells(found))] for row, found in rows.items()]
    everything = [sample for samples in rows.values() for sample in samples]
    wrong = [f"  WRONG at {row}: {', '.join(s.wrong)}" for row, samples in rows.items() for s in samples if s.wrong]
    checked = [] if wrong or name in ("parts", "start", "quiet") else ["  nothing lost, doubled or out of order"]
    lines = [f"{name}: {table.title}", *format_table(cells), *wrong, *checked]
    return "\n".join([*lines, *format_disturbances(everything)])


def format_disturbances(samples: Sequence[Sample]) -> Iterator[str]:
    """How far the figures of a table can be believed."""
    yield f"  other processes took {format_shares([s.disturbance.foreign for s in samples], FOREIGN_MUCH)}"
    yield f"  the hypervisor took {format_shares([s.disturbance.stolen for s in samples], STOLEN_MUCH)}"


def format_shares(shares: Sequence[float | None], much: float) -> str:
    known = [share for share in shares if share is not None]
    figure = Figure.of(known)
    if figure is None:
        return "nobody knows how much"
    over = sum(share > much for share in known)
    return (
        f"{figure.median:.0%} of the machine's time ({figure.least:.0%} to {figure.most:.0%}), "
        f"over {much:.0%} in {over} of {len(known)} runs"
    )
