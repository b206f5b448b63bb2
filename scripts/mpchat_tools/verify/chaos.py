"""chaos.py: kill, replace and move parts of a running server under load, and remove what surrounds it.

No client may notice more than a pause; unless every process is killed: then clients come again. Owns the command line
and the report. `check` checks every byte at every client and `kept` the database, `visitors` runs the clients, `lives`
the server, `trouble` acts on it, and `surroundings` has what can be taken away.

Exit status: 0 no fault, 1 at least one fault (lost, doubled, reordered, torn, disconnected, ...), and the statuses of
all tools.
"""

from __future__ import annotations

import argparse
import math
import random
import shlex
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any

from mpchat_tools.common.faults import Kind
from mpchat_tools.common.figures import format_pairs
from mpchat_tools.common.options import OWN_COMMAND, add_json, amount, check_files, conclude, positive, some_of, tell
from mpchat_tools.verify.lives import Lives
from mpchat_tools.verify.surroundings import HAS_LIMITS, LIMITS, NOT_BOUND, Installation, bound_user
from mpchat_tools.verify.trouble import AROUND_S, KEEPING, KINDS, MOVE_S, Killer
from mpchat_tools.verify.visitors import OBSERVERS, Visitors

ROOM_MOST = 70  # clients: in rooms over 100 the server omits the notices that show where a client's stream begins


def run_chaos(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Return the report, and the end of the server's log. Raises ToolError."""
    user = bound_user() if "limit" in options.kill else []
    with ExitStack() as stack:
        installation = stack.enter_context(closing(Installation())) if "disk" in options.kill else None
        command = [*(installation.command if installation else shlex.split(options.command)), *server_options(options)]
        with_data = bool(set(options.kill) & set(KEEPING))
        lives = stack.enter_context(closing(Lives(command, user or (), installation, with_data)))
        limits = LIMITS if user is not None else LIMITS[:1]
        dice = random.Random(options.seed)
        killer = Killer(lives, options.kill, dice, limits, options.seconds)
        visitors = Visitors(options, lives, killer)
        visitors.run()
        killer.look()
        visitors.faults.merge(lives.server.end())
        log = lives.server.log_tail()
        kept = lives.check_data(visitors.seen, visitors.faults)
        remarks = [] if user is not None else [f"limit: of descriptors only, since {NOT_BOUND}"]
        return make_report(options, visitors, kept, remarks), log


def server_options(options: argparse.Namespace) -> list[str]:
    # A new client may connect before the one that it replaces has gone.
    most = 2 * options.clients + OBSERVERS * options.rooms + 16
    words = f"--workers {options.workers} --rate 0 --segment-timeout 0 --max-clients {most}".split()
    return words + (f"--beat-timeout {options.beat_timeout}".split() if "stop" in options.kill else [])


def make_report(
    options: argparse.Namespace, visitors: Visitors, kept: int | None, remarks: Sequence[str] = ()
) -> dict[str, Any]:
    """All figures and faults, as --json writes them; `kept`: how many messages are in the database."""
    names = ("clients", "rooms", "workers", "seconds", "every", "rate", "seed")
    return {
        "plan": {name: getattr(options, name) for name in names},
        "connections": visitors.came,
        "messages": visitors.messages,
        "deliveries": visitors.lines,
        "kept": kept,
        "seen": sum(len(set().union(*(each.keys for each in seen))) for seen in visitors.seen.values()),
        "kills": dict(visitors.killer.kills),
        "done": dict(visitors.killer.done),
        "pause_ms": {kind: 1000 * longest for kind, longest in sorted(visitors.pauses.longest.items())},
        "longest_round_ms": 1000 * visitors.longest_round,
        "remarks": list(remarks),
        "faults": visitors.faults.report(),
    }


NOTES = {
    "kills": "actions on the server; hup, upgrade and scale are requests",
    "kept": "in the database; seen: by any client. What nobody saw before all was killed may be kept or not",
    "completed": "requests that the server carried out, by its log; it rejects a request while another one is under\n"
    "way, and cancels an upgrade when one of its processes dies or the program is gone",
    "longest pause": "the longest time in which one client received nothing, by the actions on the server from\n"
    f"{1000 * AROUND_S:.0f} ms before the pause to its end: several kinds (+) or none; a request lasts {MOVE_S:g} s",
    "our own delay": "of this script; the pauses include it",
}


def format_report(report: dict[str, Any]) -> str:
    """Return the table for people; a note explains each count."""
    plan, kills, pauses = report["plan"], report["kills"], report["pause_ms"]
    clients = f"{plan['clients']} at a time, {plan['rooms']} rooms, {report['connections']:,} connections in all"
    rows = [
        ("clients", clients),
        ("messages", f"{report['messages']:,}  ({report['messages'] / plan['seconds']:,.0f}/s)"),
        ("deliveries", f"{report['deliveries']:,}  ({report['deliveries'] / plan['seconds']:,.0f}/s)"),
        *([("kept", f"{report['kept']:,}  ({report['seen']:,} seen)")] if report["kept"] is not None else []),
        ("kills", "  ".join(f"{kind} {count:,}" for kind, count in kills.items()) + f"  ({plan['workers']} workers)"),
        ("completed", "  ".join(f"{kind} {count:,}" for kind, count in report["done"].items()) or "-"),
        ("longest pause", "  ".join(f"{kind} {longest:,.0f} ms" for kind, longest in pauses.items())),
        ("our own delay", f"{report['longest_round_ms']:,.0f} ms at most"),
    ]
    wanted = (Kind.LOST, Kind.DOUBLED, Kind.REORDERED, Kind.DISAGREED, Kind.TORN, Kind.DISCONNECTED)
    counts = {kind.name.lower(): 0 for kind in wanted} | {
        name: fault["count"] for name, fault in report["faults"].items()
    }
    lines = []
    for name, value in [*rows, *((name, f"{count:,}") for name, count in counts.items())]:
        lines += format_pairs([(name, value)])
        if name in NOTES:
            lines += textwrap.indent(f"({NOTES[name]})", " " * 16).splitlines()
    lines += report["remarks"]
    for name, fault in report["faults"].items():
        lines += [f"WRONG: {name}:", *(f"    {example}" for example in fault["examples"])]
    return "\n".join(lines)


KILLS = """\
--kill: the actions on the server, one at a time, at random moments
  worker, sequencer   kill one
  archive             kill the archive, or stop it if stop is also given
  all                 kill every process, and start again with the same data; the clients come again
  stop                stop a worker (SIGSTOP); main has to notice
  hup                 reload: main replaces every worker
  upgrade             replace the program by itself
  scale               one worker more or less
  disk                remove the working directory, the temporary directory or the installed program, for good
  limit               for about a second, main gets no more descriptors or the server no more processes
With archive or all the server gets a data directory. After its end the database is compared with what clients saw.
"""


def why_not(kind: str, options: argparse.Namespace) -> str:
    """Return why this kind is not possible; empty if it is."""
    if kind == "disk" and options.command is not None:
        return "not with --command: that installation is not ours to remove"
    if kind == "limit" and not HAS_LIMITS:
        return "this system cannot change the limits of a running process (prlimit(2), Linux)"
    return ""


def fault(text: str) -> Kind:
    try:
        return Kind[text.upper()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"there are {', '.join(kind.name.lower() for kind in Kind)}") from None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Kill parts of a server under load, and check every byte at every client.",
        epilog=KILLS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clients", type=positive, default=200, help="clients that talk")
    parser.add_argument("--seconds", type=amount, default=60.0, help="how long they talk")
    every = f"any of {', '.join(KINDS)}; default: all that are possible"
    parser.add_argument("--kill", type=some_of(KINDS), metavar="KIND,...", help=every)
    parser.add_argument("--every", type=amount, default=1000.0, metavar="MS", help="average time between two actions")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices: who talks, what is killed")
    parser.add_argument("--workers", type=positive, default=4)
    parser.add_argument(
        "--rooms", type=positive, help=f"at most {ROOM_MOST} clients in each; default: 3, or as many as needed"
    )
    parser.add_argument("--rate", type=amount, default=2000.0, help="messages/s of all clients together")
    parser.add_argument(
        "--beat-timeout", type=amount, default=1.0, metavar="S", help="option of the server, used with --kill stop"
    )
    parser.add_argument(
        "--settle", type=amount, default=20.0, metavar="S", help="how long to wait for the last messages"
    )
    parser.add_argument("--until", type=fault, metavar="FAULT", help="end at the first fault of this kind: torn, ...")
    parser.add_argument(
        "--command", help="command that starts the server; not with --kill disk, which installs one and removes it"
    )
    add_json(parser, "all figures and faults")
    options = parser.parse_args(arguments)
    if options.kill is None:
        options.kill = [kind for kind in KINDS if not why_not(kind, options)]
    for kind in options.kill:
        if why_not(kind, options):
            parser.error(f"--kill {kind}: {why_not(kind, options)}")
    if options.command is None:
        options.command = OWN_COMMAND
    if options.rooms is None:
        options.rooms = max(3, math.ceil(options.clients / 60))
    if options.clients / options.rooms > ROOM_MOST:
        parser.error(f"--rooms: too few, with over {ROOM_MOST} clients in each")
    check_files(parser, options.json)
    return options


def run(options: argparse.Namespace) -> int:
    report, log = run_chaos(options)
    return tell(options.json, report, format_report(report), log)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    return conclude("chaos", lambda: run(options))
