#!/usr/bin/env python3
"""How mpchat grows: what a delivery costs with more workers, members, rooms, idle clients and bytes.

    scripts/growth.py [--only workers,room,...] [--rounds 3] [--json FILE] [--quick]

Owns the command line and the order of the runs: in each round, each row of each series once (and each server, if there
are several), always with a fresh server. growth_series says what is measured, growth_talk, growth_sequencer and
growth_parts do it, growth_report prints one table a series, growth_capacity what follows for other machines when all
series were run. The load and its check are the benchmark's.

Exit status: 0 nothing was lost, 1 something was (or doubled, or out of order, or a run failed), 2 usage, 3 not
possible, 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import secrets
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark import names
from benchmark_run import Terms
from benchmark_workload import RUN_DIGITS
from growth_capacity import find_costs, format_capacity
from growth_parts import measure_part
from growth_report import NOTES, format_series
from growth_sample import Disturbance, Sample
from growth_sequencer import measure_sequencer
from growth_series import SERIES, Case, Part, Quiet, Sequencing, Start, Talk
from growth_talk import measure_quiet, measure_start, measure_talk, with_mark
from stress import positive, raise_file_limit
from stress_server import StressError

SPARE_FILES = 200  # of main, beside two a client while it is handed over
Servers = dict[str, list[str]]
"""The commands that start what is measured, by name; the name of the first is empty."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that gave nothing."""

    series: str
    row: str
    reason: str


@dataclass(slots=True)
class Book:
    """What the runs gave, by series and row, and which of them failed."""

    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def add(self, series: str, row: str, sample: Sample) -> None:
        self.samples.setdefault(series, {}).setdefault(row, []).append(sample)


def also(text: str) -> tuple[str, list[str]]:
    name, _, command = text.partition("=")
    if not name or not command:
        raise ValueError
    return name, shlex.split(command)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure how mpchat grows.")
    own = f"{shlex.quote(sys.executable)} -m mpchat"
    parser.add_argument("--only", type=names, default=list(SERIES), metavar="SERIES", help=f"of {', '.join(SERIES)}")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--quick", action="store_true", help="in sizes that are no measurement")
    parser.add_argument("--command", default=own, help="starts mpchat")
    parser.add_argument("--also", type=also, action="append", default=[], metavar="NAME=COMMAND", help="another mpchat")
    parser.add_argument("--with", type=Path, metavar="FILE", dest="earlier", help="tell of these runs (--json), too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of all runs")
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.only) - set(SERIES)):
        parser.error(f"--only: {', '.join(unknown)}: not one of {', '.join(SERIES)}")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"{options.json.parent} is no directory")
    return options


def choose_cases(options: argparse.Namespace) -> list[Case]:
    return [case for name, cases in SERIES.items() if name in options.only for case in cases(options.quick)]


def needs_server(case: Case) -> bool:
    return not isinstance(case.what, Sequencing | Part)


# --- doing it


def run_all(cases: Sequence[Case], servers: Servers, rounds: int, book: Book) -> None:
    for number in range(1, rounds + 1):
        for case in cases:
            for name, command in list(servers.items())[: None if needs_server(case) else 1]:
                row = f"{case.row}, {name}" if name else case.row
                print(f"round {number}/{rounds}  {case.series:<11} {row:<18}", end=" ", file=sys.stderr, flush=True)
                print(attempt(case, row, command, book), file=sys.stderr, flush=True)


def attempt(case: Case, row: str, command: Sequence[str], book: Book) -> str:
    """One run, noted in the book, and a word about it."""
    try:
        sample = measure(case, command)
    except StressError as error:
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


# --- telling it


def format_report(book: Book) -> str:
    parts = [format_machine()]
    parts += [format_series(name, rows) for name, rows in book.samples.items()]
    if costs := find_costs(book.samples):
        parts.append(format_capacity(costs, book.samples))
    parts += [f"FAILED: {each.series}, {each.row}: {each.reason}" for each in book.failures]
    return "\n\n".join([*parts, NOTES])


def format_machine() -> str:
    """What figures depend on, and nothing that says whose machine it is."""
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"on {os.cpu_count()} cores: {system}, CPython {platform.python_version()}"


def as_json(options: argparse.Namespace, book: Book) -> str:
    samples = {
        series: {row: [dataclasses.asdict(sample) for sample in found] for row, found in rows.items()}
        for series, rows in book.samples.items()
    }
    failures = [dataclasses.asdict(each) for each in book.failures]
    report = {"rounds": options.rounds, "quick": options.quick, "series": samples, "failures": failures}
    return json.dumps(report, indent=1) + "\n"


def load_samples(file: Path, book: Book) -> None:
    """Take what `as_json` has written. Raises StressError."""
    try:
        for series, rows in json.loads(file.read_text())["series"].items():
            for row, found in rows.items():
                for each in found:
                    book.add(series, row, Sample(each["figures"], Disturbance(**each["disturbance"]), each["wrong"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StressError(f"{file} has no runs of growth.py: {error!r}") from error


def judge(book: Book) -> int:
    """The exit status."""
    samples = [sample for rows in book.samples.values() for found in rows.values() for sample in found]
    if not samples:
        return 3
    return int(bool(book.failures) or any(sample.wrong for sample in samples))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    book, cases = Book(), choose_cases(options)
    try:
        if options.earlier:
            load_samples(options.earlier, book)
        raise_file_limit(SPARE_FILES + max(case.what.clients for case in cases))
        run_all(cases, {"": shlex.split(options.command)} | dict(options.also), options.rounds, book)
        print(format_report(book))
        if options.json:
            options.json.write_text(as_json(options, book))
    except (StressError, OSError) as error:
        print(f"growth: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    return judge(book)


if __name__ == "__main__":
    # TERM as Ctrl-C: the servers that we started have sessions of their own and would go on without us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
