"""The fan-out: what each session is sent is what a naive fan-out gives it, in fewer and shared blocks.

The naive one puts every effect at once into a list of each session that receives it, by the rules of `Watcher`, which
the tests of the replica hold to the protocol. The machine splits the sessions over two workers, each with a replica of
its own, and flushes them whenever it likes; the bytes must not show it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from framed import FramedDialect, pack
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from party import DIALECT, NOON, Watcher

from mpchat.chat.entries import Asked, Ended, Entry, Opened, Said, SessionId, Stopped
from mpchat.chat.events import Changed, Effect, Gone, Message, Told
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import Limits, Session
from mpchat.config import Config
from mpchat.server.worker.outbound.fanout import Fanout
from mpchat.wire.line.commands import read_command


@dataclass(eq=False)
class Tape:
    """A sink that remembers."""

    blocks: list[bytes] = field(default_factory=list)
    finished: bool = False
    names: list[str] = field(default_factory=list)
    parting: tuple[str, str] | None = None

    def named(self, name: str) -> None:
        self.names.append(name)

    def left(self, name: str, reason: str) -> None:
        assert self.parting is None
        assert not self.finished
        self.parting = (name, reason)

    def send(self, block: bytes) -> None:
        assert block, "a send of nothing still costs a call"
        assert not self.finished
        self.blocks.append(block)

    def finish(self) -> None:
        assert not self.finished
        self.finished = True

    @property
    def text(self) -> bytes:
        return b"".join(self.blocks)

    def take(self) -> str:
        """What has come since it was asked last."""
        text = self.text.decode()
        self.blocks.clear()
        return text


class Office:
    """One worker as far as the fan-out knows it, and people who come, talk and go there."""

    def __init__(self) -> None:
        self.replica = Replica(Limits())
        self.fanout: Fanout[Tape] = Fanout(self.replica)
        self.tapes: dict[str, Tape] = {}
        self._position = 0

    def enter(self, *names: str) -> list[Tape]:
        """People who are in the lobby and have read what they were shown on the way there."""
        for name in names:
            self.tapes[name] = Tape()
            self.fanout.attach(name.encode(), self.tapes[name], DIALECT)
            self.apply(Opened(name.encode(), "127.0.0.1"))
            self.says(name, name)
        self.flush()
        for tape in self.tapes.values():
            tape.blocks.clear()
        return [self.tapes[name] for name in names]

    def says(self, name: str, *texts: str) -> None:
        self._position += 1
        self.apply(Said(name.encode(), self._position, texts))

    def commands(self, name: str, command: str, argument: str = "") -> None:
        self._position += 1
        self.apply(Asked(name.encode(), self._position, read_command(f"/{command} {argument}")))

    def apply(self, entry: Entry) -> None:
        self.fanout.deliver(self.replica.apply(entry, NOON), NOON)

    def flush(self) -> None:
        self.fanout.flush()
        assert not self.fanout.pending


# --- one block, shared --------------------------------------------------------------------------------------


def test_members_with_equal_views_share_one_block() -> None:
    office = Office()
    alice, bob, carol = office.enter("alice", "bob", "carol")
    office.says("alice", "one", "two")
    office.commands("alice", "me", "waves")
    office.flush()
    assert alice.blocks == []
    assert bob.blocks == [b"alice: one\nalice: two\n** alice waves\n"]
    assert len(carol.blocks) == 1
    assert carol.blocks[0] is bob.blocks[0]


def test_blocks_are_not_shared_by_two_dialects_whose_views_are_equal() -> None:
    office = Office()
    [_, bob] = office.enter("alice", "bob")
    fred, frank, framed = Tape(), Tape(), FramedDialect(Config())
    assert framed.view(None, "lobby") == DIALECT.view(None, "lobby")
    for name, tape in (("fred", fred), ("frank", frank)):
        office.fanout.attach(name.encode(), tape, framed)
        office.apply(Opened(name.encode(), "127.0.0.1"))
        office.says(name, name)
    office.flush()
    bob.take(), fred.take(), frank.take()
    office.says("alice", "hello")
    office.flush()
    assert bob.take() == "alice: hello\n"
    assert fred.blocks == [pack(repr(Message("lobby", "alice", ("hello",))))]
    assert fred.blocks[0] is frank.blocks[0]


def test_members_of_one_style_share_blocks() -> None:
    office = Office()
    _, bob, carol, dave, eve = office.enter("alice", "bob", "carol", "dave", "eve")
    for name in ("bob", "carol"):
        office.commands(name, "timestamp", "on")
    office.flush()
    bob.take(), carol.take()
    office.says("alice", "hello")
    office.flush()
    assert bob.blocks == [b"12:00 alice: hello\n"]
    assert dave.blocks == [b"alice: hello\n"]
    assert carol.blocks[0] is bob.blocks[0]
    assert eve.blocks[0] is dave.blocks[0]


def test_a_member_that_ignores_shares_blocks_with_nothing_to_hide() -> None:
    office = Office()
    _, bob, carol, dave = office.enter("alice", "bob", "carol", "dave")
    office.commands("bob", "ignore", "dave")
    office.commands("carol", "quiet", "on")
    office.flush()
    bob.take(), carol.take()
    office.says("alice", "hello")
    office.flush()
    assert bob.blocks[0] is carol.blocks[0] is dave.blocks[0]
    office.says("dave", "psst")
    office.commands("alice", "nick", "al")
    office.flush()
    assert bob.blocks[1:] == [b"* alice is now called al\n"]
    assert carol.blocks[1:] == [b"dave: psst\n"]


def test_a_member_that_sees_no_event_is_sent_nothing() -> None:
    """Also when it was several events of several rooms, each of them hidden."""
    office = Office()
    alice, bob = office.enter("alice", "bob")
    for name in ("alice", "bob"):
        office.commands(name, "join", "python")
    office.flush()
    alice.take(), bob.take()
    office.says("alice", "in python")
    office.commands("alice", "join", "lobby")
    office.says("alice", "in the lobby")
    office.flush()
    assert alice.take() == "* You talk in #lobby now.\n"
    assert bob.take() == "alice: in python\n#lobby alice: in the lobby\n"
    office.commands("bob", "ignore", "alice")
    office.flush()
    bob.take()
    office.says("alice", "in the lobby")
    office.commands("alice", "join", "python")
    office.says("alice", "in python")
    office.flush()
    assert bob.blocks == []


def test_lines_that_are_settled_early_are_neither_lost_nor_doubled() -> None:
    """What a session has coming is settled when it changes, here twice: by itself, and by another's new name."""
    office = Office()
    _, bob, carol, _ = office.enter("alice", "bob", "carol", "dave")
    office.commands("bob", "ignore", "dave")
    office.commands("dave", "join", "elsewhere")
    office.commands("dave", "leave", "lobby")
    office.flush()
    bob.take(), carol.take()
    office.says("alice", "one")
    office.commands("carol", "quiet", "on")
    office.says("alice", "two")
    office.commands("dave", "nick", "david")
    office.says("alice", "three")
    office.flush()
    assert bob.take() == "alice: one\nalice: two\nalice: three\n"
    assert carol.take() == "alice: one\n* Notices are hidden.\nalice: two\nalice: three\n"


def test_a_notice_is_kept_whole_when_lines_follow() -> None:
    office = Office()
    _, bob = office.enter("alice", "bob")
    office.commands("bob", "quiet", "on")
    office.flush()
    bob.take()
    office.commands("alice", "nick", "al")
    office.says("alice", "hello")
    office.flush()
    assert bob.take() == "al: hello\n"


def test_silent_rooms_add_no_cost_to_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office()
    _, bob = office.enter("alice", "bob")
    for number in range(20):
        office.commands("bob", "join", f"#silent{number}")
    office.flush()
    bob.take()
    looked: list[int] = []
    settle = Fanout._settle

    def spy(fanout: Fanout[Tape], subscriber: Any, channels: Sequence[Any]) -> None:
        looked.append(len(channels))
        settle(fanout, subscriber, channels)

    monkeypatch.setattr(Fanout, "_settle", spy)
    office.says("alice", "hello")
    office.flush()
    assert bob.take() == "#lobby alice: hello\n"
    assert looked == [1, 1], "alice and bob, in the lobby"


def test_a_rename_is_told_once_to_a_member_of_two_shared_rooms() -> None:
    office = Office()
    alice, bob, carol, dave = office.enter("alice", "bob", "carol", "dave")
    for name in ("alice", "bob", "carol", "dave"):
        office.commands(name, "join", "python")
    office.commands("carol", "ignore", "alice")
    office.commands("dave", "quiet", "on")
    office.flush()
    alice.take(), bob.take(), carol.take(), dave.take()
    office.commands("alice", "nick", "al")
    office.flush()
    assert alice.take() == "* You are now called al.\n"
    assert bob.take() == "* alice is now called al\n"
    assert (carol.blocks, dave.blocks) == ([], [])


# --- coming and going ---------------------------------------------------------------------------------------


def test_a_member_that_joins_between_two_flushes_sees_only_later_events() -> None:
    office = Office()
    _, bob = office.enter("alice", "bob")
    office.commands("bob", "join", "python")
    office.flush()
    bob.take()
    office.says("alice", "before")
    office.commands("bob", "leave", "lobby")
    office.says("alice", "between")
    office.commands("bob", "join", "lobby")
    office.says("alice", "behind")
    office.flush()
    assert bob.take() == (
        "#lobby alice: before\n"
        "* You have left #lobby. You talk in #python now.\n"
        "* You are in #lobby with alice.\n"
        "* Earlier in #lobby (since 12:00 UTC):\nalice: before\nalice: between\n* Now.\n"
        "alice: behind\n"
    )


def test_a_session_that_ends_gets_its_last_block_first() -> None:
    office = Office()
    alice, bob = office.enter("alice", "bob")
    office.says("bob", "bye")
    office.commands("alice", "quit")
    office.says("bob", "too late")
    assert not alice.finished
    office.flush()
    assert alice.finished
    assert alice.take() == "bob: bye\n* Bye, alice.\n"
    assert bob.take() == "* alice left the chat\n"
    assert len(office.fanout) == 1


def test_a_detached_sink_is_sent_nothing() -> None:
    office = Office()
    alice, bob = office.enter("alice", "bob")
    office.says("alice", "one")
    office.fanout.detach(b"bob")
    office.says("alice", "two")
    office.apply(Ended(b"bob", "connection lost"))
    office.flush()
    assert (bob.blocks, bob.finished) == ([], False)
    assert alice.take() == "* bob left the chat (connection lost)\n"


def test_a_sink_that_ended_and_was_detached_is_sent_nothing() -> None:
    office = Office()
    [alice] = office.enter("alice")
    office.commands("alice", "quit")
    office.fanout.detach(b"alice")
    office.fanout.detach(b"alice")
    office.flush()
    assert (alice.blocks, alice.finished) == ([], False)


def test_a_sink_that_is_detached_during_a_flush_disturbs_no_other() -> None:
    """A send that exceeds the send queue ends the connection, and that detaches the session."""
    office = Office()

    class Fragile(Tape):
        def send(self, block: bytes) -> None:
            office.fanout.detach(b"frank")

    alice, bob = office.enter("alice", "bob")
    office.fanout.attach(b"frank", Fragile(), DIALECT)
    office.apply(Opened(b"frank", "127.0.0.1"))
    office.says("frank", "frank")
    office.says("alice", "hello")
    office.flush()
    office.says("alice", "again")
    office.apply(Ended(b"frank", "send queue exceeded"))
    office.flush()
    left = "* frank left the chat (send queue exceeded)\n"
    assert bob.take() == f"* frank joined #lobby\nalice: hello\nalice: again\n{left}"
    assert alice.take() == f"* frank joined #lobby\n{left}"
    assert len(office.fanout) == 2


def test_a_sink_attached_before_its_opening_gets_what_all_are_told() -> None:
    office = Office()
    [alice] = office.enter("alice")
    early = Tape()
    office.fanout.attach(b"early", early, DIALECT)
    office.says("alice", "hello")
    office.flush()
    assert early.blocks == []
    office.apply(Stopped("maintenance"))
    office.flush()
    assert early.take() == alice.take() == "! The server is stopping (maintenance).\n"
    # The log knows of no session, so it cannot say that one is gone.
    assert (early.finished, alice.finished) == (False, True)


# --- against the naive fan-out ------------------------------------------------------------------------------

NAMES = ("ann", "bob", "cat", "dan", "eve")
ROOMS = ("lobby", "x", "y")
TEXTS = st.lists(st.sampled_from(["a", "b", "ü"]), min_size=1, max_size=3).map(tuple)
NEW_NAMES = st.sampled_from([*NAMES, *(f"{name}-{number}" for name in NAMES for number in (2, 3))])
MOVES = st.tuples(st.sampled_from(["join", "join", "leave"]), st.sampled_from(ROOMS))
SETTINGS = st.one_of(
    st.tuples(st.sampled_from(["ignore", "unignore"]), st.sampled_from(NAMES)),
    st.tuples(st.sampled_from(["quiet", "timestamp"]), st.just("")),
)
QUESTIONS = st.one_of(
    st.tuples(st.just("msg"), NEW_NAMES.map("{} psst".format)),
    st.tuples(st.sampled_from(["me", "topic"]), st.just("waves")),
    st.tuples(st.sampled_from(["who", "quit"]), st.just("")),
)
WHO = st.integers(0, 100)
WORKER = st.integers(0, 1)
FIRST = 4
MOST = 10


@dataclass(eq=False)
class Person:
    """One session: what it was sent, and what it should have been, as a whole and by the last flush."""

    sid: SessionId
    worker: int
    watcher: Watcher
    tape: Tape = field(default_factory=Tape)
    owed: bytes = b""
    flushed: bytes = b""
    attached: bool = True
    gone: bool = False


class NaiveFanout(RuleBasedStateMachine):
    """Two workers, and for each person the bytes that a naive fan-out would have sent."""

    def __init__(self) -> None:
        super().__init__()
        replicas = [Replica(Limits(history=3, rooms_of_session=3)) for _ in range(2)]
        self.workers: list[tuple[Replica, Fanout[Tape]]] = [(replica, Fanout(replica)) for replica in replicas]
        self.people: list[Person] = []
        self.now = NOON
        self.position = 0

    @initialize()
    def begin(self) -> None:
        for number in range(FIRST):
            self.connect(number % 2)
            self.command(number, ("join", ROOMS[number % 2]))

    @precondition(lambda self: len(self.people) < MOST)
    @rule(worker=WORKER)
    def connect(self, worker: int) -> None:
        sid = len(self.people).to_bytes(16)
        person = Person(sid, worker, Watcher.take(Session(sid, "", since=0)))
        self.people.append(person)
        self.workers[worker][1].attach(sid, person.tape, DIALECT)
        self.apply(Opened(sid, "127.0.0.1"))
        self.say(len(self.people) - 1, (NAMES[len(self.people) % len(NAMES)],))

    @rule(who=WHO, texts=TEXTS)
    def say(self, who: int, texts: tuple[str, ...]) -> None:
        self.position += 1
        self.apply(Said(self.pick(who).sid, self.position, texts))

    @rule(who=WHO, name=NEW_NAMES)
    def rename(self, who: int, name: str) -> None:
        self.command(who, ("nick", name))

    @rule(who=WHO, command=MOVES)
    def move(self, who: int, command: tuple[str, str]) -> None:
        self.command(who, command)

    @rule(who=WHO, command=st.one_of(SETTINGS, QUESTIONS))
    def command(self, who: int, command: tuple[str, str]) -> None:
        self.position += 1
        name, argument = command
        self.apply(Asked(self.pick(who).sid, self.position, read_command(f"/{name} {argument}")))

    @precondition(lambda self: len(self.people) > FIRST)
    @rule(who=WHO, detached=st.booleans())
    def lose(self, who: int, detached: bool) -> None:
        """A connection breaks: detached at once, or (cut off by the server) when that has come back from the log."""
        person = self.pick(who)
        if detached:
            person.attached = False
            self.workers[person.worker][1].detach(person.sid)
        self.apply(Ended(person.sid, "connection lost"))

    @precondition(lambda self: any(person.gone for person in self.people))
    @rule(who=WHO)
    def detach_the_gone(self, who: int) -> None:
        gone = [person for person in self.people if person.gone]
        person = gone[who % len(gone)]
        person.attached = False
        self.workers[person.worker][1].detach(person.sid)

    @rule(worker=WORKER)
    def flush(self, worker: int) -> None:
        people = [person for person in self.people if person.worker == worker and person.attached]
        due = {person.sid: int(person.owed != person.flushed) for person in people}
        fanout = self.workers[worker][1]
        # The worker plans no flush when nothing is pending.
        assert fanout.pending or not any(due.values())
        before = {person.sid: len(person.tape.blocks) for person in people}
        fanout.flush()
        assert fanout.pending == 0
        for person in people:
            assert len(person.tape.blocks) - before[person.sid] == due[person.sid]
            assert person.tape.finished == person.gone
            person.flushed = person.owed

    @precondition(lambda self: self.position > 40)
    @rule()
    def stop(self) -> None:
        self.apply(Stopped(""))

    @invariant()
    def everybody_was_sent_what_was_flushed(self) -> None:
        for person in self.people:
            assert person.tape.text == person.flushed
        for number, (_, fanout) in enumerate(self.workers):
            present = [each for each in self.people if each.worker == number and each.attached and not each.gone]
            assert len(fanout) == len(present)

    def teardown(self) -> None:
        self.flush(0)
        self.flush(1)
        self.everybody_was_sent_what_was_flushed()

    def pick(self, who: int) -> Person:
        return self.people[who % len(self.people)]

    def apply(self, entry: Entry) -> None:
        self.now += 40_000
        for replica, fanout in self.workers:
            effects = replica.apply(entry, self.now)
            fanout.deliver(effects, self.now)
        for effect in effects:
            self.take(effect, replica)

    def take(self, effect: Effect, replica: Replica) -> None:
        for person in self.people:
            match effect:
                case Told() if not person.gone and person.watcher.receives(effect.audience):
                    person.owed += person.watcher.show(effect.event, self.now)
                case Changed(person.sid):
                    session = replica.session(person.sid)
                    assert session is not None
                    person.watcher = Watcher.take(session)
                case Gone(person.sid):
                    person.gone = True


TestNaiveFanout = pytest.mark.timeout(120)(NaiveFanout.TestCase)


def test_a_sink_is_told_the_names_and_the_end_of_its_session() -> None:
    office = Office()
    alice, bob = office.enter("alice", "bob")
    assert set(alice.names) == {"alice"}
    office.commands("alice", "nick", "eve")
    assert alice.names[-1] == "eve"
    again = Tape()
    office.fanout.detach(b"bob")
    office.fanout.attach(b"bob", again, DIALECT)  # another worker's, from here on
    assert again.names == ["bob"]
    office.commands("alice", "quit", "a secret reason")
    office.apply(Ended(b"bob", ""))
    assert (alice.parting, again.parting, bob.parting) == (("eve", "quit"), ("bob", "connection closed"), None)
