"""Deadlines that are all equally far away: each expires once and in time, with one timer for all of them."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from simulated import Clock, Loop

from mpchat.server.worker.deadlines import Deadlines

SECONDS = 10.0


class Office:
    """Deadlines, the played loop that they are on, and the keys that have expired, with the time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock)
        self.expired: list[tuple[int, float]] = []
        self.deadlines: Deadlines[int] = Deadlines(cast(Any, self.loop), SECONDS, self._expire)

    def _expire(self, key: int) -> None:
        self.expired.append((key, self.clock.now))

    def go_to(self, time: float) -> None:
        """Let time pass; the loop wakes up whenever a timer is due."""
        while (due := min((timer.when for timer in self.loop._timers), default=time)) < time:
            self.clock.now = due
            self.loop.run_timers()
        self.clock.now = time
        self.loop.run_timers()


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans())))
def test_each_key_expires_once_and_in_time_unless_it_is_discarded(steps: list[tuple[float, bool]]) -> None:
    office = Office()
    expected: list[tuple[int, float]] = []
    for key, (pause, discarded) in enumerate(steps):
        office.go_to(office.clock.now + pause)
        office.deadlines.add(key)
        assert len(office.loop._timers) == 1
        if discarded:
            office.deadlines.discard(key)
        else:
            expected.append((key, office.clock.now + SECONDS))
    office.go_to(office.clock.now + 2 * SECONDS)
    assert office.expired == expected
    assert not office.loop._timers


def test_a_key_that_is_discarded_by_another_ones_end_does_not_expire() -> None:
    office = Office()
    ended: list[int] = []

    def expire(key: int) -> None:
        ended.append(key)
        office.deadlines.discard(1 - key)

    office.deadlines = Deadlines(cast(Any, office.loop), SECONDS, expire)
    office.deadlines.add(0)
    office.deadlines.add(1)
    office.go_to(SECONDS)
    assert ended == [0]
    office.deadlines.add(2)
    office.go_to(2 * SECONDS)
    assert ended == [0, 2]


def test_discarding_a_key_that_does_not_wait_is_harmless() -> None:
    office = Office()
    office.deadlines.discard(7)
    office.deadlines.add(7)
    office.go_to(SECONDS)
    office.deadlines.discard(7)
    assert [key for key, _ in office.expired] == [7]
