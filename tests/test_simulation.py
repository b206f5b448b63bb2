"""Several workers on one log, in one process, under random schedules: each client is sent, byte for byte, what the log
says it is to be sent, whoever dies; and the workers agree, and lose and double nothing of what is said.

The workers are real (see simulated.py). Random are the fragments of streams, who does which step when, what is written
and received when a worker is killed, the last publication of a dead worker that arrives late, and when the sequencer is
killed and goes on with its journal, clients are moved, workers retire, and clients do not read. A witness applies every
record at once, from the first on; what it would have sent is what must have been.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from simulated import MOST, Process, Step, Wire, World
from test_replica import picture

from mpchat.chat.entries import Ended, Input, SessionId, decode_entries
from mpchat.chat.events import Effect, Message, Told
from mpchat.chat.replica import Replica
from mpchat.chat.state import Limits, Session
from mpchat.server.worker.adoption import Adoptee
from mpchat.server.worker.fanout import Fanout

LIMITS = Limits(history=5, history_bytes=3000, rooms_of_session=3, rooms_of_server=5)
SETTLE_ROUNDS = 300
"""Far more than it takes to come by all that a whole run may have left to do."""


class Output:
    """A `fanout.Sink` that keeps everything."""

    def __init__(self) -> None:
        self.sent = b""

    def send(self, block: bytes) -> None:
        self.sent += block

    def finish(self) -> None:
        """Nothing more comes."""


class Witness:
    """Sees everything in time, and remembers every single thing that was said and was to be sent, in order."""

    def __init__(self) -> None:
        self.replica = Replica(LIMITS)
        self.position = 0
        self.spoken: list[str] = []
        self.lost: set[SessionId] = set()
        """Whose session ended because the log was trimmed before anybody could carry on with it."""
        self._fanout = Fanout(self.replica)
        self._outputs: dict[SessionId, Output] = {}

    def watch(self, sid: SessionId) -> None:
        self._outputs[sid] = Output()
        self._fanout.attach(sid, self._outputs[sid])

    def output(self, sid: SessionId) -> bytes:
        return self._outputs[sid].sent

    def read(self, world: World) -> None:
        asked_at = world.log._asked_at
        reading = world.log.read(self.position, 0)
        world.log._asked_at = asked_at  # whoever was asked for a snapshot, it was not us
        for record in reading.records:
            for entry in decode_entries(record.payload):
                effects = self.replica.apply(entry, record.time)
                self._fanout.deliver(effects, record.time)
                self._note(effects)
                if isinstance(entry, Ended) and entry.reason.startswith("too far behind"):
                    self.lost.add(entry.sid)
            self.position = record.last
        self._fanout.flush()

    def _note(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Told) and isinstance(effect.event, Message):
                self.spoken += effect.event.texts


@dataclass
class Client:
    """All that was said in a byte stream (each text once in the whole simulation), and its connection."""

    sid: SessionId
    wire: Wire
    said: list[str] = field(default_factory=list)
    unsent: bytearray = field(default_factory=bytearray)
    done: bool = False  # it says no more

    def send(self, size: int) -> None:
        """Up to so many bytes arrive."""
        self.wire.inbox += self.unsent[:size]
        del self.unsent[:size]


NAMES = st.sampled_from(["ann", "Bob", "BOB", "cy"])
LINES = st.one_of(
    st.just("{}"),
    st.just("{}"),
    st.just("/me {}"),
    st.sampled_from(["/join a", "/join b", "/join lobby", "/leave", "/topic new", "/nick dan", "/nick ann"]),
    st.sampled_from(["/ignore ann", "/unignore ann", "/msg ann psst", "/reply psst", "/quiet", "/timestamp"]),
    st.sampled_from(["/away", "/back", "/who", "/rooms", "/history", "/whois ann", "/nonsense", "", "x" * 120]),
    st.sampled_from([" " * 90, "x" * 900]),
)
WHICH = st.integers(0, 1000)
TALK = st.lists(st.tuples(WHICH, st.lists(LINES, min_size=1, max_size=3), st.integers(0, 100)), min_size=1, max_size=5)
SIZES = st.sampled_from([0, 1, 2, 5, 30, 100, MOST])
TURNS = st.lists(st.tuples(WHICH, st.sampled_from(Step), SIZES), min_size=1, max_size=10)
ROUTINE = [Step.MAIN, Step.INPUT, Step.SOON, Step.TAKE, Step.ANSWER, Step.GIVE, Step.READ, Step.SOON, Step.OUTPUT]
"""The order in which things get done."""


class Simulation(RuleBasedStateMachine):
    """The steps, in any order; at the end everything is done, and all must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.witness = Witness()
        self.clients: list[Client] = []
        self._open = ExitStack()

    @initialize(workers=st.integers(2, 4), tail=st.sampled_from([1500, 1 << 17]))
    def start(self, workers: int, tail: int) -> None:
        """With a short tail, clients that are behind may be lost, and no others."""
        self.world = World(LIMITS, tail, lambda: self.witness.read(self.world))
        self._open.callback(self.world.close)
        self._open.enter_context(self.world.entered())
        for _ in range(workers):
            self.world.start()
        for which in range(2 * workers):
            self.connect(f"n{which}")

    @rule(names=st.lists(NAMES, min_size=1, max_size=3))
    def connect_some(self, names: list[str]) -> None:
        for name in names:
            self.connect(name)

    def connect(self, name: str) -> None:
        if self.world.has_room:
            sid = len(self.clients).to_bytes(16)
            self.witness.watch(sid)
            client = Client(sid, self.world.connect(sid))
            client.unsent += f"{name}\n".encode()
            self.clients.append(client)

    @rule(talk=TALK)
    def talk(self, talk: list[tuple[int, list[str], int]]) -> None:
        """What is left from before and these lines; so many bytes arrive."""
        for which, lines, size in talk:
            client = self.talker(which)
            for line in lines if client else []:
                if "{}" in line:
                    client.said.append(f"{len(client.said)} of {client.sid.hex()[-2:]}")
                client.unsent += line.format(*client.said[-1:]).encode() + b"\n"
            if client:
                client.send(size)

    @rule(which=WHICH, quits=st.booleans(), reset=st.booleans())
    def leave(self, which: int, quits: bool, reset: bool) -> None:
        """By `quit`; by closing after all was sent; or by a reset, whatever is on its way."""
        client = self.talker(which)
        if client is None:
            return
        if quits:
            client.unsent += b"quit\nafter the end\n"
        client.send(0 if reset else MOST)
        client.done = client.wire.ended = True
        client.wire.reset = reset

    @rule(turns=TURNS)
    def turn(self, turns: list[tuple[int, Step, int]]) -> None:
        for which, step, size in turns:
            self.world.turn(self.process(which), step, size)

    @rule(which=WHICH, size=SIZES)
    def go_on(self, which: int, size: int) -> None:
        """One worker does everything once."""
        process = self.process(which)
        for step in ROUTINE:
            self.world.turn(process, step, size)

    @rule(seconds=st.sampled_from([0.1, 0.3]))
    def wait(self, seconds: float) -> None:
        self.world.clock.now += seconds
        for process in list(self.world.processes):
            self.world.turn(process, Step.TIMERS)

    @rule(which=WHICH, window=SIZES)
    def read_no_more_than(self, which: int, window: int) -> None:
        if self.clients:
            self.clients[which % len(self.clients)].wire.window = window

    @rule(which=WHICH)
    def kill(self, which: int) -> None:
        self.world.kill(self.process(which))

    @rule(which=WHICH, size=st.integers(1, 400))
    def kill_writing(self, which: int, size: int) -> None:
        self.world.kill_writing(self.process(which), size)

    @rule(which=WHICH, size=st.integers(1, 100))
    def kill_receiving(self, which: int, size: int) -> None:
        self.world.kill_receiving(self.process(which), size)

    @rule(taken=st.integers(0, 15))
    def kill_log(self, taken: int) -> None:
        self.world.kill_log(taken)

    @rule(which=WHICH)
    def doubt(self, which: int) -> None:
        self.world.publish_again(which)

    @rule(which=WHICH, number=st.integers(1, 3))
    def release(self, which: int, number: int) -> None:
        self.world.release(self.process(which), number)

    @rule(which=WHICH)
    def retire(self, which: int) -> None:
        self.world.retire(self.process(which))

    @precondition(lambda self: self.world.late)
    @rule()
    def arrive(self) -> None:
        """What a killed worker had written to the log's connection is read from it."""
        self.world.arrive()

    def process(self, which: int) -> Process:
        return self.world.processes[which % len(self.world.processes)]

    def talker(self, which: int) -> Client | None:
        """One of the clients that can still say something."""
        talkers = [client for client in self.clients if not client.done and client.sid not in self.witness.lost]
        return talkers[which % len(talkers)] if talkers else None

    # --- the end

    def teardown(self) -> None:
        with self._open:
            if self.clients:
                self.settle()
                self.compare()

    def settle(self) -> None:
        for client in self.clients:
            client.wire.window = MOST
            if not client.done:
                client.send(MOST)
        for _ in range(SETTLE_ROUNDS):
            if self.world.quiet:
                return
            self.finish_round()
        pytest.fail("it does not settle")

    def finish_round(self) -> None:
        self.world.clock.now += 1
        if self.world.late:
            self.world.arrive()
        for process in list(self.world.processes):
            for step in [*ROUTINE, Step.TIMERS]:
                self.world.turn(process, step)

    def compare(self) -> None:
        expected = picture(self.witness.replica)
        assert all(picture(process.worker._replica) == expected for process in self.world.processes)
        assert len(set(self.witness.spoken)) == len(self.witness.spoken), "something was said twice"
        for client in self.clients:
            self.compare_said(client)
            self.compare_output(client)
        living = sum(not client.done for client in self.clients if client.sid not in self.witness.lost)
        assert self.witness.replica.sessions == living

    def compare_said(self, client: Client) -> None:
        """All that it said was heard, in its order; up to some point, if it was cut off."""
        end = f" of {client.sid.hex()[-2:]}"
        heard = [text for text in self.witness.spoken if text.endswith(end)]
        cut = client.wire.reset or client.sid in self.witness.lost
        assert heard == (client.said[: len(heard)] if cut else client.said)

    def compare_output(self, client: Client) -> None:
        """It was sent what the log says, all of it; up to some point, if it was cut off."""
        expected, output = self.witness.output(client.sid), bytes(client.wire.output)
        cut = client.wire.reset or client.sid in self.witness.lost
        assert output == (expected[: len(output)] if cut else expected), "the output is wrong"


Simulation.TestCase.settings = settings(max_examples=100, stateful_step_count=100)
TestSimulation = Simulation.TestCase


def accept_always(replica: Replica, entry: Input) -> Session | None:
    """What a replica that is not idempotent does in place of `Replica._accept`."""
    session = replica.session(entry.sid)
    if session is not None:
        session.position, session.mode = max(session.position, entry.end), entry.mode
    return session


def begin() -> Simulation:
    """Everybody has signed on, and has said something that all were sent."""
    simulation = Simulation()
    simulation.start(workers=2, tail=1 << 17)
    say(simulation)
    return simulation


def say(simulation: Simulation) -> None:
    simulation.talk([(which, ["{}", "{}"], MOST) for which in range(len(simulation.clients))])
    for _ in range(3):
        simulation.finish_round()


def test_the_simulation_finds_a_replica_that_applies_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "_accept", accept_always)
    simulation = begin()
    for number in range(len(simulation.world.published)):
        simulation.doubt(number)
    with pytest.raises(AssertionError, match="twice"):
        simulation.teardown()


@pytest.mark.parametrize(
    "output",
    [
        lambda adoptee: adoptee.carried + adoptee.tape.content,
        lambda adoptee: b"",
        lambda adoptee: adoptee.tape.content,
    ],
    ids=["all again", "nothing", "without what was carried"],
)
def test_the_simulation_finds_an_adoption_that_sends_something_else(
    output: Callable[[Adoptee], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of what was carried had been sent by the next worker, when that dies too."""
    monkeypatch.setattr(Adoptee, "output", property(output))
    simulation = begin()
    for client in range(len(simulation.clients)):
        simulation.read_no_more_than(client, 10)
    say(simulation)
    simulation.retire(0)
    for _ in range(3):
        simulation.finish_round()
    simulation.kill(0)
    with pytest.raises(AssertionError, match="the output is wrong"):
        simulation.teardown()
