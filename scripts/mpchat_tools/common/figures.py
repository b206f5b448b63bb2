"""Figures of several rounds, and the tables that people read.

Promises that each figure is the median over the rounds, with the least and the most beside those that matter most.
Tables are laid out by rich (the extra `tools`); without it, the same cells stand two spaces apart.
"""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}
STOLEN_MUCH = 0.03
FOREIGN_MUCH = 0.1

Run = TypeVar("Run")


def quantile(ordered: Sequence[int], part: float) -> float | None:
    """The nearest-rank quantile of ns, in ms."""
    return ordered[math.ceil(len(ordered) * part) - 1] / 1e6 if ordered else None


@dataclass(frozen=True, slots=True)
class Figure:
    """A median with its range."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Figure | None:
        """None when nothing is known."""
        known = [value for value in values if value is not None]
        return cls(statistics.median(known), min(known), max(known)) if known else None


@dataclass(frozen=True)
class Column(Generic[Run]):
    """A figure of a run: its heading, its value and its form. `ranged`: least and most are shown."""

    heading: str
    value: Callable[[Run], float | None]
    form: str = ",.0f"
    ranged: bool = False

    def figure(self, runs: Sequence[Run]) -> Figure | None:
        return Figure.of([self.value(run) for run in runs])

    def headings(self) -> list[str]:
        return [self.heading, "(range)"] if self.ranged else [self.heading]

    def cells(self, runs: Sequence[Run], unknown: str = "") -> list[str]:
        """Under the headings, of one row."""
        figure = self.figure(runs)
        cells = [unknown if figure is None else f"{figure.median:{self.form}}"]
        if self.ranged:
            cells.append("" if figure is None else f"({figure.least:{self.form}} to {figure.most:{self.form}})")
        return cells


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first row has the headings."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return ["  " + "  ".join(row) for row in rows]
    heading, *others = rows
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, cell in enumerate(heading):
        table.add_column(cell, justify="right" if number else "left", no_wrap=True)
    for row in others:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=10_000, color_system=None, highlight=False, markup=False, emoji=False).print(table)
    return ["  " + line.rstrip() for line in out.getvalue().splitlines()]


def format_pairs(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each: what it is, and what it says."""
    return [f"{name:<16}{value}" for name, value in pairs]
