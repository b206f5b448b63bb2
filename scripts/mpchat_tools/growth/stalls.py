"""stalls.py: how long snapshots and adoptions stop a worker and the sequencer from serving.

Owns a sequencer, a worker whose history is full, and a process that pings the sequencer every millisecond. A *stall* of
the worker is the time between two looks at its descriptors. Its CPU time is given as well, because other processes on
the machine lengthen that less. A stall of the sequencer is the time until it answers a ping.

    boot      the worker starts; it has no clients yet
    snapshot  the log asks the worker for a snapshot while there is talk
    adoption  the worker takes over clients of another worker while there is talk
    both      both at the same time
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import select
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from mpchat.chat.entries import Entry, Opened, Said, encode_entries
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import Limits
from mpchat.config import Config
from mpchat.log.local.journal import Journal
from mpchat.log.local.link import ManagerLink
from mpchat.log.local.memory import SNAPSHOT_MOST, journal_size
from mpchat.log.local.process import Sequencer
from mpchat.log.local.proxy import LogProxy, ManagerAddress
from mpchat.log.port import LogFull, LogLost
from mpchat.server.control import Channel, Handed, HandOff, Ready
from mpchat.server.ledger import Ledger, Mark, Shape, ring_size
from mpchat.server.worker import worker
from mpchat.wire.registry import LINE
from mpchat_tools.common.figures import format_table
from mpchat_tools.common.options import conclude, positive

CONTEXT = multiprocessing.get_context("fork")
CONFIG = Config(beat_timeout=0.5)
CROWD = 5000
"""Sessions of other workers."""
BATCH = 100
CAPACITY = 4 << 20
"""Bytes that the log holds; it asks for a snapshot when it is half full."""
ENOUGH = 25_000
"""Entries of talk that make the log ask for a snapshot."""
SOME = 10_000
"""Entries of talk that do not."""
DEADLINE = 60.0

HISTORIES = {"short": "x" * 10, "long": "x" * 4000, "wide": "\U0001f600" * 1000}


@dataclass(frozen=True, slots=True)
class Stall:
    """A stall that began at `at` (monotonic clock). Seconds."""

    at: float
    lasted: float
    cpu: float


@dataclass(slots=True)
class Result:
    """The stalls that were measured. `phases`: when each began and ended."""

    phases: dict[str, tuple[float, float]] = field(default_factory=dict)
    worker: list[Stall] = field(default_factory=list)
    sequencer: list[Stall] = field(default_factory=list)

    def longest(self, stalls: list[Stall], phase: str) -> Stall:
        start, end = self.phases[phase]
        within = [stall for stall in stalls if start <= stall.at < end]
        return max(within, key=lambda stall: stall.lasted, default=Stall(start, 0.0, 0.0))


def sid_of(number: int) -> bytes:
    return number.to_bytes(16)


def name_of(number: int) -> str:
    return f"c{number:06d}"


def fill(text: str, clients: int) -> Replica:
    """Return a replica with all sessions and a full history."""
    replica = Replica(Limits())
    for number in range(clients + CROWD):
        replica.apply(Opened(sid_of(number), "127.0.0.1"), 0)
        replica.apply(Said(sid_of(number), len(name_of(number)) + 1, (name_of(number),)), 0)
    history = replica._state.history
    number, full = 0, Limits().history_bytes
    while history.size < full - (64 << 10):
        history.add(f"room{number % 1000}", number, name_of(number % CROWD), (f"{text}{number}",))
        number += 1
    return replica


# --- the processes


class Watching:
    """A selector that records the times between two calls of `select`."""

    def __init__(self, selector: Any) -> None:
        self.stalls: list[Stall] = []
        self._selector = selector
        self._left, self._cpu = time.monotonic(), time.thread_time()

    def select(self, timeout: float | None = None) -> Any:
        now = time.monotonic()
        if now - self._left > 0.002:
            self.stalls.append(Stall(self._left, now - self._left, time.thread_time() - self._cpu))
        events = self._selector.select(timeout)
        self._left, self._cpu = time.monotonic(), time.thread_time()
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)


def run_worker(
    pipes: tuple[Connection[Any, Any], Connection[Any, Any]],
    address: ManagerAddress,
    ledger: Ledger,
    report: Connection[Any, Any],
) -> None:
    """Run a worker until main closes its end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As `mpchat.child` does. Otherwise a collection goes through all that there was in the process it was forked from.
    gc.freeze()
    pipes[0].close()
    made = worker.Worker(CONFIG, Channel(pipes[1]), address, ledger, 0)
    watching = Watching(made.loop._selector)  # type: ignore[attr-defined]
    made.loop._selector = watching  # type: ignore[attr-defined]
    logging.disable(logging.ERROR)  # the end of main is how this run ends, not an error
    made.run()
    with suppress(BrokenPipeError):
        report.send(watching.stalls)


def run_pinger(link: ManagerLink, report: Connection[Any, Any]) -> None:
    """Ping the sequencer until there is something to read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stalls = []
    with suppress(LogLost, BrokenPipeError):  # the measurement has failed
        while not report.poll(0.001):
            asked = time.monotonic()
            link.call("ping")
            link.receive()
            stalls.append(Stall(asked, time.monotonic() - asked, 0.0))
        report.send(stalls)


class Office:
    """Plays main and the clients."""

    def __init__(self, stack: ExitStack, text: str, clients: int) -> None:
        self.result = Result()
        # Room for the previous snapshot, of any size: the clients' marks are older than the latest one.
        self._journal = Journal.make(journal_size(snapshot_bytes=SNAPSHOT_MOST))
        stack.callback(self._journal.close)
        sequencer = Sequencer(self._journal)
        stack.callback(sequencer.stop)
        self._log: LogProxy = sequencer.start(capacity=CAPACITY, snapshot_bytes=SNAPSHOT_MOST)
        self._end = 100
        self._position = 0
        self._ledger = Ledger(Shape(max(1, clients), 1, ring_size(CONFIG.max_line)))
        stack.callback(self._ledger.close)
        self.publish([Opened(b"first", "")])
        self._log.put_snapshot(self._position, fill(text, clients).dump())
        self._peers: list[socket.socket] = []
        self._clients = [self._connect(stack, number) for number in range(clients)]
        self._pinger = self._run(stack, run_pinger, self._log.address.open_link("asks for a sign of life"))
        pipes = CONTEXT.Pipe()
        with self._phase("boot"):
            self._worker = self._run(stack, run_worker, pipes, sequencer.address, self._ledger)
            pipes[1].close()
            self._channel = Channel(pipes[0])
            stack.callback(self._channel.close)
            self._hear(Ready)

    def publish(self, entries: list[Entry]) -> None:
        """Publish a record; while the log is full, wait for the snapshot that a worker makes."""
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                self._position = self._log.publish(encode_entries(entries))
                break
            except LogFull:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def snapshot(self) -> None:
        """Talk until the log has another snapshot."""
        with self._phase("snapshot"):
            self._await_snapshot(self._talk(ENOUGH))

    def adoption(self, first: int, count: int) -> None:
        with self._phase("adoption"):
            mark = self._position
            self._talk(SOME)
            self._hand_off(first, count, mark)
            self._await_clients(first, count)

    def both(self, first: int, count: int) -> None:
        with self._phase("both"):
            mark = self._position
            before = self._talk(ENOUGH)
            self._hand_off(first, count, mark)
            self._await_clients(first, count)
            self._await_snapshot(before)

    def finish(self) -> None:
        self._pinger.send(None)
        self.result.sequencer = self._pinger.recv()
        self._channel.close()
        self.result.worker = self._worker.recv()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        time.sleep(0.2)  # the work that follows belongs to this phase
        self.result.phases[name] = (start, time.monotonic())

    def _run(self, stack: ExitStack, main: Any, *arguments: Any) -> Connection[Any, Any]:
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=main, args=(*arguments, theirs))
        process.start()
        theirs.close()
        stack.callback(process.join, DEADLINE)
        stack.callback(ours.close)
        return ours

    def _connect(self, stack: ExitStack, number: int) -> socket.socket:
        """Connect a client of another worker, which has received its name and sent it nothing."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = stack.enter_context(socket.create_connection(listener.getsockname()))
            ours, _ = listener.accept()
        stack.enter_context(ours)
        typed = f"{name_of(number)}\n".encode()
        peer.sendall(typed)
        ours.recv(len(typed), socket.MSG_WAITALL)
        page = self._ledger.page(number)
        page.clear(0)
        page.received = len(typed)
        self._peers.append(peer)
        return ours

    def _hand_off(self, first: int, count: int, mark: int) -> None:
        """Hand over clients whose last worker has sent them all output up to record `mark`, which was none."""
        numbers = list(range(first, first + count))
        for number in numbers:
            self._ledger.page(number).write_mark(Mark(mark, 0))
        self._end += 1
        self.publish([Said(sid_of(len(self._peers)), self._end, ("to be heard",))])
        chunks = [numbers[start : start + 100] for start in range(0, count, 100)]
        for chunk in chunks:
            clients = tuple(Handed(sid_of(number), "127.0.0.1", number, LINE, 1) for number in chunk)
            descriptors = [self._clients[number].fileno() for number in chunk]
            self._channel.post(HandOff(clients, chunk is not chunks[-1]), descriptors)
        while self._channel.backlog:
            select.select([], [self._channel], [])
            self._channel.pump()

    def _talk(self, entries: int) -> int:
        """In records as several busy workers publish them; give the record of the snapshot before."""
        before = self._journal.read_snapshot().seq
        for _ in range(entries // BATCH):
            self._end += 1
            start = len(self._peers)
            self.publish([Said(sid_of(start + number), self._end, (f"{number:064}",)) for number in range(BATCH)])
        return before

    def _await_snapshot(self, before: int) -> None:
        deadline = time.monotonic() + DEADLINE
        while self._journal.read_snapshot().seq == before:
            if time.monotonic() > deadline:
                raise TimeoutError("there is no snapshot")
            time.sleep(0.1)

    def _await_clients(self, first: int, count: int) -> None:
        """Wait until all these clients have received the message."""
        for peer in self._peers[first : first + count]:
            peer.settimeout(DEADLINE)
            heard = b""
            while b"to be heard" not in heard:
                received = peer.recv(1 << 16)
                if not received:
                    raise EOFError("a client was cut off")
                heard = heard[-20:] + received

    def _hear(self, kind: type) -> None:
        while not isinstance(self._channel.receive()[0], kind):
            pass


def measure(history: str, clients: int) -> Result:
    """Run all phases; half of the clients are adopted in each of two. Raises TimeoutError, EOFError."""
    with ExitStack() as stack:
        office = Office(stack, HISTORIES[history], clients)
        half = clients // 2
        office.snapshot()
        office.adoption(0, half)
        office.both(half, clients - half)
        office.finish()
        return office.result


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", choices=HISTORIES, default="short", help="the lines that fill the history")
    parser.add_argument("--clients", type=positive, default=200, metavar="N", help="clients to adopt")
    return parser.parse_args(arguments)


def format_result(result: Result) -> str:
    rows = [["", "took s", "worker ms", "of CPU", "sequencer ms"]]
    for phase, (start, end) in result.phases.items():
        stall, other = (result.longest(stalls, phase) for stalls in (result.worker, result.sequencer))
        times = [f"{1e3 * each:.0f}" for each in (stall.lasted, stall.cpu, other.lasted)]
        rows.append([phase, f"{end - start:.2f}", *times])
    return "\n".join(format_table(rows))


def run(options: argparse.Namespace) -> int:
    print(format_result(measure(options.history, options.clients)))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    return conclude("stalls", lambda: run(options))
