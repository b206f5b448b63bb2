"""The sequencer of mpchat under the load of processes that only publish and read.

Owns those processes, and a sequencer with a journal as in the server. Promises to check that every reader gets all
records, each once and in order; a Sample or a ToolError in bounded time; and that no process is left. A worker
publishes at most once a millisecond and rests between two reads; this measures the limit without those pauses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psutil

from mpchat.chat.entries import Said, encode_entries
from mpchat.log.local.journal import Journal
from mpchat.log.local.memory import journal_size
from mpchat.log.local.process import Sequencer
from mpchat.log.local.proxy import LogProxy
from mpchat.log.port import LogError, LogFull
from mpchat_tools.common.crew import CONTEXT, Crew, Failure, Here, Pipe, crew
from mpchat_tools.common.limits import deferred_interrupts
from mpchat_tools.common.meter import Watch, measure_process
from mpchat_tools.growth.sample import Figures, Sample
from mpchat_tools.growth.series import Sequencing

TEXT = "x" * 64
SNAPSHOT_EVERY = 4 << 20  # bytes of payload after which a publisher puts a snapshot of what all have read
READ_S = 0.2
START_S = 30.0
DRAIN_S = 30.0  # for the readers, when all is published
FULL_S = 0.001
_UNKNOWN = -1  # as the last record

Positions = MutableSequence[int]
"""Shared by all: the last record there will be, and then how far each reader has come."""


@dataclass(frozen=True, slots=True)
class Published:
    """So many publications, and the number of the latest."""

    calls: int
    last: int


@dataclass(frozen=True, slots=True)
class Read:
    """So many readings that had something in them; what was missing or came twice."""

    calls: int
    faults: int


def make_payload(batch: int) -> bytes:
    """A batch of entries as a worker publishes it."""
    sids = [b"%016d" % number for number in range(batch)]
    return encode_entries([Said(sid, 65, (TEXT,)) for sid in sids])


# --- the processes


def publish(log: LogProxy, pipe: Pipe, positions: Positions, task: Sequencing) -> None:
    """Publish, and wait for the answer, until the time is up."""
    payload, calls, last, since = make_payload(task.batch), 0, 0, 0
    until = float(pipe.recv()) + task.seconds
    while time.monotonic() < until:
        try:
            last = log.publish(payload)
        except LogFull:  # the slowest reader holds the publishers up
            since = SNAPSHOT_EVERY
            time.sleep(FULL_S)
        else:
            calls, since = calls + 1, since + len(payload)
        if since >= SNAPSHOT_EVERY and (covered := min(positions[1:], default=last)):
            log.put_snapshot(covered, b"")
            since = 0
    pipe.send(Published(calls, last))


def read(log: LogProxy, pipe: Pipe, positions: Positions, place: int) -> None:
    """Read until there is no more."""
    calls, faults, position = 0, 0, 0
    pipe.recv()
    while positions[0] == _UNKNOWN or position < positions[0]:
        records = log.read(position, READ_S)
        calls += bool(records)
        for record in records:
            faults += record.seq != position + 1
            position = record.seq
        positions[place] = position
    pipe.send(Read(calls, faults))


def connect(log: LogProxy) -> None:
    """Connect with retries, as a worker does: a busy sequencer may not answer the first try in time."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            log.connect()
            return
        except LogError:
            if time.monotonic() > deadline:
                raise


def work(pipe: Pipe, log: LogProxy, positions: Positions, task: Sequencing, place: int) -> None:
    """The work of both kinds of process; `place` is that of a reader, 0 for a publisher."""
    try:
        connect(log)
        pipe.send(Here())
        if place:
            read(log, pipe, positions, place)
        else:
            publish(log, pipe, positions, task)
        pipe.recv()  # until the parent has read the CPU time of this process
    except LogError as error:
        pipe.send(Failure(f"a process beside the sequencer lost it: {error}"))


# --- the parent


@contextmanager
def running() -> Iterator[tuple[Sequencer, LogProxy]]:
    """A sequencer with a journal, until the block ends."""
    with ExitStack() as stack:
        journal = Journal.make(journal_size())
        stack.callback(journal.close)
        with deferred_interrupts():
            sequencer = Sequencer(journal)
            stack.callback(sequencer.stop)
            log = sequencer.start()
        yield sequencer, log


def measure_sequencer(task: Sequencing) -> Sample:
    """Measure what a call and an entry cost the sequencer when no other process has work."""
    with ExitStack() as stack:
        sequencer, log = stack.enter_context(running())
        positions: Positions = CONTEXT.RawArray("q", [_UNKNOWN, *[0] * task.readers])
        places = [0] * task.publishers + [*range(1, task.readers + 1)]
        beside = stack.enter_context(crew(work, [(log, positions, task, place) for place in places]))
        beside.hear(Here, START_S)
        process = psutil.Process(sequencer.pid)
        watch, own_s = Watch(), cpu_of(beside)
        cpu_s, started = measure_process(process), time.monotonic()
        beside.tell(started)
        published = beside.hear(Published, task.seconds + START_S, beside.pipes[: task.publishers])
        positions[0] = max(each.last for each in published)
        seconds, busy_s = time.monotonic() - started, measure_process(process) - cpu_s
        found = beside.hear(Read, DRAIN_S, beside.pipes[task.publishers :])
        cpu_s = measure_process(process) - cpu_s
        disturbance = watch.read(cpu_s + cpu_of(beside) - own_s)
    figures = list_figures(task, published, found, seconds, cpu_s) | {"share": busy_s / seconds}
    return Sample(figures, disturbance, list_faults(published, found, task))


def cpu_of(beside: Crew) -> float:
    return sum(measure_process(psutil.Process(each.pid)) for each in beside.processes if each.is_alive())


def list_figures(
    task: Sequencing, published: Sequence[Published], found: Sequence[Read], seconds: float, cpu_s: float
) -> Figures:
    """`full_per_s`: publications a second at which the sequencer would be busy all the time, if each cost as here."""
    calls, reads = sum(each.calls for each in published), sum(each.calls for each in found)
    return {
        "calls_per_s": (calls + reads) / seconds,
        "publishes_per_s": calls / seconds,
        "reads_per_s": reads / seconds,
        "entries_per_s": calls * task.batch / seconds,
        "call_us": cpu_s * 1e6 / (calls + reads),
        "publish_us": cpu_s * 1e6 / calls,
        "entry_us": cpu_s * 1e6 / calls / task.batch,
        "full_per_s": calls / cpu_s,
    }


def list_faults(published: Sequence[Published], found: Sequence[Read], task: Sequencing) -> list[str]:
    faults = sum(each.faults for each in found)
    last, sent = max(each.last for each in published), sum(each.calls for each in published)
    return [f"{faults} gaps"] * bool(faults) + [f"record {last} is the last of {sent}"] * (last != sent)
