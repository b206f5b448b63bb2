"""The sequencer's desk: over real sockets, turn by turn, in the thread of the test.

A caller speaks as `multiprocessing.connection` does, whole or in pieces; its other end is one of the real thing.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.log.local.desk import CHUNK, MESSAGE_MOST, Desk
from mpchat.log.local.journal import Journal
from mpchat.log.local.memory import RECORD_OVERHEAD, MemoryLog
from mpchat.log.port import LogFull, LogTrimmed

METHODS = (
    *("publish", "read", "claim_snapshot", "ping", "put_snapshot", "get_snapshot"),
    *("find_snapshot", "read_snapshot", "stage_snapshot", "put_staged_snapshot"),
)
LONG = 1000.0
ROOM = 10 << 20


class Caller:
    """One who is seated at a desk."""

    def __init__(self, desk: Desk, log: str = "log") -> None:
        self._desk = desk
        self._log = log
        ours, theirs = socket.socketpair()
        desk.seat(theirs.detach())
        desk.turn(0)
        self.connection: Connection[Any, Any] = Connection(ours.detach())

    def call(self, method: str, *arguments: object) -> None:
        self.connection.send((self._log, method, arguments, {}))
        self._desk.turn(0)

    def send_raw(self, data: bytes) -> None:
        assert os.write(self.connection.fileno(), data) == len(data)
        self._desk.turn(0)

    def ask(self, method: str, *arguments: object) -> Any:
        self.call(method, *arguments)
        return self.answer()

    def answer(self) -> Any:
        """What has been answered; there must be something."""
        assert self.connection.poll(), "no answer"
        kind, result = self.connection.recv()
        assert kind == "#RETURN", result
        return result

    @property
    def is_answered(self) -> bool:
        return self.connection.poll()

    @property
    def is_dismissed(self) -> bool:
        """Whether the connection has ended."""
        if not self.connection.poll():
            return False
        with pytest.raises(EOFError):
            self.connection.recv()
        return True


class Office:
    """A desk with a log, and those who call."""

    def __init__(self, stack: ExitStack, **bounds: Any) -> None:
        self._stack = stack
        self.log = MemoryLog(**bounds, wall_clock=lambda: 7)
        self.desk = Desk({"log": (self.log, METHODS)}.__getitem__)
        stack.callback(self.desk.close)

    def seat(self, log: str = "log") -> Caller:
        caller = Caller(self.desk, log)
        self._stack.callback(caller.connection.close)
        return caller


@pytest.fixture
def office() -> Iterator[Office]:
    with ExitStack() as stack:
        yield Office(stack, snapshot_every=2 * ROOM)


def frame(*call: object) -> bytes:
    """A message, as Connection.send writes it."""
    message = pickle.dumps(call)
    return struct.pack("!i", len(message)) + message


# --- calls and answers


def test_what_is_called_is_done_and_answered(office: Office) -> None:
    caller = office.seat()
    assert caller.ask("publish", b"one") == 1
    assert caller.ask("publish", b"two and three") == 2
    assert caller.ask("read", 0, LONG) == [(1, 7, b"one"), (2, 7, b"two and three")]
    assert caller.ask("claim_snapshot") is False
    assert caller.ask("put_snapshot", 1, b"state") is None
    assert caller.ask("get_snapshot") == (1, b"state")
    assert office.seat().ask("ping") == 2


def test_errors_of_the_log_are_answers() -> None:
    with ExitStack() as stack:
        office = Office(stack, capacity=RECORD_OVERHEAD + 1)
        caller = office.seat()
        caller.ask("publish", b"x")
        for call, error in (
            (("publish", b"x"), LogFull),
            (("read", 9, LONG), LogTrimmed),
            (("read_snapshot", 0, -1, 1), ValueError),
        ):
            caller.call(*call)
            kind, result = caller.connection.recv()
            assert (kind, type(result)) == ("#ERROR", error)
        assert caller.ask("ping") == 1


@pytest.mark.parametrize(
    ("log", "call", "words"),
    [
        ("log", ("clear",), "no method 'clear'"),
        ("log", ("_trim",), "no method '_trim'"),
        ("no such log", ("ping",), "KeyError"),
        ("log", ("publish",), "TypeError"),
        ("log", ("read", 1, 2, 3, 4), "TypeError"),
    ],
)
def test_what_cannot_be_called_is_said(office: Office, log: str, call: tuple[Any, ...], words: str) -> None:
    caller = office.seat(log)
    caller.call(*call)
    kind, result = caller.connection.recv()
    assert kind == "#TRACEBACK"
    assert words in result
    assert office.seat().ask("ping") == 0


@pytest.mark.parametrize(
    "arguments",
    [("x", 20.0), (None, 20.0), (0, "long"), (0, 1j), (0, 1e400), (0, 1e12), (0, float("nan")), (0, 1, "x")],
)
def test_no_read_is_strange_enough_to_end_the_desk(office: Office, arguments: tuple[Any, ...]) -> None:
    office.seat().call("read", *arguments)
    assert office.seat().ask("publish", b"x") == 1
    assert office.seat().ask("ping") == 1


@pytest.mark.parametrize("call", [("log", "ping", None, {}), ("log", "ping", (), {"now": True}), ([], "ping", (), {})])
def test_no_call_is_strange_enough_to_end_the_desk(office: Office, call: tuple[Any, ...]) -> None:
    caller = office.seat()
    caller.connection.send(call)
    office.desk.turn(0)
    assert caller.connection.recv()[0] == "#TRACEBACK"
    assert office.seat().ask("ping") == 0


@given(st.lists(st.binary(max_size=300), max_size=5), st.lists(st.integers(1, 50)))
def test_messages_may_come_in_any_pieces(payloads: list[bytes], sizes: list[int]) -> None:
    with ExitStack() as stack:
        office = Office(stack)
        caller = office.seat()
        stream = b"".join(frame("log", "publish", (payload,), {}) for payload in payloads)
        for size in [*sizes, len(stream)]:
            if stream:
                caller.send_raw(stream[:size])
                stream = stream[size:]
        assert [caller.answer() for _ in payloads] == [*range(1, len(payloads) + 1)]
        assert [record.payload for record in office.log.read(0, 0)] == payloads


def test_a_long_message_comes_and_goes_as_a_whole(office: Office) -> None:
    """With its length in 8 bytes, as one of 2 GiB would have it."""
    payload = os.urandom(ROOM)
    message = pickle.dumps(("log", "publish", (payload,), {}))
    giver, taker = office.seat(), office.seat()
    pending = memoryview(struct.pack("!iQ", -1, len(message)) + message)
    os.set_blocking(giver.connection.fileno(), False)
    while pending:
        pending = pending[os.write(giver.connection.fileno(), pending) :]
        office.desk.turn(0)
    assert giver.answer() == 1
    taker.call("read", 0, LONG)
    assert drain(office.desk, taker) == ("#RETURN", [(1, 7, payload)])


def drain(desk: Desk, caller: Caller) -> Any:
    """Take an answer that is larger than what the kernel holds, bit by bit."""
    descriptor = caller.connection.fileno()
    (length,) = struct.unpack("!i", os.read(descriptor, 4))
    answer = b""
    while len(answer) < length:
        answer += os.read(descriptor, CHUNK)
        desk.turn(0)
    return pickle.loads(answer)


# --- snapshots in pieces


def stage(caller: Caller, blob: bytes, size: int) -> None:
    for start in range(0, len(blob), size):
        assert caller.ask("stage_snapshot", start, blob[start : start + size]) is None


def test_a_snapshot_comes_in_pieces_between_which_others_are_answered(office: Office) -> None:
    giver, other = office.seat(), office.seat()
    other.ask("publish", b"one")
    blob = os.urandom(5 * CHUNK)
    for start in range(0, len(blob), CHUNK // 4):
        assert giver.ask("stage_snapshot", start, blob[start : start + CHUNK // 4]) is None
        assert other.ask("get_snapshot") == (0, b"")
    assert giver.ask("put_staged_snapshot", 1) is None
    assert office.log.get_snapshot() == (1, blob)


def test_a_snapshot_that_is_staged_anew_replaces_the_one_before(office: Office) -> None:
    giver, other = office.seat(), office.seat()
    giver.ask("publish", b"one")
    stage(giver, b"never to be finished", 7)
    stage(giver, b"another", 3)
    stage(other, b"of another caller", 3)
    giver.ask("put_staged_snapshot", 1)
    assert office.log.get_snapshot() == (1, b"another")
    # And it is not put twice.
    giver.ask("publish", b"two")
    giver.ask("put_staged_snapshot", 2)
    assert office.log.get_snapshot() == (2, b"")


@pytest.mark.parametrize("start", [1, 4, 6, -1])
def test_a_piece_that_is_not_the_next_one_is_refused(office: Office, start: int) -> None:
    caller = office.seat()
    caller.ask("stage_snapshot", 0, b"01234")
    caller.call("stage_snapshot", start, b"x")
    kind, error = caller.connection.recv()
    assert (kind, type(error)) == ("#ERROR", ValueError)


def test_what_is_staged_has_a_bound() -> None:
    with ExitStack() as stack:
        journal = Journal.make_private(1 << 16, 1 << 12)
        log = MemoryLog(capacity=1000, tail=0, snapshot_bytes=0, journal=journal)
        desk = Desk({"log": (log, METHODS)}.__getitem__)
        stack.callback(desk.close)
        caller = Caller(desk)
        stack.callback(caller.connection.close)
        caller.ask("stage_snapshot", 0, bytes(20_000))
        caller.call("stage_snapshot", 20_000, bytes(20_000))
        kind, error = caller.connection.recv()
        assert (kind, type(error)) == ("#ERROR", LogFull)


def test_what_who_has_gone_had_staged_is_forgotten(office: Office) -> None:
    giver, other = office.seat(), office.seat()
    giver.ask("stage_snapshot", 0, b"0123")
    giver.connection.close()
    office.desk.turn(0)
    other.ask("publish", b"one")
    other.ask("put_staged_snapshot", 1)
    assert office.log.get_snapshot() == (1, b"")


def test_an_answer_goes_in_pieces_between_which_others_are_answered(office: Office) -> None:
    """Also if it is taken as fast as it comes: `drain` takes all that is there at each turn."""
    office.log.publish(os.urandom(ROOM))
    greedy, turns = office.seat(), 0
    greedy.call("read", 0, LONG)
    turn = office.desk.turn

    def count(timeout: float | None) -> float | None:
        nonlocal turns
        turns += 1
        return turn(timeout)

    office.desk.turn = count  # type: ignore[method-assign]
    drain(office.desk, greedy)
    assert turns >= ROOM / CHUNK


# --- waiting


def test_a_read_waits_for_what_comes(office: Office) -> None:
    reader, publisher = office.seat(), office.seat()
    reader.call("read", 0, LONG)
    assert not reader.is_answered
    publisher.ask("publish", b"come")
    assert reader.answer() == [(1, 7, b"come")]


def test_all_who_wait_are_answered(office: Office) -> None:
    readers = [office.seat() for _ in range(20)]
    for reader in readers:
        reader.call("read", 0, LONG)
    office.seat().ask("publish", b"for all")
    assert [reader.answer() for reader in readers] == [[(1, 7, b"for all")]] * 20


def test_a_read_waits_as_long_as_it_says(office: Office) -> None:
    reader, patient = office.seat(), office.seat()
    patient.call("read", 0, LONG)
    reader.call("read", 0, 0.02)
    timeout = office.desk.turn(0)
    while not reader.is_answered:
        assert timeout is not None and 0 < timeout <= 0.02
        timeout = office.desk.turn(timeout)
    assert reader.answer() == []
    assert not patient.is_answered
    timeout = office.desk.turn(0)
    assert timeout is not None and timeout > 1, "nothing is due"


def test_who_waits_for_nothing_wakes_nobody(office: Office) -> None:
    office.seat()
    assert office.desk.turn(0) is None


# --- callers that do not do their part


def test_who_does_not_take_its_answer_holds_up_nobody(office: Office) -> None:
    payload = os.urandom(ROOM)
    office.log.publish(payload)
    slow, other = office.seat(), office.seat()
    slow.call("read", 0, LONG)
    assert other.ask("publish", b"next") == 2
    assert other.ask("read", 1, LONG) == [(2, 7, b"next")]
    assert drain(office.desk, slow) == ("#RETURN", [(1, 7, payload)])
    assert slow.ask("ping") == 2


def test_nothing_is_heard_of_who_does_not_take_its_answer(office: Office) -> None:
    """So there is one answer a caller in memory."""
    office.log.publish(bytes(ROOM))
    slow = office.seat()
    slow.call("read", 0, LONG)
    slow.call("publish", b"early")
    assert office.log.ping() == 1
    drain(office.desk, slow)
    office.desk.turn(0)
    assert slow.answer() == 2


def test_who_stops_in_the_middle_of_a_call_holds_up_nobody(office: Office) -> None:
    message = frame("log", "publish", (b"slowly",), {})
    stopped, other = office.seat(), office.seat()
    stopped.send_raw(message[:-1])
    assert other.ask("publish", b"first") == 1
    stopped.send_raw(message[-1:])
    assert stopped.answer() == 2


@pytest.mark.parametrize("said", [b"", b"\0", frame("log", "publish", (b"x",), {})[:-1]])
def test_who_goes_is_forgotten(office: Office, said: bytes) -> None:
    caller, other = office.seat(), office.seat()
    if said:
        caller.send_raw(said)
    caller.connection.close()
    office.desk.turn(0)
    assert len(office.desk) == 1
    assert other.ask("ping") == 0


def test_who_goes_while_it_waits_is_forgotten(office: Office) -> None:
    reader, other = office.seat(), office.seat()
    reader.call("read", 0, LONG)
    reader.connection.close()
    office.desk.turn(0)
    assert len(office.desk) == 1
    assert other.ask("publish", b"x") == 1
    assert office.desk.turn(0) is None


def test_who_goes_before_it_takes_its_answer_is_forgotten(office: Office) -> None:
    office.log.publish(bytes(ROOM))
    slow, other = office.seat(), office.seat()
    slow.call("read", 0, LONG)
    slow.connection.close()
    office.desk.turn(0)
    assert len(office.desk) == 1
    assert other.ask("ping") == 1


@pytest.mark.parametrize(
    "said",
    [
        struct.pack("!i", -2),
        struct.pack("!i", 5) + b"hello",
        struct.pack("!iQ", -1, MESSAGE_MOST + 1),
        frame("too", "few"),
        frame(1, 2, 3, 4, 5),
    ],
    ids=["negative", "no pickle", "too long", "too few", "too many"],
)
def test_what_is_no_call_ends_the_connection_and_no_other(
    office: Office, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    rude, other = office.seat(), office.seat()
    rude.send_raw(said)
    assert rude.is_dismissed
    assert "log connection closed" in caplog.text
    assert other.ask("publish", b"x") == 1
    assert len(office.desk) == 1


def test_who_calls_before_it_is_answered_is_dismissed(office: Office) -> None:
    rude, other = office.seat(), office.seat()
    rude.call("read", 0, LONG)
    rude.call("ping")
    assert rude.is_dismissed
    assert other.ask("publish", b"x") == 1


def test_who_says_a_read_and_more_in_one_breath_is_dismissed(office: Office) -> None:
    rude, other = office.seat(), office.seat()
    rude.send_raw(frame("log", "read", (0, LONG), {}) + frame("log", "ping", (), {}))
    assert rude.is_dismissed
    assert other.ask("publish", b"x") == 1


def test_many_may_come_at_once(office: Office) -> None:
    pairs = [socket.socketpair() for _ in range(300)]
    for _, theirs in pairs:
        office.desk.seat(theirs.detach())
    office.desk.turn(0)
    assert len(office.desk) == 300
    for ours, _ in pairs:
        ours.close()
    office.desk.turn(0)
    while len(office.desk):
        office.desk.turn(0)
