"""The reading end of a worker: over a real link, with the log's process played by the test, and a log in memory.

A replica that is fed by the reader is held against one that has simply applied everything.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from party import picture
from test_publisher import DEADLINE, on_loop, turn

from mpchat.bus.contract import LogLost
from mpchat.bus.manager import LogLink
from mpchat.bus.memory import MemoryLog
from mpchat.chat import snapshot
from mpchat.chat.entries import Entry, Opened, Said, decode_entries, encode_entries
from mpchat.chat.replica import Replica
from mpchat.chat.snapshot import Capture
from mpchat.server.worker.fanout import Fanout
from mpchat.server.worker.reader import Reader

SID = bytes(16)


class Desk:
    """A reader, and the test in the place of the sequencer."""

    def __init__(self) -> None:
        self.log = MemoryLog(wall_clock=lambda: 0)
        self.replica = Replica()
        self.slices = 0
        self.on_slice: Callable[[], None] = lambda: None  # what is done behind the next one
        self.wanted: list[int] = []  # where it was when the log asked for a snapshot
        self.rest = 0.0
        self.failures: list[type[Exception]] = []
        self.reader = Reader(
            asyncio.get_running_loop(),
            self.replica,
            0,
            Fanout(self.replica),
            self._see_applied,
            lambda: self.wanted.append(self.reader.position),
            self._fail,
        )
        self._end = 0
        self.connect()

    def connect(self) -> None:
        """There is a sequencer."""
        ours, self._theirs = multiprocessing.Pipe()
        self.reader.connect(LogLink(ours, "log"))

    def hang_up(self) -> None:
        self._theirs.close()

    def publish(self, *texts: str) -> int:
        """One record; give the number of its last entry."""
        entries: list[Entry] = [] if self._end else [Opened(SID, "127.0.0.1")]
        for text in texts:
            self._end += len(text) + 1
            entries.append(Said(SID, self._end, (text,)))
        return self.log.publish(encode_entries(entries), len(entries)) + len(entries) - 1

    async def take_call(self) -> tuple[str, tuple[Any, ...]]:
        """What the reader asks of the sequencer, as soon as it does."""
        heard = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._theirs.fileno(), heard.set)
        async with asyncio.timeout(DEADLINE):
            await heard.wait()
        loop.remove_reader(self._theirs.fileno())
        _, method, arguments, _ = self._theirs.recv()
        return method, arguments

    @property
    def asked(self) -> bool:
        return self._theirs.poll()

    def answer(self, kind: str, result: object) -> None:
        self._theirs.send((kind, result))

    async def read(self, wanted: bool = False) -> None:
        """Let the reader have what there is; `wanted`: and ask it for a snapshot."""
        method, (after, _) = await self.take_call()
        assert method == "read"
        records = self.log.read(after, 0).records
        self.answer("#RETURN", ([tuple(record) for record in records], wanted))
        await turn()

    def expected(self, seq: int) -> Replica:
        """A replica that has applied the log up to `seq`."""
        replica = Replica()
        for record in self.log.read(0, 0).records:
            for entry in decode_entries(record.payload) if record.last <= seq else []:
                replica.apply(entry, record.time)
        return replica

    def is_at(self, seq: int) -> bool:
        return self.reader.position == seq and picture(self.replica) == picture(self.expected(seq))

    def _see_applied(self) -> float:
        self.slices += 1
        on_slice, self.on_slice = self.on_slice, lambda: None
        on_slice()
        return self.rest

    def _fail(self, error: Exception) -> None:
        self.failures.append(type(error))


@contextmanager
def desk() -> Iterator[Desk]:
    opened = Desk()
    try:
        yield opened
    finally:
        opened.reader.disconnect()
        opened.hang_up()


@on_loop
async def test_what_comes_is_applied_in_order_and_then_more_is_asked_for() -> None:
    with desk() as tested:
        tested.publish("alice", "one")
        await tested.read()
        assert tested.is_at(3)
        last = tested.publish("two")
        await tested.read()
        assert tested.is_at(last)
        assert tested.slices == 2
        assert tested.asked


@on_loop
async def test_it_rests_as_long_as_it_is_told_and_then_reads_all_that_has_come() -> None:
    with desk() as tested:
        tested.publish("alice")
        tested.rest = 0.02
        await tested.read()
        assert not tested.asked
        tested.publish("one")
        last = tested.publish("two")
        await tested.read()
        assert tested.is_at(last)
        assert tested.slices == 2


@on_loop
async def test_who_rests_when_the_sequencer_dies_asks_the_next_one_at_once_and_once() -> None:
    with desk() as tested:
        tested.publish("alice")
        tested.rest = 0.02
        await tested.read()
        tested.hang_up()
        last = tested.publish("one")
        tested.rest = 0.0
        tested.connect()
        await tested.read()
        assert tested.is_at(last)
        assert (await tested.take_call())[1][0] == last
        await asyncio.sleep(0.03)
        assert not tested.asked


@on_loop
async def test_that_a_snapshot_is_wanted_is_said_once_when_all_is_applied() -> None:
    with desk() as tested:
        last = tested.publish("alice", "one")
        await tested.read(wanted=True)
        assert tested.wanted == [last]
        tested.publish("two")
        await tested.read()
        assert tested.wanted == [last]


@on_loop
async def test_a_capture_is_of_what_is_between_two_records() -> None:
    with desk() as tested:
        ends = [tested.publish(text) for text in ("alice", "one", "two")]
        captured: list[int] = []

        def check(seq: int, capture: Capture) -> None:
            captured.append(seq)
            assert b"".join(capture.chunks()) == picture(tested.expected(seq))

        tested.reader.capture(check)
        await turn()
        assert captured == [0]
        tested.on_slice = lambda: tested.reader.capture(check)
        await tested.read()
        await turn()
        assert captured == [0, ends[-1]]


@on_loop
async def test_nothing_is_applied_while_the_state_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step copies one thing, and what comes meanwhile waits."""
    monkeypatch.setattr(snapshot, "STEP", 0)
    with desk() as tested:
        first = tested.publish("alice", "one")
        await tested.read()
        captured: list[tuple[int, bytes]] = []
        tested.reader.capture(lambda seq, capture: captured.append((seq, b"".join(capture.chunks()))))
        last = tested.publish("two")
        method, (after, *_) = await tested.take_call()
        assert method == "read"
        tested.answer("#RETURN", ([tuple(record) for record in tested.log.read(after, 0).records], False))
        turns = 0
        while not captured:
            assert tested.reader.capturing
            assert tested.is_at(first)
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 2  # a session, a room and a history, of which one may have been copied before
        assert captured == [(first, picture(tested.expected(first)))]
        await turn()
        assert tested.is_at(last)
        assert not tested.reader.capturing


@on_loop
async def test_a_capture_survives_the_sequencer() -> None:
    with desk() as tested:
        last = tested.publish("alice")
        await tested.read()
        captured: list[int] = []
        tested.reader.capture(lambda seq, capture: captured.append(seq))
        with pytest.raises(ValueError, match="under way"):
            tested.reader.capture(lambda seq, capture: None)
        tested.hang_up()
        await turn()
        assert captured == [last]


@on_loop
async def test_with_the_next_sequencer_it_reads_on_from_where_it_was() -> None:
    with desk() as tested:
        first = tested.publish("alice")
        await tested.read()
        assert (await tested.take_call())[1][0] == first
        tested.hang_up()
        await turn()
        assert tested.failures == [LogLost]
        last = tested.publish("one")
        tested.connect()
        await tested.read()
        assert tested.is_at(last)


@on_loop
async def test_it_holds_exactly_where_it_is_told_and_can_go_further() -> None:
    with desk() as tested:
        ends = [tested.publish(text) for text in ("alice", "one", "two", "three")]
        held: list[int] = []
        tested.reader.hold(ends[1], lambda: held.append(tested.reader.position))
        assert not held
        await tested.read()
        assert held == [ends[1]]
        assert tested.is_at(ends[1])
        assert not tested.asked
        tested.reader.hold(ends[2], lambda: held.append(tested.reader.position))
        await tested.read()
        assert held == [ends[1], ends[2]]
        assert tested.is_at(ends[2])


@on_loop
async def test_who_is_there_already_holds_at_once_and_what_still_comes_is_left() -> None:
    with desk() as tested:
        first = tested.publish("alice")
        await tested.read()
        held: list[int] = []
        tested.reader.hold(0, lambda: held.append(tested.reader.position))
        assert held == [first]
        last = tested.publish("one")
        await tested.read()  # it was asked for before
        assert tested.is_at(first)
        tested.reader.hold(last, lambda: held.append(tested.reader.position))
        await tested.read()
        assert held == [first, last]
        assert tested.is_at(last)
