"""The reading end of a worker: over a real link, with the log's process played by the test, and a log in memory.

A replica that is fed by the reader is held against one that has simply applied everything.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from test_publisher import DEADLINE, on_loop, turn
from test_replica import picture

from mpchat.bus.contract import LogFull, LogLost, LogTrimmed
from mpchat.bus.manager import LogLink
from mpchat.bus.memory import MemoryLog
from mpchat.chat.entries import Entry, Opened, Said, decode_entries, encode_entries
from mpchat.chat.replica import Replica
from mpchat.server.worker.fanout import Fanout
from mpchat.server.worker.reader import Reader, Rest

SID = bytes(16)


class Desk:
    """A reader, and the test in the place of the sequencer."""

    def __init__(self) -> None:
        self.log = MemoryLog(wall_clock=lambda: 0)
        self.replica = Replica()
        self.slices = 0
        self.alone = 0.0  # for how long the last call would not have a single entry
        self.rest = Rest()
        self.failures: list[type[Exception]] = []
        self.reader = Reader(
            asyncio.get_running_loop(), self.replica, 0, Fanout(self.replica), self._see_applied, self._fail
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
        method, (after, _, self.alone) = await self.take_call()
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

    def _see_applied(self) -> Rest:
        self.slices += 1
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
        tested.rest = Rest(0.02)
        await tested.read()
        assert not tested.asked
        tested.publish("one")
        last = tested.publish("two")
        await tested.read()
        assert tested.is_at(last)
        assert tested.slices == 2


@on_loop
async def test_it_would_not_have_a_single_entry_for_as_long_as_it_is_told() -> None:
    told = [Rest(0.0, 0.5), Rest(0.001, 0.25), Rest(0.001), Rest()]
    asked = []
    with desk() as tested:
        for rest in (*told, Rest()):
            tested.publish("alice")
            tested.rest = rest
            await tested.read()
            asked.append(tested.alone)
    assert asked == [0.0, *(rest.alone for rest in told)]


@on_loop
async def test_who_rests_when_the_sequencer_dies_asks_the_next_one_at_once_and_once() -> None:
    with desk() as tested:
        tested.publish("alice")
        tested.rest = Rest(0.02)
        await tested.read()
        tested.hang_up()
        last = tested.publish("one")
        tested.rest = Rest()
        tested.connect()
        await tested.read()
        assert tested.is_at(last)
        assert (await tested.take_call())[1][0] == last
        await asyncio.sleep(0.03)
        assert not tested.asked


@on_loop
async def test_a_snapshot_that_is_asked_for_is_of_what_was_applied() -> None:
    with desk() as tested:
        last = tested.publish("alice", "one")
        await tested.read(wanted=True)
        method, (seq, blob) = await tested.take_call()
        assert (method, seq) == ("put_snapshot", last)
        assert picture(Replica.load(blob)) == picture(tested.replica)
        tested.answer("#RETURN", None)
        last = tested.publish("two")
        await tested.read()
        assert tested.is_at(last)


@on_loop
async def test_a_snapshot_that_is_refused_is_said_and_that_is_all(caplog: pytest.LogCaptureFixture) -> None:
    with desk() as tested, caplog.at_level(logging.WARNING):
        tested.publish("alice")
        await tested.read(wanted=True)
        await tested.take_call()
        tested.answer("#ERROR", LogFull("no room"))
        last = tested.publish("two")
        await tested.read()
        assert tested.is_at(last)
        assert "no room" in caplog.text
        assert not tested.failures


@on_loop
async def test_a_log_that_is_another_one_is_said() -> None:
    with desk() as tested:
        tested.publish("alice")
        await tested.read(wanted=True)
        await tested.take_call()
        tested.answer("#ERROR", LogTrimmed("no such record"))
        await turn()
        assert tested.failures == [LogTrimmed]


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
async def test_a_snapshot_that_was_under_way_is_not_waited_for() -> None:
    with desk() as tested:
        tested.publish("alice")
        await tested.read(wanted=True)
        tested.hang_up()
        await turn()
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
