"""The tables of growth.py: one per series, a line per row, with what others did to the machine meanwhile.

Owns the columns. Promises that each figure is the median over the rounds, with the least and the most beside those that
matter most, and that all that was wrong is under its table. PURE: samples in, text out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmark_report import FOREIGN_MUCH, STOLEN_MUCH, Figure, align
from growth_sample import Sample

Rows = Mapping[str, Sequence[Sample]]
"""The samples of a series, one a round, by row."""


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a sample: its heading, its name and its form. `ranged`: least and most are shown."""

    heading: str
    name: str
    form: str = ",.0f"
    ranged: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """What a series shows: the thing that grows, and its figures."""

    title: str
    grows: str
    columns: tuple[Column, ...]


RATE = Column("deliveries/s", "rate", ranged=True)
CPU = Column("CPU us/delivery", "cpu_us", ".2f", ranged=True)
SPLIT = (
    Column("workers", "workers_us", ".2f"),
    Column("sequencer", "sequencer_us", ".3f"),
    Column("main", "main_us", ".3f"),
)
MESSAGE = Column("us/message", "message_us")
SECONDS = Column("seconds", "seconds", ".2f")
LOAD = Column("load busy", "load_share", ".0%")
MIB = Column("MiB", "mib")
TALK = (RATE, CPU, *SPLIT, MESSAGE, SECONDS, LOAD, MIB)

TABLES: dict[str, Table] = {
    "workers": Table("B, B1 and C of benchmark.py with more and more workers", "workload, workers", TALK),
    "room": Table(
        "one room, more and more members, 10 of whom talk (each waits to be seen), flood, or say 10 messages/s in all",
        "load, members",
        (*TALK, Column("p50 ms", "p50_ms", ".2f"), Column("p99 ms", "p99_ms", ".2f")),
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
        (*TALK, Column("KiB/client", "client_kib", ".1f")),
    ),
    "size": Table(
        "200 clients in one room, 20 of whom flood it with larger and larger messages",
        "bytes",
        (
            RATE,
            Column("MB/s", "mb_per_s"),
            CPU,
            *SPLIT,
            Column("CPU ns/byte", "byte_ns", ".2f"),
            SECONDS,
            LOAD,
            MIB,
        ),
    ),
    "sequencer": Table(
        "the sequencer alone: so many processes publish batches of entries of 64 bytes, and as many read all of it",
        "batch, of each",
        (
            Column("publications/s", "publishes_per_s", ranged=True),
            Column("readings/s", "reads_per_s"),
            Column("calls/s", "calls_per_s"),
            Column("entries/s", "entries_per_s"),
            Column("CPU us/call", "call_us", ".0f"),
            Column("us/publication", "publish_us", ".0f", ranged=True),
            Column("us/entry", "entry_us", ".2f"),
            Column("busy", "share", ".0%"),
            Column("full at publications/s", "full_per_s"),
        ),
    ),
    "parts": Table(
        "the parts of a delivery, alone in one process (see scripts/growth_parts.py)",
        "part, batch",
        (Column("CPU us", "us", ".2f", ranged=True), Column("bytes", "bytes")),
    ),
    "start": Table(
        "from the start of the program to the line that says it is ready",
        "workers",
        (
            Column("seconds", "ready_s", ".2f", ranged=True),
            Column("CPU s", "cpu_s", ".2f"),
            Column("workers MiB", "workers_mib", ".1f"),
            Column("sequencer", "sequencer_mib", ".1f"),
            Column("main", "main_mib", ".1f"),
            Column("rest", "rest_mib", ".1f"),
        ),
    ),
    "quiet": Table(
        "4 workers, idle clients in rooms of 50, and nobody says anything; per second",
        "idle clients",
        (
            Column("CPU ms", "cpu_ms", ".2f", ranged=True),
            Column("workers", "workers_ms", ".2f"),
            Column("sequencer", "sequencer_ms", ".2f"),
            Column("main", "main_ms", ".2f"),
            Column("rest", "rest_ms", ".2f"),
            Column("wakings", "wakings", ".1f"),
        ),
    ),
    "crowd": Table(
        "all of these clients at once, in rooms of 50, and more and more messages/s in all",
        "clients, messages/s",
        (
            Column("p50 ms", "p50_ms", ".2f", ranged=True),
            Column("p99 ms", "p99_ms", ".2f", ranged=True),
            Column("deliveries/s", "rate"),
            CPU,
            *SPLIT,
            MESSAGE,
            Column("sent late ms", "late_ms", ".2f"),
            MIB,
            Column("KiB/client", "client_kib", ".1f"),
            Column("workers KiB", "workers_kib", ".1f"),
            Column("main KiB", "main_kib", ".1f"),
        ),
    ),
}

NOTES = """\
Median over the rounds (least to most). CPU: user and system time, of all processes of the server unless a kind is
named (rest: the fork server and the resource tracker). MiB: PSS. load busy: of one core per load process. KiB/client:
what the server has grown by since its start. Latency is from when a message was due to its arrival at each receiver
noted."""


def format_series(name: str, rows: Rows) -> str:
    table = TABLES[name]
    # A column of which nothing is known in this series is left out.
    columns = [c for c in table.columns if any(figure_of(samples, c) for samples in rows.values())]
    lines = [list(format_heading(table, columns))]
    lines += [list(format_row(row, samples, columns)) for row, samples in rows.items()]
    everything = [sample for samples in rows.values() for sample in samples]
    wrong = [f"  WRONG at {row}: {', '.join(s.wrong)}" for row, samples in rows.items() for s in samples if s.wrong]
    checked = [] if wrong or name in ("parts", "start", "quiet") else ["  nothing lost, doubled or out of order"]
    return "\n".join([f"{name}: {table.title}", *align(lines), *wrong, *checked, *format_disturbances(everything)])


def figure_of(samples: Iterable[Sample], column: Column) -> Figure | None:
    return Figure.of([sample.figures.get(column.name) for sample in samples])


def format_heading(table: Table, columns: Sequence[Column]) -> Iterator[str]:
    yield table.grows
    for column in columns:
        yield column.heading
        if column.ranged:
            yield "(range)"


def format_row(row: str, samples: Sequence[Sample], columns: Sequence[Column]) -> Iterator[str]:
    yield row
    for column in columns:
        figure = figure_of(samples, column)
        yield "" if figure is None else f"{figure.median:{column.form}}"
        if column.ranged:
            yield "" if figure is None else f"({figure.least:{column.form}} to {figure.most:{column.form}})"


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
