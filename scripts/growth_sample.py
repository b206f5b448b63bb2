"""What one run of growth.py gave, and what others did to the machine meanwhile. Owns no process and no file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmark_meter import foreign_share, read_stat, stolen_share

Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Disturbance:
    """The part of the machine's time that others had; None where it is not told."""

    stolen: float | None
    foreign: float | None


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of one row in one round. `wrong`: what was lost, or else not as it must be."""

    figures: Figures
    disturbance: Disturbance
    wrong: list[str] = field(default_factory=list)


class Watch:
    """Looks at the machine from its making until `read`. `own_s`: CPU seconds that all that is ours has had so far."""

    def __init__(self, own_s: Callable[[], float]) -> None:
        self._own_s = own_s
        self._own_before, self._stat = own_s(), read_stat()

    def read(self) -> Disturbance:
        now, own_s = read_stat(), self._own_s() - self._own_before
        return Disturbance(stolen_share(self._stat, now), foreign_share(self._stat, now, own_s))
