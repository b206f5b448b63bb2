"""The publishing end of a worker: over a real link, with the log's process played by the test.

The test takes each call from the other end of the pipe and answers it when it likes: at once, late, or with an error.
What is published ends in a real log, in memory. The bounds are small here, so that a call always fits into the pipe.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onloop import DEADLINE, on_loop, turn

from mpchat.chat.entries import Asked, Ended, Entry, Said, decode_entries
from mpchat.chat.problems import Problem
from mpchat.chat.requests import Act, Misread, Quit
from mpchat.log.local.link import ManagerLink
from mpchat.log.local.memory import MemoryLog
from mpchat.log.port import LogError, LogFull, LogLost
from mpchat.server.worker.inbound import publisher
from mpchat.server.worker.inbound.publisher import Publisher

SID = bytes(16)

OVERHEAD = 100
MOST = 1000
CONGESTED = 4000
RELIEVED = 1000


@pytest.fixture(scope="module", autouse=True)
def _small_bounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "_ENTRY_OVERHEAD", OVERHEAD)
        patch.setattr(publisher, "PUBLISH_MOST", MOST)
        patch.setattr(publisher, "CONGESTED", CONGESTED)
        patch.setattr(publisher, "RELIEVED", RELIEVED)
        patch.setattr(publisher, "RETRY", 0.001)
        patch.setattr(publisher, "PUBLISH_EVERY", 0.0)
        yield


class Desk:
    """A publisher, and the test at the other end of its link."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.log = MemoryLog()
        self.reliefs = 0
        self.refusals = 0
        self.failures: list[type[Exception]] = []
        self.publisher = Publisher(self.loop, self._relieve, self._refused, self._fail)
        self.connect()

    def add(self, *entries: Entry) -> None:
        self.publisher.add(entries)

    @property
    def asked(self) -> bool:
        """Whether a call waits to be answered."""
        return self._theirs.poll()

    async def take_call(self) -> bytes:
        """The publication that is asked for, as soon as it is."""
        heard = asyncio.Event()
        self.loop.add_reader(self._theirs.fileno(), heard.set)
        async with asyncio.timeout(DEADLINE):
            await heard.wait()
        self.loop.remove_reader(self._theirs.fileno())
        ident, method, arguments, keywords = self._theirs.recv()
        assert (ident, method, keywords) == ("log", "publish", {})
        (payload,) = arguments
        return bytes(payload)

    async def publish(self) -> list[Entry]:
        """Take the next call, do as it says, and answer; give what was published."""
        payload = await self.take_call()
        self.answer("#RETURN", self.log.publish(payload))
        await turn()
        return decode_entries(payload)

    async def refuse(self, error: Exception) -> list[Entry]:
        """Answer the next call with an error; give what was not published."""
        payload = await self.take_call()
        self.answer("#ERROR", error)
        await turn()
        return decode_entries(payload)

    def answer(self, kind: str, result: object) -> None:
        self._theirs.send((kind, result))

    def published(self) -> list[Entry]:
        """All that is in the log, in order."""
        found: list[Entry] = []
        position = 0
        while records := self.log.read(position, 0):
            found += [entry for record in records for entry in decode_entries(record.payload)]
            position = records[-1].seq
        return found

    def connect(self) -> None:
        """There is a sequencer."""
        ours, self._theirs = multiprocessing.Pipe()
        self.publisher.connect(ManagerLink(ours, "log"))

    def hang_up(self) -> None:
        """The log's process is gone."""
        self._theirs.close()

    def end(self) -> None:
        self.publisher.disconnect()
        self._theirs.close()

    def _relieve(self) -> None:
        self.reliefs += 1

    def _refused(self) -> None:
        self.refusals += 1

    def _fail(self, error: Exception) -> None:
        # Only its type: its traceback leads back here, and what is collected in such a circle is closed out of order.
        self.failures.append(type(error))


@contextmanager
def desk() -> Iterator[Desk]:
    opened = Desk()
    try:
        yield opened
    finally:
        opened.end()


def said(number: int, size: int = 1) -> Said:
    return Said(SID, number, ("x" * size,))


# --- batches ------------------------------------------------------------------------------------------------


@on_loop
async def test_entries_of_one_turn_are_one_publication() -> None:
    with desk() as tested:
        tested.add(said(1), Asked(SID, 2, Quit("")))
        tested.add(said(3))
        assert not tested.asked
        assert await tested.publish() == [said(1), Asked(SID, 2, Quit("")), said(3)]
        assert not tested.asked
        tested.add(Ended(SID, ""))
        assert await tested.publish() == [Ended(SID, "")]
        assert not tested.failures


@on_loop
async def test_entries_added_during_a_publication_go_into_the_next() -> None:
    with desk() as tested:
        tested.add(said(1))
        payload = await tested.take_call()
        tested.add(said(2))
        await turn()
        tested.add(said(3))
        await turn()
        assert not tested.asked
        tested.answer("#RETURN", tested.log.publish(payload))
        assert await tested.publish() == [said(2), said(3)]
        assert not tested.asked
        assert tested.published() == [said(1), said(2), said(3)]


HALF = MOST // 2 - OVERHEAD


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([HALF, HALF, 1], [2, 1]),
        ([HALF, HALF + 1, HALF - 1, 1], [1, 2, 1]),
        ([1, 2 * MOST, 1], [1, 1, 1]),
        ([2 * MOST, 2 * MOST], [1, 1]),
    ],
)
@pytest.mark.parametrize(
    "entry",
    [
        lambda size: Said(SID, 1, ("x" * (size - 1), "y")),
        lambda size: Asked(SID, 1, Act("x" * size)),
        lambda size: Asked(SID, 1, Misread(Problem.UNKNOWN_COMMAND, "y", "x" * (size - 1))),
    ],
)
@on_loop
async def test_a_publication_that_is_too_large_is_split_between_entries(
    entry: Callable[[int], Entry], sizes: list[int], batches: list[int]
) -> None:
    with desk() as tested:
        entries = list(map(entry, sizes))
        tested.add(*entries)
        assert [len(await tested.publish()) for _ in batches] == batches
        assert tested.published() == entries
        assert not tested.asked


# --- a log that is full -------------------------------------------------------------------------------------


@on_loop
async def test_a_publication_rejected_by_a_full_log_is_retried_before_the_next() -> None:
    with desk() as tested:
        tested.add(said(1), said(2))
        assert await tested.refuse(LogFull("full")) == [said(1), said(2)]
        tested.add(said(3))
        assert await tested.refuse(LogFull("full")) == [said(1), said(2)]
        assert tested.refusals == 2
        assert await tested.publish() == [said(1), said(2)]
        assert await tested.publish() == [said(3)]
        assert tested.published() == [said(1), said(2), said(3)]
        assert tested.refusals == 2
        assert not tested.failures


# --- congestion ---------------------------------------------------------------------------------------------


@on_loop
async def test_clients_are_not_read_between_congestion_and_relief() -> None:
    with desk() as tested:
        block = [said(number, MOST - OVERHEAD) for number in range(5)]
        tested.add(*block[:4])
        assert not tested.publisher.congested
        tested.add(block[4])
        assert tested.publisher.congested
        # What is under way does not wait: three do when the first is answered, then two, then one.
        for _ in range(3):
            await tested.publish()
            assert (tested.publisher.congested, tested.reliefs) == (True, 0)
        await tested.publish()
        assert (tested.publisher.congested, tested.reliefs) == (False, 1)
        await tested.publish()
        tested.add(said(9))
        await tested.publish()
        assert tested.reliefs == 1
        assert tested.published() == [*block, said(9)]


# --- what has come back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answered_first", [True, False])
@on_loop
async def test_applied_needs_both_the_answer_and_the_entries(answered_first: bool) -> None:
    with desk() as tested:
        passed: list[str] = []
        tested.add(said(1), said(2))
        tested.publisher.call_when_applied(lambda: passed.append("both"))
        # Others have published before.
        last = [tested.log.publish(payload) for payload in (b"", b"", await tested.take_call())][-1]
        for step in ("answer", "apply") if answered_first else ("apply", "answer"):
            assert not passed
            if step == "answer":
                tested.answer("#RETURN", last)
                await turn()
            else:
                tested.publisher.applied(last - 1)
                assert not passed
                tested.publisher.applied(last)
        assert passed == ["both"]


@on_loop
async def test_with_nothing_pending_the_callback_runs_at_once() -> None:
    with desk() as tested:
        passed: list[str] = []
        tested.publisher.call_when_applied(lambda: passed.append("nothing was added"))
        assert passed == ["nothing was added"]
        tested.add(said(1))
        await tested.publish()
        tested.publisher.applied(1)
        tested.publisher.call_when_applied(lambda: passed.append("all has come back"))
        assert passed[1:] == ["all has come back"]


@on_loop
async def test_each_callback_waits_only_for_entries_added_before_it() -> None:
    with desk() as tested:
        passed: list[int] = []
        for number in (1, 2, 3):
            tested.add(said(number, MOST))  # each a publication of its own
            tested.publisher.call_when_applied(functools.partial(passed.append, number))
        for number in (1, 2, 3):
            await tested.publish()
            assert passed == list(range(1, number))
            tested.publisher.applied(number)
            assert passed == list(range(1, number + 1))


@on_loop
async def test_a_callback_may_add_entries_and_callbacks() -> None:
    with desk() as tested:
        passed: list[str] = []

        def go_on() -> None:
            passed.append("first")
            tested.add(said(2))
            tested.publisher.call_when_applied(lambda: passed.append("second"))

        tested.add(said(1))
        tested.publisher.call_when_applied(go_on)
        await tested.publish()
        tested.publisher.applied(1)
        assert passed == ["first"]
        await tested.publish()
        tested.publisher.applied(2)
        assert passed == ["first", "second"]


# --- a log that is lost -------------------------------------------------------------------------------------


async def lose_when_idle(tested: Desk) -> None:
    tested.hang_up()


async def lose_with_more_to_publish(tested: Desk) -> None:
    tested.hang_up()
    tested.add(said(1))


async def lose_under_way(tested: Desk) -> None:
    tested.add(said(1))
    await tested.take_call()
    tested.add(said(2))
    tested.hang_up()


async def lose_before_the_retry(tested: Desk) -> None:
    tested.add(said(1))
    await tested.refuse(LogFull("full"))
    tested.hang_up()


@pytest.mark.parametrize("lose", [lose_when_idle, lose_with_more_to_publish, lose_under_way, lose_before_the_retry])
@on_loop
async def test_a_lost_log_is_reported_once(lose: Callable[[Desk], Coroutine[None, None, None]]) -> None:
    with desk() as tested:
        await lose(tested)
        await turn()
        tested.add(said(3))
        # Longer than a retry takes.
        await asyncio.sleep(10 * publisher.RETRY)
        assert tested.failures == [LogLost]


@on_loop
async def test_a_failing_log_is_reported_too() -> None:
    with desk() as tested:
        tested.add(said(1))
        await tested.refuse(LogError("what it never says"))
        assert tested.failures == [LogError]


# --- the pace -----------------------------------------------------------------------------------------------


@on_loop
async def test_the_first_publication_goes_at_once_and_the_next_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "PUBLISH_EVERY", 3600.0)
    with desk() as tested:
        tested.add(said(0))
        assert await tested.publish() == [said(0)]
        tested.add(said(1))
        await turn()
        tested.add(said(2))
        await turn()
        assert not tested.asked
        # A sequencer that is new need not be spared.
        monkeypatch.setattr(publisher, "PUBLISH_EVERY", 0.0)
        tested.hang_up()
        tested.publisher.disconnect()
        tested.connect()
        assert await tested.publish() == [said(1), said(2)]


@on_loop
async def test_waiting_entries_are_published_after_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "PUBLISH_EVERY", 0.02)
    with desk() as tested:
        tested.add(said(0))
        assert await tested.publish() == [said(0)]
        tested.add(said(1))
        tested.add(said(2))
        assert await tested.publish() == [said(1), said(2)]


@on_loop
async def test_many_waiting_entries_are_published_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "PUBLISH_EVERY", 3600.0)
    monkeypatch.setattr(publisher, "PUBLISH_SOON", 5 * OVERHEAD)
    with desk() as tested:
        tested.add(said(0))
        assert await tested.publish() == [said(0)]
        tested.add(said(1))
        await turn()
        assert not tested.asked
        tested.add(*(said(number) for number in range(2, 6)))
        assert await tested.publish() == [said(number) for number in range(1, 6)]


# --- the next sequencer -------------------------------------------------------------------------------------


@on_loop
async def test_an_unanswered_publication_is_repeated_before_the_next() -> None:
    with desk() as tested:
        tested.add(said(0), said(1))
        await tested.take_call()
        tested.add(said(2))
        tested.hang_up()
        await turn()
        assert tested.failures == [LogLost]
        tested.add(said(3))
        tested.connect()
        assert await tested.publish() == [said(0), said(1)]
        assert await tested.publish() == [said(2), said(3)]
        assert tested.published() == [said(number) for number in range(4)]
        assert not tested.asked


@on_loop
async def test_entries_wait_for_the_next_sequencer() -> None:
    with desk() as tested:
        tested.hang_up()
        await turn()
        tested.add(said(0))
        await turn()
        tested.connect()
        assert await tested.publish() == [said(0)]


@on_loop
async def test_a_rejected_publication_is_sent_once_to_the_next_sequencer() -> None:
    """And not again by the timer that was to ask the last one."""
    with desk() as tested:
        tested.add(said(0))
        await tested.refuse(LogFull("full"))
        tested.hang_up()
        tested.publisher.disconnect()
        tested.connect()
        assert await tested.publish() == [said(0)]
        await asyncio.sleep(5 * publisher.RETRY)
        assert not tested.asked
        assert tested.published() == [said(0)]


# --- whatever happens ---------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.sampled_from([1, 300, MOST]), max_size=4)),
        st.tuples(st.sampled_from(["publish", "refuse", "turn"]), st.just([])),
    ),
    max_size=30,
)


@given(STEPS)
@settings(max_examples=50)
def test_nothing_is_lost_doubled_or_swapped(steps: list[tuple[str, list[int]]]) -> None:
    with asyncio.Runner() as runner:
        runner.run(walk(steps))


async def walk(steps: list[tuple[str, list[int]]]) -> None:
    added: list[Entry] = []
    waiting = 0
    with desk() as tested:

        async def publish() -> None:
            nonlocal waiting
            batch = await tested.publish()
            assert len(batch) == 1 or sum(map(size_of, batch)) <= MOST
            waiting -= len(batch)

        for kind, sizes in steps:
            if kind == "add":
                new = [said(len(added) + number, size) for number, size in enumerate(sizes)]
                added += new
                waiting += len(new)
                tested.add(*new)
            elif kind == "turn":
                await turn()
            elif waiting and kind == "refuse":
                await tested.refuse(LogFull("full"))
            elif waiting:
                await publish()
        while waiting:
            await publish()
        assert not tested.asked
        assert not tested.publisher.congested
        assert tested.published() == added
        assert not tested.failures


def size_of(entry: Entry) -> int:
    assert isinstance(entry, Said)
    return OVERHEAD + len(entry.texts[0])
