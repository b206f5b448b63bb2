"""With the history full, no worker is away from its clients for long while it adopts others and makes snapshots.

That each step is bounded in what it does is tested where the steps are; here is the one measurement of all together.
"""

from __future__ import annotations

import pytest
from mpchat_tools.growth import stalls

BOUND = 0.2
"""Seconds of CPU, which other processes on the machine lengthen little. The least --beat-timeout is 0.5, and a worker
has two beats to lose."""

TRIES = 3
"""Little is not nothing; a worker that is away by itself is so each time."""


@pytest.mark.slow
def test_no_worker_is_away_for_long() -> None:
    longest = []
    for _ in range(TRIES):
        result = stalls.measure("short", 100)
        spans = [result.phases[phase] for phase in ("snapshot", "adoption", "both")]
        stalls_within = [stall for stall in result.worker if any(start <= stall.at < end for start, end in spans)]
        longest.append(max(stall.cpu for stall in stalls_within))
        if longest[-1] < BOUND:
            break
    assert min(longest) < BOUND
