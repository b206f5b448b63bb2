"""When clients are told of an outage: after a while, once, and as soon as they can be told."""

from __future__ import annotations

from typing import Any, cast

from simulated import Clock, Loop

from mpchat.server.worker.outage import TELL_AFTER, TRY_AGAIN, Outage


class Told:
    """Counts what it is asked to tell."""

    def __init__(self) -> None:
        self.count = 0
        self.able = True
        self._clock = Clock()
        self._loop = Loop(self._clock)
        self.outage = Outage(cast(Any, self._loop), self._tell)

    def _tell(self) -> bool:
        self.count += self.able
        return self.able

    def after(self, seconds: float) -> int:
        self._clock.now += seconds
        self._loop.run_timers()
        return self.count


def test_clients_are_told_once_an_outage_even_if_the_log_is_lost_again() -> None:
    told = Told()
    told.outage.begin()
    assert told.after(TELL_AFTER / 2) == 0
    told.outage.begin()
    assert told.after(TELL_AFTER / 2) == 1
    assert told.outage.told
    told.outage.begin()
    assert told.after(2 * TELL_AFTER) == 1


def test_an_outage_that_is_over_is_not_announced() -> None:
    told = Told()
    told.outage.begin()
    told.after(TELL_AFTER / 2)
    told.outage.end()
    assert told.after(TELL_AFTER) == 0
    told.outage.begin()
    assert told.after(TELL_AFTER / 2) == 0
    assert told.after(TELL_AFTER / 2) == 1
    told.outage.end()
    assert not told.outage.told


def test_a_notice_that_cannot_be_sent_is_retried() -> None:
    told = Told()
    told.able = False
    told.outage.begin()
    assert told.after(TELL_AFTER) == 0
    assert not told.outage.told
    told.able = True
    assert told.after(TRY_AGAIN) == 1
