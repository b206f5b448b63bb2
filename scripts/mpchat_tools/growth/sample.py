"""What one run of growth.py gave. PURE."""

from __future__ import annotations

from dataclasses import dataclass, field

from mpchat_tools.common.meter import Disturbance

Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of one row in one round. `wrong`: what was lost, or else not as it must be."""

    figures: Figures
    disturbance: Disturbance
    wrong: list[str] = field(default_factory=list)
