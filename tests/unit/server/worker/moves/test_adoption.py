"""Adoption: what a dead worker's clients are still sent is the rest of what a worker that lives would have sent.

A real log, real replicas, real fan-outs and pages of a real ledger, without processes and sockets: a *witness* lives
through everything and keeps the whole output of each client. A *worker* writes a part of the same output, leaves marks
at the ends of records as the server's worker does, and dies. The kernel's count of what it wrote is given.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from party import DIALECT

from mpchat.chat.entries import Asked, Ended, Entry, Opened, Said, SessionId, decode_entries, encode_entries
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import Limits
from mpchat.log.local.memory import MemoryLog
from mpchat.log.port import LogTrimmed, Record
from mpchat.server import kernel
from mpchat.server.control import Handed
from mpchat.server.kernel import Progress
from mpchat.server.ledger import Ledger, Mark, Page, Shape
from mpchat.server.worker.moves import adoption
from mpchat.server.worker.moves.adoption import Adoptee, Adoption, receive_adoptee
from mpchat.server.worker.outbound.fanout import Fanout
from mpchat.wire.line.commands import read_command
from mpchat.wire.registry import LINE

LIMITS = Limits(history=5)
CLIENTS = 4
RING = 1 << 14


@pytest.fixture(scope="module", autouse=True)
def _small_pieces() -> Iterator[None]:
    """So that a snapshot is of several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adoption, "PIECE", 100)
        yield


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    ledger = Ledger(Shape(CLIENTS, 1, RING))
    yield ledger
    ledger.close()


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
        pass


class Chat:
    """The log, the witness, and what the clients have been sent by each of its flushes."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.replica = Replica(LIMITS)
        self.fanout: Fanout[Output] = Fanout(self.replica)
        self.position = 0
        self.outputs = [Output() for _ in range(CLIENTS)]
        self._ends = [0] * CLIENTS
        for number, output in enumerate(self.outputs):
            self.fanout.attach(make_sid(number), output, DIALECT)

    def type_line(self, number: int, line: str) -> Entry:
        self._ends[number] += len(line) + 1
        if line.startswith("/"):
            return Asked(make_sid(number), self._ends[number], read_command(line))
        return Said(make_sid(number), self._ends[number], (line,))

    def publish(self, *entries: Entry) -> None:
        """One record; the witness applies it and flushes at once."""
        self.log.publish(encode_entries(entries))
        for record in self.log.read(self.position, 0):
            for entry in decode_entries(record.payload):
                self.fanout.deliver(self.replica.apply(entry, record.time), record.time)
            self.position = record.seq
        self.fanout.flush()

    def put_snapshot(self) -> None:
        self.log.put_snapshot(self.position, self.replica.dump())

    def mark(self, number: int) -> Mark:
        """What is true of a client at this moment: all that was said to it ends here."""
        return Mark(self.position, len(self.outputs[number].sent))


def make_sid(number: int) -> SessionId:
    return number.to_bytes(16)


def make_adoptee(number: int, page: Page, mark: Mark, written: int) -> Adoptee:
    """Without a socket: adoption itself never uses it."""
    handed = Handed(make_sid(number), "127.0.0.1", number, LINE, 1)
    return Adoptee(handed, cast(socket.socket, None), page, Progress(0, written, True), mark, DIALECT)


def adopt(log: MemoryLog, adoptees: list[Adoptee], target: int) -> Adoption:
    """The adoption when it has come to `target`."""
    adopted = Adoption(LIMITS, adoptees)
    finish(adopted, log, target)
    return adopted


def finish(adopted: Adoption, log: MemoryLog, target: int) -> None:
    while not adopted.advance(target):
        tell(adopted, log)


def tell(adopted: Adoption, log: MemoryLog) -> None:
    """Ask the log what the adoption has to know, if there is something."""
    if adopted.call is not None:
        method, arguments = adopted.call
        try:
            answer: object = getattr(log, method)(*arguments)
        except LogTrimmed as error:
            answer = error
        adopted.tell(answer)


LINES = st.sampled_from(
    [
        *("hello", "good morning", "/me waves", "/join a", "/join b", "/join lobby", "/leave", "/nick dan", "/who"),
        *("/msg n0 psst", "/quiet on", "/timestamp on", "/ignore n1", "/history", "/topic tea", "/away", "/quit bye"),
    ]
)
RECORDS = st.lists(
    st.lists(st.tuples(st.integers(0, CLIENTS - 1), LINES), min_size=1, max_size=4), min_size=1, max_size=12
)


@dataclass(frozen=True, slots=True)
class Step:
    """Between two records: who gets a mark, and whether there is a snapshot."""

    marked: frozenset[int]
    snapshot: bool


STEPS = st.builds(Step, st.frozensets(st.integers(0, CLIENTS - 1)), st.booleans())


def live(chat: Chat, data: st.DataObject) -> dict[int, Mark]:
    """Let things happen; give the marks that the worker has left."""
    marks = {number: Mark(0, 0) for number in range(CLIENTS)}
    chat.publish(*(Opened(make_sid(number), "127.0.0.1") for number in range(CLIENTS)))
    chat.publish(*(chat.type_line(number, f"n{number}") for number in range(CLIENTS)))
    for record in data.draw(RECORDS, label="records"):
        chat.publish(*(chat.type_line(number, line) for number, line in record))
        step = data.draw(STEPS, label="step")
        marks.update({number: chat.mark(number) for number in step.marked})
        if step.snapshot:
            chat.put_snapshot()
    return marks


@given(data=st.data())
@settings(max_examples=150)
def test_the_remaining_output_equals_that_of_a_worker_that_lives(ledger: Ledger, data: st.DataObject) -> None:
    chat = Chat(MemoryLog(wall_clock=lambda: 0))
    marks = live(chat, data)
    adoptees = []
    for number, mark in marks.items():
        total = len(chat.outputs[number].sent)
        written = data.draw(st.integers(mark.position, total), label="written")
        adoptees.append(make_adoptee(number, ledger.page(number), mark, written))
    # Only three snapshots are kept; whose mark is from before the oldest is lost, and nobody else.
    kept = [adoptee for adoptee in adoptees if has_snapshot(chat.log, adoptee.mark.seq)]
    adopted = adopt(chat.log, adoptees, chat.position)
    assert {each.handed.sid for each in adopted.adoptees} == {each.handed.sid for each in kept}
    assert {each.handed.sid for each in adopted.lost} == {each.handed.sid for each in adoptees if each not in kept}
    for adoptee in adopted.adoptees:
        whole = chat.outputs[adoptee.handed.page].sent
        assert adoptee.output == whole[adoptee.progress.written :]
        assert adoptee.output_position == len(whole)


def has_snapshot(log: MemoryLog, seq: int) -> bool:
    try:
        log.get_snapshot(seq)
    except LogTrimmed:
        return False
    return True


@given(data=st.data())
@settings(max_examples=50)
def test_a_second_death_changes_nothing(ledger: Ledger, data: st.DataObject) -> None:
    """The adopter leaves a mark as it carries on, more happens, and it dies too."""
    chat = Chat(MemoryLog(wall_clock=lambda: 0))
    chat.publish(*(Opened(make_sid(number), "127.0.0.1") for number in range(CLIENTS)))
    chat.publish(*(chat.type_line(number, f"n{number}") for number in range(CLIENTS)))
    written = 0
    mark = Mark(0, 0)
    for record in data.draw(RECORDS, label="records"):
        chat.publish(*(chat.type_line(number, line) for number, line in record))
        written = data.draw(st.integers(written, len(chat.outputs[0].sent)), label="written")
        adopted = adopt(chat.log, [make_adoptee(0, ledger.page(0), mark, written)], chat.position)
        (adoptee,) = adopted.adoptees
        assert adoptee.output == chat.outputs[0].sent[written:]
        assert adoptee.output_position == len(chat.outputs[0].sent)
        written = data.draw(st.integers(written, adoptee.output_position), label="sent by the adopter")
        if written == adoptee.output_position:
            mark = Mark(chat.position, adoptee.output_position)


def test_an_adoption_replays_exactly_up_to_the_given_record(ledger: Ledger) -> None:
    chat = make_lobby()
    mark, middle = chat.mark(1), chat.position + 1
    chat.publish(chat.type_line(0, "one"))
    chat.publish(chat.type_line(0, "two"))
    adopted = adopt(chat.log, [make_adoptee(1, ledger.page(1), mark, mark.position)], middle)
    assert adopted.adoptees[0].output == b"n0: one\n"
    finish(adopted, chat.log, chat.position)
    assert adopted.adoptees[0].output == b"n0: one\nn0: two\n"


def test_a_half_written_line_continues_in_its_middle(ledger: Ledger) -> None:
    chat = make_lobby()
    mark = chat.mark(1)
    chat.publish(chat.type_line(0, "hello"))
    adopted = adopt(chat.log, [make_adoptee(1, ledger.page(1), mark, mark.position + 7)], chat.position)
    assert adopted.adoptees[0].output == b"lo\n"


def test_a_client_that_has_left_meanwhile_gets_the_output_from_before(ledger: Ledger) -> None:
    chat = make_lobby()
    marks = [chat.mark(number) for number in range(CLIENTS)]
    chat.publish(chat.type_line(0, "hello"), Ended(make_sid(1), "gone"), chat.type_line(0, "too late"))
    adoptees = [make_adoptee(number, ledger.page(number), marks[number], marks[number].position) for number in (1, 2)]
    adopted = adopt(chat.log, adoptees, chat.position)
    outputs = {adoptee.handed.page: adoptee.output for adoptee in adopted.adoptees}
    assert outputs[1] == chat.outputs[1].sent[marks[1].position :]
    assert outputs[1] is not None
    assert outputs[1].startswith(b"n0: hello\n")
    assert b"too late" not in outputs[1]
    assert outputs[2] == b"n0: hello\n* n1 left the chat (gone)\nn0: too late\n"


def test_a_client_that_was_not_opened_yet_is_greeted(ledger: Ledger) -> None:
    """The worker died between the hand-off and its Opened: the adopter's own is the first."""
    chat = Chat(MemoryLog(wall_clock=lambda: 0))
    chat.publish(Opened(make_sid(0), "127.0.0.1", 1))
    adopted = adopt(chat.log, [make_adoptee(0, ledger.page(0), Mark(0, 0), 0)], chat.position)
    assert adopted.adoptees[0].output == b"* Welcome to mpchat. What is your name?\n"


@pytest.mark.parametrize("off", [-1, 100])
def test_output_that_contradicts_the_kernel_is_not_sent(ledger: Ledger, off: int) -> None:
    chat = make_lobby()
    mark = chat.mark(1)
    chat.publish(chat.type_line(0, "hello"))
    adopted = adopt(chat.log, [make_adoptee(1, ledger.page(1), mark, mark.position + off)], chat.position)
    assert adopted.adoptees[0].output is None


def test_only_clients_with_a_mark_older_than_the_log_are_lost(ledger: Ledger) -> None:
    chat = make_lobby(tail=0)
    old = chat.mark(1)
    chat.publish(chat.type_line(0, "forgotten"))
    chat.put_snapshot()
    new = chat.mark(2)
    chat.publish(chat.type_line(0, "known"))
    adoptees = [make_adoptee(1, ledger.page(1), old, old.position), make_adoptee(2, ledger.page(2), new, new.position)]
    adopted = adopt(chat.log, adoptees, chat.position)
    assert adopted.lost == [adoptees[0]]
    assert adopted.adoptees == [adoptees[1]]
    assert adoptees[1].output == b"n0: known\n"


def test_an_adoption_without_clients_is_done(ledger: Ledger) -> None:
    chat = make_lobby(tail=0)
    old = chat.mark(1)
    chat.publish(chat.type_line(0, "forgotten"))
    chat.put_snapshot()
    adopted = adopt(chat.log, [make_adoptee(1, ledger.page(1), old, old.position)], chat.position)
    assert adopted.adoptees == []
    assert len(adopted.lost) == 1


class SmallReads(MemoryLog):
    """Gives one record a read, so that there is a read to be late for."""

    def read(self, after: int, wait: float) -> list[Record]:
        return super().read(after, wait)[:1]


def go_on(adopted: Adoption, log: MemoryLog, target: int, method: str) -> None:
    """Until the adoption has to make this call."""
    while adopted.call is None or adopted.call[0] != method:
        assert not adopted.advance(target)
        if adopted.call is not None and adopted.call[0] != method:
            tell(adopted, log)


def test_a_log_that_is_trimmed_meanwhile_ends_only_those_sessions(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "SLICE", 0.0)
    chat = make_lobby(SmallReads(tail=0, wall_clock=lambda: 0))
    mark = chat.mark(1)
    chat.publish(chat.type_line(0, "one"))
    chat.publish(chat.type_line(0, "two"))
    adoptee = make_adoptee(1, ledger.page(1), mark, mark.position)
    adopted = Adoption(LIMITS, [adoptee])
    go_on(adopted, chat.log, chat.position, "read")
    chat.put_snapshot()
    finish(adopted, chat.log, chat.position)
    assert adopted.lost == [adoptee]
    assert adopted.adoptees == []


def test_an_adoption_restarts_when_its_snapshot_is_dropped(ledger: Ledger) -> None:
    """Which is too new for one of the clients."""
    chat = make_lobby(tail=0)
    chat.put_snapshot()
    old = chat.mark(1)
    chat.publish(chat.type_line(0, "one"))
    new = chat.mark(2)
    adoptees = [make_adoptee(1, ledger.page(1), old, old.position), make_adoptee(2, ledger.page(2), new, new.position)]
    adopted = Adoption(LIMITS, adoptees)
    go_on(adopted, chat.log, chat.position, "read_snapshot")
    tell(adopted, chat.log)
    chat.put_snapshot()
    go_on(adopted, chat.log, chat.position, "read_snapshot")
    chat.publish(chat.type_line(0, "two"))
    finish(adopted, chat.log, chat.position)
    assert adopted.lost == [adoptees[0]]
    assert adopted.adoptees == [adoptees[1]]
    assert adoptees[1].output == b"n0: two\n"


def test_an_adoption_works_in_slices(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "SLICE", 0.0)
    chat = make_lobby()
    mark = chat.mark(1)
    for number in range(3):
        chat.publish(chat.type_line(0, f"{number}"))
    chat.put_snapshot()
    chat.publish(chat.type_line(0, "3"))
    last = chat.mark(2)
    adoptees = [
        make_adoptee(number, ledger.page(number), each, each.position) for number, each in ((1, mark), (2, last))
    ]
    # One starts from the beginning of the log; the other from a snapshot, if it is alone.
    for adoptee, output in zip(adoptees, (b"n0: 0\nn0: 1\nn0: 2\nn0: 3\n", b""), strict=True):
        adopted = Adoption(LIMITS, [adoptee])
        rounds = 0
        while not adopted.advance(chat.position):
            tell(adopted, chat.log)
            rounds += 1
        assert adopted.adoptees[0].output == output
        # Each of four entries or each piece of the snapshot takes one at least.
        assert rounds > 4


def test_a_client_that_is_carried_on_later_gets_the_output_of_the_meantime(ledger: Ledger) -> None:
    chat = make_lobby()
    marks = [chat.mark(number) for number in range(CLIENTS)]
    chat.publish(chat.type_line(0, "one"))
    adoptees = [make_adoptee(n, ledger.page(n), mark, mark.position) for n, mark in enumerate(marks)]
    adopted = adopt(chat.log, adoptees, chat.position)
    for count in range(CLIENTS):
        adoptee = adopted.let_go()
        whole = chat.outputs[adoptee.handed.page].sent
        assert adoptee.output == whole[adoptee.progress.written :]
        assert adoptee.output_position == len(whole)
        assert adopted.carried_on == count + 1
        # It is not written to any more.
        chat.publish(chat.type_line(0, "more"))
        finish(adopted, chat.log, chat.position)
        assert adoptee.output_position == len(whole)
    assert adopted.adoptees == []


def test_output_does_not_pile_up_on_the_tapes(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be made in one go at the end, however much it is."""
    monkeypatch.setattr(adoption, "FLUSH_SOON", 100)
    monkeypatch.setattr(adoption, "SLICE", 0.0)
    chat = make_lobby()
    mark = chat.mark(1)
    chat.publish(*(chat.type_line(0, "x" * 50) for _ in range(100)))
    adopted = Adoption(LIMITS, [make_adoptee(1, ledger.page(1), mark, mark.position)])
    while not adopted.advance(chat.position):
        tell(adopted, chat.log)
        assert adopted._fanout is None or adopted._fanout.pending < 200
    assert adopted.adoptees[0].output == chat.outputs[1].sent[mark.position :]


@pytest.mark.parametrize("written", [0, 3, 11, 14])
def test_the_carry_is_sent_before_the_output_that_is_made_again(ledger: Ledger, written: int) -> None:
    """The worker that was given the client after that has sent a part of both, or nothing."""
    chat = make_lobby()
    mark = chat.mark(1)
    unsent = b"n9: unsent\n"
    chat.publish(chat.type_line(0, "hello"))
    adoptee = make_adoptee(1, ledger.page(1), mark._replace(carried=len(unsent)), mark.position - len(unsent) + written)
    adoptee.carried = unsent
    adopt(chat.log, [adoptee], chat.position)
    assert adoptee.output == (unsent + b"n0: hello\n")[written:]
    assert adoptee.output_position == mark.position + len(b"n0: hello\n")


@pytest.mark.parametrize("method", ["find_snapshot", "read_snapshot", "read"])
def test_an_adoption_continues_with_the_next_sequencer(ledger: Ledger, method: str) -> None:
    """That was asked, and did not answer: the same is asked of the next one."""
    chat = make_lobby()
    chat.put_snapshot()
    mark = chat.mark(1)
    for number in range(3):
        chat.publish(chat.type_line(0, f"{number}"))
    adopted = Adoption(LIMITS, [make_adoptee(1, ledger.page(1), mark, mark.position)])
    go_on(adopted, chat.log, chat.position, method)
    call = adopted.call
    assert not adopted.advance(chat.position)
    assert adopted.call == call
    finish(adopted, chat.log, chat.position)
    assert adopted.adoptees[0].output == b"n0: 0\nn0: 1\nn0: 2\n"


def test_without_kernel_counters_the_page_is_enough(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "AVAILABLE", False)
    page = ledger.page(0)
    page.clear(7)
    page.received = 40
    page.release(9, 30, b"unsent")
    adoptee = receive_adoptee(Handed(make_sid(0), "127.0.0.1", 0, LINE, 1), cast(socket.socket, None), page, DIALECT)
    assert adoptee.progress == Progress(40, 24, True)
    assert adoptee.carried == b"unsent"
    assert adoptee.output == b"unsent"
    page.clear(0)


def test_an_adoptee_is_made_from_ledger_and_kernel(ledger: Ledger) -> None:
    page = ledger.page(0)
    page.clear(7)
    page.write_mark(Mark(9, 3))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        ours, _ = server.accept()
        with ours:
            ours.sendall(b"hello")
            assert peer.recv(5, socket.MSG_WAITALL) == b"hello"
            adoptee = receive_adoptee(Handed(make_sid(0), "127.0.0.1", 0, LINE, 1), ours, page, DIALECT)
            assert adoptee.mark == Mark(9, 3)
            assert adoptee.progress == Progress(0, 5, True)


def make_lobby(log: MemoryLog | None = None, *, tail: int = 16 << 20) -> Chat:
    """Everybody is in the lobby."""
    chat = Chat(log or MemoryLog(tail=tail, wall_clock=lambda: 0))
    chat.publish(*(Opened(make_sid(number), "127.0.0.1") for number in range(CLIENTS)))
    chat.publish(*(chat.type_line(number, f"n{number}") for number in range(CLIENTS)))
    return chat
