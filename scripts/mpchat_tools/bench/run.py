"""One run of the benchmark: one server, one workload, from the start of the server to its end.

Owns the load processes, and the moments at which the server's CPU and memory are read. Promises a Run or a
ToolError within the given time, and that no process is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from mpchat_tools.bench.check import Findings, compare_processes
from mpchat_tools.bench.dialects import DIALECTS, Dialect
from mpchat_tools.bench.load import Done, Ready, Task, Verdict, run_load
from mpchat_tools.bench.peers import Peer, running
from mpchat_tools.bench.workload import Kind, Workload
from mpchat_tools.common.crew import CONTEXT, Crew, Here, crew
from mpchat_tools.common.figures import QUANTILES, quantile
from mpchat_tools.common.meter import ByKind, Disturbance, Meter, Watch, add_up, subtract
from mpchat_tools.common.server import Server

START_S = 0.2  # between the order and the start, so that all processes start together
SETTLE_S = 1.0  # before memory is read: by then the server has finished its work after a sign-on
MORE_S = 60.0  # beyond the patience of a load process: to get ready, and to read millions of deliveries

Answer = TypeVar("Answer", Here, Ready, Done, Verdict)


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one run. Rates are per second; None where a figure does not apply."""

    server: str
    workload: str
    expected: int
    counted: int
    findings: Findings
    disconnected: int
    seconds: float
    deliveries_per_s: float | None
    cpu_us: float | None  # of the server, per delivery
    load_us: float | None  # of the load generator, per delivery
    load_share: float  # of one core per load process
    latency_ms: dict[str, float | None]
    late_ms: float | None  # p99 of how late the load generator sent
    sign_ons_per_s: float
    memory: int | None  # bytes of PSS at the end of the workload
    bytes_per_client: float | None
    stolen: float | None  # of the machine's time, by the hypervisor
    foreign: float | None  # and by processes that are not ours; None in SIGN_ON

    @property
    def lost(self) -> int:
        """The larger of what reading the streams and what counting bytes found; only the count has all streams."""
        return max(self.findings.lost, self.expected - self.counted)

    @property
    def faults(self) -> list[str]:
        """Each kind of fault in words; empty if all is well."""
        found = self.findings
        counts = {
            "lost": self.lost,
            "doubled": found.doubled,
            "out of order": found.reordered,
            "receivers saw another order": found.disagreed,
            "disconnected": self.disconnected,
        }
        return [f"{count:,} {what}" for what, count in counts.items() if count]


@dataclass(frozen=True, slots=True)
class Terms:
    """How a run is done. Seconds: `patience` for signing on and again for the talk, `silence` before losses count."""

    workers: int = 2
    patience: float = 60.0
    silence: float = 5.0


class Load(NamedTuple):
    """The load processes of a run, and how long they have for an answer."""

    crew: Crew
    patience: float

    def start(self) -> None:
        """Let all begin at the same time."""
        self.crew.tell(time.monotonic_ns() + int(START_S * 1e9))

    def hear(self, kind: type[Answer]) -> list[Answer]:
        return self.crew.hear(kind, self.patience)


@contextmanager
def loading(workload: Workload, dialect: Dialect, window: int, server: Server, terms: Terms) -> Iterator[Load]:
    """Load processes for that server, until the block ends. `window`: clients that sign on at the same time."""
    arrivals = CONTEXT.RawArray("q", workload.processes)
    tasks = [
        Task(workload, dialect, server.host, server.port, number, window, terms.patience, terms.silence)
        for number in range(workload.processes)
    ]
    with crew(run_load, [(task, arrivals) for task in tasks]) as started:
        yield Load(started, terms.patience + MORE_S)


@dataclass(frozen=True, slots=True)
class Measured:
    """The raw measurements of a run."""

    ready: list[Ready]
    done: list[Done]
    verdicts: list[Verdict]
    cpu: ByKind
    memory: ByKind
    memory_before: ByKind
    disturbance: Disturbance


def run_once(peer: Peer, workload: Workload, terms: Terms) -> Run:
    """Raises ToolError if the server cannot be started or its clients cannot sign on."""
    dialect = DIALECTS[peer.dialect]()
    with ExitStack() as stack:
        server = stack.enter_context(running(peer, workload.clients, terms.workers))
        meter = Meter(server.pid)
        memory_before = meter.read_memory()
        load = stack.enter_context(loading(workload, dialect, peer.window, server, terms))
        measured = measure(load, workload, meter, memory_before)
    return make_run(peer.name, workload, dialect, measured)


def measure(load: Load, workload: Workload, meter: Meter, memory_before: ByKind) -> Measured:
    """Run a load and measure the server."""
    load.hear(Here)
    watch = Watch()
    load.start()
    ready = load.hear(Ready)
    if workload.kind is Kind.SIGN_ON:
        disturbance = replace(watch.read(0.0), foreign=None)
        time.sleep(SETTLE_S)
        return Measured(ready, [], [], {}, meter.read_memory(), memory_before, disturbance)
    watch, before = Watch(), meter.read_cpu()
    load.start()
    done = load.hear(Done)
    cpu = subtract(meter.read_cpu(), before)
    disturbance = watch.read(sum(cpu.values()) + sum(each.cpu_s for each in done))
    return Measured(ready, done, load.hear(Verdict), cpu, meter.read_memory(), memory_before, disturbance)


def judge(verdicts: list[Verdict]) -> Findings:
    findings = Findings()
    for verdict in verdicts:
        findings.add(verdict.findings)
    rooms = sorted({room for verdict in verdicts for room in verdict.orders})
    for room in rooms:
        findings.add(compare_processes([v.orders[room] for v in verdicts if room in v.orders]))
    return findings


def make_run(server: str, workload: Workload, dialect: Dialect, measured: Measured) -> Run:
    ready, done = measured.ready, measured.done
    counted = sum(each.counted for each in done)
    spans = done or ready
    seconds = (max(each.last_ns for each in spans) - min(each.first_ns for each in spans)) / 1e9
    signing_on = (max(each.last_ns for each in ready) - min(each.first_ns for each in ready)) / 1e9
    load_s = sum(each.cpu_s for each in spans)
    latencies = sorted(ns for verdict in measured.verdicts for ns in verdict.latencies_ns)
    late = sorted(ns for each in done for ns in each.late_ns)
    cpu_s, memory = sum(measured.cpu.values()), add_up(measured.memory)
    grown = add_up(subtract(measured.memory, measured.memory_before))
    return Run(
        server=server,
        workload=workload.name,
        expected=workload.deliveries(dialect.echoes),
        counted=counted,
        findings=judge(measured.verdicts),
        disconnected=sum(each.disconnected for each in done),
        seconds=seconds,
        deliveries_per_s=counted / seconds if counted else None,
        cpu_us=cpu_s * 1e6 / counted if counted else None,
        load_us=load_s * 1e6 / counted if counted else None,
        load_share=load_s / seconds / workload.processes,
        latency_ms={name: quantile(latencies, part) for name, part in QUANTILES.items()} if latencies else {},
        late_ms=quantile(late, QUANTILES["p99"]),
        sign_ons_per_s=workload.clients / signing_on,
        memory=None if memory is None else round(memory),
        bytes_per_client=None if grown is None else grown / workload.clients,
        stolen=measured.disturbance.stolen,
        foreign=measured.disturbance.foreign,
    )
