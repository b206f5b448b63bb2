"""The report of all runs: medians, ranges, ratios, goals, and reasons for doubt.

Owns the summary of several rounds and its tables. Promises that each figure is the median over the rounds, with the
least and the most beside it, and that losses are the sum. PURE: runs in, text out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mpchat_tools.bench.run import Run
from mpchat_tools.bench.workload import Kind, Workload
from mpchat_tools.common.figures import FOREIGN_MUCH, STOLEN_MUCH, Column, Figure, format_table

AGoal = TypeVar("AGoal")

RATIO = 2  # cells of the first column; its ratio comes after them
LATE_MUCH_MS = 3.0
BRIEF_S = 0.2  # one interruption by another process takes several per cent of it
KIB = 1024


def latency(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.latency_ms.get(name)


RATE = Column[Run]("deliveries/s", lambda run: run.deliveries_per_s, ranged=True)
CPU = Column[Run]("CPU us/delivery", lambda run: run.cpu_us, ".2f", ranged=True)
MEMORY = Column[Run]("MiB", lambda run: None if run.memory is None else run.memory / KIB**2, ".0f")
LOAD_US = Column[Run]("load us", lambda run: run.load_us, ".2f")
LOAD_SHARE = Column[Run]("load %", lambda run: run.load_share * 100, ".0f")
P50 = Column[Run]("p50 ms", latency("p50"), ".2f", ranged=True)
P99 = Column[Run]("p99 ms", latency("p99"), ".2f", ranged=True)
LATE = Column[Run]("sent late ms", lambda run: run.late_ms, ".2f")
SIGN_ONS = Column[Run]("sign-ons/s", lambda run: run.sign_ons_per_s, ranged=True)
IDLE = Column[Run](
    "KiB/connection", lambda run: run.bytes_per_client and run.bytes_per_client / KIB, ".1f", ranged=True
)

COLUMNS: dict[Kind, tuple[Column[Run], ...]] = {
    Kind.FLOOD: (RATE, CPU, MEMORY, LOAD_US, LOAD_SHARE),
    Kind.CONVERSATION: (RATE, CPU, MEMORY, LOAD_US, LOAD_SHARE),
    Kind.PACED: (P50, P99, CPU, MEMORY, LOAD_US, LOAD_SHARE, LATE),
    Kind.SIGN_ON: (SIGN_ONS, IDLE, MEMORY, LOAD_SHARE),
}


@dataclass(frozen=True, slots=True)
class Goal:
    """What mpchat with two workers should reach in a workload of the default size."""

    column: Column[Run]
    bound: float
    at_least: bool = False

    def format(self, runs: Sequence[Run]) -> str:
        figure = self.column.figure(runs)
        sign = ">=" if self.at_least else "<="
        wanted = f"{self.column.heading} {sign} {self.bound:{self.column.form}}"
        if figure is None:
            return f"{wanted}: not measured"
        reached = figure.median >= self.bound if self.at_least else figure.median <= self.bound
        return f"{wanted}: {figure.median:{self.column.form}}, {'reached' if reached else 'MISSED'}"


GOALS: dict[str, tuple[Goal, ...]] = {
    "B": (Goal(RATE, 6e6, at_least=True), Goal(CPU, 0.15)),
    "B1": (Goal(RATE, 1e6, at_least=True), Goal(CPU, 1)),
    "C": (Goal(RATE, 2.8e6, at_least=True), Goal(CPU, 0.5)),
    "A": (Goal(CPU, 8), Goal(P50, 3), Goal(P99, 10)),
    "D": (Goal(SIGN_ONS, 6000, at_least=True),),
    "E": (Goal(IDLE, 10),),
}


@dataclass(frozen=True, slots=True)
class Share:
    """What the median of a column with a data directory should be, as a share of that without."""

    column: Column[Run]
    bound: float
    at_least: bool = False

    def format(self, runs: Sequence[Run], without: Sequence[Run]) -> str:
        figure, first = self.column.figure(runs), self.column.figure(without)
        sign = ">=" if self.at_least else "<="
        wanted = f"{self.column.heading} with --data {sign} {self.bound:.2f} of that without"
        if figure is None or first is None or not first.median:
            return f"{wanted}: not measured"
        share = figure.median / first.median
        reached = share >= self.bound if self.at_least else share <= self.bound
        return f"{wanted}: {share:.2f}, {'reached' if reached else 'MISSED'}"


SHARES: dict[str, tuple[Share, ...]] = {
    "B": (Share(RATE, 0.85, at_least=True),),
    "B1": (Share(RATE, 0.85, at_least=True),),
    "C": (Share(RATE, 0.85, at_least=True),),
    "A": (Share(CPU, 1.1),),
    "E": (Share(IDLE, 1.0),),
}


def format_workload(workload: Workload, runs: Sequence[Run], with_goals: bool, keeping: str = "") -> str:
    """The table of one workload: a line per server, in the order in which they ran. `keeping`: which one has a data
    directory."""
    of_it = [run for run in runs if run.workload == workload.name]
    servers = list(dict.fromkeys(run.server for run in of_it))
    by_server = {server: [run for run in of_it if run.server == server] for server in servers}
    rows = [format_heading(workload)]
    rows += [format_server(workload, mine, by_server[servers[0]]) for mine in by_server.values()]
    lines = [f"{workload.name}: {workload.describe()}", *format_table(rows)]
    if with_goals and servers:
        name = workload.name.partition("@")[0]
        first = by_server[servers[0]]
        lines += [f"  goal: {goal.format(first)}" for goal in of_parts(GOALS, name)]
        if keeping in by_server:
            lines += [f"  goal: {share.format(by_server[keeping], first)}" for share in of_parts(SHARES, name)]
    return "\n".join([*lines, *(f"  {line}" for line in format_checks(of_it))])


def of_parts(goals: Mapping[str, Sequence[AGoal]], name: str) -> list[AGoal]:
    """Signing on and idle connections may have been measured together, as D+E."""
    return [goal for part in name.split("+") for goal in goals.get(part, ())]


def format_heading(workload: Workload) -> list[str]:
    columns = COLUMNS[workload.kind]
    cells = [heading for column in columns for heading in column.headings()]
    return ["server", *cells[:RATIO], "ratio", *cells[RATIO:], "lost"]


def format_server(workload: Workload, runs: Sequence[Run], first: Sequence[Run]) -> list[str]:
    columns = COLUMNS[workload.kind]
    cells = [cell for column in columns for cell in column.cells(runs, unknown="n/a")]
    ratio = format_ratio(columns[0].figure(runs), columns[0].figure(first))
    return [runs[0].server, *cells[:RATIO], ratio, *cells[RATIO:], f"{sum(run.lost for run in runs):,}"]


def format_ratio(figure: Figure | None, first: Figure | None) -> str:
    """Of the medians: this server's to the first one's."""
    if figure is None or first is None or not first.median:
        return "n/a"
    return f"{figure.median / first.median:.2f}"


def format_checks(runs: Sequence[Run]) -> Iterator[str]:
    """Return what was verified, and every fault."""
    if talking := [run for run in runs if run.expected]:
        streams = sum(run.findings.streams for run in talking)
        read = sum(run.findings.deliveries for run in talking)
        ordered = sum(run.findings.ordered for run in talking)
        counted = sum(run.counted for run in talking)
        yield (
            f"verified: {counted:,} deliveries by bytes; {read:,} of them read in {streams:,} streams, each sender's "
            f"order in all of these, one order for all in {ordered:,}"
        )
    yield from (f"WRONG at {run.server}: {', '.join(run.faults)}" for run in runs if run.faults)


def format_doubts(runs: Sequence[Run]) -> str:
    """Return the reasons to doubt the figures; empty if there are none."""
    stolen = [run.stolen for run in runs if run.stolen is not None and run.stolen > STOLEN_MUCH]
    foreign = [run.foreign for run in runs if run.foreign is not None and run.foreign > FOREIGN_MUCH]
    late = [run.late_ms for run in runs if run.late_ms is not None and run.late_ms > LATE_MUCH_MS]
    brief = [run.seconds for run in runs if run.seconds < BRIEF_S]
    words = []
    if stolen:
        words.append((stolen, f"the hypervisor took over {STOLEN_MUCH:.0%} of the time, {max(stolen):.0%} at most"))
    if foreign:
        words.append((foreign, f"other processes took over {FOREIGN_MUCH:.0%} of the time, {max(foreign):.0%} at most"))
    if late:
        words.append((late, f"1% of the messages were sent over {LATE_MUCH_MS:g} ms late, {max(late):.0f} ms at most"))
    if brief:
        words.append((brief, f"all was over in {BRIEF_S:g} s; more --messages or --clients give steadier figures"))
    return "\n".join(f"DOUBT: in {len(which)} of {len(runs)} runs {what}" for which, what in words)


NOTES = """\
Median over the rounds (least to most). ratio: to the first server's median. CPU us/delivery: user and system time of
the server's whole process tree. load us, load %: CPU of the load generator per delivery, and of one core per load
process. MiB: PSS of the server at the end. Latency is from the time at which a message was due, to every receiver
noted, and has in it what the load generator needs to read."""
