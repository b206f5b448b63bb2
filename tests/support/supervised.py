"""A supervision whose workers all serve, and the policy that the tests of it share."""

from __future__ import annotations

from mpchat.server.main.workers.supervision import (
    Action,
    Policy,
    Start,
    Supervision,
)

POLICY = Policy(beat_timeout=4.0, boot_timeout=30.0, settled=5.0, pause_least=0.5, pause_most=3.0, boots=3)
LATE = "is not ready in time"
SILENT = "does not answer"


def serving(workers: int, now: float = 0.0) -> Supervision:
    """So many workers, all started and ready at `now`."""
    supervision = Supervision(workers, POLICY)
    assert supervision.plan(now) == [Start(number) for number in range(workers)]
    for number in range(workers):
        supervision.ready(number, now)
    return supervision


def fail_boot(supervision: Supervision, number: int, now: float) -> Action:
    """The worker of this slot ends; give what is planned when the longest pause is over."""
    supervision.ended(number, now)
    [action] = supervision.plan(now + POLICY.pause_most)
    return action
