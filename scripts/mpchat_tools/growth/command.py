"""growth.py: measure what a delivery costs with more workers, members, rooms, idle clients and bytes.

Owns the command line and the order of the runs: in each round, each row of each series once (and each server, if there
are several), always with a fresh server. `series` says what is measured, `talk`, `sequencer`, `parts` and `archive` do
it, `report` prints one table a series, `capacity` what follows for other machines when all series were run. The load
and its check are the benchmark's.

Exit status: 0 nothing was lost, 1 something was (or doubled, or out of order, or a run failed), and those of all tools.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpchat_tools.bench.run import Terms
from mpchat_tools.bench.workload import RUN_DIGITS
from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.limits import raise_file_limit
from mpchat_tools.common.meter import Disturbance
from mpchat_tools.common.options import add_json, add_versions, check_files, conclude, some_of, write_json
from mpchat_tools.growth.archive import measure_archive
from mpchat_tools.growth.capacity import find_costs, format_capacity
from mpchat_tools.growth.parts import measure_part
from mpchat_tools.growth.report import NOTES, format_series
from mpchat_tools.growth.sample import Sample
from mpchat_tools.growth.sequencer import measure_sequencer
from mpchat_tools.growth.series import SERIES, Archiving, Case, Part, Quiet, Sequencing, Start, Talk
from mpchat_tools.growth.talk import measure_quiet, measure_start, measure_talk, with_mark

SPARE_FILES = 200  # of main, in addition to two for each client during a hand-off
Servers = dict[str, list[str]]
"""The commands that start what is measured, by name; the name of the first is empty."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that failed."""

    series: str
    row: str
    reason: str


@dataclass(slots=True)
class Book:
    """The samples by series and row, and the runs that failed."""

    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def add(self, series: str, row: str, sample: Sample) -> None:
        self.samples.setdefault(series, {}).setdefault(row, []).append(sample)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure how mpchat grows.")
    parser.add_argument(
        "--only",
        type=some_of(SERIES),
        default=list(SERIES),
        metavar="SERIES",
        help=f"any of {', '.join(SERIES)}; default: all",
    )
    add_versions(parser)
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the tool; not a measurement")
    parser.add_argument(
        "--with", type=Path, metavar="FILE", dest="earlier", help="add the runs of an earlier --json file to the report"
    )
    add_json(parser, "the figures of all runs")
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    options = parser.parse_args(arguments)
    check_files(parser, options.json)
    return options


def choose_cases(options: argparse.Namespace) -> list[Case]:
    return [case for name, cases in SERIES.items() if name in options.only for case in cases(options.quick)]


def needs_server(case: Case) -> bool:
    return not isinstance(case.what, Sequencing | Part)


# --- the runs


def run_all(cases: Sequence[Case], servers: Servers, rounds: int, book: Book) -> None:
    for number in range(1, rounds + 1):
        for case in cases:
            for name, command in list(servers.items())[: None if needs_server(case) else 1]:
                row = f"{case.row}, {name}" if name else case.row
                print(f"round {number}/{rounds}  {case.series:<11} {row:<18}", end=" ", file=sys.stderr, flush=True)
                print(attempt(case, row, command, book), file=sys.stderr, flush=True)


def attempt(case: Case, row: str, command: Sequence[str], book: Book) -> str:
    """Do one run, note it in the book, and return a word about it."""
    try:
        sample = measure(case, command)
    except ToolError as error:
        book.failures.append(Failure(case.series, row, str(error)))
        return f"FAILED: {error}"
    book.add(case.series, row, sample)
    return ", ".join(sample.wrong) or "done"


def measure(case: Case, command: Sequence[str]) -> Sample:
    match case.what:
        case Talk() as talk:
            return measure_talk(command, with_mark(talk, secrets.token_hex(RUN_DIGITS // 2).encode()), Terms())
        case Start() as start:
            return measure_start(command, start)
        case Quiet() as quiet:
            return measure_quiet(command, quiet)
        case Sequencing() as task:
            return measure_sequencer(task)
        case Part() as part:
            return measure_part(part)
        case Archiving() as archiving:
            return measure_archive(command, archiving)


# --- the report


def format_report(book: Book) -> str:
    parts = [format_machine()]
    parts += [format_series(name, rows) for name, rows in book.samples.items()]
    if costs := find_costs(book.samples):
        parts.append(format_capacity(costs, book.samples))
    parts += [f"FAILED: {each.series}, {each.row}: {each.reason}" for each in book.failures]
    return "\n\n".join([*parts, NOTES])


def format_machine() -> str:
    """Return what the figures depend on, without anything that identifies the machine."""
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"on {os.cpu_count()} cores: {system}, CPython {platform.python_version()}"


def make_report(options: argparse.Namespace, book: Book) -> dict[str, Any]:
    """The figures of all runs, as --json writes them."""
    samples = {
        series: {row: [dataclasses.asdict(sample) for sample in found] for row, found in rows.items()}
        for series, rows in book.samples.items()
    }
    failures = [dataclasses.asdict(each) for each in book.failures]
    return {"rounds": options.rounds, "quick": options.quick, "series": samples, "failures": failures}


def load_samples(file: Path, book: Book) -> None:
    """Take what `make_report` gave. Raises ToolError."""
    try:
        for series, rows in json.loads(file.read_text())["series"].items():
            for row, found in rows.items():
                for each in found:
                    book.add(series, row, Sample(each["figures"], Disturbance(**each["disturbance"]), each["wrong"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ToolError(f"{file} has no runs of growth.py: {error!r}") from error


def judge(book: Book) -> int:
    """The exit status."""
    samples = [sample for rows in book.samples.values() for found in rows.values() for sample in found]
    if not samples:
        return 3
    return int(bool(book.failures) or any(sample.wrong for sample in samples))


def run(options: argparse.Namespace) -> int:
    book, cases = Book(), choose_cases(options)
    if options.earlier:
        load_samples(options.earlier, book)
    raise_file_limit(SPARE_FILES + max(case.what.clients for case in cases))
    run_all(cases, {"": shlex.split(options.command)} | dict(options.also), options.rounds, book)
    print(format_report(book))
    write_json(options.json, make_report(options, book))
    return judge(book)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    return conclude("growth", lambda: run(options))
