"""With the history full, no worker is away from its clients for long while it adopts others and makes snapshots.

That each step is bounded in what it does is tested where the steps are; here is the one measurement of all together.
"""

from __future__ import annotations

import pytest
from mpchat_tools.growth import stalls

BOUND = 0.2
"""Seconds. The least --beat-timeout is 0.5, and a worker has two beats to lose."""

TRIES = 3
"""The machine may be busy with something else; a worker that is away by itself is so each time."""


@pytest.mark.slow
def test_no_worker_is_away_for_long() -> None:
    longest = []
    for _ in range(TRIES):
        result = stalls.measure("short", 100)
        phases = "snapshot", "adoption", "both"
        longest.append(max(result.longest(result.worker, phase).lasted for phase in phases))
        if longest[-1] < BOUND:
            break
    assert min(longest) < BOUND
