"""Several workers on one log, in one process, under random schedules: they agree, and lose and double nothing.

The machine plays everything that stands between a client's bytes and what the client is shown, but for sockets and
processes: fragments of streams, batches, publications in doubt, partial reads, snapshots, a log that trims and fills
up, workers that are killed, the last publication of a killed worker that arrives late, and new workers that start from
a snapshot. A witness reads every record at once, from the first on; what it would have shown is what must have been.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from test_replica import View, picture

from mpchat.bus.contract import LogFull, LogTrimmed
from mpchat.bus.memory import MemoryLog
from mpchat.chat.entries import Ended, Entry, Input, Opened, SessionId, decode_entries, encode_entries
from mpchat.chat.events import Changed, Effect, Event, Message, Told
from mpchat.chat.replica import Replica
from mpchat.chat.state import Limits, Session
from mpchat.wire.framing import LineFraming
from mpchat.wire.line import Style, read_frames

LIMITS = Limits(history=5, history_bytes=3000, rooms_of_session=3, rooms_of_server=5)
MAX_LINE = 100
MOST = 1 << 30
SETTLE_ROUNDS = 100
"""Far more than it takes to publish what a whole run may have left in the outboxes, ten entries a round."""

Shown = tuple[Event, Style]


class Reader:
    """A replica, how far it has read, and what it has shown to the sessions that it watches."""

    def __init__(self, log: MemoryLog) -> None:
        snapshot = log.get_snapshot()
        self.replica = Replica.load(snapshot.blob, LIMITS) if snapshot.seq else Replica(LIMITS)
        self.position = snapshot.seq
        self.shown: dict[SessionId, list[Shown]] = {}
        self._log = log
        self._views: dict[SessionId, View] = {}

    def watch(self, sid: SessionId) -> list[Shown]:
        """From the next entry on; the list grows with what the session is shown."""
        self._views[sid] = View.take(Session(sid, "", since=0))
        return self.shown.setdefault(sid, [])

    def read(self, most: int) -> bool:
        """Apply the next records, at most so many; whether a snapshot is wanted."""
        reading = self._log.read(self.position, 0)
        for record in reading.records[:most]:
            for entry in decode_entries(record.payload):
                for effect in self.replica.apply(entry, record.time):
                    self.take(effect)
            self.position = record.last
        return reading.snapshot_wanted

    def take(self, effect: Effect) -> None:
        if isinstance(effect, Told):
            for sid, view in self._views.items():
                if view.receives(effect.audience):
                    self.shown[sid].append((effect.event, view.style(effect.event)))
        elif isinstance(effect, Changed) and effect.sid in self._views:
            session = self.replica.session(effect.sid)
            assert session is not None
            self._views[effect.sid] = View.take(session)


class Witness(Reader):
    """Sees everything in time, and remembers every single thing that was said, in order."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.spoken: list[str] = []

    def take(self, effect: Effect) -> None:
        super().take(effect)
        if isinstance(effect, Told) and isinstance(effect.event, Message):
            self.spoken += effect.event.texts


@dataclass
class Client:
    """A byte stream, all that was said in it (each text once in the whole simulation), and what came back."""

    sid: SessionId
    shown: list[Shown]
    said: list[str] = field(default_factory=list)
    unsent: bytearray = field(default_factory=bytearray)
    done: bool = False  # it says no more
    cut: bool = False  # it went, or its worker did, before all was read
    orphaned: bool = False  # its worker was killed


class Worker:
    """A reader with clients, what they have asked for, and what it has published and not read yet."""

    def __init__(self, log: MemoryLog) -> None:
        self.reader = Reader(log)
        self.clients: dict[SessionId, tuple[Client, LineFraming]] = {}
        self.outbox: list[Entry] = []
        self.endings: list[SessionId] = []
        self._log = log
        self._pending: list[tuple[int, bytes, int]] = []

    def serve(self, sid: SessionId) -> Client:
        client = Client(sid, self.reader.watch(sid))
        self.clients[sid] = client, LineFraming(max_line=MAX_LINE, segment_timeout=0)
        self.outbox.append(Opened(sid, "127.0.0.1"))
        return client

    def receive(self, client: Client, size: int) -> None:
        """So many bytes of what the client has to send have come."""
        _, framing = self.clients[client.sid]
        framing.receive(client.unsent[:size], 0.0)
        del client.unsent[:size]
        self.outbox += read_frames(client.sid, framing.take(MOST), MAX_LINE)

    def receive_eof(self, client: Client) -> None:
        _, framing = self.clients[client.sid]
        framing.receive_eof()
        self.outbox += read_frames(client.sid, framing.take(MOST), MAX_LINE)
        self.outbox.append(Ended(client.sid, ""))

    def end(self, sids: list[SessionId]) -> None:
        """The sessions of a dead worker, which must end whoever else dies."""
        self.endings += sids
        self.outbox += [Ended(sid, "worker lost") for sid in sids]

    def publish(self, most: int) -> None:
        batch = self.outbox[:most]
        if not batch:
            return
        payload = encode_entries(batch)
        try:
            first = self._log.publish(payload, len(batch))
        except LogFull:
            return
        del self.outbox[:most]
        self._pending.append((first + len(batch) - 1, payload, len(batch)))

    def publish_again(self) -> None:
        """All that has not come back, in its order."""
        self._pending = [batch for batch in self._pending if batch[0] > self.reader.position]
        for _, payload, entries in self._pending:
            try:
                self._log.publish(payload, entries)
            except LogFull:
                return

    def put_snapshot(self) -> None:
        if self.reader.position:
            self._log.put_snapshot(self.reader.position, self.reader.replica.dump())


NAMES = st.sampled_from(["ann", "Bob", "BOB", "cy"])
LINES = st.one_of(
    st.just("{}"),
    st.just("{}"),
    st.just("/me {}"),
    st.sampled_from(["/join a", "/join b", "/join lobby", "/leave", "/topic new", "/nick dan", "/nick ann"]),
    st.sampled_from(["/ignore ann", "/unignore ann", "/msg ann psst", "/reply psst", "/quiet", "/timestamp"]),
    st.sampled_from(["/away", "/back", "/who", "/rooms", "/history", "/whois ann", "/nonsense", "", "x" * 120]),
)
WHICH = st.integers(0, 1000)
TALK = st.lists(st.tuples(WHICH, st.lists(LINES, min_size=1, max_size=3), st.integers(0, 100)), min_size=1, max_size=5)
TURNS = st.lists(st.tuples(WHICH, st.integers(1, 10)), min_size=1, max_size=5)
CALM = 10.0
"""Seconds between two crashes: were there more of them, hardly anybody would live to be told anything."""


class Simulation(RuleBasedStateMachine):
    """The steps, in any order; at the end everything is read, and all must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.killed_at = 0.0
        self.log = MemoryLog(
            capacity=8000,
            snapshot_every=1500,
            tail=1500,
            wall_clock=lambda: int(self.now * 1000),
            clock=lambda: self.now,
        )
        self.witness = Witness(self.log)
        self.workers: list[Worker] = []
        self.clients: list[Client] = []
        self.late: list[list[Entry]] = []

    @initialize(workers=st.integers(2, 4))
    def start(self, workers: int) -> None:
        self.workers = [Worker(self.log) for _ in range(workers)]
        for which in range(2 * workers):
            self.connect(which, f"n{which}")

    @rule(which=WHICH, names=st.lists(NAMES, min_size=1, max_size=3))
    def connect_some(self, which: int, names: list[str]) -> None:
        """All at one worker, as they are handed over together."""
        for name in names:
            self.connect(which, name)

    def connect(self, which: int, name: str) -> None:
        sid = len(self.clients).to_bytes(16)
        self.witness.watch(sid)
        client = self.worker(which).serve(sid)
        client.unsent += f"{name}\n".encode()
        self.clients.append(client)

    @rule(talk=TALK)
    def talk(self, talk: list[tuple[int, list[str], int]]) -> None:
        for which, lines, size in talk:
            client = self.talker(which)
            if client is not None:
                self.send(client, lines, size)

    def send(self, client: Client, lines: list[str], size: int) -> None:
        """What is left from before and these lines; up to `size` bytes arrive."""
        for line in lines:
            if "{}" in line:
                client.said.append(f"{len(client.said)} of {client.sid.hex()[-2:]}")
            client.unsent += line.format(*client.said[-1:]).encode() + b"\n"
        self.home(client).receive(client, size)

    @rule(which=WHICH, quits=st.booleans(), torn=st.booleans())
    def leave(self, which: int, quits: bool, torn: bool) -> None:
        """By `quit`; by closing after all was sent; or by a reset (`torn`), whatever is on its way."""
        client = self.talker(which)
        if client is None:
            return
        home, client.done = self.home(client), True
        if quits:
            client.unsent += b"quit\nafter the end\n"
        client.cut = torn
        home.receive(client, 0 if torn else MOST)
        home.receive_eof(client)

    @rule(turns=TURNS)
    def publish(self, turns: list[tuple[int, int]]) -> None:
        for which, most in turns:
            self.worker(which).publish(most)
            self.tick()

    @rule(which=WHICH)
    def doubt(self, which: int) -> None:
        self.worker(which).publish_again()
        self.tick()

    @rule(turns=TURNS)
    def read(self, turns: list[tuple[int, int]]) -> None:
        for which, most in turns:
            self.read_one(self.worker(which), most)

    def read_one(self, worker: Worker, most: int) -> None:
        try:
            if worker.reader.read(most):
                worker.put_snapshot()
        except LogTrimmed:
            self.kill(worker, late=False)

    @rule(which=WHICH)
    def put_snapshot(self, which: int) -> None:
        self.worker(which).put_snapshot()

    @precondition(lambda self: self.now >= self.killed_at + CALM)
    @rule(which=WHICH, late=st.booleans())
    def crash(self, which: int, late: bool) -> None:
        self.kill(self.worker(which), late)

    @precondition(lambda self: self.late)
    @rule()
    def arrive(self) -> None:
        """What a killed worker had written to the log's connection is read from it."""
        batch = self.late.pop(0)
        try:
            self.log.publish(encode_entries(batch), len(batch))
        except LogFull:
            self.late.insert(0, batch)
        self.tick()

    def worker(self, which: int) -> Worker:
        return self.workers[which % len(self.workers)]

    def talker(self, which: int) -> Client | None:
        """One of the clients that can still say something."""
        talkers = [client for client in self.clients if not client.done]
        return talkers[which % len(talkers)] if talkers else None

    def home(self, client: Client) -> Worker:
        return next(worker for worker in self.workers if client.sid in worker.clients)

    def tick(self) -> None:
        """Something may have been published: the witness sees it before the log can forget it."""
        self.now += 1
        self.witness.read(MOST)

    def kill(self, worker: Worker, late: bool) -> None:
        self.killed_at = self.now
        for client, _ in worker.clients.values():
            client.done = client.cut = client.orphaned = True
        if late and worker.outbox:
            self.late.append(worker.outbox[:10])
        self.workers.remove(worker)
        self.workers.append(Worker(self.log))
        self.workers[0].end([*worker.clients, *worker.endings])

    def teardown(self) -> None:
        if not self.workers:
            return
        while self.late:
            self.catch_up()
            self.arrive()
        for client in self.clients:
            if not client.done:
                self.home(client).receive(client, MOST)
        for _ in range(SETTLE_ROUNDS):
            if self.catch_up():
                break
        else:
            pytest.fail("it does not settle")
        self.compare()

    def catch_up(self) -> bool:
        """Everybody publishes and reads what there is; whether nothing remained."""
        for worker in list(self.workers):
            worker.publish(10)
            self.tick()
            self.read_one(worker, MOST)
        self.workers[-1].put_snapshot()
        positions = {worker.reader.position for worker in self.workers}
        return positions == {self.witness.position} and not any(worker.outbox for worker in self.workers)

    def compare(self) -> None:
        expected = picture(self.witness.replica)
        assert all(picture(worker.reader.replica) == expected for worker in self.workers)
        order = {text: number for number, text in enumerate(self.witness.spoken)}
        assert len(order) == len(self.witness.spoken), "something was said twice"
        for client in self.clients:
            self.compare_said(client)
            self.compare_shown(client, order)
        living = sum(not client.done for client in self.clients)
        assert self.witness.replica.sessions == living

    def compare_said(self, client: Client) -> None:
        """All that it said was heard, in its order; up to some point, if it was cut off."""
        end = f" of {client.sid.hex()[-2:]}"
        heard = [text for text in self.witness.spoken if text.endswith(end)]
        assert heard == (client.said[: len(heard)] if client.cut else client.said)

    def compare_shown(self, client: Client, order: dict[str, int]) -> None:
        """It was shown what the log says; up to some point, if its worker was killed. Messages in the one order."""
        expected = self.witness.shown[client.sid]
        assert client.shown == (expected[: len(client.shown)] if client.orphaned else expected)
        messages = [event for event, _ in client.shown if isinstance(event, Message)]
        places = [order[text] for message in messages for text in message.texts]
        assert places == sorted(set(places))


Simulation.TestCase.settings = settings(max_examples=100, stateful_step_count=100)
TestSimulation = Simulation.TestCase


def accept_always(replica: Replica, entry: Input) -> Session | None:
    """What a replica that is not idempotent does in place of `Replica._accept`."""
    return replica.session(entry.sid)


def test_the_simulation_finds_a_replica_that_applies_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "_accept", accept_always)
    with pytest.raises(AssertionError, match="said"):
        run_state_machine_as_test(
            Simulation,
            settings=settings(
                max_examples=200, stateful_step_count=100, derandomize=True, database=None, phases=[Phase.generate]
            ),
        )
