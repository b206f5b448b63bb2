"""The sequencer of mpchat under the load of processes that do nothing but publish and read.

Owns those processes, and the sequencer's, which has a journal as in the server. Promises that every reader is checked
to have been given all entries, each once and in order; a Sample or a StressError in bounded time; and that no process
is left. A worker publishes at most every millisecond and rests between two readings: what is measured here is where
that would end without the pauses.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
from benchmark_meter import measure_process
from growth_sample import Figures, Sample, Watch
from growth_series import Sequencing
from stress import deferred_interrupts
from stress_server import StressError

from mpchat.bus.contract import LogError, LogFull
from mpchat.bus.journal import Journal
from mpchat.bus.manager import LogProxy, Sequencer
from mpchat.bus.memory import journal_size
from mpchat.chat.entries import Said, encode_entries

CONTEXT = multiprocessing.get_context("spawn")
TEXT = "x" * 64
SNAPSHOT_EVERY = 4 << 20  # bytes of payload after which a publisher says up to where all have read
READ_S = 0.2
START_S = 30.0
DRAIN_S = 30.0  # for the readers, when all is published
END_S = 2.0
FULL_S = 0.001
_UNKNOWN = -1  # as the last entry

Positions = MutableSequence[int]
"""Shared by all: the last entry there will be, and then how far each reader has come."""


@dataclass(frozen=True, slots=True)
class Here:
    """The process is connected."""


@dataclass(frozen=True, slots=True)
class Published:
    """So many publications; the last entry of the latest."""

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


def publish(log: LogProxy, pipe: Connection[Any, Any], positions: Positions, task: Sequencing) -> None:
    """Until the time is up: publish, and wait for the answer."""
    payload, calls, last, since = make_payload(task.batch), 0, 0, 0
    until = float(pipe.recv()) + task.seconds
    while time.monotonic() < until:
        try:
            last = log.publish(payload, task.batch) + task.batch - 1
        except LogFull:  # the slowest reader holds us up
            since = SNAPSHOT_EVERY
            time.sleep(FULL_S)
        else:
            calls, since = calls + 1, since + len(payload)
        if since >= SNAPSHOT_EVERY and (covered := min(positions[1:], default=last)):
            log.put_snapshot(covered, b"")
            since = 0
    pipe.send(Published(calls, last))


def read(log: LogProxy, pipe: Connection[Any, Any], positions: Positions, place: int) -> None:
    """Until there is no more: read what has come."""
    calls, faults, position = 0, 0, 0
    pipe.recv()
    while positions[0] == _UNKNOWN or position < positions[0]:
        records = log.read(position, READ_S).records
        calls += bool(records)
        for record in records:
            faults += record.seq != position + 1
            position = record.last
        positions[place] = position
    pipe.send(Read(calls, faults))


def run_process(log: LogProxy, pipe: Connection[Any, Any], positions: Positions, task: Sequencing, place: int) -> None:
    """The main function of both kinds; `place` is that of a reader, 0 for a publisher. Ctrl-C is for the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        log.connect()
        pipe.send(Here())
        if place:
            read(log, pipe, positions, place)
        else:
            publish(log, pipe, positions, task)
        pipe.recv()  # until the parent has measured what we took
    except (EOFError, OSError, LogError):
        return  # who waits for us sees that we have said nothing


# --- the parent


class Crew:
    """The publishers and readers of a run."""

    def __init__(self, log: LogProxy, task: Sequencing) -> None:
        self.positions = CONTEXT.RawArray("q", [_UNKNOWN, *[0] * task.readers])
        self._pipes: list[Connection[Any, Any]] = []
        self._processes: list[BaseProcess] = []
        for place in [0] * task.publishers + [*range(1, task.readers + 1)]:
            ours, theirs = CONTEXT.Pipe()
            arguments = (log, theirs, self.positions, task, place)
            process = CONTEXT.Process(target=run_process, args=arguments, daemon=True)
            self._pipes.append(ours)
            process.start()
            self._processes.append(process)
            theirs.close()

    def start(self) -> None:
        for pipe in self._pipes:
            pipe.send(time.monotonic())

    def hear(self, count: int, seconds: float, first: int = 0) -> list[Any]:
        """What `count` of the processes say, from the `first` on."""
        waiting, said = self._pipes[first : first + count], []
        deadline = time.monotonic() + seconds
        while waiting:
            for pipe in (ready := wait(waiting, max(0.0, deadline - time.monotonic()))):
                assert isinstance(pipe, Connection)
                said.append(receive(pipe))
                waiting.remove(pipe)
            if not ready:
                raise StressError(f"{len(waiting)} processes beside the sequencer are not done in time")
        return said

    def cpu_s(self) -> float:
        return sum(measure_process(psutil.Process(process.pid)) for process in self._processes if process.is_alive())

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(END_S / len(self._processes))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


def receive(pipe: Connection[Any, Any]) -> object:
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        raise StressError("a process beside the sequencer died, or lost it") from None


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
    """What the sequencer takes for a call and for an entry, when nobody does anything else."""
    with ExitStack() as stack:
        sequencer, log = stack.enter_context(running())
        with deferred_interrupts():
            crew = Crew(log, task)
            stack.callback(crew.close)
        crew.hear(task.publishers + task.readers, START_S)
        process = psutil.Process(sequencer.pid)
        watch = Watch(lambda: measure_process(process) + crew.cpu_s())
        cpu_s, started = measure_process(process), time.monotonic()
        crew.start()
        published: list[Published] = crew.hear(task.publishers, task.seconds + START_S)
        crew.positions[0] = max(each.last for each in published)
        seconds, busy_s = time.monotonic() - started, measure_process(process) - cpu_s
        found: list[Read] = crew.hear(task.readers, DRAIN_S, task.publishers)
        cpu_s = measure_process(process) - cpu_s
        disturbance = watch.read()
    figures = list_figures(task, published, found, seconds, cpu_s) | {"share": busy_s / seconds}
    return Sample(figures, disturbance, list_faults(published, found, task))


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
    last, sent = max(each.last for each in published), sum(each.calls for each in published) * task.batch
    return [f"{faults} gaps"] * bool(faults) + [f"entry {last} is the last of {sent}"] * (last != sent)
