"""The clients of stress.py: all those of one process, in one loop over non-blocking sockets.

Owns their connections and the three steps that they take together with the other processes: sign on, talk,
listen. It promises to go on reading while a server does not take what a client says, and to end at the
plan's deadline. It never decides what is wrong with a stream: stress_check does.

How it knows that nothing more can come. The dialect answers commands in the order of the log, so an
unknown command (the *marker*) is a fence: what was ordered before it has arrived when its error line is
there. All have joined when all first markers are answered, all was said when the second ones are, all has
arrived when the third ones are. If something is missing then, we listen until QUIET_S of silence all the
same, so that a server which answers commands early is not blamed for it. Any error line counts as an answer:
the words of it are the server's business.
"""

from __future__ import annotations

import enum
import random
import selectors
import signal
import socket
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from stress_check import Faults, Kind, Observer, Plan, RoomCheck, Stream

RECEIVE_BYTES = 256 * 1024  # per recv: more than a socket's receive buffer usually holds
SIGNING_ON = 64  # connections of one process that wait for their greeting: below the usual listen backlogs
BURST = 32  # messages sent between two looks at the sockets, so that a talking process keeps reading
QUIET_S = 1.0  # of silence before what is missing counts as lost
TICK_S = 0.2  # between two reports of a client process
CONNECT_S = 10.0  # for one connection


class Step(enum.Enum):
    """What all clients do between two barriers; the value is the number of markers answered by then."""

    STARTING = 0
    SIGNING_ON = 1
    TALKING = 2
    LISTENING = 3

    @property
    def marker(self) -> bytes:
        return f"/stress-marker-{self.value}\n".encode()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a client process is; `reached` names a step that all of its clients have finished."""

    process: int
    signed_on: int
    arrived: int
    reached: Step | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a client process found. Times are ns of the monotonic clock; CPU is in seconds of the talk."""

    process: int
    faults: Faults
    orders: dict[int, array[int]]
    latencies_ns: array[int]
    remarks: list[str]
    arrived: int
    last_arrival_ns: int
    cpu_s: float
    timed_out: bool


class TimeIsUp(Exception):
    """The deadline came while somebody was still waiting."""


class Peer:
    """One connection to the server. What the socket does not take is kept: one client's few lines."""

    def __init__(self, stream: Stream, client: int | None, sock: socket.socket, selector: selectors.BaseSelector):
        self.stream = stream
        self.client = client
        self.gone = False
        self._sock = sock
        self._selector = selector
        self._unsent = bytearray()
        selector.register(sock, selectors.EVENT_READ, self)

    def write(self, data: bytes) -> None:
        if self.gone:
            return
        idle = not self._unsent
        self._unsent += data
        if idle:
            self._flush()
            if self._unsent:
                self._selector.modify(self._sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def resume_writing(self) -> None:
        self._flush()
        if not self._unsent:
            self._selector.modify(self._sock, selectors.EVENT_READ, self)

    def _flush(self) -> None:
        try:
            del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:  # broken: reading tells what became of the connection
            self._unsent.clear()

    def read(self) -> bool:
        """Feed what has come to the stream; False at the end of the connection."""
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except OSError:  # a reset is an end as well
            data = b""
        self.stream.feed(data, time.monotonic_ns())
        return bool(data)

    def close(self) -> None:
        if not self.gone:
            self.gone = True
            self._selector.unregister(self._sock)
            self._sock.close()

    def answered(self, step: Step) -> bool:
        return self.gone or self.stream.answers >= step.value

    def describe(self) -> str:
        backlog = f", which does not take {len(self._unsent)} bytes" if self._unsent else ""
        return f"{self.stream.name} still waits for the server{backlog}"


class Crowd:
    """All clients of one process in one loop: takes the steps, reports and meets the others by the pipe."""

    def __init__(self, plan: Plan, process: int, pipe: Connection[Any, Any]) -> None:
        self._plan = plan
        self._process = process
        self._pipe = pipe
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ, None)
        self._checks = [RoomCheck(plan, room, process) for room in plan.rooms_in(process)]
        self._peers: list[Peer] = []
        self._greeting: set[Peer] = set()
        self._faults = Faults()
        self._step = Step.STARTING
        self._passed = 0  # barriers
        self._timed_out = False
        self._last_arrival_ns = 0
        self._next_tick = 0.0

    def run(self) -> None:
        started_cpu = None
        try:
            self._meet()
            self._sign_on()
            self._meet()
            started_cpu = time.process_time()
            self._talk()
            self._meet()
            self._listen()
        except TimeIsUp:
            self._blame_the_late()
        self._pipe.send(self._result(started_cpu))

    def _blame_the_late(self) -> None:
        late = [f"{peer.describe()} ({self._step.name})" for peer in self._peers if not peer.answered(self._step)]
        self._timed_out = True
        if late:  # nobody is, where all only wait for another process
            self._faults.add(Kind.STUCK, *late, count=len(late))

    def close(self) -> None:
        """Disconnect everybody, in whatever state they are."""
        for peer in self._peers:
            peer.close()
        self._selector.close()

    # The steps

    def _sign_on(self) -> None:
        self._step = Step.SIGNING_ON
        to_come = deque[tuple[Stream, int | None]]((check.observer, None) for check in self._checks)
        to_come.extend((reader, reader.client) for check in self._checks for reader in check.readers)
        while to_come or self._greeting:
            while to_come and len(self._greeting) < SIGNING_ON:
                self._connect(*to_come.popleft())
            self._turn(TICK_S)
        self._await_answers()

    def _connect(self, stream: Stream, client: int | None) -> None:
        patience = min(CONNECT_S, self._plan.deadline - time.monotonic())
        if patience <= 0:
            raise TimeIsUp
        try:
            sock = socket.create_connection((self._plan.host, self._plan.port), patience)
        except OSError as error:
            self._faults.add(Kind.DISCONNECTED, f"{stream.name} could not connect: {error}")
            if isinstance(stream, Observer):
                stream.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = Peer(stream, client, sock, self._selector)
        self._peers.append(peer)
        self._greeting.add(peer)

    def _introduce(self, peer: Peer) -> None:
        """Name, room and first marker in one go, as somebody who pastes them."""
        self._greeting.discard(peer)
        join = f"/join #stress-{peer.stream.room.number}\n" if self._plan.rooms > 1 else ""
        peer.write(f"{peer.stream.name}\n{join}".encode() + Step.SIGNING_ON.marker)

    def _talk(self) -> None:
        self._step = Step.TALKING
        talkers = {peer.client: peer for peer in self._peers if peer.client is not None}
        start_ns = time.monotonic_ns()
        rate = self._plan.rate * len(talkers) / self._plan.clients
        for count, (client, n) in enumerate(self._turns_to_speak(list(talkers))):
            if count % BURST == 0:
                self._turn(0)
            due_ns = start_ns + int(count / rate * 1e9) if rate else time.monotonic_ns()
            while (early_ns := due_ns - time.monotonic_ns()) > 0:
                self._turn(min(early_ns / 1e9, TICK_S))
            talkers[client].write(self._plan.compose(client, n, due_ns))
        for peer in self._peers:
            peer.write(Step.TALKING.marker)
        self._await_answers()

    def _turns_to_speak(self, clients: list[int]) -> Iterator[tuple[int, int]]:
        dice = random.Random(f"{self._plan.seed}/{self._process}")
        for n in range(self._plan.messages):
            dice.shuffle(clients)
            yield from ((client, n) for client in clients)

    def _listen(self) -> None:
        self._step = Step.LISTENING
        for peer in self._peers:
            peer.write(Step.LISTENING.marker)
        self._await_answers()
        fenced_ns = time.monotonic_ns()
        while any(check.missing() for check in self._checks) and not self._is_quiet(fenced_ns):
            self._turn(TICK_S)

    # The loop

    def _await_answers(self) -> None:
        waiting = list(self._peers)
        while waiting:
            while waiting and waiting[-1].answered(self._step):
                waiting.pop()
            if waiting:
                self._turn(TICK_S)

    def _meet(self) -> None:
        """Tell that this step is done, and go on reading until all processes have done it."""
        self._report(self._step)
        while self._passed <= self._step.value:
            self._turn(TICK_S)

    def _turn(self, timeout: float) -> None:
        """Serve what is ready. The observers first: then their references are ahead of the others."""
        events = self._selector.select(timeout)
        events.sort(key=lambda event: event[0].data is not None and event[0].data.client is not None)
        for key, mask in events:
            peer = key.data
            if peer is None:
                self._pipe.recv()
                self._passed += 1
                continue
            if mask & selectors.EVENT_WRITE:
                peer.resume_writing()
            if mask & selectors.EVENT_READ:
                self._read(peer)
        if time.monotonic() >= self._next_tick:
            self._tick()

    def _read(self, peer: Peer) -> None:
        stream = peer.stream
        before = stream.arrived
        if not peer.read():
            self._lose(peer)
        elif peer in self._greeting and stream.notices:
            self._introduce(peer)
        if stream.arrived != before:
            self._last_arrival_ns = time.monotonic_ns()

    def _lose(self, peer: Peer) -> None:
        peer.close()
        self._greeting.discard(peer)
        self._faults.add(Kind.DISCONNECTED, f"{peer.stream.name} ({self._step.name})")
        if isinstance(peer.stream, Observer):
            peer.stream.close()

    def _tick(self) -> None:
        self._report()
        if self._step is not Step.STARTING and self._is_quiet(0):
            for check in self._checks:
                check.hurry()
        if time.monotonic() >= self._plan.deadline:
            raise TimeIsUp
        self._next_tick = time.monotonic() + TICK_S

    def _is_quiet(self, since_ns: int) -> bool:
        return time.monotonic_ns() - max(self._last_arrival_ns, since_ns) > QUIET_S * 1e9

    # What the others are told

    def _arrived(self) -> int:
        return sum(stream.arrived for check in self._checks for stream in check.streams())

    def _report(self, reached: Step | None = None) -> None:
        signed_on = sum(peer.stream.answers > 0 for peer in self._peers)
        self._pipe.send(Progress(self._process, signed_on, self._arrived(), reached))

    def _result(self, started_cpu: float | None) -> Result:
        """Judges the rooms, if ever there was talk: what nobody could say is not lost."""
        cpu_s = time.process_time() - started_cpu if started_cpu is not None else 0.0
        latencies = array("q")
        for check in self._checks:
            self._faults.merge(check.judge() if started_cpu is not None else check.faults)
            latencies.extend(check.observer.latencies_ns)
        return Result(
            process=self._process,
            faults=self._faults,
            orders={check.number: check.reference.keys for check in self._checks},
            latencies_ns=latencies,
            remarks=[remark for check in self._checks for remark in check.remarks],
            arrived=self._arrived(),
            last_arrival_ns=self._last_arrival_ns,
            cpu_s=cpu_s,
            timed_out=self._timed_out,
        )


def run_crowd(plan: Plan, process: int, pipe: Connection[Any, Any]) -> None:
    """The main function of a client process. Ctrl-C is for the parent, whose end of the pipe ends us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    crowd = Crowd(plan, process, pipe)
    try:
        crowd.run()
    except (EOFError, BrokenPipeError):
        return  # the parent has gone, and nobody wants to know any more
    finally:
        crowd.close()
