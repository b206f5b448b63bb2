"""Which ended workers are started again, after which pause, and when the server gives up."""

from __future__ import annotations

import pytest
from supervised import LATE, POLICY, fail_boot, serving

from mpchat.server.main.workers.supervision import (
    GiveUp,
    KeepStale,
    Kill,
    Start,
    Supervision,
)

# --- pauses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("served", "pause"), [(5.0, 0.0), (4.9, 0.5), (0.0, 0.5)])
def test_a_worker_that_served_for_a_while_is_replaced_at_once_another_after_a_pause(
    served: float, pause: float
) -> None:
    supervision = serving(1)
    supervision.ended(0, served)
    assert supervision.deadline() == served + pause
    assert supervision.plan(served + pause) == [Start(0)]


def test_the_pause_doubles_up_to_a_limit_and_is_reset_by_a_worker_that_serves() -> None:
    supervision = serving(1)
    now, pauses = 0.0, []
    for _ in range(5):
        supervision.ended(0, now)
        pauses.append(supervision.deadline() - now)
        now = supervision.deadline()
        supervision.plan(now)
        supervision.ready(0, now)
    assert pauses == [0.5, 1.0, 2.0, 3.0, 3.0]
    supervision.ended(0, now + 5.0)
    assert supervision.plan(now + 5.0) == [Start(0)]
    supervision.ended(0, now + 5.0)
    assert supervision.deadline() == now + 5.5


@pytest.mark.parametrize("served", [0.0, 4.9, 5.0])
def test_a_worker_killed_from_outside_is_replaced_after_the_least_pause(served: float) -> None:
    supervision = serving(1)
    now = 0.0
    for _ in range(5):
        now += served
        supervision.ended(0, now, killed=True)
        assert supervision.deadline() == now + POLICY.pause_least
        now = supervision.deadline()
        assert supervision.plan(now) == [Start(0)]
        supervision.ready(0, now)


def test_kills_from_outside_before_a_worker_is_ready_are_no_boot_loop() -> None:
    supervision = Supervision(1, POLICY)
    now = 0.0
    for _ in range(3 * POLICY.boots):
        assert supervision.plan(now) == [Start(0)]
        supervision.ended(0, now, killed=True)
        now += POLICY.pause_least


def test_a_worker_that_main_had_to_kill_has_failed() -> None:
    supervision = Supervision(1, POLICY)
    now = 0.0
    for _ in range(POLICY.boots):
        assert supervision.plan(now) == [Start(0)]
        now += POLICY.boot_timeout
        assert supervision.plan(now) == [Kill(0, LATE)]
        supervision.ended(0, now, killed=True)
        now += POLICY.pause_most
    assert isinstance(supervision.plan(now)[0], GiveUp)


def test_the_pause_of_one_slot_is_not_that_of_another() -> None:
    supervision = serving(2)
    supervision.ended(0, 1.0)
    supervision.ended(1, 1.2)
    assert supervision.plan(1.5) == [Start(0)]
    assert supervision.plan(1.6) == []
    assert supervision.plan(1.7) == [Start(1)]


# --- the boot loop ------------------------------------------------------------------------------------------


def test_the_server_gives_up_after_so_many_rounds_without_a_worker() -> None:
    supervision = Supervision(2, POLICY)
    supervision.plan(0.0)
    for now, number in ((1.0, 0), (5.0, 0), (9.0, 1), (13.0, 1), (17.0, 0)):
        assert fail_boot(supervision, number, now) == Start(number)
    assert isinstance(fail_boot(supervision, 1, 21.0), GiveUp)
    assert [type(action) for action in supervision.plan(30.0)] == [GiveUp]


def test_a_worker_that_comes_up_resets_the_count_of_rounds() -> None:
    supervision = Supervision(1, POLICY)
    supervision.plan(0.0)
    for now in (1.0, 5.0):
        assert fail_boot(supervision, 0, now) == Start(0)
    supervision.ready(0, 9.0)
    # It ends after it was ready, which is no failed boot, though its successor has to wait.
    for now in (10.0, 14.0, 18.0):
        assert fail_boot(supervision, 0, now) == Start(0)
    assert isinstance(fail_boot(supervision, 0, 22.0), GiveUp)


def test_a_worker_that_was_killed_for_not_being_ready_counts_as_failed() -> None:
    supervision = Supervision(1, POLICY)
    supervision.plan(0.0)
    for now in (100.0, 200.0):
        assert supervision.plan(now) == [Kill(0, LATE)]
        assert fail_boot(supervision, 0, now) == Start(0)
    assert supervision.plan(300.0) == [Kill(0, LATE)]
    assert isinstance(fail_boot(supervision, 0, 300.0), GiveUp)


def test_a_server_that_serves_never_gives_up() -> None:
    supervision = serving(1)
    supervision.keep_trying()
    for number in range(100):
        assert fail_boot(supervision, 0, 10.0 * number) == Start(0)


def test_no_worker_is_started_while_none_can_come_up() -> None:
    supervision = serving(2)
    supervision.ended(0, 1.0, killed=True)
    assert supervision.plan(2.0, may_start=False) == []
    # Nothing to wake up for but the other one's beat.
    assert supervision.deadline(may_start=False) == 4.0
    assert supervision.deadline() <= 2.0
    assert supervision.plan(2.0) == [Start(0)]


def test_fresh_workers_that_do_not_come_up_leave_the_stale_ones_in_place() -> None:
    supervision = serving(2)
    supervision.keep_trying()
    supervision.renew()
    assert supervision.plan(1.0) == [Start(2)]
    now = 1.0
    for _ in range(POLICY.boots - 1):
        supervision.beat(0, now)
        supervision.beat(1, now)
        assert fail_boot(supervision, 2, now) == Start(2)
        now += POLICY.pause_most
    supervision.beat(0, now)
    supervision.beat(1, now)
    kept = fail_boot(supervision, 2, now)
    assert isinstance(kept, KeepStale)
    assert not supervision.renewing
    assert supervision.all_serving
    # The next try starts to count anew.
    supervision.renew()
    assert supervision.plan(now) == [Start(2)]


def test_the_supervision_rests_when_some_serve_and_a_vacancy_cannot_be_filled() -> None:
    supervision = serving(2)
    assert supervision.resting
    supervision.ended(0, 1.0)
    assert supervision.resting and not supervision.all_serving
    assert supervision.plan(9.0)[0] == Start(0)
    assert not supervision.resting
    supervision.ended(0, 10.0)
    supervision.ended(1, 10.0)
    assert not supervision.resting
