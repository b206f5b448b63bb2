"""What can be wrong with what clients receive, and how often it was."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 10  # of each kind of fault are kept and printed


class Kind(enum.Enum):
    """What can be wrong with a run."""

    LOST = "lost"
    DOUBLED = "doubled"
    REORDERED = "out of order for its sender"
    DISAGREED = "different order at two receivers"
    TORN = "torn"
    MISDELIVERED = "misdelivered"
    DISCONNECTED = "disconnected"
    STUCK = "not finished in time"
    SERVER = "server's own conduct"


@dataclass(slots=True)
class Faults:
    """How often each kind occurred, with the first EXAMPLES of each in words."""

    counts: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[str]] = field(default_factory=dict)

    def add(self, kind: Kind, *examples: str, count: int = 1) -> None:
        """Count `count` faults of a kind; what is beyond EXAMPLES is counted only."""
        self.counts[kind] += count
        kept = self.examples.setdefault(kind, [])
        kept.extend(examples[: EXAMPLES - len(kept)])

    def merge(self, other: Faults) -> None:
        """Take over all that another process found."""
        for kind, count in other.counts.items():
            self.add(kind, *other.examples[kind], count=count)

    def report(self) -> dict[str, Any]:
        """As it is written to a file."""
        return {k.name.lower(): {"count": n, "examples": self.examples[k]} for k, n in self.counts.items()}
