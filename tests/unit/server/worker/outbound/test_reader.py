"""The reading end of a worker: over a real link, with the log's process played by the test, and a log in memory.

A replica that is fed by the reader is held against one that has simply applied everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from onloop import on_loop, turn
from party import picture
from readerdesk import ReaderDesk

from mpchat.chat.entries import encode_entries
from mpchat.chat.state import snapshot
from mpchat.chat.state.snapshot import Capture
from mpchat.log.port import LogLost


@contextmanager
def desk() -> Iterator[ReaderDesk]:
    opened = ReaderDesk()
    try:
        yield opened
    finally:
        opened.reader.disconnect()
        opened.hang_up()


@on_loop
async def test_records_are_applied_in_order_before_the_next_read() -> None:
    with desk() as tested:
        assert tested.publish("alice", "one") == 1
        await tested.read()
        assert tested.is_at(1)
        last = tested.publish("two")
        await tested.read()
        assert tested.is_at(last)
        assert tested.slices == 2
        assert tested.asked


@on_loop
async def test_the_reader_rests_as_told_and_then_reads_everything() -> None:
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
async def test_a_resting_reader_asks_the_next_sequencer_once_and_at_once() -> None:
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
async def test_the_reader_counts_applied_entries_and_bytes() -> None:
    with desk() as tested:
        tested.publish("alice", "one")
        await tested.read()
        assert tested.reader.applied_entries == 3
        tested.publish("two")
        await tested.read()
        assert tested.reader.applied_entries == 4
        assert tested.reader.applied_bytes == sum(len(record.payload) for record in tested.log.read(0, 0))


@on_loop
async def test_a_record_without_entries_is_skipped() -> None:
    with desk() as tested:
        tested.log.publish(encode_entries([]))
        last = tested.publish("alice")
        await tested.read()
        assert tested.is_at(last)
        tested.log.publish(encode_entries([]))
        await tested.read()
        assert tested.is_at(last + 1)


@on_loop
async def test_a_capture_is_made_between_two_records() -> None:
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
        tested.answer("#RETURN", [tuple(record) for record in tested.log.read(after, 0)])
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
async def test_with_the_next_sequencer_the_reader_continues_where_it_was() -> None:
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
async def test_the_reader_holds_exactly_at_the_given_record_and_can_go_on() -> None:
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
async def test_a_reader_that_is_there_already_holds_at_once() -> None:
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
