"""The pace: for how long a worker rests after a flush, and waits for more than a single message."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_fanout import Office, Tape

from mpchat.server.worker import pace
from mpchat.server.worker.pace import Pace, choose_rest
from mpchat.server.worker.reader import FLUSH_SOON, Rest

SECONDS = st.floats(0, 10)
FILLS = st.floats(1, 1000)


@given(SECONDS, FILLS)
def test_a_rest_is_bounded(took: float, fill: float) -> None:
    silent, alone = choose_rest(took, fill)
    assert 0 <= silent <= pace.REST_MOST
    assert 0 <= alone <= pace.ALONE_MOST


@given(SECONDS, FILLS)
def test_fan_out_never_takes_more_than_half_of_a_workers_time(took: float, fill: float) -> None:
    assert choose_rest(took, fill).silent >= min(took, pace.REST_MOST)


@given(SECONDS)
def test_who_has_flushed_single_messages_puts_the_next_off(took: float) -> None:
    """By more than the flush took if that is little, and never by more than nobody notices."""
    silent, alone = choose_rest(took, 1.0)
    assert silent + alone == pytest.approx(max(silent, min(pace.ALONE * took, pace.ALONE_MOST)))


@given(SECONDS, st.floats(pace.COMPANY, 1000))
def test_who_has_flushed_several_together_reads_what_comes_next(took: float, fill: float) -> None:
    assert choose_rest(took, fill).alone == 0.0


def test_what_has_come_is_flushed_and_followed_by_a_rest() -> None:
    office = Office()
    _, bob = office.enter("alice", "bob")
    noticed: list[int] = []
    paced = Pace(office.fanout, lambda sinks: noticed.append(len(list(sinks))))
    assert paced.flush() == Rest(), "nothing has come"
    office.says("alice", "hello")
    assert paced.flush() > Rest()
    assert bob.take() == "alice: hello\n"
    assert noticed == [0, 1]


def flush_singles(paced: Pace[Tape], office: Office, count: int) -> list[bool]:
    """Which of so many flushes of single messages want the next one to wait for company."""
    waits = []
    for _ in range(count):
        office.says("alice", "hello")
        waits.append(paced.flush().alone > 0)
    return waits


def test_where_no_company_comes_it_is_waited_for_more_and_more_rarely() -> None:
    office = Office()
    office.enter("alice", "bob")
    waits = flush_singles(Pace(office.fanout, lambda sinks: None), office, 1000)
    tries = [number for number, wait in enumerate(waits) if wait]
    skips = [after - before - 1 for before, after in pairwise(tries)]
    assert tries[0] == 0
    assert skips[:6] == [1, 2, 4, 8, 16, 32]
    assert set(skips[6:]) == {pace.SKIP_MOST}


def test_where_company_comes_it_is_waited_for_each_time() -> None:
    office = Office()
    office.enter("alice", "bob")
    paced = Pace(office.fanout, lambda sinks: None)
    flush_singles(paced, office, 100)
    for _ in range(10):
        office.says("alice", "one", "two")
        assert paced.flush().alone == 0
        assert flush_singles(paced, office, 1) == [True]


def test_there_is_no_rest_when_so_much_came_that_there_must_be_more() -> None:
    office = Office()
    office.enter("alice", "bob")
    office.says("alice", *["x" * 1000] * (FLUSH_SOON // 1000 + 1))
    assert Pace(office.fanout, lambda sinks: None).flush() == Rest()
