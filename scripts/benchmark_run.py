"""One run of the benchmark: one server, one workload, from the start of the server to its end.

Owns the load processes, and the moments at which the server's CPU and memory are read. Promises a Run or a
StressError within the given time, and that no process is left.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from benchmark_check import Findings, compare_references
from benchmark_dialects import DIALECTS, Dialect
from benchmark_load import Done, Failure, Here, Ready, Task, Verdict, run_load
from benchmark_meter import foreign_share, read_cpu, read_memory, read_stat, stolen_share
from benchmark_peers import Address, Peer, running
from benchmark_workload import Kind, Workload
from stress import QUANTILES, deferred_interrupts, quantile
from stress_server import StressError

START_S = 0.2  # from the order to begin to the beginning, so that all processes begin together
SETTLE_S = 1.0  # before memory is read: what a server does just after a sign-on is over
MORE_S = 60.0  # over the patience of a load process: to get ready, and to read millions of deliveries in the end
END_S = 1.0  # for a load process to close its connections

Answer = TypeVar("Answer", Here, Ready, Done, Verdict)


@dataclass(frozen=True, slots=True)
class Run:
    """All that was found. Rates are per second; what does not apply is None."""

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
    foreign: float | None  # and by processes that are none of ours; n/a in SIGN_ON

    @property
    def lost(self) -> int:
        """By the reading of streams, and by the count, which has those too that were not kept."""
        return max(self.findings.lost, self.expected - self.counted)

    @property
    def is_well(self) -> bool:
        return not (self.lost or self.findings.faults or self.disconnected)


@dataclass(frozen=True, slots=True)
class Terms:
    """How a run is done. Seconds: `patience` for signing on and again for the talk, `silence` before losses count."""

    workers: int = 2
    patience: float = 60.0
    silence: float = 5.0


class Crew:
    """The load processes of a run."""

    def __init__(self, workload: Workload, dialect: Dialect, window: int, address: Address, terms: Terms) -> None:
        self._patience = terms.patience
        self._pipes: list[Connection[Any, Any]] = []
        self._processes: list[BaseProcess] = []
        context = multiprocessing.get_context("spawn")
        arrivals = context.RawArray("q", workload.processes)
        for number in range(workload.processes):
            ours, theirs = context.Pipe()
            task = Task(workload, dialect, address.host, address.port, number, window, terms.patience, terms.silence)
            process = context.Process(target=run_load, args=(task, theirs, arrivals), daemon=True)
            self._pipes.append(ours)
            process.start()
            self._processes.append(process)
            theirs.close()

    def start(self) -> None:
        """Let all begin at the same time."""
        start_ns = time.monotonic_ns() + int(START_S * 1e9)
        for pipe in self._pipes:
            try:
                pipe.send(start_ns)
            except BrokenPipeError:
                raise StressError("a load process died") from None

    def hear(self, kind: type[Answer]) -> list[Answer]:
        """One answer of each process, in whatever order they come."""
        answers: list[Answer] = []
        waiting = list(self._pipes)
        deadline = time.monotonic() + self._patience + MORE_S
        while waiting:
            ready = wait(waiting, max(0.0, deadline - time.monotonic()))
            if not ready:
                raise StressError(f"a load process is not {kind.__name__.lower()} in time")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                answers.append(self._receive(pipe, kind))
                waiting.remove(pipe)
        return answers

    def _receive(self, pipe: Connection[Any, Any], kind: type[Answer]) -> Answer:
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise StressError("a load process died") from None
        if isinstance(answer, Failure):
            raise StressError(answer.reason)
        assert isinstance(answer, kind), answer
        return answer

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(END_S)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


@dataclass(frozen=True, slots=True)
class Measured:
    """A run, before it is put into figures."""

    ready: list[Ready]
    done: list[Done]
    verdicts: list[Verdict]
    cpu_s: float
    memory: int | None
    memory_before: int | None
    stolen: float | None
    foreign: float | None


def run_once(peer: Peer, workload: Workload, terms: Terms) -> Run:
    """Raises StressError if the server cannot be started or its clients cannot sign on."""
    dialect = DIALECTS[peer.dialect]()
    with ExitStack() as stack:
        address = stack.enter_context(running(peer, workload.clients, terms.workers))
        memory_before = read_memory(address.pid)
        with deferred_interrupts():
            crew = stack.enter_context(closing(Crew(workload, dialect, peer.window, address, terms)))
        measured = measure(crew, workload, address.pid, memory_before)
    return make_run(peer.name, workload, dialect, measured)


def measure(
    crew: Crew, workload: Workload, pid: int, memory_before: int | None, read_cpu: Callable[[int], float] = read_cpu
) -> Measured:
    """What a crew does to the server `pid`. `read_cpu` is called just before the talk and just after it."""
    crew.hear(Here)
    stat = read_stat()
    crew.start()
    ready = crew.hear(Ready)
    if workload.kind is Kind.SIGN_ON:
        stolen = stolen_share(stat, read_stat())
        time.sleep(SETTLE_S)
        return Measured(ready, [], [], 0.0, read_memory(pid), memory_before, stolen, None)
    stat, cpu_s = read_stat(), read_cpu(pid)
    crew.start()
    done = crew.hear(Done)
    cpu_s, now = read_cpu(pid) - cpu_s, read_stat()
    stolen = stolen_share(stat, now)
    foreign = foreign_share(stat, now, cpu_s + sum(each.cpu_s for each in done))
    return Measured(ready, done, crew.hear(Verdict), cpu_s, read_memory(pid), memory_before, stolen, foreign)


def judge(verdicts: list[Verdict]) -> Findings:
    findings = Findings()
    for verdict in verdicts:
        findings.add(verdict.findings)
    rooms = sorted({room for verdict in verdicts for room in verdict.references})
    for room in rooms:
        findings.add(compare_references([v.references[room] for v in verdicts if room in v.references]))
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
    grown = None
    if measured.memory is not None and measured.memory_before is not None:
        grown = (measured.memory - measured.memory_before) / workload.clients
    return Run(
        server=server,
        workload=workload.name,
        expected=workload.deliveries(dialect.echoes),
        counted=counted,
        findings=judge(measured.verdicts),
        disconnected=sum(each.disconnected for each in done),
        seconds=seconds,
        deliveries_per_s=counted / seconds if counted else None,
        cpu_us=measured.cpu_s * 1e6 / counted if counted else None,
        load_us=load_s * 1e6 / counted if counted else None,
        load_share=load_s / seconds / workload.processes,
        latency_ms={name: quantile(latencies, part) for name, part in QUANTILES.items()} if latencies else {},
        late_ms=quantile(late, QUANTILES["p99"]),
        sign_ons_per_s=workload.clients / signing_on,
        memory=measured.memory,
        bytes_per_client=grown,
        stolen=measured.stolen,
        foreign=measured.foreign,
    )
