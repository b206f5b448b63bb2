"""Runs of a server for growth.py: a talk, a start, or idle clients, each with a fresh server.

Owns the idle clients, and the moments at which the server is measured. The load generator and its check are those of
the benchmark. Promises a Sample or a ToolError in bounded time, and that no process is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from mpchat_tools.bench.dialects import Line, Steps
from mpchat_tools.bench.load import Ready
from mpchat_tools.bench.run import SETTLE_S, Run, Terms, loading, make_run, measure
from mpchat_tools.bench.workload import Kind, Workload
from mpchat_tools.common.crew import Here
from mpchat_tools.common.meter import KINDS, ByKind, Disturbance, Meter, Watch, subtract
from mpchat_tools.common.server import OwnServer, running
from mpchat_tools.common.serverlog import find_kinds
from mpchat_tools.growth.sample import Figures, Sample
from mpchat_tools.growth.series import Idle, Quiet, Start, Talk

LOG_LEVEL = "info"  # at which the log names the processes
WINDOW = 1000  # clients that sign on at the same time
KIB, MIB = 1 << 10, 1 << 20
FENCE = b"There is no command /growth-fence."
QUIET_SETTLE_S = 3.0  # by then the work after a sign-on (marks, a snapshot, the allocator) is done


@dataclass(frozen=True, slots=True)
class IdleLine(Line):
    """How idle clients sign on: with their own names, and not in the lobby."""

    idle: Idle

    def steps(self, client: int, workload: Workload) -> Steps:
        first, *others = (b"/join #i%d\n" % room for room in self.idle.rooms_of(client))
        said = [b"i%05d\n" % client, first, b"/leave #lobby\n", *others, b"/growth-fence\n"]
        return [(b"".join(said), FENCE)]


@dataclass(frozen=True, slots=True)
class MemberLine(Line):
    """How clients sign on that talk in the lobby and are alone in `more` other rooms each."""

    more: int

    def steps(self, client: int, workload: Workload) -> Steps:
        joins = [b"/join #m%d-%d\n" % (client, number) for number in range(self.more)]
        said = [b"c%05d\n" % client, *joins, b"/join #lobby\n", b"/growth-fence\n"]
        return [(b"".join(said), FENCE)]


def measure_start(command: Sequence[str], start: Start) -> Sample:
    """Seconds until the server says that it is ready, and CPU seconds of all its processes until then."""
    watch = Watch()
    with running(command, start.workers, 0, LOG_LEVEL) as server:
        meter = meter_of(server)
        cpu_s = sum(meter.read_cpu().values())
        disturbance = watch.read(cpu_s)
        figures: Figures = {"ready_s": server.ready_s, "cpu_s": cpu_s}
        figures |= {f"{kind}_mib": size / MIB for kind, size in meter.read_memory().items()}
    return Sample(figures, disturbance)


def measure_quiet(command: Sequence[str], quiet: Quiet) -> Sample:
    """Measure what the server uses per second while nobody talks."""
    with ExitStack() as stack:
        server = stack.enter_context(running(command, quiet.workers, quiet.clients, LOG_LEVEL))
        meter = meter_of(server)
        if quiet.idle:
            stack.enter_context(idling(server, quiet.idle))
        time.sleep(min(QUIET_SETTLE_S, quiet.seconds))
        watch, own_s = Watch(), time.process_time()
        cpu, wakings, started = meter.read_cpu(), meter.count_wakings(), time.monotonic()
        time.sleep(quiet.seconds)
        seconds = time.monotonic() - started
        cpu, wakings = subtract(meter.read_cpu(), cpu), subtract(meter.count_wakings(), wakings)
        disturbance = watch.read(sum(cpu.values()) + time.process_time() - own_s)
    figures: Figures = {f"{kind}_ms": spent * 1e3 / seconds for kind, spent in cpu.items()}
    figures |= {"cpu_ms": sum(cpu.values()) * 1e3 / seconds, "wakings": sum(wakings.values()) / seconds}
    return Sample(figures, disturbance)


def measure_talk(command: Sequence[str], talk: Talk, terms: Terms) -> Sample:
    """Measure what a talk costs by kind of process, and check that everything arrived."""
    with ExitStack() as stack:
        server = stack.enter_context(running(command, talk.workers, talk.clients, LOG_LEVEL))
        meter = meter_of(server)
        before = meter.read_memory()
        if talk.idle:
            stack.enter_context(idling(server, talk.idle))
        dialect = MemberLine(talk.more) if talk.more else Line()
        load = stack.enter_context(loading(talk.workload, dialect, WINDOW, server, terms))
        measured = measure(load, talk.workload, meter, {})
        grown = subtract(meter.read_memory(), before)
    run = make_run("mpchat", talk.workload, dialect, measured)
    figures = list_figures(talk, run, measured.cpu, grown)
    return Sample(figures, Disturbance(run.stolen, run.foreign), run.faults)


def meter_of(server: OwnServer) -> Meter:
    """Return a meter that knows the kinds of the processes that have been started so far."""
    return Meter(server.pid, find_kinds(server.new_log_lines()))


@contextmanager
def idling(server: OwnServer, idle: Idle) -> Iterator[None]:
    """Keep idle clients signed on until the block ends. One load process has them all."""
    workload = Workload("idle", Kind.SIGN_ON, idle.clients, processes=1)
    with loading(workload, IdleLine(idle), WINDOW, server, Terms()) as load:
        load.hear(Here)
        load.start()
        load.hear(Ready)
        time.sleep(SETTLE_S)
        yield


def list_figures(talk: Talk, run: Run, cpu: ByKind, grown: ByKind) -> Figures:
    """Of a run: its own figures, CPU by kind of process and per message, and memory by kind per client."""
    counted = run.counted or None
    messages = talk.workload.rooms * talk.workload.senders * talk.workload.messages
    figures: Figures = {
        "rate": run.deliveries_per_s,
        "cpu_us": run.cpu_us,
        "message_us": sum(cpu.values()) * 1e6 / messages,
        "byte_ns": counted and sum(cpu.values()) * 1e9 / counted / talk.workload.size,
        "mb_per_s": run.deliveries_per_s and run.deliveries_per_s * talk.workload.size / 1e6,
        "seconds": run.seconds,
        "load_share": run.load_share,
        "late_ms": run.late_ms,
        "mib": None if run.memory is None else run.memory / MIB,
        "client_kib": sum(grown.values()) / talk.clients / KIB if grown else None,
    }
    figures |= {f"{kind}_us": counted and cpu[kind] * 1e6 / counted for kind in KINDS}
    figures |= {f"{kind}_kib": size / talk.clients / KIB for kind, size in grown.items()}
    return figures | {f"{name}_ms": value for name, value in run.latency_ms.items()}


def with_mark(talk: Talk, mark: bytes) -> Talk:
    """Return the same talk with a mark of this run in its messages, if they are long enough."""
    return replace(talk, workload=replace(talk.workload, run=mark)) if talk.workload.run else talk
