"""benchmark.py: compare throughput, latency, CPU, memory and losses of mpchat and other message servers.

Owns the command line and the order of the runs: in each round, each workload runs against each server in turn, always
against a fresh one. `workload` says what is done, `dialects` how each protocol says it, `load` does it, `check` reads
what came of it, `run` measures, `report` prints. Servers: mpchat, ngircd, inspircd, redis and nats if they are
installed, and three of our own: `threads` and `asyncio` are what textbooks have, `blocks` does as little as can be and
so shows what the load generator and the kernel leave room for. With --data, mpchat with a data directory is one more.

Workloads: A at a fixed rate; B a flood of one room; B1 the same, but each sender waits until its last message was
seen; C a flood of many rooms; D signing on; E the memory of idle connections.

Exit status: 0 no fault at mpchat, 1 it lost, doubled or reordered a message or a run failed, and the statuses of all
tools.
"""

from __future__ import annotations

import argparse
import dataclasses
import secrets
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpchat_tools.bench.peers import PEERS, Peer
from mpchat_tools.bench.plot import plot, require_matplotlib
from mpchat_tools.bench.report import NOTES, format_doubts, format_workload
from mpchat_tools.bench.run import Run, Terms, run_once
from mpchat_tools.bench.workload import NUMBER_DIGITS, RUN_DIGITS, SHORTEST, Kind, Workload
from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.limits import raise_file_limit
from mpchat_tools.common.options import (
    add_json,
    add_versions,
    amount,
    check_files,
    conclude,
    names,
    positive,
    some_of,
    write_json,
)

WORKLOADS = ("A", "B", "B1", "C", "D", "E")
OURS = "mpchat"
KEEPING = "mpchat --data"
MEMBERS = 10  # of each of the many rooms of C
SIZE = 64  # bytes of a message


@dataclass(slots=True)
class Book:
    """The runs, and those that failed with the reason."""

    runs: list[Run] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)  # server, workload, reason


# --- the options


def loads(text: str) -> list[float]:
    if not (found := [amount(load) for load in names(text)]):
        raise ValueError
    return found


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare mpchat with other servers that pass messages on.")
    every = ", ".join([OURS, *(peer.name for peer in PEERS)])
    parser.add_argument(
        "--only", type=names, metavar="SERVERS", help=f"any of {every}; default: all that are installed"
    )
    parser.add_argument(
        "--workloads", type=some_of(WORKLOADS), default=list(WORKLOADS), help="any of A,B,B1,C,D,E; default: all"
    )
    add_versions(parser)
    parser.add_argument("--data", action="store_true", help="measure mpchat with a data directory on the disk, too")
    parser.add_argument("--workers", type=positive, default=2, help="workers of mpchat")
    parser.add_argument("--clients", type=positive, help="default: 200 in A, B, B1; 1000 in C; 2000 in D, E")
    parser.add_argument("--senders", type=positive, help="senders in a room; default: 20 in B, B1; all in A, C")
    parser.add_argument("--messages", type=positive, help="messages of each sender; default: 500 in B, B1; 200 in C")
    parser.add_argument("--burst", type=positive, default=0, help="messages per write in B, C; default: all at once")
    parser.add_argument("--size", type=positive, default=SIZE, metavar="BYTES", help="size of a message")
    parser.add_argument("--seconds", type=amount, default=5.0, help="duration of A")
    parser.add_argument(
        "--loads", type=loads, default=[200.0], help="messages/s of A; a list runs A at each load: 50,100,200"
    )
    parser.add_argument("--load-processes", type=positive, default=2, help="processes of the load generator")
    parser.add_argument(
        "--timeout", type=amount, default=60.0, metavar="S", help="for signing on, and again for the talk"
    )
    parser.add_argument(
        "--silence",
        type=amount,
        default=5.0,
        metavar="S",
        help="missing messages count as lost after this long without a byte",
    )
    add_json(parser, "all runs")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot latency against the --loads of A")
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    options = parser.parse_args(arguments)
    known = {OURS, *(peer.name for peer in PEERS), *(name for name, _ in options.also)}
    if unknown := sorted(set(options.only or ()) - known):
        parser.error(f"--only: {', '.join(unknown)}: not one of {', '.join(sorted(known))}")
    if not SHORTEST < options.size <= 400:
        parser.error(f"--size: {SHORTEST + 1} to 400 bytes, which is what an IRC line can carry")
    if options.clients is not None and options.clients < 2 * options.load_processes:
        parser.error("--clients: at least two for each load process")
    if options.messages is not None and options.messages >= 10**NUMBER_DIGITS:
        parser.error(f"--messages: fewer than {10**NUMBER_DIGITS}")
    check_files(parser, options.json, options.plot)
    if options.plot and "A" not in options.workloads:
        parser.error("--plot shows workload A, which is not among --workloads")
    return options


def choose_servers(options: argparse.Namespace) -> list[Peer]:
    """mpchat first: the others are compared with it."""
    ours = [Peer(OURS, "line", command=shlex.split(options.command))]
    if options.data:
        ours.append(replace(ours[0], name=KEEPING, keeps=True))
    everybody = [*ours, *(Peer(name, "line", command=command) for name, command in options.also), *PEERS]
    if options.only is None:
        return [peer for peer in everybody if peer.is_installed()]
    chosen = [peer for peer in everybody if peer.name in options.only or (peer.is_ours and peer.name != OURS)]
    if missing := [peer.name for peer in chosen if not peer.is_installed()]:
        raise ToolError(f"not installed: {', '.join(missing)}")
    return chosen


def choose_workloads(options: argparse.Namespace) -> Iterator[Workload]:
    """In the order of WORKLOADS. D and E are one run with two figures."""
    run = secrets.token_hex(RUN_DIGITS // 2).encode()
    shared = {"size": options.size, "burst": options.burst, "processes": options.load_processes, "run": run}
    chosen = [name for name in WORKLOADS if name in options.workloads]
    clients, messages = options.clients or 200, options.messages or 500
    if "A" in chosen:
        senders = min(options.senders or clients, clients)
        for load in options.loads:
            name = "A" if len(options.loads) == 1 else f"A@{load:g}"
            each = max(1, round(load * options.seconds / senders))
            yield Workload(name, Kind.PACED, clients, senders=senders, messages=each, load=load, **shared)
    for name, kind in (("B", Kind.FLOOD), ("B1", Kind.CONVERSATION)):
        if name in chosen:
            senders = min(options.senders or 20, clients)
            yield Workload(name, kind, clients, senders=senders, messages=messages, **shared)
    if "C" in chosen:
        rooms = max(1, (options.clients or 1000) // MEMBERS)
        members = (options.clients or 1000) // rooms
        senders, messages = min(options.senders or members, members), options.messages or 200
        yield Workload("C", Kind.FLOOD, rooms * members, rooms, senders, messages, **shared)
    if idle := [name for name in chosen if name in "DE"]:
        yield Workload("+".join(idle), Kind.SIGN_ON, options.clients or 2000, **shared)


# --- the runs


def run_all(options: argparse.Namespace, servers: Sequence[Peer], workloads: Sequence[Workload], book: Book) -> None:
    for number in range(1, options.rounds + 1):
        for workload in workloads:
            for server in servers:
                label = f"round {number}/{options.rounds}  {workload.name:<7} {server.name:<9}"
                print(f"{label} {attempt(server, workload, options, book)}", file=sys.stderr, flush=True)


def attempt(server: Peer, workload: Workload, options: argparse.Namespace, book: Book) -> str:
    """Do one run, note it, and return a word about it. A server that failed twice at a workload is skipped."""
    failed = [reason for name, what, reason in book.failures if (name, what) == (server.name, workload.name)]
    if len(failed) > 1:
        return "left out"
    try:
        run = run_once(server, workload, Terms(options.workers, options.timeout, options.silence))
    except ToolError as error:
        book.failures.append((server.name, workload.name, str(error)))
        return f"FAILED: {error}"
    book.runs.append(run)
    if workload.kind is Kind.SIGN_ON:
        return f"{run.sign_ons_per_s:>12,.0f} sign-ons/s"
    return f"{run.deliveries_per_s or 0:>12,.0f} deliveries/s" + (f", {run.lost:,} lost" if run.lost else "")


def format_report(options: argparse.Namespace, workloads: Sequence[Workload], book: Book) -> str:
    changed = any((options.clients, options.senders, options.messages, options.burst, options.size != SIZE))
    with_goals = options.workers == 2 and not changed
    ours_first = bool(book.runs) and book.runs[0].server == OURS
    parts = [format_workload(each, book.runs, with_goals and ours_first, KEEPING) for each in workloads]
    parts += [f"FAILED: {name}, {what}: {reason}" for name, what, reason in book.failures]
    parts += [NOTES, format_doubts(book.runs)]
    return "\n\n".join(filter(None, parts))


def make_report(options: argparse.Namespace, workloads: Sequence[Workload], book: Book) -> dict[str, Any]:
    """All runs, as --json writes them."""
    what = [
        dataclasses.asdict(each) | {"kind": each.kind.name, "run": each.run.decode(), "describe": each.describe()}
        for each in workloads
    ]
    failures = [dict(zip(("server", "workload", "reason"), failure, strict=True)) for failure in book.failures]
    runs = [dataclasses.asdict(run) | {"lost": run.lost} for run in book.runs]
    report = {"workers": options.workers, "rounds": options.rounds, "workloads": what, "runs": runs}
    return report | {"failures": failures}


def judge(servers: Sequence[Peer], book: Book) -> int:
    """Return the exit status. It is about mpchat and its variants only."""
    ours = {server.name for server in servers if server.is_ours}
    failed = [name for name, _, _ in book.failures if name in ours]
    if not book.runs or (failed and not any(run.server in ours for run in book.runs)):
        return 3
    return int(bool(failed) or any(run.faults for run in book.runs if run.server in ours))


def run(options: argparse.Namespace) -> int:
    book = Book()
    if options.plot:
        require_matplotlib()
    servers, workloads = choose_servers(options), list(choose_workloads(options))
    raise_file_limit(64 + max(workload.clients for workload in workloads))
    run_all(options, servers, workloads, book)
    print(format_report(options, workloads, book))
    write_json(options.json, make_report(options, workloads, book))
    if options.plot:
        plot(book.runs, [each for each in workloads if each.kind is Kind.PACED], options.plot)
    return judge(servers, book)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    return conclude("benchmark", lambda: run(options))
