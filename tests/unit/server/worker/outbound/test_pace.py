"""The pace: what has come is flushed at once, and then a worker rests for a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from test_fanout import Office

from mpchat.server.worker.outbound import pace
from mpchat.server.worker.outbound.pace import Pace, choose_rest
from mpchat.server.worker.outbound.reader import FLUSH_SOON

SECONDS = st.floats(0, 10)


@given(SECONDS)
def test_a_rest_is_bounded(took: float) -> None:
    assert 0 <= choose_rest(took) <= pace.REST_MOST


@given(SECONDS)
def test_fan_out_never_takes_more_than_half_of_a_workers_time(took: float) -> None:
    assert choose_rest(took) >= min(took, pace.REST_MOST)


def test_a_flush_is_followed_by_a_rest() -> None:
    office = Office()
    _, bob = office.enter("alice", "bob")
    noticed: list[int] = []
    paced = Pace(office.fanout, lambda sinks: noticed.append(len(list(sinks))))
    assert paced.flush() == 0, "nothing has come"
    office.says("alice", "hello")
    assert paced.flush() > 0
    assert bob.take() == "alice: hello\n"
    assert noticed == [0, 1]


def test_there_is_no_rest_after_a_large_read() -> None:
    office = Office()
    office.enter("alice", "bob")
    office.says("alice", *["x" * 1000] * (FLUSH_SOON // 1000 + 1))
    assert Pace(office.fanout, lambda sinks: None).flush() == 0
