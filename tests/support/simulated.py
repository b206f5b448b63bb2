"""A server in one process, without sockets and time: workers are real, and what is around them is played.

`World` is main, the sequencer, the kernel and the clock in one. Real are `Worker` with all that it is made of (reader,
publisher, fan-out, clients, adoption), the pages of a ledger, and the log on its journal. Played are the event loop,
the links to the log, the channel to main, and the connections of clients, as far as a worker can see of them. Nothing
happens by itself: each step of a worker is asked for (`World.turn`), and a worker can be killed within one.

Promises that the same steps lead to the same end. Never looks at what a worker thinks: what it did is in the wires, the
log and the ledger.
"""

from __future__ import annotations

import enum
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from mpchat.chat.entries import SessionId
from mpchat.chat.state.state import Limits
from mpchat.config import Config
from mpchat.log.local.journal import Journal
from mpchat.log.local.memory import MemoryLog
from mpchat.log.port import LogError, LogFull, LogLost, LogTrimmed
from mpchat.server.control import Beat, Closed, Handed, HandOff, Reconnect, Release, Released, Retire, Unlinked
from mpchat.server.kernel import Peer, Progress
from mpchat.server.ledger import Ledger, Page, Shape
from mpchat.server.worker.inbound.client import Client
from mpchat.server.worker.outage import TELL_AFTER
from mpchat.server.worker.worker import Worker
from mpchat.wire.registry import LINE

MOST = 1 << 30
PAGES = 64
SLOTS = 16
RING = 1 << 10
"""The least that holds a line of MAX_LINE, telnet included: so it fills up, and what is in it wraps."""
MAX_LINE = 100
TOGETHER = 2
"""Clients in one message: so an adoption is of several messages."""
TICK = 0.01
"""Seconds that pass when somebody looks at the clock: so slices end, in the same place each time."""
PIECE = 300
"""Bytes of a snapshot in one message: so it takes several, and much can happen in between."""
CLAIM_EVERY = 300
"""Bytes that a worker applies between two questions whether a snapshot is due."""
WORTH_ENTRIES = 20
"""Entries replayed after which an adoption leaves a snapshot."""

CONFIG = Config(rate=0, segment_timeout=0, sign_on_timeout=3600, max_line=MAX_LINE)


class Killed(BaseException):
    """The worker at hand dies here. No Exception, since nobody may catch it."""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += TICK
        return self.now


# --- what a worker has around it ----------------------------------------------------------------------------


@dataclass(eq=False)
class Timer:
    when: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as a worker uses."""

    def __init__(self, clock: Clock) -> None:
        self.stopped = False
        self._clock = clock
        self._soon: deque[Callable[[], None]] = deque()
        self._timers: list[Timer] = []
        self._readers: dict[int, Callable[[], None]] = {}

    def time(self) -> float:
        return self._clock.now

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self._soon.append(lambda: callback(*arguments))

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(when, callback)
        self._timers.append(timer)
        return timer

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return self.call_at(self.time() + delay, callback)

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._readers[descriptor] = callback

    def remove_reader(self, descriptor: int) -> None:
        self._readers.pop(descriptor, None)

    def set_exception_handler(self, handler: object) -> None:
        """Nothing is caught here."""

    def stop(self) -> None:
        self.stopped = True

    # --- what the world does

    @property
    def busy(self) -> bool:
        return bool(self._soon)

    def run_soon(self) -> None:
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def run_timers(self) -> None:
        due = sorted((timer for timer in self._timers if timer.when <= self.time()), key=lambda timer: timer.when)
        self._timers = [timer for timer in self._timers if timer.when > self.time()]
        for timer in due:
            if not timer.cancelled:
                timer.callback()

    def hear(self, descriptor: int) -> None:
        """The descriptor is readable."""
        if descriptor in self._readers:
            self._readers[descriptor]()


class Channel:
    """A worker's end of the way to main."""

    backlog = 0

    def __init__(self) -> None:
        self.inbox: deque[tuple[Any, list[int]]] = deque()
        self.outbox: deque[Any] = deque()

    def fileno(self) -> int:
        return 0

    def post(self, message: object) -> None:
        if not isinstance(message, Beat):
            self.outbox.append(message)

    def receive(self) -> tuple[Any, list[int]]:
        return self.inbox.popleft()


_descriptors = count(1)


class Link:
    """A connection to the sequencer. A call is taken by the sequencer (`serve`) some time before it is answered."""

    backlog = False

    def __init__(self, source: Source) -> None:
        self.request: tuple[str, tuple[Any, ...]] | None = None
        self.answer: Any = None
        self._answer_by = 0.0
        self._source = source
        self._descriptor = next(_descriptors)
        self._staged = b""
        self._silent = True  # it has nothing to say

    def fileno(self) -> int:
        return self._descriptor

    @property
    def ready(self) -> bool:
        return not self._silent or self._source.lost

    def take(self) -> bool:
        return True

    def call(self, method: str, *arguments: object) -> None:
        self._source.check()
        assert self.request is None and self._silent, "a call before the last one is answered"
        self.request = method, arguments
        self._answer_by = self._source.now + (arguments[1] if method == "read" else 0.0)  # type: ignore[operator]

    def serve(self, most: int = MOST) -> None:
        """The sequencer takes the call, if it has something to answer; a read gives `most` records."""
        if self.request is None or self._source.lost:
            return
        method, arguments = self.request
        if method == "read" and arguments[0] == self._source.log.ping() and self._source.now < self._answer_by:
            return
        self.request = None
        if method == "read":
            arguments = arguments[0], 0.0  # the wait is over
        if method == "publish":
            self._source.published.append(arguments)
        try:
            self.answer = self._do(method, *arguments)
        except LogError as error:
            self.answer = error
        if isinstance(self.answer, list):
            self.answer = self.answer[:most]
        self._silent = False

    def _do(self, method: str, *arguments: Any) -> Any:
        log = self._source.log
        if method == "stage_snapshot":
            start, piece = arguments
            self._staged = self._staged[:start] + piece
            return None
        if method == "put_staged_snapshot":
            return log.put_snapshot(arguments[0], self._staged)
        return getattr(log, method)(*arguments)

    def receive(self) -> Any:
        if self._silent:
            self._source.check()
            # A worker that comes up does wait: it reads what is there.
            assert self.request is not None and self.request[0] == "read" and self.request[1][1] == 0.0
            self.serve()
        answer, self.answer, self._silent = self.answer, None, True
        if isinstance(answer, LogError):
            raise answer
        return answer

    def close(self) -> None:
        """What was sent is read yet; see World.late."""


class Source:
    """The log's address: the way to the log until the sequencer is killed."""

    def __init__(self, world: World) -> None:
        self.log = world.log
        self.published = world.published
        self._world = world

    @property
    def now(self) -> float:
        return self._world.clock.now

    @property
    def lost(self) -> bool:
        return self._world.is_down or self.log is not self._world.log

    def check(self) -> None:
        if self.lost:
            raise LogLost("the sequencer is gone")

    def open_link(self, name: str, patience: float = 0.0) -> Link:
        self.check()
        return Link(self)

    @contextmanager
    def open_log(self) -> Iterator[MemoryLog]:
        self.check()
        yield self.log


class Words:
    """The words of a page's header. Its writer may die at each store."""

    def __init__(self, world: World, words: memoryview) -> None:
        self._world = world
        self._words = words

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, number: int) -> int:
        return int(self._words[number])

    def __setitem__(self, number: int, value: int) -> None:
        self._words[number] = value
        self._world.stores_left -= 1
        if not self._world.stores_left:
            raise Killed


class Wire:
    """A client's connection as the kernel has it."""

    def __init__(self, world: World) -> None:
        self.inbox = bytearray()
        """Has come, and was not received."""
        self.consumed = 0
        self.ended = False
        """The client sends no more."""
        self.reset = False
        self.output = bytearray()
        """All that was written, which is what the client is shown."""
        self.window = MOST
        """How much more can be written."""
        self.shut = False
        self._world = world

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    def write(self, data: bytes | bytearray) -> int:
        size = min(len(data), self.window, self._world.output_left)
        self.output += data[:size]
        self.window -= size
        self._world.output_left -= size
        if not self._world.output_left:
            raise Killed
        return size

    def progress(self) -> Progress:
        writable = not (self.shut or self.reset)
        return Progress(self.consumed, len(self.output), writable, self.reset)


class _Phase(enum.Enum):
    OPEN = enum.auto()
    MUTED = enum.auto()
    FINISHING = enum.auto()
    CLOSED = enum.auto()


class Connection:
    """In place of `connection.Connection`, with its contract, but for the bound of the send queue and the linger."""

    def __init__(self, loop: Loop, wire: Wire, receiver: Any, sendq: int) -> None:
        self._loop = loop
        self._wire = wire
        self._receiver = receiver
        self._queue = bytearray()
        self._phase = _Phase.OPEN
        self._reading = False
        self._eof = False

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def peer(self) -> Peer:
        if self._phase is not _Phase.OPEN or self._wire.reset:
            return Peer.GONE
        return Peer.ENDED if self._wire.ended else Peer.HERE

    @property
    def spare(self) -> int:
        return MOST if self._phase is _Phase.OPEN else 0

    def resume_reading(self) -> None:
        self._reading = not self._eof and self._phase in (_Phase.OPEN, _Phase.MUTED)

    def pause_reading(self) -> None:
        self._reading = False

    def send(self, block: bytes) -> None:
        if self._phase is _Phase.OPEN:
            self._queue += block
            self.push()

    send_carried = send

    def mute(self, broken: bool) -> None:
        if self._phase is _Phase.OPEN:
            self._phase = _Phase.MUTED
            self._queue.clear()
            self.resume_reading()

    def finish(self) -> None:
        if self._phase is _Phase.MUTED:
            self._close()
        elif self._phase is _Phase.OPEN:
            self._phase = _Phase.FINISHING
            self.push()

    def abort(self) -> None:
        if self._phase is not _Phase.CLOSED:
            self._close()

    def release(self) -> bytes:
        self._phase = _Phase.CLOSED
        return bytes(self._queue)

    # --- what the world does

    def push(self) -> None:
        """Write what can be written."""
        if self._wire.reset:
            self.mute(broken=True)
        elif self._queue:
            del self._queue[: self._wire.write(self._queue)]
        if self._phase is _Phase.FINISHING and not self._queue:
            self._wire.shut = True
            self._loop.call_soon(self.abort)

    def read(self, size: int, die: bool = False) -> None:
        """Receive up to so much; `die` between the kernel's knowing of it and the ledger's."""
        if self._phase is _Phase.FINISHING:
            self._wire.consumed += len(self._wire.inbox)
            self._wire.inbox.clear()
        elif self._reading and self._wire.inbox:
            self._receive(size, die)
        elif self._reading and self._wire.ended:
            self._eof, self._reading = True, False
            if self._wire.reset:
                self.mute(broken=True)
            self._receiver.ended(self._wire.reset)

    def _receive(self, size: int, die: bool) -> None:
        room = self._receiver.room()
        taken = self._wire.inbox[: min(size, len(room))]
        if not taken:
            return
        room[: len(taken)] = taken
        del self._wire.inbox[: len(taken)]
        self._wire.consumed += len(taken)
        if die:
            raise Killed
        self._receiver.received(room[: len(taken)])

    def _close(self) -> None:
        self._phase = _Phase.CLOSED
        self._wire.shut = True
        self._receiver.closed()


# --- the world ----------------------------------------------------------------------------------------------


@dataclass
class Held:
    """A client, as main has it."""

    wire: Wire
    page: int
    epoch: int = 0


@dataclass(eq=False)
class Process:
    """A worker's process."""

    slot: int
    channel: Channel
    loop: Loop
    worker: Worker
    clients: dict[SessionId, Held] = field(default_factory=dict)
    retiring: bool = False


class Step(enum.Enum):
    """What a worker, or the sequencer for it, does next."""

    SOON = enum.auto()
    TIMERS = enum.auto()
    MAIN = enum.auto()
    TAKE = enum.auto()  # the sequencer takes the publication
    ANSWER = enum.auto()  # its answer is received
    GIVE = enum.auto()  # the sequencer gives what there is to read
    READ = enum.auto()  # which is received
    ERRAND = enum.auto()  # the sequencer takes another call, of a snapshot or an adoption
    REPORT = enum.auto()  # its answer is received
    INPUT = enum.auto()
    OUTPUT = enum.auto()


class World:
    """Main, with its workers. `on_published` is called when there may be more in the log."""

    def __init__(self, limits: Limits, tail: int, on_published: Callable[[], None]) -> None:
        self.clock = Clock()
        self.output_left = MOST
        """How much may be written before whoever writes dies."""
        self.stores_left = MOST
        """How many words may be stored in pages before whoever stores dies."""
        self.is_down = False
        """There is no sequencer: what needs one waits."""
        self.late: list[tuple[Any, ...]] = []
        """Publications of dead workers that the sequencer has yet to read."""
        self.published: list[tuple[Any, ...]] = []
        """All that was published."""
        self.processes: list[Process] = []
        self.wires: dict[SessionId, Wire] = {}
        self._limits = limits
        self._tail = tail
        self._on_published = on_published
        self._journal = Journal.make_private(1 << 19, segment=1 << 12)
        self._ledger = Ledger(Shape(PAGES, SLOTS, RING))
        self._pages = list(range(PAGES))
        self._missing = 0  # workers
        self._unplaced: list[tuple[dict[SessionId, Held], bool]] = []
        self._descriptors: dict[int, Wire] = {}
        self.log = self._open_log()

    def close(self) -> None:
        """Hold no page any more: the last one gives the ledger's memory back."""
        self.processes.clear()
        self._ledger.close()
        self._journal.close()
        del self._ledger, self._journal, self.log

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within this the modules of the server see this world."""
        clock = SimpleNamespace(monotonic=self.clock.monotonic)
        kernel = SimpleNamespace(AVAILABLE=True, read_progress=Wire.progress)
        sockets = SimpleNamespace(socket=self._take_descriptor)
        with ExitStack() as stack:
            for target, stand_in in {
                "outbound.reader.time": clock,
                "outbound.pace.time": clock,
                "moves.adoption.time": clock,
                "moves.adoption.kernel": kernel,
                "inbound.client.Connection": Connection,
                "moves.takeover.socket": sockets,
                "worker.asyncio": SimpleNamespace(new_event_loop=lambda: Loop(self.clock)),
                "worker.make_limits": lambda config: self._limits,
                "snapshots.WORTH_ENTRIES": WORTH_ENTRIES,
                "snapshots.BYTES_PER_ENTRY": MOST,
                "moves.takeover.time": clock,
                "snapshots.PIECE": PIECE,
                "snapshots.CLAIM_EVERY": CLAIM_EVERY,
                "moves.adoption.PIECE": PIECE,
            }.items():
                stack.enter_context(mock.patch(f"mpchat.server.worker.{target}", stand_in))
            # pytest keeps what is logged, exceptions and with them all of this world.
            logging.disable(logging.CRITICAL)
            stack.callback(logging.disable, logging.NOTSET)
            stack.enter_context(mock.patch.object(Client, "_fail", _raise))
            stack.enter_context(mock.patch.object(Worker, "_fail", _fail))
            stack.enter_context(mock.patch.object(Page, "__init__", self._watch_page(Page.__init__)))
            yield

    # --- what happens

    def start(self) -> None:
        """Another worker, as soon as there is a sequencer."""
        if self.is_down:
            self._missing += 1
            return
        slot = next(number for number in range(SLOTS) if all(each.slot != number for each in self.processes))
        channel = Channel()
        worker = Worker(CONFIG, cast(Any, channel), cast(Any, Source(self)), self._ledger, slot)
        worker._come_up()
        self.processes.append(Process(slot, channel, cast(Loop, worker.loop), worker))

    def connect(self, sid: SessionId) -> Wire:
        """A new client; there must be a page (`has_room`)."""
        wire = self.wires[sid] = Wire(self)
        self._place({sid: Held(wire, self._pages.pop())})
        return wire

    @property
    def has_room(self) -> bool:
        return bool(self._pages)

    def turn(self, process: Process, step: Step, size: int = MOST) -> None:
        """One step; who ends in it is replaced."""
        if process not in self.processes:
            return
        try:
            self._take_step(process, step, size)
        except Killed:
            self.kill(process)
            return
        if process.loop.stopped:
            self._bury(process)

    def kill(self, process: Process) -> None:
        """The worker dies; what it has sent to the sequencer is read later."""
        link = _link_of(process.worker._publisher)
        if link is not None and link.request is not None and not self.is_down:
            self.late.append(link.request[1])
        self._bury(process)

    def kill_writing(self, process: Process, size: int) -> None:
        """The worker goes on reading the log, and dies when it has written so much more."""
        self.output_left = size
        for step in (Step.GIVE, Step.READ, Step.SOON, Step.SOON, Step.TIMERS, Step.OUTPUT):
            self.turn(process, step)
        self.output_left = MOST
        if process in self.processes:
            self.kill(process)

    def kill_receiving(self, process: Process, size: int) -> None:
        """The worker dies with bytes of a client that are in the ring, and nowhere else."""
        try:
            for connection in self._connections(process):
                connection.read(size, die=True)
        except Killed:
            pass
        self.kill(process)

    def kill_log(self, taken: int) -> None:
        """The sequencer dies, and another one goes on at once."""
        self.lose_log(taken)
        self.restore_log()

    def lose_log(self, taken: int) -> None:
        """The sequencer dies; before, those in `taken` send it what they have, and it takes that without an answer."""
        self.clock.now += 0.01
        for number, process in enumerate(list(self.processes)):
            if taken >> number & 1:
                for step in (Step.INPUT, Step.TIMERS, Step.SOON):
                    self.turn(process, step)
            link = _link_of(process.worker._publisher)
            if link is not None and taken >> number & 1:
                link.serve()
        self._on_published()
        self.late.clear()
        self.is_down = True

    def restore_log(self) -> None:
        """Another sequencer goes on."""
        self.is_down = False
        self.log = self._open_log()
        for process in self.processes:
            process.channel.inbox.append((Reconnect(cast(Any, Source(self))), []))
        missing, self._missing = self._missing, 0
        for _ in range(missing):
            self.start()
        unplaced, self._unplaced = self._unplaced, []
        for clients, returning in unplaced:
            self._place(clients, returning)

    def suffer(self, process: Process, written: int = MOST, stored: int = MOST) -> None:
        """The worker is without the log for so long that it tells its clients. It dies when it has written or stored
        so much."""
        self.turn(process, Step.READ)
        self.clock.now += TELL_AFTER
        self.output_left, self.stores_left = written, stored
        self.turn(process, Step.TIMERS)
        self.output_left = self.stores_left = MOST

    def publish_again(self, which: int) -> None:
        """Something that was published arrives once more, however late."""
        if self.published and not self.is_down:
            with suppress(LogFull):
                self.log.publish(*self.published[which % len(self.published)])
            self._on_published()

    def arrive(self) -> None:
        """What a dead worker has sent is read."""
        try:
            self.log.publish(*self.late[0])
            del self.late[0]
        except LogFull:
            pass
        self._on_published()

    def release(self, process: Process, number: int) -> None:
        """Have a worker give so many clients to others."""
        sids = tuple(list(process.clients)[:number])
        process.channel.inbox.append((Release(sids), []))

    def retire(self, process: Process) -> None:
        """Have a worker give all clients to others, and end; another takes its place."""
        if not self.is_down and not process.retiring and len(self.processes) < SLOTS:
            self.start()
            process.retiring = True
            process.channel.inbox.append((Retire(), []))

    def page(self, sid: SessionId) -> Page:
        """The page of a client that some worker has."""
        (held,) = (process.clients[sid] for process in self.processes if sid in process.clients)
        return self._ledger.page(held.page)

    @property
    def quiet(self) -> bool:
        """Whether nothing is on its way, but for what time brings."""
        return not (self.is_down or self.late) and all(map(self._is_quiet, self.processes))

    # --- inside

    def _take_descriptor(self, fileno: int) -> Wire:
        return self._descriptors.pop(fileno)

    def _watch_page(self, original: Callable[..., None]) -> Callable[..., None]:
        def init(page: Page, header: memoryview, *more: Any) -> None:
            original(page, Words(self, header), *more)

        return init

    def _open_log(self) -> MemoryLog:
        return MemoryLog(
            capacity=8000,
            snapshot_every=1500,
            tail=self._tail,
            snapshot_bytes=1 << 16,
            wall_clock=lambda: int(self.clock.now * 1000),
            clock=lambda: self.clock.now,
            journal=self._journal,
        )

    def _take_step(self, process: Process, step: Step, size: int) -> None:
        publishing, reading, errands = map(
            _link_of, (process.worker._publisher, process.worker._reader, process.worker._errands)
        )
        match step:
            case Step.SOON:
                process.loop.run_soon()
            case Step.TIMERS:
                process.loop.run_timers()
            case Step.MAIN:
                if process.channel.inbox:
                    process.loop.hear(process.channel.fileno())
                self._hear(process)
            case Step.TAKE if publishing is not None:
                publishing.serve()
                self._on_published()
            case Step.GIVE if reading is not None:
                reading.serve(max(1, size))
            case Step.ERRAND if errands is not None:
                errands.serve(max(1, size))
            case Step.ANSWER if publishing is not None and publishing.ready:
                process.loop.hear(publishing.fileno())
            case Step.READ if reading is not None and reading.ready:
                process.loop.hear(reading.fileno())
            case Step.REPORT if errands is not None and errands.ready:
                process.loop.hear(errands.fileno())
            case Step.INPUT:
                for connection in self._connections(process):
                    connection.read(size)
            case Step.OUTPUT:
                for connection in self._connections(process):
                    connection.push()

    def _connections(self, process: Process) -> list[Connection]:
        return [cast(Connection, client._connection) for client in process.worker._roster.clients]

    def _hear(self, process: Process) -> None:
        """Main hears what a worker has said."""
        while process.channel.outbox:
            match process.channel.outbox.popleft():
                case Closed(sids):
                    self._pages += [process.clients.pop(sid).page for sid in sids]
                case Released(sids, _):
                    self._place({sid: process.clients.pop(sid) for sid in sids}, returning=True)
                case Unlinked() if not self.is_down:
                    process.channel.inbox.append((Reconnect(cast(Any, Source(self))), []))

    def _bury(self, process: Process) -> None:
        """The process has ended: others have its clients, and another takes its place."""
        self.processes.remove(process)
        self._hear(process)
        for held in process.clients.values():
            self._ledger.page(held.page).settle(self._ledger.sweep_mark(process.slot))
        if not process.retiring:
            self.start()
        self._place(process.clients, returning=True)

    def _place(self, clients: dict[SessionId, Held], returning: bool = False) -> None:
        given: dict[Process, list[SessionId]] = {}
        staying = [process for process in self.processes if not process.retiring]
        if not staying:
            self._unplaced.append((clients, returning))
            return
        for sid, held in clients.items():
            process = min(staying, key=lambda process: len(process.clients))
            if returning:
                held.epoch += 1
            else:
                self._ledger.page(held.page).clear(self._ledger.sweep_mark(process.slot))
            process.clients[sid] = held
            given.setdefault(process, []).append(sid)
        for process, sids in given.items():
            self._hand_off(process, sids)

    def _hand_off(self, process: Process, sids: Sequence[SessionId]) -> None:
        for start in range(0, len(sids), TOGETHER):
            batch = [(sid, process.clients[sid]) for sid in sids[start : start + TOGETHER]]
            descriptors = [next(_descriptors) for _ in batch]
            handed = tuple(Handed(sid, "127.0.0.1", held.page, LINE, held.epoch) for sid, held in batch)
            self._descriptors.update(zip(descriptors, (held.wire for _, held in batch), strict=True))
            process.channel.inbox.append((HandOff(handed, start + TOGETHER < len(sids)), descriptors))

    def _is_quiet(self, process: Process) -> bool:
        worker, publisher = process.worker, process.worker._publisher
        busy = (
            process.channel.inbox, process.channel.outbox, process.retiring, process.loop.busy,
            worker._roster.coming, worker._departure._leaving, worker._fanout.pending, worker._snapshots.busy,
            publisher._waiting, publisher._under_way, publisher._barriers, publisher._due,
        )  # fmt: skip
        idle = all(not held.wire.inbox and (not held.wire.ended) for held in process.clients.values())
        return idle and not any(busy) and worker._reader.position == self.log.ping()


def _link_of(owner: Any) -> Link | None:
    caller = owner._caller
    return None if caller is None else cast(Link, caller.link)


def _raise(_: object) -> None:
    """In the place of `Client._fail`, which is called where something was caught."""
    raise  # noqa: PLE0704


def _fail(worker: Worker, error: Exception) -> None:
    """In the place of `Worker._fail`."""
    if isinstance(error, LogLost):
        worker._lose_log(error)
    elif isinstance(error, LogTrimmed):
        raise Killed
    else:
        raise error
