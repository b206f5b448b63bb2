"""Several workers on one log, in one process, under random schedules: each client is sent, byte for byte, what the log
says it is to be sent, whoever dies; and the workers agree, and lose and double nothing of what is said.

The workers are real (see simulated.py), and so is an archive that reads and writes now and then and is killed. What is
in its database at the end is what was said, once and in order, but for what the log had to forget before it was read.
Random are the fragments of streams, who does which step when, what is written and received when a worker is killed, the
last publication of a dead worker that arrives late, and when the sequencer is killed and goes on with its journal, at
once or after a while, clients are moved, workers retire, and clients do not read. A witness applies every record at
once, from the first on; what it would have sent is what must have been, but for the notices that workers tell in long
outages: each is whole, between two lines, and at most one in each outage.
"""

import re
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from party import DIALECT, picture
from simulated import MOST, Link, Process, Source, Step, Wire, World

from mpchat.archive.database import open_database
from mpchat.chat.entries import Ended, Input, SessionId, decode_entries, encode_entries
from mpchat.chat.events import Effect, Message, Told
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import Limits, Session
from mpchat.log.local.memory import ASK_AGAIN, MemoryLog
from mpchat.log.port import LogFull, LogTrimmed
from mpchat.server.archive.answerer import Answerer
from mpchat.server.archive.archivist import Archivist
from mpchat.server.worker import snapshots
from mpchat.server.worker.moves.adoption import Adoptee
from mpchat.server.worker.outage import encode_notice
from mpchat.server.worker.outbound.fanout import Fanout
from mpchat.server.worker.snapshots import Snapshots

LIMITS = Limits(history=5, history_bytes=3000, rooms_of_session=3, rooms_of_server=5, archived=True)
SETTLE_ROUNDS = 300
"""Far more than it takes to come by all that a whole run may have left to do."""
NOTICE = encode_notice(DIALECT)
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a disk takes longer


class Output:
    """A `fanout.Sink` that keeps everything."""

    def __init__(self) -> None:
        self.sent = b""

    def send(self, block: bytes) -> None:
        self.sent += block

    def named(self, name: str) -> None:
        pass

    def left(self, name: str, reason: str) -> None:
        pass

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
        self._fanout: Fanout[Output] = Fanout(self.replica)
        self._outputs: dict[SessionId, Output] = {}

    def watch(self, sid: SessionId) -> None:
        self._outputs[sid] = Output()
        self._fanout.attach(sid, self._outputs[sid], DIALECT)

    def output(self, sid: SessionId) -> bytes:
        return self._outputs[sid].sent

    def read(self, world: World) -> None:
        for record in world.log.read(self.position, 0):
            for entry in decode_entries(record.payload):
                effects = self.replica.apply(entry, record.time)
                self._fanout.deliver(effects, record.time)
                self._note(effects)
                if isinstance(entry, Ended) and entry.reason.startswith("too far behind"):
                    self.lost.add(entry.sid)
            self.position = record.seq
        self._fanout.flush()

    def _note(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Told) and isinstance(effect.event, Message):
                self.spoken += effect.event.texts


class Archive:
    """The archive, which is real but for its process: it reads when it is told to, and can be killed between any two
    calls. The database is in memory that survives it."""

    def __init__(self, world: World, folder: Path) -> None:
        self.database = open_database(folder)
        self._world = world
        self._archivist: Archivist | None = None
        self._answerer: Answerer | None = None
        self._link: Link | None = None
        self._source: MemoryLog | None = None

    def read(self) -> None:
        """Take what has come. With the sequencer the archive ends, and the next one starts with the next sequencer."""
        world = self._world
        if world.is_down or self._source is not world.log:
            self.kill()
        if world.is_down:
            return
        if self._archivist is None:
            self._archivist, self._source = Archivist(world.log, self.database, "log", LIMITS), world.log
            self._link = Source(world).open_link("archive answers")
            self._answerer = Answerer(self.database, self._link, LIMITS.history_shown)  # type: ignore[arg-type]
        try:
            self._archivist.take(world.log.read(self._archivist.position, 0))
        except LogTrimmed:
            self._archivist.start()

    def write(self) -> None:
        if self._archivist is not None:
            self._archivist.write(at_once=True)

    def answer(self, served: bool) -> None:
        """Take a step towards an answer; `served`: the sequencer takes it in, if there is one to be published."""
        archivist, answerer, link, world = self._archivist, self._answerer, self._link, self._world
        if world.is_down or self._source is not world.log:
            self.kill()
        elif archivist and answerer and link and not archivist.waiting:
            if link.request is None:
                answerer.advance(world.clock.now, archivist.replica, archivist.position, trouble=False)
            if served:
                link.serve()

    @property
    def has_gap(self) -> bool:
        """Whether it knows of a gap that is not written yet."""
        return self._archivist is not None and self._archivist._gap is not None

    def kill(self) -> None:
        self._archivist = self._answerer = None

    def close(self) -> None:
        self.database.close()


@dataclass
class Client:
    """All that was said in a byte stream (each text once in the whole simulation), and its connection."""

    sid: SessionId
    wire: Wire
    said: list[str] = field(default_factory=list)
    unsent: bytearray = field(default_factory=bytearray)
    done: bool = False  # it says no more
    outages: int = 0  # that were over before it came

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
    st.sampled_from(["/search tea", "/search of in #a from ann", "/history 9", "/history 2 more"]),
    st.sampled_from([" " * 90, "x" * 900]),
)
WHICH = st.integers(0, 1000)
SERVED = st.lists(st.booleans(), max_size=3)
TALK = st.lists(st.tuples(WHICH, st.lists(LINES, min_size=1, max_size=3), st.integers(0, 100)), min_size=1, max_size=5)
SIZES = st.sampled_from([0, 1, 2, 5, 30, 100, MOST])
TURNS = st.lists(st.tuples(WHICH, st.sampled_from(Step), SIZES), min_size=1, max_size=10)
ROUTINE = [Step.MAIN, Step.INPUT, Step.SOON, Step.TAKE, Step.ANSWER, Step.GIVE, Step.READ, Step.SOON, Step.OUTPUT]
"""The order in which things get done."""
ERRANDS = [Step.ERRAND, Step.REPORT, Step.SOON] * 5
"""What takes several calls of the log."""


def has_workers(simulation: "Simulation") -> bool:
    """In an outage those that die are not replaced."""
    return bool(simulation.world.processes)


class Simulation(RuleBasedStateMachine):
    """The steps, in any order; at the end everything is done, and all must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.witness = Witness()
        self.clients: list[Client] = []
        self.outages = 0
        self._open = ExitStack()

    @initialize(workers=st.integers(2, 4), tail=st.sampled_from([1500, 1 << 17]))
    def start(self, workers: int, tail: int) -> None:
        """With a short tail, clients that are behind may be lost, and no others."""
        self.world = World(LIMITS, tail, lambda: self.witness.read(self.world))
        self._open.callback(self.world.close)
        self._open.enter_context(self.world.entered())
        folder = self._open.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))
        self.archive = Archive(self.world, Path(folder))
        self._open.callback(self.archive.close)
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
            client = Client(sid, self.world.connect(sid), outages=self.outages - self.world.is_down)
            client.unsent += f"{name}\n".encode()
            self.clients.append(client)

    @rule(talk=TALK)
    def talk(self, talk: list[tuple[int, list[str], int]]) -> None:
        """What is left from before and these lines; so many bytes arrive."""
        for which, lines, size in talk:
            client = self.talker(which)
            if client is None:
                continue
            for line in lines:
                if "{}" in line:
                    client.said.append(f"{len(client.said)} of {client.sid.hex()[-2:]}")
                client.unsent += line.format(*client.said[-1:]).encode() + b"\n"
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

    @precondition(has_workers)
    @rule(turns=TURNS)
    def turn(self, turns: list[tuple[int, Step, int]]) -> None:
        for which, step, size in turns:
            if self.world.processes:
                self.world.turn(self.process(which), step, size)

    @precondition(has_workers)
    @rule(which=WHICH, size=SIZES)
    def go_on(self, which: int, size: int) -> None:
        """One worker does everything once."""
        process = self.process(which)
        for step in [*ROUTINE, *ERRANDS]:
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

    @precondition(has_workers)
    @rule(which=WHICH)
    def kill(self, which: int) -> None:
        self.world.kill(self.process(which))

    @precondition(has_workers)
    @rule(which=WHICH, size=st.integers(1, 400))
    def kill_writing(self, which: int, size: int) -> None:
        self.world.kill_writing(self.process(which), size)

    @precondition(has_workers)
    @rule(which=WHICH, size=st.integers(1, 100))
    def kill_receiving(self, which: int, size: int) -> None:
        self.world.kill_receiving(self.process(which), size)

    @precondition(lambda self: not self.world.is_down)
    @rule(taken=st.integers(0, 15))
    def kill_log(self, taken: int) -> None:
        self.outages += 1
        self.world.kill_log(taken)

    @precondition(lambda self: not self.world.is_down)
    @rule(taken=st.integers(0, 15))
    def lose_log(self, taken: int) -> None:
        self.outages += 1
        self.world.lose_log(taken)

    @precondition(lambda self: self.world.is_down)
    @rule()
    def restore_log(self) -> None:
        self.world.restore_log()

    @precondition(lambda self: self.world.is_down)
    @rule()
    def suffer(self) -> None:
        """It is a long outage."""
        for process in list(self.world.processes):
            self.world.suffer(process)

    @precondition(lambda self: self.world.is_down and self.world.processes)
    @rule(which=WHICH, written=st.integers(0, 3 * len(NOTICE)))
    def kill_writing_notices(self, which: int, written: int) -> None:
        self.world.suffer(self.process(which), written=written)

    @precondition(lambda self: self.world.is_down and self.world.processes)
    @rule(which=WHICH, stored=st.integers(1, 40))
    def kill_storing_notices(self, which: int, stored: int) -> None:
        self.world.suffer(self.process(which), stored=stored)

    @rule(reads=st.integers(0, 2), writes=st.booleans(), answers=SERVED, dies=st.booleans())
    def keep(self, reads: int, writes: bool, answers: list[bool], dies: bool) -> None:
        """The archive reads, writes, answers, and is killed."""
        for _ in range(reads):
            self.archive.read()
        if writes:
            self.archive.write()
        for served in answers:
            self.archive.answer(served)
            self.witness.read(self.world)
        if dies:
            self.archive.kill()

    @rule(which=WHICH)
    def doubt(self, which: int) -> None:
        self.world.publish_again(which)

    @precondition(has_workers)
    @rule(which=WHICH, number=st.integers(1, 3))
    def release(self, which: int, number: int) -> None:
        self.world.release(self.process(which), number)

    @precondition(has_workers)
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
        if self.world.is_down:
            self.world.restore_log()
        for client in self.clients:
            client.wire.window = MOST
            if not client.done:
                client.send(MOST)
        for _ in range(SETTLE_ROUNDS):
            if self.world.quiet and self.witness.replica.next_lookup() is None:
                return
            self.finish_round()
        pytest.fail("it does not settle")

    def finish_round(self) -> None:
        self.world.clock.now += 1
        if self.world.late:
            self.world.arrive()
        for process in list(self.world.processes):
            for step in [*ROUTINE, *ERRANDS, Step.TIMERS]:
                self.world.turn(process, step)
        self.archive.read()
        self.archive.write()
        self.archive.answer(served=True)
        self.witness.read(self.world)

    def compare_archive(self) -> None:
        """What was said is in the database, once and in order; but for gaps, if there are any."""
        for _ in range(SETTLE_ROUNDS):
            self.archive.read()
        self.archive.write()
        database, spoken = self.archive.database, self.witness.spoken
        kept = [line.text for line in database.read_lines()]
        if database.list_gaps() or database.place.seq < self.witness.position:
            # A gap is written with the next record, and there may be none.
            assert database.list_gaps() or self.archive.has_gap
            left = iter(spoken)
            assert all(text in left for text in kept), (kept, spoken)
        else:
            assert kept == spoken

    def compare(self) -> None:
        self.compare_archive()
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
        whole = re.findall(b"^" + re.escape(NOTICE), output, re.MULTILINE)
        assert len(whole) == output.count(NOTICE) <= self.outages - client.outages
        output = output.replace(NOTICE, b"")
        last = output[output.rfind(b"\n") + 1 :]
        if cut and NOTICE.startswith(last):
            output = output.removesuffix(last)
        assert output == (expected[: len(output)] if cut else expected), "the output is wrong"


Simulation.TestCase.settings = settings(stateful_step_count=100)
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


def begin_outage() -> Simulation:
    """There is no sequencer any more. Who reads nothing has output waiting; who came last is not in the log yet."""
    simulation = begin()
    for reads_late in (0, 1):
        simulation.read_no_more_than(reads_late, 10)
    say(simulation)
    simulation.lose_log(0)
    for name in ("late", "later"):
        simulation.connect(name)
    for process in simulation.world.processes:
        simulation.world.turn(process, Step.MAIN)
    return simulation


def count_notices(simulation: Simulation) -> list[int]:
    return [client.wire.output.count(NOTICE) for client in simulation.clients]


@pytest.mark.parametrize("then", ["the others tell", "all die", "successors die"])
@pytest.mark.parametrize("what", ["written", "stored"])
def test_each_client_is_told_of_an_outage_at_most_once_when_workers_die(what: str, then: str) -> None:
    told = []
    for size in count(1):
        simulation = begin_outage()
        dying = simulation.process(0)
        simulation.world.suffer(dying, **{what: size})
        died = dying not in simulation.world.processes
        if then == "all die":
            while simulation.world.processes:
                simulation.kill(0)
        else:
            simulation.suffer()
        simulation.restore_log()
        for rounds in (1, 2, 4, 8) if then == "successors die" else ():
            for _ in range(rounds):
                simulation.finish_round()
            for process in list(simulation.world.processes):
                simulation.world.kill(process)
        simulation.teardown()
        told.append(sum(count_notices(simulation)))
        if not died:
            break
    assert told == sorted(told)
    assert told[0] < told[-1]
    assert told[-1] == (len(dying.clients) if then == "all die" else len(simulation.clients))
    assert len(told) > 2 * len(dying.clients)


def test_a_second_outage_is_announced_except_to_a_client_that_reads_nothing() -> None:
    simulation = begin_outage()
    simulation.suffer()
    simulation.suffer()
    simulation.restore_log()
    for _ in range(3):
        simulation.finish_round()
    simulation.lose_log(0)
    simulation.suffer()
    simulation.teardown()
    told = count_notices(simulation)
    assert told == [1, 1] + [2] * (len(told) - 2)


def test_no_mark_falls_behind_when_a_worker_dies_while_telling_of_an_outage() -> None:
    """For who is sent nothing for long, the worker's mark for all holds; but no more when there is a notice."""
    for stored in count(1):
        simulation = begin()
        told = simulation.clients[-1]
        told.unsent += b"/join a\n/leave lobby\n"
        for _ in range(2):
            say(simulation)
        simulation.lose_log(0)
        applied = simulation.world.log.ping()
        (process,) = (each for each in simulation.world.processes if told.sid in each.clients)
        page = simulation.world.page(told.sid)
        assert page.read_mark().seq < applied
        simulation.world.suffer(process, stored=stored)
        died = process not in simulation.world.processes
        if died:
            assert page.read_mark().seq == applied
        del page
        simulation.teardown()
        if not died:
            break
    assert stored > len(process.clients)


def test_a_short_outage_is_not_announced() -> None:
    simulation = begin_outage()
    simulation.wait(0.3)
    simulation.teardown()
    assert set(count_notices(simulation)) == {0}


def test_clients_are_told_when_the_next_sequencer_was_gone_before_the_worker_came_to_it() -> None:
    """So the worker sees no loss of a link: it has let go of the old ones to connect anew."""
    simulation = begin()
    simulation.kill_log(0)
    simulation.lose_log(0)
    for process in simulation.world.processes:
        simulation.world.turn(process, Step.MAIN)
    simulation.suffer()
    simulation.teardown()
    assert set(count_notices(simulation)) == {1}


def test_a_client_that_connects_during_an_outage_is_told_at_once() -> None:
    simulation = begin_outage()
    simulation.suffer()
    simulation.connect("last")
    for process in simulation.world.processes:
        simulation.world.turn(process, Step.MAIN)
    assert simulation.clients[-1].wire.output == NOTICE
    simulation.teardown()
    assert simulation.clients[-1].wire.output.startswith(NOTICE + b"* Welcome")


# --- snapshots ----------------------------------------------------------------------------------------------


def fill(world: World) -> None:
    """Publish until the log is full."""
    with suppress(LogFull):
        while True:
            world.log.publish(encode_entries([]))


def note_refusals(monkeypatch: pytest.MonkeyPatch) -> list[LogFull]:
    """What the log raises from here on because it is full."""
    refusals: list[LogFull] = []
    publish = MemoryLog.publish

    def noting(log: MemoryLog, payload: bytes) -> int:
        try:
            return publish(log, payload)
        except LogFull as error:
            refusals.append(error)
            raise

    monkeypatch.setattr(MemoryLog, "publish", noting)
    return refusals


def test_a_log_with_readers_gets_its_snapshots_before_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = begin()
    refusals = note_refusals(monkeypatch)
    snapshots = set()
    for _ in range(40):
        say(simulation)
        snapshots.add(simulation.world.log.get_snapshot().seq)
    simulation.teardown()
    assert not refusals
    assert len(snapshots) > 5


@pytest.mark.parametrize("outage", [False, True])
def test_a_full_log_whose_claimant_is_dead_gets_a_snapshot_when_the_claim_lapses(
    outage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more is applied then, so that only the refused publications tell the workers."""
    simulation = begin()
    world = simulation.world
    monkeypatch.setattr(snapshots, "CLAIM_EVERY", MOST)
    for process in world.processes:
        process.worker._snapshots._claim_at = MOST
    fill(world)
    before = world.log.get_snapshot().seq
    if outage:
        simulation.kill_log(0)
        monkeypatch.setattr(Snapshots, "disconnect", lambda snapshots: None)  # nor does its loss tell them
    assert world.log.claim_snapshot()
    claimed_at = world.clock.now
    refusals = note_refusals(monkeypatch)
    simulation.talk([(0, ["{}"], MOST)])
    while world.log.get_snapshot().seq == before:
        assert world.clock.now < claimed_at + ASK_AGAIN + 1
        world.clock.now += 0.02
        for process in list(world.processes):
            for step in [*ROUTINE, *ERRANDS, Step.TIMERS]:
                world.turn(process, step)
    assert refusals
    assert world.clock.now >= claimed_at + ASK_AGAIN
    simulation.teardown()


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
