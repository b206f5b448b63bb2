"""The tables of growth.py: one per series, a line per row, with the share of other processes in the machine.

Owns the columns. Promises that each figure is the median over the rounds, with the least and the most beside the most
important ones, and that every fault is under its table. PURE: samples in, text out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpchat_tools.common.figures import FOREIGN_MUCH, STOLEN_MUCH, Column, Figure, format_table
from mpchat_tools.growth.sample import Sample

Rows = Mapping[str, Sequence[Sample]]
"""The samples of a series, one a round, by row."""


@dataclass(frozen=True, slots=True)
class Table:
    """What a series shows: the thing that grows, and the names of its figures. A star: with the range."""

    title: str
    grows: str
    figures: str

    @property
    def columns(self) -> list[Column[Sample]]:
        return [_column(name.rstrip("*"), name.endswith("*")) for name in self.figures.split()]


def _column(name: str, ranged: bool) -> Column[Sample]:
    heading, form = FIGURES[name]
    return Column(heading, lambda sample: sample.figures.get(name), form, ranged)


FIGURES = {
    "rate": ("deliveries/s", ",.0f"),
    "cpu_us": ("CPU us/delivery", ".2f"),
    "workers_us": ("workers", ".2f"),
    "sequencer_us": ("sequencer", ".3f"),
    "main_us": ("main", ".3f"),
    "message_us": ("us/message", ",.0f"),
    "byte_ns": ("CPU ns/byte", ".2f"),
    "mb_per_s": ("MB/s", ",.0f"),
    "seconds": ("seconds", ".2f"),
    "load_share": ("load busy", ".0%"),
    "late_ms": ("sent late ms", ".2f"),
    "p50_ms": ("p50 ms", ".2f"),
    "p99_ms": ("p99 ms", ".2f"),
    "mib": ("MiB", ",.0f"),
    "client_kib": ("KiB/client", ".1f"),
    "workers_kib": ("workers KiB", ".1f"),
    "main_kib": ("main KiB", ".1f"),
    # of the sequencer alone
    "publishes_per_s": ("publications/s", ",.0f"),
    "reads_per_s": ("readings/s", ",.0f"),
    "calls_per_s": ("calls/s", ",.0f"),
    "entries_per_s": ("entries/s", ",.0f"),
    "call_us": ("CPU us/call", ".0f"),
    "publish_us": ("us/publication", ".0f"),
    "entry_us": ("us/entry", ".2f"),
    "share": ("busy", ".0%"),
    "full_per_s": ("full at publications/s", ",.0f"),
    # of a part
    "us": ("CPU us", ".2f"),
    "bytes": ("bytes", ",.0f"),
    # of an archive
    "messages_per_s": ("messages/s", ",.0f"),
    "kept_us": ("CPU us/message", ".1f"),
    "kept_bytes": ("bytes/message", ",.0f"),
    "file_mib": ("MiB of the file", ",.0f"),
    "common_ms": ("common word ms", ".1f"),
    "rare_ms": ("rare word ms", ".1f"),
    "page_ms": ("page of history ms", ".1f"),
    # of a start
    "ready_s": ("seconds", ".2f"),
    "cpu_s": ("CPU s", ".2f"),
    "workers_mib": ("workers MiB", ".1f"),
    "sequencer_mib": ("sequencer", ".1f"),
    "main_mib": ("main", ".1f"),
    "rest_mib": ("rest", ".1f"),
    # of a second in which nobody talks
    "cpu_ms": ("CPU ms", ".2f"),
    "workers_ms": ("workers", ".2f"),
    "sequencer_ms": ("sequencer", ".2f"),
    "main_ms": ("main", ".2f"),
    "rest_ms": ("rest", ".2f"),
    "wakings": ("wakings", ".1f"),
}
"""The heading and the form of each figure."""

SPLIT = "cpu_us* workers_us sequencer_us main_us"
TALK = f"rate* {SPLIT} message_us seconds load_share mib"
AMONG = "200 clients in the lobby, 20 of whom talk"

TABLES: dict[str, Table] = {
    "workers": Table("B, B1 and C of benchmark.py with more and more workers", "workload, workers", TALK),
    "room": Table(
        "one room, more and more members, 10 of whom talk (each waits to be seen), flood, or say 10 messages/s in all",
        "load, members",
        f"{TALK} p50_ms p99_ms",
    ),
    "rooms": Table(f"{AMONG}, beside 200 idle clients who are in more and more rooms", "rooms", TALK),
    "memberships": Table(f"{AMONG}, and each is in more and more other rooms", "rooms of each", TALK),
    "idle": Table(f"{AMONG}, beside more and more idle clients in rooms of 50", "idle clients", f"{TALK} client_kib"),
    "size": Table(
        "200 clients in one room, 20 of whom flood it with larger and larger messages",
        "bytes",
        f"rate* mb_per_s {SPLIT} byte_ns seconds load_share mib",
    ),
    "sequencer": Table(
        "the sequencer alone: so many processes publish batches of entries of 64 bytes, and as many read all of it",
        "batch, of each",
        "publishes_per_s* reads_per_s calls_per_s entries_per_s call_us publish_us* entry_us share full_per_s",
    ),
    "parts": Table(
        "the parts of a delivery, alone in one process (see scripts/mpchat_tools/growth/parts.py)",
        "part, batch",
        "us* bytes",
    ),
    "start": Table(
        "from the start of the program to the line that says it is ready",
        "workers",
        "ready_s* cpu_s workers_mib sequencer_mib main_mib rest_mib",
    ),
    "quiet": Table(
        "4 workers, idle clients in rooms of 50, and nobody says anything; per second",
        "idle clients",
        "cpu_ms* workers_ms sequencer_ms main_ms rest_ms wakings",
    ),
    "archive": Table(
        "an archivist alone writes 200,000 messages of 10 words beside those that are kept; then a search for a\n"
        "common and a rare word (p50), a page of history from the middle, and the start of a server (seconds)",
        "kept, in a record",
        "messages_per_s* kept_us* file_mib kept_bytes common_ms rare_ms page_ms ready_s",
    ),
    "crowd": Table(
        "all of these clients at once, in rooms of 50, and more and more messages/s in all",
        "clients, messages/s",
        f"p50_ms* p99_ms* rate {SPLIT} message_us late_ms mib client_kib workers_kib main_kib",
    ),
}

NOTES = """\
Median over the rounds (least to most). CPU: user and system time, of all processes of the server unless a kind is
named (rest: other processes). MiB: PSS. load busy: of one core per load process. KiB/client:
what the server has grown by since its start. Latency is from when a message was due to its arrival at each receiver
noted."""


def format_series(name: str, rows: Rows) -> str:
    table = TABLES[name]
    # Leave out a column without figures.
    columns = [c for c in table.columns if any(c.figure(samples) for samples in rows.values())]
    cells = [[table.grows, *(heading for column in columns for heading in column.headings())]]
    cells += [[row, *(cell for column in columns for cell in column.cells(found))] for row, found in rows.items()]
    everything = [sample for samples in rows.values() for sample in samples]
    wrong = [f"  WRONG at {row}: {', '.join(s.wrong)}" for row, samples in rows.items() for s in samples if s.wrong]
    checked = [] if wrong or name in ("parts", "start", "quiet") else ["  nothing lost, doubled or out of order"]
    lines = [f"{name}: {table.title}", *format_table(cells), *wrong, *checked]
    return "\n".join([*lines, *format_disturbances(everything)])


def format_disturbances(samples: Sequence[Sample]) -> Iterator[str]:
    """Say how much of the machine other processes and the hypervisor took."""
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
