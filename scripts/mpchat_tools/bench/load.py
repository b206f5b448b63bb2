"""The load generator of the benchmark: all clients of one process, in one loop over non-blocking sockets.

Owns the connections, and the clock of what is sent and received. Promises to do next to nothing per delivery while the
clock runs: it receives into memory that was reserved, counts bytes, and reads the streams after the clock has stopped
(see `check`). It reports its own CPU time, and how late it sent. Every wait is bounded: signing on by the task's
patience, deliveries by a time of silence and again by the patience.

Messages to the parent, over a pipe: Here when the process has started, then a `start_ns` from the parent; Ready when
all clients have signed on and nothing more arrives, then another `start_ns`; Done when everything has arrived (or
nothing more comes); Verdict when the streams have been read. SIGN_ON ends with Ready.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import selectors
import socket
import struct
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import closing
from dataclasses import dataclass, field

from mpchat.errors import in_words
from mpchat_tools.bench.check import Findings, Keys, Receivers, measure_latencies
from mpchat_tools.bench.dialects import Dialect
from mpchat_tools.bench.workload import Kind, Workload
from mpchat_tools.common.crew import Failure, Here, Pipe

SCRATCH_BYTES = 1 << 18  # for input that is not kept
SLACK_BYTES = 1 << 14  # of a stream beyond the expected deliveries: doubles and notices
KEPT_BYTES = 1 << 29  # of one process; the streams of other clients are only counted
LATENCIES = 400_000  # of one process; the arrivals at other clients are not noted
QUIET_S = 0.3  # without a byte: all notices of signing on have arrived
QUIET_MOST_S = 20.0
EXTRA_S = 0.1  # after the last delivery, to catch doubles
TICK_S = 0.2
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # no TIME_WAIT: thousands of connections a minute need ports


Act = Callable[[int], None]  # sends the messages of the workload, from start_ns on


@dataclass(frozen=True, slots=True)
class Task:
    """What a load process is to do."""

    workload: Workload
    dialect: Dialect
    host: str
    port: int
    process: int
    window: int  # clients of all processes that sign on at the same time
    patience: float  # seconds for signing on, and again for the talk
    silence: float  # seconds without a byte at any process, after which missing deliveries count as lost


@dataclass(frozen=True, slots=True)
class Ready:
    """All clients of a process have signed on."""

    first_ns: int
    last_ns: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Done:
    """What arrived, and when; `counted` is deliveries by their bytes, `late_ns` how late messages were sent."""

    first_ns: int
    last_ns: int
    counted: int
    disconnected: int
    cpu_s: float
    late_ns: array[int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check found, and the latencies of deliveries."""

    findings: Findings
    orders: dict[int, list[Keys]]
    latencies_ns: array[int]


class LoadError(Exception):
    """A client cannot sign on, or the time is up."""


@dataclass(slots=True, eq=False)
class Client:
    """One connection. `view` is where it receives: its `stream`, or memory of all if its stream is not kept."""

    number: int
    sock: socket.socket
    steps: deque[tuple[bytes, bytes]]
    greeting: bytearray = field(default_factory=bytearray)
    stream: bytearray = field(default_factory=bytearray)
    view: memoryview = field(default_factory=lambda: memoryview(b""))
    got: int = 0
    wanted: int = 0
    gone: bool = False
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    arrivals: list[tuple[int, int]] | None = None
    talks: list[Talk] = field(default_factory=list)  # CONVERSATION: whose senders wait for this client


@dataclass(slots=True, eq=False)
class Talk:
    """A sender that waits until its partner has seen its last message, before it sends the next."""

    sender: Client
    said: Iterator[tuple[bytes, bytes]]  # message, and the text that shows it was seen
    awaited: bytes = b""
    searched: int = 0  # in the partner's stream


class Load:
    """All clients of one process."""

    def __init__(self, pipe: Pipe, task: Task, arrivals: MutableSequence[int]) -> None:
        self._arrivals = arrivals  # the last one of each process, for all to see
        self._task, self._workload, self._dialect = task, task.workload, task.dialect
        self._pipe = pipe
        self._selector = selectors.DefaultSelector()
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._clients: dict[int, Client] = {}
        self._signing_on: set[Client] = set()
        self._signed_on = 0
        self._unfinished = 0  # clients that still miss deliveries
        self._last_ns = 0  # of an arrival
        self._late_ns = array("q")
        self._length = 1

    def run(self) -> None:
        try:
            self._pipe.send(Here())
            sleep_until(self._pipe.recv())
            ready = self._sign_on()
            if self._workload.kind is Kind.SIGN_ON:
                self._pipe.send(ready)
                return
            act = self._prepare()
            self._pipe.send(ready)
            start_ns = self._pipe.recv()
            self._pipe.send(self._talk(act, start_ns))
            self._listen(EXTRA_S)
            self._pipe.send(self._judge(start_ns))
        except LoadError as error:
            self._pipe.send(Failure(str(error)))

    def close(self) -> None:
        for client in self._clients.values():
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            client.sock.close()
        self._selector.close()

    # --- signing on

    def _sign_on(self) -> Ready:
        """Let all clients sign on, some at a time, and wait until all notices of that have arrived."""
        numbers = deque(self._workload.clients_in(self._task.process))
        deadline = time.monotonic() + self._task.patience
        window = max(1, self._task.window // self._workload.processes)
        cpu, first_ns = time.process_time(), time.monotonic_ns()
        while numbers or self._signing_on:
            while numbers and len(self._signing_on) < window:
                self._connect(numbers.popleft())
            for key, mask in self._selector.select(TICK_S):
                if mask & selectors.EVENT_WRITE:
                    self._introduce(key.data)
                if mask & selectors.EVENT_READ:
                    self._greet(key.data)
            if time.monotonic() > deadline:
                raise LoadError(f"{len(self._signing_on)} clients still wait to sign on, {self._signed_on} have")
        ready = Ready(first_ns, time.monotonic_ns(), time.process_time() - cpu)
        self._wait_quiet()
        return ready

    def _connect(self, number: int) -> None:
        sock = socket.socket()
        client = Client(number, sock, deque(self._dialect.steps(number, self._workload)))
        self._clients[number] = client
        self._signing_on.add(client)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        refused = sock.connect_ex((self._task.host, self._task.port))
        self._selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
        if not refused:
            self._introduce(client)
        elif refused != errno.EINPROGRESS:
            raise LoadError(f"client {number + 1} cannot connect: {os.strerror(refused)}")

    def _introduce(self, client: Client) -> None:
        """Send the first step, now that there is a connection."""
        try:
            client.sock.send(client.steps[0][0])
        except OSError as error:
            raise LoadError(f"client {client.number + 1} cannot connect: {in_words(error)}") from error
        self._selector.modify(client.sock, selectors.EVENT_READ, client)

    def _greet(self, client: Client) -> None:
        """Read what a client receives while clients sign on."""
        try:
            received = client.sock.recv_into(self._scratch)
        except BlockingIOError:
            return
        except OSError as error:
            raise LoadError(f"client {client.number + 1} lost its connection: {in_words(error)}") from error
        if not received:
            raise LoadError(f"client {client.number + 1} was disconnected: {bytes(client.greeting[-300:])!r}")
        if client.steps:
            client.greeting += self._scratch[:received]
            self._take_steps(client)

    def _take_steps(self, client: Client) -> None:
        while client.steps and client.steps[0][1] in client.greeting:
            client.steps.popleft()
            if client.steps:
                client.sock.send(client.steps[0][0])
        if not client.steps:
            self._dialect.learn(bytes(client.greeting))
            client.greeting.clear()
            self._signing_on.discard(client)
            self._signed_on += 1

    def _wait_quiet(self) -> None:
        most = time.monotonic() + QUIET_MOST_S
        while time.monotonic() < most and (events := self._selector.select(QUIET_S)):
            for key, _ in events:
                self._greet(key.data)

    # --- getting ready

    def _prepare(self) -> Act:
        """Prepare everything that needs time or memory before the clock runs."""
        self._length = self._dialect.length(self._workload)
        for client in self._clients.values():
            client.wanted = self._workload.expected(client.number, self._dialect.echoes) * self._length
        self._unfinished = sum(client.wanted > 0 for client in self._clients.values())
        self._give_memory()
        acts = {Kind.FLOOD: self._flood, Kind.CONVERSATION: self._converse, Kind.PACED: self._pace}
        act = acts[self._workload.kind]()
        gc.collect()
        gc.disable()
        return act

    def _give_memory(self) -> None:
        """Also choose the clients whose arrivals are noted: a spread of them, if there are too many for all."""
        left, noted = KEPT_BYTES, 0
        for client in self._listeners_first():
            client.view, size = self._scratch, client.wanted + SLACK_BYTES
            if size <= left:
                left -= size
                client.stream = bytearray(size)
                client.view = memoryview(client.stream)
        kept = [client for client in self._listeners_first() if client.stream]
        for client in [*kept[::7], *kept] if self._workload.kind is Kind.PACED else []:
            if client.arrivals is None and noted < LATENCIES:
                client.arrivals = []
                noted += client.wanted // self._length

    def _listeners_first(self) -> list[Client]:
        return sorted(self._clients.values(), key=lambda client: self._workload.is_sender(client.number))

    # --- the talk

    def _talk(self, act: Act, start_ns: int) -> Done:
        sleep_until(start_ns)
        cpu = time.process_time()
        first_ns = self._last_ns = time.monotonic_ns()
        act(start_ns)
        self._receive_all(start_ns)
        spent = time.process_time() - cpu
        clients = self._clients.values()
        counted = sum(min(client.got, client.wanted) for client in clients) // self._length
        return Done(first_ns, self._last_ns, counted, sum(c.gone for c in clients), spent, self._late_ns)

    def _senders(self) -> list[Client]:
        return [client for client in self._clients.values() if self._workload.is_sender(client.number)]

    def _message(self, client: Client, text: bytes) -> bytes:
        return self._dialect.message(self._workload.room_of(client.number), text)

    def _flood(self) -> Act:
        """The senders take turns, a write each; between two turns of a sender, what has come is read."""
        said = [(client, self._writes(client)) for client in self._senders()]
        turns = max((len(writes) for _, writes in said), default=0)

        def act(start_ns: int) -> None:
            for turn in range(turns):
                for client, writes in said:
                    self._write(client, writes[turn])
                self._turn(0)

        return act

    def _writes(self, client: Client) -> list[bytes]:
        messages = [self._message(client, text) for text in self._workload.texts(client.number)]
        burst = self._workload.burst or len(messages)
        return [b"".join(messages[place : place + burst]) for place in range(0, len(messages), burst)]

    def _converse(self) -> Act:
        talks = [self._partner_up(client) for client in self._senders()]

        def act(start_ns: int) -> None:
            for talk in talks:
                self._say_next(talk)

        return act

    def _partner_up(self, sender: Client) -> Talk:
        """Spread the partners over the room, since the server writes to some clients first and to others last."""
        room = self._workload.room_of(sender.number)
        others = [c for c in self._listeners_first() if self._workload.room_of(c.number) == room and c is not sender]
        listeners = [client for client in others if not self._workload.is_sender(client.number)]
        candidates = [client for client in listeners or others if client.stream]
        if not candidates:
            raise LoadError("a conversation needs two clients of a room in one process, whose streams can be kept")
        texts = self._workload.texts(sender.number)
        talk = Talk(sender, iter([(self._message(sender, text), text) for text in texts]))
        candidates[sender.number * 7 % len(candidates)].talks.append(talk)
        return talk

    def _say_next(self, talk: Talk) -> None:
        message, talk.awaited = next(talk.said, (b"", b""))
        if message:
            self._write(talk.sender, message)

    def _hear(self, client: Client) -> None:
        for talk in client.talks:
            if talk.awaited and (at := client.stream.find(talk.awaited, talk.searched, client.got)) >= 0:
                talk.searched = at
                self._say_next(talk)
            elif talk.awaited:
                talk.searched = max(talk.searched, client.got - len(talk.awaited))

    def _pace(self) -> Act:
        said = []
        for due, sender, number in self._workload.schedule(self._task.process):
            client = self._clients[sender]
            said.append((due, client, self._message(client, self._workload.text(sender, number))))

        def act(start_ns: int) -> None:
            for due, client, message in said:
                while (early_ns := start_ns + due - time.monotonic_ns()) > 0:
                    self._turn_exactly(early_ns / 1e9)
                self._late_ns.append(-early_ns)
                self._write(client, message)
            self._last_ns = max(self._last_ns, time.monotonic_ns())

        return act

    # --- the loop

    def _turn_exactly(self, timeout: float) -> None:
        """As _turn, but epoll would round the time up to the next millisecond."""
        if select.select([self._selector.fileno()], [], [], timeout)[0]:
            self._turn(0)

    def _receive_all(self, start_ns: int) -> None:
        deadline_ns = start_ns + self._task.patience * 1e9
        while self._unfinished:
            self._turn(TICK_S)
            now_ns, self._arrivals[self._task.process] = time.monotonic_ns(), self._last_ns
            if now_ns - max(self._arrivals) > self._task.silence * 1e9 or now_ns > deadline_ns:
                return

    def _listen(self, seconds: float) -> None:
        """Read on, without the clock."""
        last_ns, until = self._last_ns, time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._turn(left)
        self._last_ns = last_ns

    def _turn(self, timeout: float) -> None:
        for key, mask in self._selector.select(timeout):
            if mask & selectors.EVENT_WRITE:
                self._resume(key.data)
            if mask & selectors.EVENT_READ:
                self._receive(key.data)

    def _receive(self, client: Client) -> None:
        place = client.view[client.got :] if client.stream else self._scratch
        try:
            received = client.sock.recv_into(place or self._scratch)
        except BlockingIOError:
            return
        except OSError:
            received = 0
        if not received:
            self._lose(client)
            return
        self._last_ns = time.monotonic_ns()
        before = client.got
        client.got += received
        if before < client.wanted <= client.got:
            self._unfinished -= 1
        if client.arrivals is not None:
            client.arrivals.append((self._last_ns, client.got))
        if client.talks:
            self._hear(client)

    def _lose(self, client: Client) -> None:
        client.gone = True
        self._selector.unregister(client.sock)
        if client.got < client.wanted:
            self._unfinished -= 1

    def _write(self, client: Client, data: bytes) -> None:
        if client.gone:
            return
        waiting = len(client.unsent) > 0
        client.unsent = memoryview(bytes(client.unsent) + data) if waiting else memoryview(data)
        if not waiting:
            self._flush(client)
            if client.unsent:
                self._selector.modify(client.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, client)

    def _resume(self, client: Client) -> None:
        self._flush(client)
        if not client.unsent:
            self._selector.modify(client.sock, selectors.EVENT_READ, client)

    def _flush(self, client: Client) -> None:
        try:
            client.unsent = client.unsent[client.sock.send(client.unsent) :]
        except BlockingIOError:
            return
        except OSError:  # broken: the next read shows that
            client.unsent = memoryview(b"")

    # --- the verdict

    def _judge(self, start_ns: int) -> Verdict:
        findings, latencies = Findings(), array("q")
        streams: dict[int, list[tuple[int, bytes]]] = {}
        for client in self._listeners_first():
            if not client.stream:
                findings.lost += max(0, client.wanted - client.got) // self._length
                continue
            stream = bytes(client.stream[: client.got])
            streams.setdefault(self._workload.room_of(client.number), []).append((client.number, stream))
            latencies.extend(self._latencies(client, stream, start_ns))
        orders: dict[int, list[Keys]] = {}
        for room, received in streams.items():
            found, orders[room] = Receivers(self._workload, self._dialect, room, received).judge()
            findings.add(found)
        shared = self._workload.rooms < self._workload.processes  # other processes have clients in these rooms, too
        return Verdict(findings, orders if shared else {}, latencies)

    def _latencies(self, client: Client, stream: bytes, start_ns: int) -> array[int]:
        if client.arrivals is None:
            return array("q")
        pattern = self._dialect.pattern(self._workload, self._workload.room_of(client.number))
        matches = ((match.end(), match[match.re.groups]) for match in pattern.finditer(stream))
        return measure_latencies(matches, client.arrivals, self._workload, start_ns)


def sleep_until(start_ns: int) -> None:
    while (early_ns := start_ns - time.monotonic_ns()) > 0:
        time.sleep(early_ns / 1e9)


def run_load(pipe: Pipe, task: Task, arrivals: MutableSequence[int]) -> None:
    """The work of a load process."""
    with closing(Load(pipe, task, arrivals)) as load:
        load.run()
        pipe.recv()  # until the parent has measured, so that it does not measure the disconnections
