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
from collections.abc import Iterator
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
    orders: dict[int, list[Key]]
    latencies_ns: array[int]
    remarks: list[str]
    arrived: int
    last_arrival_ns: int
    cpu_s: float
    timed_out: bool


class TimeIsUp(Exception):
    """The deadline came while somebody was still waiting."""


class Talkers:
    """All clients of one process. They report to the parent, and meet the others, by the pipe."""

    def __init__(self, pipe: Pipe, plan: Plan, process: int) -> None:
        self._plan = plan
        self._process = process
        self._pipe = pipe
        self._faults = Faults()
        self._crowd: Crowd[Resident] = Crowd(self._receive, self._lose)
        self._crowd.watch(pipe, self._pass)
        self._checks = {number: RoomCheck(plan.room_name(number), self._faults) for number in plan.rooms_in(process)}
        run = plan.run.encode()
        for number, check in self._checks.items():
            check.reference.keep_keys()
            check.reference.said.update({plan.name_of(client): plan.messages for client in plan.members(number)})
            check.add(Resident(plan.observer_of(number, process), check, run, silent=True))
        self._residents = {
            client: self._check_of(client).add(Resident(plan.name_of(client), self._check_of(client), run))
            for client in plan.clients_in(process)
        }
        self._greeting: dict[Client[Resident], bytes] = {}  # with the name of its room
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

    def _check_of(self, client: int) -> RoomCheck:
        return self._checks[self._plan.room_of(client)]

    # --- the steps

    def _sign_on(self) -> None:
        self._step = Step.SIGNING_ON
        observers = [(check.streams[0], check.name) for check in self._checks.values()]
        to_come = deque(observers + [(each, self._check_of(c).name) for c, each in self._residents.items()])
        while to_come or self._greeting:
            while to_come and len(self._greeting) < SIGNING_ON:
                stream, room = to_come.popleft()
                assert isinstance(stream, Resident)
                self._connect(stream, room)
            self._turn(TICK_S)
        self._await_answers()

    def _connect(self, stream: Resident, room: bytes) -> None:
        patience = min(CONNECT_S, self._plan.deadline - time.monotonic())
        if patience <= 0:
            raise TimeIsUp
        try:
            client = Client((self._plan.host, self._plan.port), stream, patience)
        except ToolError as error:
            self._faults.add(Kind.DISCONNECTED, str(error))
            self._close_order(stream)
            return
        self._crowd.add(client)
        self._greeting[client] = room

    def _introduce(self, client: Client[Resident]) -> None:
        """Name, room and first marker in one go, as somebody who pastes them."""
        room = self._greeting.pop(client)
        join = b"/join #%b\n" % room if self._plan.rooms > 1 else b""
        self._crowd.say(client, b"%b\n%b%b" % (client.stream.name, join, Step.SIGNING_ON.marker))

    def _talk(self) -> None:
        self._step = Step.TALKING
        by_name = {client.stream.name: client for client in self._crowd.clients}
        talkers = {c: by_name[each.name] for c, each in self._residents.items() if each.name in by_name}
        start_ns = time.monotonic_ns()
        rate = self._plan.rate * len(talkers) / self._plan.clients
        for count, (client, number) in enumerate(self._turns_to_speak(list(talkers))):
            if count % BURST == 0:
                self._turn(0)
            due_ns = start_ns + int(count / rate * 1e9) if rate else time.monotonic_ns()
            while (early_ns := due_ns - time.monotonic_ns()) > 0:
                self._turn(min(early_ns / 1e9, TICK_S))
            room, name = self._check_of(client).name, self._plan.name_of(client)
            self._crowd.say(talkers[client], compose(room, name, number, self._plan.size, due_ns))
        self._mark()
        self._await_answers()

    def _turns_to_speak(self, clients: list[int]) -> Iterator[tuple[int, int]]:
        dice = random.Random(f"{self._plan.seed}/{self._process}")
        for number in range(1, self._plan.messages + 1):
            dice.shuffle(clients)
            yield from ((client, number) for client in clients)

    def _listen(self) -> None:
        self._step = Step.LISTENING
        self._mark()
        self._await_answers()
        fenced_ns = time.monotonic_ns()
        while not all(check.complete() for check in self._checks.values()) and not self._is_quiet(fenced_ns):
            self._turn(TICK_S)

    def _mark(self) -> None:
        for client in self._crowd.clients:
            self._crowd.say(client, self._step.marker)

    # --- the loop

    def _late(self) -> list[Client[Resident]]:
        return [client for client in self._crowd.clients if client.stream.answers < self._step.value]

    def _await_answers(self) -> None:
        while self._late():
            self._turn(TICK_S)

    def _blame_the_late(self) -> None:
        self._timed_out = True
        for client in self._late():  # nobody is, where all only wait for another process
            backlog = f", which does not take {len(client.unsent)} bytes" if client.unsent else ""
            words = f"{client.stream.name.decode()} still waits for the server{backlog} ({self._step.name})"
            self._faults.add(Kind.STUCK, words)

    def _meet(self) -> None:
        """Tell that this step is done, and go on reading until all processes have done it."""
        self._report(self._step)
        while self._passed <= self._step.value:
            self._turn(TICK_S)

    def _pass(self) -> None:
        self._pipe.recv()
        self._passed += 1

    def _turn(self, timeout: float) -> None:
        self._crowd.turn(timeout)
        for check in self._checks.values():
            check.wake()
        if time.monotonic() >= self._next_tick:
            self._tick()

    def _receive(self, client: Client[Resident], data: bytes) -> None:
        stream, now_ns = client.stream, time.monotonic_ns()
        before = stream.lines
        stream.feed(data, now_ns)
        if client in self._greeting and stream.notices:
            self._introduce(client)
        if stream.lines != before:
            self._last_arrival_ns = now_ns

    def _lose(self, client: Client[Resident]) -> None:
        self._greeting.pop(client, None)
        self._faults.add(Kind.DISCONNECTED, f"{client.stream.name.decode()} ({self._step.name})")
        self._close_order(client.stream)

    def _close_order(self, stream: Resident) -> None:
        """Without its observer, nothing more is added to the order of a room."""
        for check in self._checks.values():
            if check.streams[0] is stream:
                check.reference.close()

    def _tick(self) -> None:
        self._report()
        if self._step is not Step.STARTING and self._is_quiet(0):
            for check in self._checks.values():
                check.hurry()
        if time.monotonic() >= self._plan.deadline:
            raise TimeIsUp
        self._next_tick = time.monotonic() + TICK_S

    def _is_quiet(self, since_ns: int) -> bool:
        return time.monotonic_ns() - max(self._last_arrival_ns, since_ns) > QUIET_S * 1e9

    # --- what the others are told

    def _arrived(self) -> int:
        return sum(stream.lines for check in self._checks.values() for stream in check.streams)

    def _report(self, reached: Step | None = None) -> None:
        signed_on = sum(client.stream.answers > 0 for client in self._crowd.clients)
        self._pipe.send(Progress(self._process, signed_on, self._arrived(), reached))

    def _result(self, started_cpu: float | None) -> Result:
        """Judges the rooms, if ever there was talk: what nobody could say is not lost."""
        latencies = array("q")
        for check in self._checks.values():
            if started_cpu is not None:
                check.finish()
            latencies.extend(check.streams[0].latencies_ns)
        return Result(
            process=self._process,
            faults=self._faults,
            orders={number: check.reference.keys for number, check in self._checks.items()},
            latencies_ns=latencies,
            remarks=[remark for check in self._checks.values() for remark in check.remarks],
            arrived=self._arrived(),
            last_arrival_ns=self._last_arrival_ns,
            cpu_s=time.process_time() - started_cpu if started_cpu is not None else 0.0,
            timed_out=self._timed_out,
        )


def run_talkers(pipe: Pipe, plan: Plan, process: int) -> None:
    """The work of a client process."""
    with closing(Talkers(pipe, plan, process)) as talkers:
        talkers.run()
