"""One client process of a stress run, in three steps that all processes take together: sign on, talk, listen.

Promises to end at the plan's deadline. The server answers commands in the order of the log, so an unknown command (the
*marker*) is a fence: when its error line arrives, everything ordered before it has arrived. When all first markers are
answered, everybody has joined; after the second ones, everything was said; after the third ones, all has arrived.
If something is missing then, the process still listens until QUIET_S of silence, so that a server that answers commands
early is not blamed for losses. Any error line counts as an answer, whatever its words.
"""

from __future__ import annotations

import enum
import random
import time
from array import array
from collections import deque
from collections.abc import MutableSequence
from contextlib import closing
from dataclasses import dataclass

from mpchat_tools.common.crew import Pipe
from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.faults import Faults, Kind
from mpchat_tools.verify.check import Resident, RoomCheck
from mpchat_tools.verify.crowd import Client, Crowd
from mpchat_tools.verify.plan import Plan
from mpchat_tools.verify.reference import Key
from mpchat_tools.verify.talk import compose

SIGNING_ON = 64  # connections of one process that wait for their greeting: below the usual listen backlogs
BURST = 32  # messages sent between two looks at the sockets, so that a talking process keeps reading
QUIET_S = 1.0  # of silence before what is missing counts as lost
TICK_S = 0.2  # between two looks at the clock
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
class Result:
    """What a client process found. Times are ns of the monotonic clock; CPU is in seconds of the talk."""

    process: int
    faults: Faults
    orders: dict[int, list[Key]]
    latencies_ns: array[int]
    remarks: list[str]
    arrived: int
    last_arrival_ns: int
    cpu_s: float
    timed_out: bool


class TimeIsUp(Exception):
    """The deadline came while a client was still waiting."""


class Talkers:
    """All clients of one process. It sends each step that it has finished, and then waits for a word of the parent."""

    def __init__(self, pipe: Pipe, plan: Plan, process: int, progress: MutableSequence[int]) -> None:
        self._plan, self._process, self._pipe, self._progress = plan, process, pipe, progress
        self._faults = Faults()
        self._rooms = {number: RoomCheck(plan.room_name(number), self._faults) for number in plan.rooms_in(process)}
        self._crowd: Crowd[Client[Resident]] = Crowd(self._receive, self._lose, self._rooms.values())
        self._crowd.watch(pipe, self._pass)
        run = plan.run.encode()
        for number, room in self._rooms.items():
            room.reference.keep_keys()
            room.reference.said.update({plan.name_of(client): plan.messages for client in plan.members(number)})
        self._to_connect = deque(
            room.add(Resident(plan.observer_of(number, process), room, run, silent=True))
            for number, room in self._rooms.items()
        )
        for client in plan.clients_in(process):
            room = self._rooms[plan.room_of(client)]
            self._to_connect.append(room.add(Resident(plan.name_of(client), room, run)))
        self._greeting: set[Client[Resident]] = set()
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

    def close(self) -> None:
        self._crowd.close()

    # --- the steps

    def _sign_on(self) -> None:
        self._step = Step.SIGNING_ON
        while self._to_connect or self._greeting:
            while self._to_connect and len(self._greeting) < SIGNING_ON:
                self._connect(self._to_connect.popleft())
            self._turn(TICK_S)
        self._await_answers()

    def _connect(self, stream: Resident) -> None:
        patience = min(CONNECT_S, self._plan.deadline - time.monotonic())
        if patience <= 0:
            raise TimeIsUp
        try:
            client = Client((self._plan.host, self._plan.port), stream, patience)
        except ToolError as error:
            self._blame(Kind.DISCONNECTED, stream, str(error))
            return
        self._crowd.add(client)
        self._greeting.add(client)

    def _introduce(self, client: Client[Resident]) -> None:
        """Send name, room and first marker in one go, as somebody who pastes them."""
        self._greeting.discard(client)
        join = b"/join #%b\n" % client.stream.room.name if self._plan.rooms > 1 else b""
        self._crowd.say(client, b"%b\n%b%b" % (client.stream.name, join, Step.SIGNING_ON.marker))

    def _talk(self) -> None:
        self._step = Step.TALKING
        talkers = [client for client in self._crowd.clients if not client.stream.silent]
        rate = self._plan.rate * len(talkers) / self._plan.clients
        dice = random.Random(f"{self._plan.seed}/{self._process}")
        start_ns, count = time.monotonic_ns(), 0
        for number in range(1, self._plan.messages + 1):
            dice.shuffle(talkers)
            for client in talkers:
                if count % BURST == 0:
                    self._turn(0)
                due_ns = start_ns + int(count / rate * 1e9) if rate else time.monotonic_ns()
                while (early_ns := due_ns - time.monotonic_ns()) > 0:
                    self._turn(min(early_ns / 1e9, TICK_S))
                stream = client.stream
                self._crowd.say(client, compose(stream.room.name, stream.name, number, self._plan.size, due_ns))
                count += 1
        self._mark()

    def _listen(self) -> None:
        self._step = Step.LISTENING
        self._mark()
        fenced_ns = time.monotonic_ns()
        while not all(room.complete() for room in self._rooms.values()) and not self._is_quiet(fenced_ns):
            self._turn(TICK_S)

    def _mark(self) -> None:
        for client in self._crowd.clients:
            self._crowd.say(client, self._step.marker)
        self._await_answers()

    # --- the loop

    def _late(self) -> list[Client[Resident]]:
        return [client for client in self._crowd.clients if client.stream.answers < self._step.value]

    def _await_answers(self) -> None:
        while self._late():
            self._turn(TICK_S)

    def _blame_the_late(self) -> None:
        self._timed_out = True
        for client in self._late():  # there is none if all only wait for another process
            backlog = f", which does not take {len(client.unsent)} bytes" if client.unsent else ""
            words = f"{client.stream.name.decode()} still waits for the server{backlog} ({self._step.name})"
            self._faults.add(Kind.STUCK, words)

    def _meet(self) -> None:
        """Tell that this step is done, and go on reading until all processes have done it."""
        self._pipe.send(self._step)
        while self._passed <= self._step.value:
            self._turn(TICK_S)

    def _pass(self) -> None:
        self._pipe.recv()
        self._passed += 1

    def _turn(self, timeout: float) -> None:
        self._crowd.turn(timeout)
        if time.monotonic() < self._next_tick:
            return
        signed_on = sum(client.stream.answers > 0 for client in self._crowd.clients)
        self._progress[2 * self._process : 2 * self._process + 2] = [signed_on, self._arrived()]
        if self._step is not Step.STARTING and self._is_quiet(0):
            for room in self._rooms.values():
                room.hurry()
        if time.monotonic() >= self._plan.deadline:
            raise TimeIsUp
        self._next_tick = time.monotonic() + TICK_S

    def _receive(self, client: Client[Resident], data: bytes) -> None:
        stream, now_ns = client.stream, time.monotonic_ns()
        before = stream.lines
        stream.feed(data, now_ns)
        if client in self._greeting and stream.notices:
            self._introduce(client)
        if stream.lines != before:
            self._last_arrival_ns = now_ns

    def _lose(self, client: Client[Resident]) -> None:
        self._greeting.discard(client)
        self._blame(Kind.DISCONNECTED, client.stream, f"{client.stream.name.decode()} ({self._step.name})")

    def _blame(self, kind: Kind, stream: Resident, words: str) -> None:
        self._faults.add(kind, words)
        if stream.silent:  # without its observer, nothing more is added to the order of a room
            stream.room.reference.close()

    def _is_quiet(self, since_ns: int) -> bool:
        return time.monotonic_ns() - max(self._last_arrival_ns, since_ns) > QUIET_S * 1e9

    def _arrived(self) -> int:
        return sum(stream.lines for room in self._rooms.values() for stream in room.streams)

    def _result(self, started_cpu: float | None) -> Result:
        """Judge the rooms if the talk has begun: what no client could say is not lost."""
        latencies = array("q")
        for room in self._rooms.values():
            if started_cpu is not None:
                room.finish()
            latencies.extend(room.streams[0].latencies_ns)
        return Result(
            process=self._process,
            faults=self._faults,
            orders={number: room.reference.keys for number, room in self._rooms.items()},
            latencies_ns=latencies,
            remarks=[remark for room in self._rooms.values() for remark in room.remarks],
            arrived=self._arrived(),
            last_arrival_ns=self._last_arrival_ns,
            cpu_s=time.process_time() - started_cpu if started_cpu is not None else 0.0,
            timed_out=self._timed_out,
        )


def run_talkers(pipe: Pipe, plan: Plan, process: int, progress: MutableSequence[int]) -> None:
    """The work of a client process."""
    with closing(Talkers(pipe, plan, process, progress)) as talkers:
        talkers.run()
