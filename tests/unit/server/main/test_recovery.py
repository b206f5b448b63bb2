"""When the sequencer is restarted, and when it counts as hung."""

from __future__ import annotations

from mpchat.server.main.recovery import Pulse, Restarts


def test_a_sequencer_that_fails_is_started_after_pauses_that_grow() -> None:
    restarts = Restarts(settled=5.0, least=0.5, most=3.0, tries=4)
    pauses = []
    for number in range(6):
        assert restarts.hopeless == (number >= 4)
        restarts.failed(10.0 * number)
        pauses.append(restarts.not_before - 10.0 * number)
    assert pauses == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_sequencer_that_failed_soon_keeps_the_count() -> None:
    restarts = Restarts(settled=5.0, least=0.5, tries=3)
    for now in (0.0, 5.0, 10.0):
        restarts.came_up(now)
        restarts.failed(now + 4.9)
    assert restarts.hopeless


def test_a_sequencer_that_never_came_up_does_not_reset_the_count() -> None:
    """Though the last one that came up did so long ago."""
    restarts = Restarts(settled=5.0, least=0.5, tries=3)
    restarts.came_up(0.0)
    for now in (100.0, 200.0, 300.0):
        restarts.failed(now)
    assert restarts.hopeless


def test_a_sequencer_that_had_settled_or_was_killed_is_restarted_at_once() -> None:
    restarts = Restarts(settled=5.0, least=0.5, tries=2)
    for round_ in range(10):
        restarts.came_up(10.0 * round_)
        restarts.failed(10.0 * round_ + 5.0)
        assert restarts.not_before == 10.0 * round_ + 5.0
    for round_ in range(10):
        restarts.came_up(200.0 + round_)
        restarts.was_killed()
        assert restarts.not_before < 200.0
    assert not restarts.hopeless


def test_a_kill_after_coming_up_resets_the_count() -> None:
    restarts = Restarts(settled=5.0, least=0.5, tries=3)
    for round_ in range(10):
        now = 100.0 * round_
        restarts.failed(now)
        assert restarts.not_before == now
        restarts.failed(now)
        restarts.came_up(now + 1.0)
        restarts.was_killed()
    assert not restarts.hopeless


def test_a_pulse_repeats_and_is_missed_without_an_answer() -> None:
    pulse = Pulse(patience=4.0)
    pulse.woke(0.0)
    assert pulse.is_due(0.0) and not pulse.is_missed(0.0)
    pulse.asked(0.0)
    assert not pulse.is_due(3.0)
    assert pulse.deadline() == 4.0
    pulse.answered(0.5)
    assert not pulse.is_due(1.0) and pulse.is_due(1.5)
    assert pulse.deadline() == 1.5
    pulse.woke(1.5)
    pulse.asked(1.5)
    for now in (2.5, 3.5, 4.5, 5.4):
        pulse.woke(now)
        assert not pulse.is_missed(now)
    pulse.woke(5.5)
    assert pulse.is_missed(5.5)


def test_a_changed_timeout_also_holds_for_the_pending_ping() -> None:
    pulse = Pulse(patience=600.0)
    pulse.woke(0.0)
    pulse.asked(0.0)
    pulse.change(2.0)
    pulse.woke(1.0)
    assert not pulse.is_missed(1.9)
    pulse.woke(2.0)
    assert pulse.is_missed(2.0)


def test_no_pulse_counts_as_missed_while_main_did_not_run() -> None:
    pulse = Pulse(patience=4.0)
    pulse.woke(0.0)
    pulse.asked(0.0)
    pulse.woke(60.0)
    assert not pulse.is_missed(60.0)
    for now in (61.0, 62.0, 63.0, 64.0):
        pulse.woke(now)
    assert pulse.is_missed(64.0)
