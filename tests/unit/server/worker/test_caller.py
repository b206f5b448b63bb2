"""A worker's calls of the log over real links: whatever the sequencer does in mid-message, the loop goes on.

The test plays the sequencer, byte by byte where that matters.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import pytest
from onloop import on_loop, turn
from playedsequencer import PlayedSequencer, frame

from mpchat.log.local.link import ManagerLink
from mpchat.log.port import LogFull, LogLost, LogTrimmed
from mpchat.server.worker.caller import Caller, Errands

LARGE = 8 << 20
"""Bytes: far more than the kernel takes for who does not read."""


class Desk:
    """A caller, and what it has been told."""

    def __init__(self) -> None:
        self.sequencer = PlayedSequencer()
        self.answers: list[object] = []
        self.caller = Caller(asyncio.get_running_loop(), self.sequencer.link, self._see_answer)

    def _see_answer(self) -> None:
        try:
            self.answers.append(self.caller.receive())
        except LogLost:
            self.answers.append(LogLost)
            self.caller.close()


@contextmanager
def desk() -> Iterator[Desk]:
    opened = Desk()
    try:
        yield opened
    finally:
        if LogLost not in opened.answers:
            opened.caller.close()
        opened.sequencer.socket.close()


@on_loop
async def test_a_call_returns_even_if_nothing_reads_it() -> None:
    with desk() as tested:
        tested.caller.call("publish", bytes(LARGE))
        assert tested.sequencer.link.backlog
        await turn()  # the loop goes on
        assert await tested.sequencer.take_call() == ("publish", (bytes(LARGE),))
        await tested.sequencer.send(frame("#RETURN", 7))
        assert tested.answers == [7]
        assert not tested.sequencer.link.backlog
        # And the next one.
        tested.caller.call("ping")
        assert await tested.sequencer.take_call() == ("ping", ())


@on_loop
async def test_an_answer_in_pieces_is_received_when_it_is_complete() -> None:
    with desk() as tested:
        tested.caller.call("ping")
        *first, last = frame("#RETURN", "pong")
        for byte in first:
            await tested.sequencer.send(bytes([byte]))
            assert tested.answers == []
        await tested.sequencer.send(bytes([last]))
        assert tested.answers == ["pong"]


@on_loop
async def test_a_large_answer_that_stops_in_the_middle_blocks_nothing() -> None:
    with desk() as tested:
        tested.caller.call("get_snapshot")
        data = frame("#RETURN", bytes(LARGE))
        await tested.sequencer.send(data[: LARGE // 2])
        assert tested.answers == []
        await tested.sequencer.send(data[LARGE // 2 :])
        assert tested.answers == [bytes(LARGE)]


@on_loop
async def test_a_long_length_header_is_read() -> None:
    """As `multiprocessing.connection` writes it from 2 GiB on."""
    with desk() as tested:
        data = pickle.dumps(("#RETURN", 5))
        tested.caller.call("ping")
        await tested.sequencer.send(struct.pack("!i", -1))
        await tested.sequencer.send(struct.pack("!Q", len(data)) + data)
        assert tested.answers == [5]


@pytest.mark.parametrize("sent", [b"", b"\0\0", frame("#RETURN", 1)[:-1], frame("#RETURN", 1) + b"more"])
@on_loop
async def test_a_sequencer_that_ends_in_the_middle_of_an_answer_is_lost(sent: bytes) -> None:
    with desk() as tested:
        descriptor = tested.caller.link.fileno()
        tested.caller.call("publish", bytes(LARGE))
        if sent:
            await tested.sequencer.send(sent)
        tested.sequencer.socket.close()
        await turn()
        assert tested.answers == [LogLost]
        # And the descriptor, which somebody else may have next, is not watched any more.
        assert not asyncio.get_running_loop().remove_reader(descriptor)
        assert not asyncio.get_running_loop().remove_writer(descriptor)


def test_a_blocking_link_sends_and_receives_everything() -> None:
    """A call and an answer, both larger than the kernel takes, and a peer that reads and writes as it likes."""
    ours, theirs = socket.socketpair()

    def echo() -> None:
        with Connection(theirs.detach()) as there:
            _, _, arguments, _ = there.recv()
            there.send(("#RETURN", arguments[0]))

    peer = threading.Thread(target=echo)
    peer.start()
    link = ManagerLink(Connection(ours.detach()), "log")
    link.call("echo", bytes(LARGE))
    assert link.receive() == bytes(LARGE)
    link.close()
    peer.join()


def test_a_blocking_link_times_out() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        link = ManagerLink(Connection(ours.detach()), "log", 0.01)
        link.call("ping")
        with pytest.raises(LogLost, match="does not answer"):
            link.receive()
        link.close()


# --- errands


class Office:
    """Errands, and what those who asked were told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.failures: list[type[Exception]] = []
        self.errands = Errands(asyncio.get_running_loop(), lambda error: self.failures.append(type(error)))
        self.connect()

    def connect(self) -> None:
        self.sequencer = PlayedSequencer()
        self.errands.connect(self.sequencer.link)

    def ask(self, *call: object) -> None:
        method, *arguments = call
        self.errands.ask(self.told.append, str(method), *arguments)


@contextmanager
def office() -> Iterator[Office]:
    opened = Office()
    try:
        yield opened
    finally:
        opened.errands.disconnect()
        opened.sequencer.socket.close()


@on_loop
async def test_calls_are_made_one_after_the_other() -> None:
    with office() as tested:
        for number in range(3):
            tested.ask("ping", number)
        for number in range(3):
            assert await tested.sequencer.take_call() == ("ping", (number,))
            await turn()
            with pytest.raises(BlockingIOError):
                tested.sequencer.socket.recv(1)
            await tested.sequencer.send(frame("#RETURN", number))
        assert tested.told == [0, 1, 2]


@on_loop
async def test_a_rejection_by_the_log_is_an_answer() -> None:
    with office() as tested:
        errors = LogTrimmed("gone"), LogFull("too large")
        for error in errors:
            tested.ask("put_snapshot")
            await tested.sequencer.take_call()
            await tested.sequencer.send(frame("#ERROR", error))
        assert [(type(told), str(told)) for told in tested.told] == [(LogTrimmed, "gone"), (LogFull, "too large")]
        assert not tested.failures


@on_loop
async def test_without_a_sequencer_no_callback_runs_and_new_calls_wait() -> None:
    with office() as tested:
        tested.ask("before")
        tested.ask("before, too")
        await tested.sequencer.take_call()
        tested.sequencer.socket.close()
        await turn()
        assert tested.failures == [LogLost]
        tested.ask("after")
        tested.connect()
        assert await tested.sequencer.take_call() == ("after", ())
        await tested.sequencer.send(frame("#RETURN", "yes"))
        assert tested.told == ["yes"]


@on_loop
async def test_an_error_of_the_sequencer_or_of_a_callback_is_reported() -> None:
    with office() as tested:
        tested.ask("no such method")
        await tested.sequencer.take_call()
        await tested.sequencer.send(frame("#TRACEBACK", "AttributeError"))
        tested.errands.ask(lambda answer: [][answer], "ping")
        assert [error.__name__ for error in tested.failures] == ["LogError"]
