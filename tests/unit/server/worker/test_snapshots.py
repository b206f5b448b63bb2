"""The snapshots of one worker: with a real reader and real links, the test in the place of the sequencer.

Counted is what is done between two turns of the loop: one piece at most is encoded and sent, while the reader goes on.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from onloop import on_loop, turn
from party import picture
from playedsequencer import PlayedSequencer, frame
from readerdesk import ReaderDesk

from mpchat.chat.rules.replica import Replica
from mpchat.chat.state import snapshot
from mpchat.log.port import LogFull, LogTrimmed
from mpchat.server.worker import snapshots
from mpchat.server.worker.caller import Errands
from mpchat.server.worker.snapshots import Snapshots

PIECE = 2000
TEXT = "x" * 300


class Desk(ReaderDesk):
    """A reader, and beside it the errands of the same worker."""

    def __init__(self) -> None:
        super().__init__()
        self.errands = Errands(asyncio.get_running_loop(), self._fail)
        self.snapshots = Snapshots(self.reader, self.errands, self.tell, self._fail)
        self.told = 0
        self.connect_errands()

    def connect_errands(self) -> None:
        self.sequencer = PlayedSequencer()
        self.errands.connect(self.sequencer.link)

    def lose(self) -> None:
        """The sequencer is gone; as the worker sees to it."""
        self.sequencer.socket.close()
        self.errands.disconnect()
        self.snapshots.disconnect()

    def tell(self) -> None:
        self.told += 1

    @property
    def is_asked(self) -> bool:
        return bool(select.select([self.sequencer.socket], [], [], 0)[0])

    async def reply(self, result: object = None, kind: str = "#RETURN") -> None:
        await self.sequencer.send(frame(kind, result))

    async def take(self) -> tuple[int, bytes]:
        """All of the next snapshot, every piece of which is accepted."""
        blob = b""
        while True:
            method, arguments = await self.sequencer.take_call()
            if method == "put_snapshot":
                assert not blob
                return arguments
            if method == "put_staged_snapshot":
                return arguments[0], blob
            start, piece = arguments
            assert (method, start) == ("stage_snapshot", len(blob))
            assert len(piece) <= PIECE + CHUNK_MOST
            blob += piece
            await self.reply()


CHUNK_MOST = 10_000
"""What a chunk has here at most: some over PIECE, and a row."""


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PIECE", PIECE)
    monkeypatch.setattr(snapshot, "CHUNK", PIECE // 2)
    monkeypatch.setattr(snapshot, "ROW_RUNS", 2)


@contextmanager
def desk() -> Iterator[Desk]:
    opened = Desk()
    try:
        yield opened
    finally:
        opened.reader.disconnect()
        opened.errands.disconnect()
        opened.hang_up()
        opened.sequencer.socket.close()


async def talk(tested: Desk) -> int:
    """So much that a snapshot is of several pieces."""
    last = tested.publish("alice", *(f"{TEXT} {number}" for number in range(50)))
    await tested.read()
    return last


@on_loop
async def test_a_snapshot_has_exactly_the_state_at_which_it_was_wanted() -> None:
    with desk() as tested:
        last = await talk(tested)
        tested.snapshots.want(tested.tell)
        await turn()
        tested.publish("more")
        await tested.read()
        seq, blob = await tested.take()
        assert seq == last
        assert picture(Replica.load(blob)) == picture(tested.expected(last))
        assert tested.told == 0
        await tested.reply()
        assert tested.told == 1
        assert tested.snapshots.uncovered_entries == 1
        assert not tested.snapshots.busy


@on_loop
async def test_a_small_snapshot_is_sent_at_once() -> None:
    with desk() as tested:
        last = tested.publish("alice")
        await tested.read()
        tested.snapshots.want(tested.tell)
        assert await tested.sequencer.take_call() == ("put_snapshot", (last, tested.expected(last).dump()))
        await tested.reply()
        assert tested.told == 1


@on_loop
async def test_one_piece_is_encoded_between_two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the loop turns at each call, since the answer to it has to come."""
    made = [0]
    encode = snapshot._frame

    def count(rows: list[snapshot.Row]) -> bytes:
        made[-1] += 1
        return encode(rows)

    monkeypatch.setattr(snapshot, "_frame", count)
    with desk() as tested:
        await talk(tested)
        ask = tested.errands.ask

        def note(*call: Any) -> None:
            made.append(0)
            ask(*call)

        monkeypatch.setattr(tested.errands, "ask", note)
        tested.snapshots.want(tested.tell)
        await tested.take()
    assert sum(made) > 10
    # A chunk has two runs at least.
    assert max(made) <= PIECE / (2 * len(TEXT)) + 1


@on_loop
async def test_a_snapshot_rejected_by_the_log_is_logged_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with desk() as tested, caplog.at_level(logging.WARNING):
        await talk(tested)
        tested.snapshots.want(tested.tell)
        assert (await tested.sequencer.take_call())[0] == "stage_snapshot"
        await tested.reply(LogFull("no room"), "#ERROR")
        assert "no room" in caplog.text
        assert tested.told == 1
        assert not tested.snapshots.busy
        assert tested.snapshots.uncovered_entries == tested.reader.applied_entries
        assert tested.failures == []


@on_loop
async def test_a_different_log_is_reported() -> None:
    with desk() as tested:
        tested.publish("alice")
        await tested.read()
        tested.snapshots.want(tested.tell)
        await tested.sequencer.take_call()
        await tested.reply(LogTrimmed("no such record"), "#ERROR")
        assert tested.failures == [LogTrimmed]


@on_loop
async def test_a_snapshot_that_becomes_too_large_is_given_up() -> None:
    with desk() as tested:
        await talk(tested)
        tested.snapshots.want(tested.tell, most=2 * PIECE)
        pieces = 0
        while not tested.told:
            assert (await tested.sequencer.take_call())[0] == "stage_snapshot"
            pieces += 1
            await tested.reply()
        assert pieces == 1
        assert not tested.snapshots.busy
        assert tested.snapshots.uncovered_entries == tested.reader.applied_entries


@on_loop
async def test_a_snapshot_that_the_log_asks_for_may_have_any_size() -> None:
    """Nobody else is asked for it."""
    with desk() as tested:
        last = await talk(tested)
        tested.snapshots.want(tested.tell, most=2 * PIECE)
        await turn()
        tested.snapshots.want_of_any_size(tested.tell)
        assert await tested.take() == (last, tested.expected(last).dump())
        await tested.reply()
        assert (tested.told, tested.snapshots.busy) == (2, False)


@on_loop
async def test_a_snapshot_that_is_being_copied_serves_the_log_too() -> None:
    with desk() as tested:
        last = await talk(tested)
        tested.snapshots.want(tested.tell, most=2 * PIECE)
        tested.snapshots.want_of_any_size(tested.tell)
        assert (await tested.take())[0] == last
        await tested.reply()
        assert (tested.told, tested.snapshots.busy) == (2, False)


@on_loop
async def test_requests_during_a_snapshot_share_the_next_one() -> None:
    with desk() as tested:
        first = await talk(tested)
        tested.snapshots.want(tested.tell)
        await turn()
        second = tested.publish("more")
        await tested.read()
        tested.snapshots.want(tested.tell, most=1)
        tested.snapshots.want(tested.tell)
        tested.snapshots.want_of_any_size(tested.tell)  # the log takes the first one
        assert (await tested.take())[0] == first
        await tested.reply()
        assert tested.told == 2
        assert (await tested.take())[0] == second
        await tested.reply()
        assert tested.told == 4
        assert not tested.snapshots.busy


@on_loop
async def test_a_lost_sequencer_ends_the_snapshot_and_the_next_is_whole() -> None:
    with desk() as tested:
        last = await talk(tested)
        tested.snapshots.want(tested.tell)
        await tested.sequencer.take_call()
        tested.lose()
        assert (tested.told, tested.snapshots.busy) == (1, False)
        tested.snapshots.want_of_any_size(tested.tell)
        await turn()
        tested.connect_errands()
        seq, blob = await tested.take()
        assert (seq, blob) == (last, tested.expected(last).dump())
        await tested.reply()
        assert tested.told == 2


@on_loop
async def test_copying_a_snapshot_does_not_need_the_sequencer() -> None:
    with desk() as tested:
        last = await talk(tested)
        tested.snapshots.want(tested.tell)
        tested.lose()
        assert (tested.told, tested.snapshots.busy) == (0, True)
        await turn()
        tested.connect_errands()
        assert await tested.take() == (last, tested.expected(last).dump())


# --- whether one is due -------------------------------------------------------------------------------------


CLAIM = ("claim_snapshot", ())


@on_loop
async def test_the_log_is_asked_each_time_enough_bytes_were_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "CLAIM_EVERY", 10 * len(TEXT))
    with desk() as tested:
        asked = 0
        tested.publish("alice")
        for _ in range(40):
            tested.publish(TEXT)
            await tested.read()
            tested.snapshots.note_applied()
            if tested.is_asked:
                assert await tested.sequencer.take_call() == CLAIM
                await tested.reply(False)
                asked += 1
        assert asked == 4  # some 340 bytes come each time
        assert (tested.snapshots.busy, tested.told) == (False, 0)


@on_loop
async def test_a_due_snapshot_is_made() -> None:
    with desk() as tested:
        last = await talk(tested)
        tested.snapshots.claim()
        tested.snapshots.claim()  # a question is under way
        assert await tested.sequencer.take_call() == CLAIM
        assert not tested.snapshots.busy
        await tested.reply(True)
        assert tested.snapshots.busy
        assert (await tested.take())[0] == last
        await tested.reply()
        assert (tested.told, tested.snapshots.busy) == (1, False)


@on_loop
async def test_the_next_sequencer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not know who has claimed what."""
    with desk() as tested:
        await talk(tested)
        tested.snapshots.claim()
        assert await tested.sequencer.take_call() == CLAIM
        tested.lose()
        tested.connect_errands()
        tested.snapshots.note_applied()
        assert await tested.sequencer.take_call() == CLAIM
