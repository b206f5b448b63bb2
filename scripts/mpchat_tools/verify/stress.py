"""stress.py: have many clients talk to a server at once, and check every single delivery.

Owns the command line, the barriers between the client processes, and the figures. `check` checks deliveries; `talkers`
runs the clients and decides when they are done. A run takes at most --timeout, plus the bounded times for counting the
faults and ending the server.

Latency is the time from when a message was due until an observer receives it (one observer per room and client
process). Without --rate a message is due when its sender's turn comes (one message per client and round); with --rate
at its place in the schedule, even if the sender is late.

Exit status: 0 no fault, 1 at least one fault, and the statuses of all tools.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import secrets
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

from mpchat.errors import in_words
from mpchat_tools.common.crew import CONTEXT, Pipe, crew
from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.faults import Faults, Kind
from mpchat_tools.common.figures import QUANTILES, format_pairs, format_table, quantile
from mpchat_tools.common.limits import deferred_interrupts, raise_file_limit
from mpchat_tools.common.meter import Meter, Usage, find_server
from mpchat_tools.common.options import OWN_COMMAND, add_json, amount, check_files, conclude, positive, tell
from mpchat_tools.common.progress import Bar
from mpchat_tools.common.server import OwnServer
from mpchat_tools.verify.plan import Plan
from mpchat_tools.verify.reference import compare_orders
from mpchat_tools.verify.talkers import CONNECT_S, Result, Step, run_talkers

JUDGE_S = 60.0  # a client process may need this long after the deadline to list millions of losses
LARGEST = 4000  # bytes of a message: the server takes lines up to 4096


class Outcome(NamedTuple):
    """All that the client processes found, and how long they took."""

    results: list[Result]
    faults: Faults
    connect_s: float | None
    talk_s: float | None


def conduct(plan: Plan) -> Outcome:
    """Run the client processes to their end, each step when all have finished the last. Raises ToolError."""
    progress = CONTEXT.RawArray("q", 2 * plan.processes)
    opened_ns: list[int] = []  # when each barrier opened
    results: list[Result] = []

    def show() -> None:
        if len(opened_ns) > Step.SIGNING_ON.value:
            bar.show("deliveries", sum(progress[1::2]), plan.deliveries)
        else:
            bar.show("connections", sum(progress[::2]), plan.clients + plan.observers)

    def hear(pipes: list[Pipe]) -> list[Result]:
        """Return the results among the answers; the other processes have finished their step."""
        answers = talkers.hear(object, plan.deadline + JUDGE_S - time.monotonic(), pipes, show)
        return [answer for answer in answers if isinstance(answer, Result)]

    shares = [(plan, number, progress) for number in range(plan.processes)]
    with crew(run_talkers, shares) as talkers, closing(Bar(sys.stderr)) as bar:
        while not results:
            if not (results := hear(talkers.pipes)):
                opened_ns.append(time.monotonic_ns())
                talkers.tell(None)
        # If the time was up for some of them before a barrier, it is up for those that wait there, too.
        ended = {result.process for result in results}
        results += hear([pipe for number, pipe in enumerate(talkers.pipes) if number not in ended])
    results.sort(key=lambda result: result.process)
    connect_s = talk_s = None
    if len(opened_ns) > Step.SIGNING_ON.value:
        starting_ns, talking_ns, *_ = opened_ns
        connect_s = (talking_ns - starting_ns) / 1e9
        talk_s = (max(result.last_arrival_ns for result in results) - talking_ns) / 1e9
    return Outcome(results, join_faults(plan, results), connect_s, talk_s if talk_s and talk_s > 0 else None)


def join_faults(plan: Plan, results: Sequence[Result]) -> Faults:
    """What the processes found, and what they disagree about.

    All is well only if all was done: ToolError if the check itself must be wrong to say so.
    """
    faults = Faults()
    for result in results:
        faults.merge(result.faults)
    for room in range(plan.rooms):
        for name, number in compare_orders([result.orders[room] for result in results if room in result.orders]):
            words = f"two observers of room {room} got message {number} of {name.decode()} in different places"
            faults.add(Kind.DISAGREED, words)
    if any(result.timed_out for result in results) and not faults.counts[Kind.STUCK]:
        faults.add(Kind.STUCK, "the time was up between two steps")
    arrived = sum(result.arrived for result in results)
    if not faults.counts.total() and arrived != plan.deliveries:
        raise ToolError(f"the check is wrong: no fault, but {arrived} of {plan.deliveries} deliveries")
    return faults


def make_report(plan: Plan, outcome: Outcome, seconds: float, usages: list[Usage]) -> dict[str, Any]:
    """All figures and faults, as --json writes them. Rates are per second, times in seconds or as named."""
    latencies = sorted(ns for result in outcome.results for ns in result.latencies_ns)
    arrived = sum(result.arrived for result in outcome.results)
    cpu_s = sum(result.cpu_s for result in outcome.results)
    sent = plan.clients * plan.messages
    described = {k: v for k, v in dataclasses.asdict(plan).items() if k != "deadline"}
    return {
        "plan": described | {"observers": plan.observers, "deliveries": plan.deliveries},
        "delivered": arrived,
        "connect_s": outcome.connect_s,
        "talk_s": outcome.talk_s,
        "connections_per_s": outcome.connect_s and (plan.clients + plan.observers) / outcome.connect_s,
        "messages_per_s": outcome.talk_s and sent / outcome.talk_s,
        "deliveries_per_s": outcome.talk_s and arrived / outcome.talk_s,
        "latency_ms": {name: quantile(latencies, part) for name, part in QUANTILES.items()},
        "clients_cpu_s": cpu_s,
        "clients_cpu_us_per_delivery": cpu_s * 1e6 / arrived if arrived else None,
        "measured_s": seconds,
        "server": [dataclasses.asdict(usage) for usage in usages],
        "faults": outcome.faults.report(),
        "remarks": [remark for result in outcome.results for remark in result.remarks],
    }


def format_report(report: dict[str, Any]) -> str:
    """Return the table for people."""

    def figure(value: float | None, form: str = ",.0f") -> str:
        return "n/a" if value is None else format(value, form)

    plan, latency, per_delivery = report["plan"], report["latency_ms"], report["clients_cpu_us_per_delivery"]
    rows = [
        ("clients", f"{plan['clients']} + {plan['observers']} observers, {plan['rooms']} rooms"),
        ("connections/s", f"{figure(report['connections_per_s'])}  ({figure(report['connect_s'], '.2f')} s)"),
        ("messages/s", f"{figure(report['messages_per_s'])}  ({figure(report['talk_s'], '.2f')} s)"),
        ("deliveries/s", f"{figure(report['deliveries_per_s'])}  ({report['delivered']:,} of {plan['deliveries']:,})"),
        ("latency ms", "  ".join(f"{name} {figure(latency[name], '.1f')}" for name in latency) + "  (observers)"),
        ("CPU of clients", f"{report['clients_cpu_s']:.2f} s  ({figure(per_delivery, '.2f')} µs/delivery)"),
    ]
    if "server_ready_s" in report:
        ready, end = figure(report["server_ready_s"], ".2f"), figure(report["server_end_s"], ".2f")
        rows.append(("our server", f"ready in {ready} s, ended in {end} s"))
    return "\n".join([*format_pairs(rows), *format_usages(report), *format_faults(report)])


def format_usages(report: dict[str, Any]) -> list[str]:
    if not report["server"]:
        return format_pairs([("server", "n/a")])
    rows = [["server", "pid", "CPU s", "CPU %", "RSS MB", "private MB"]]
    for usage in report["server"]:
        private = "n/a" if usage["private"] is None else f"{usage['private'] / 1e6:.1f}"
        share = 100 * usage["cpu_s"] / report["measured_s"]
        cpu = [f"{usage['cpu_s']:.2f}", f"{share:.1f}"]
        rows.append([usage["role"], str(usage["pid"]), *cpu, f"{usage['rss'] / 1e6:.1f}", private])
    return format_table(rows)


def format_faults(report: dict[str, Any]) -> Iterator[str]:
    for name, fault in report["faults"].items():
        yield f"WRONG: {Kind[name.upper()].value}: {fault['count']:,}"
        yield from (f"    {example}" for example in fault["examples"])
    if report["remarks"]:
        yield "the server also said:"
        yield from (f"    {remark}" for remark in report["remarks"][:10])
    if not report["faults"]:
        yield "all is well: nothing lost, doubled, out of order, torn or misdelivered"


def host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not 0 < int(port) < 65536:
        raise ValueError
    return host.strip("[]"), int(port)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Talk to a server from many clients at once, and check every delivery."
    )
    parser.add_argument("--clients", type=positive, default=500)
    parser.add_argument("--messages", type=positive, default=20, help="messages of each client")
    parser.add_argument("--workers", type=positive, default=4, help="workers of the server that is started")
    parser.add_argument("--rooms", type=positive, default=1, help="number of rooms; 1: all stay in the lobby")
    parser.add_argument("--connect", type=host_and_port, metavar="HOST:PORT", help="use a running server")
    parser.add_argument("--pid", type=positive, help="with --connect: the main process of that server, to measure it")
    parser.add_argument("--command", default=OWN_COMMAND, help="command that starts the server")
    add_json(parser, "all figures and faults")
    parser.add_argument("--seed", type=int, default=0, help="of the random order in which clients talk")
    parser.add_argument("--processes", type=positive, default=2, help="client processes")
    parser.add_argument("--size", type=positive, default=70, metavar="BYTES", help="minimum size of a message")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="messages/s of all clients together; 0: as fast as possible"
    )
    parser.add_argument("--timeout", type=amount, default=120.0, metavar="S", help="for the whole run")
    options = parser.parse_args(arguments)
    if options.rooms > options.clients or options.processes > options.clients:
        parser.error("there must be at least as many clients as rooms and as processes")
    if options.size > LARGEST:
        parser.error(f"--size: at most {LARGEST}")
    if not (math.isfinite(options.rate) and options.rate >= 0):
        parser.error("--rate must not be negative")
    check_files(parser, options.json)
    return options


def make_plan(options: argparse.Namespace) -> Plan:
    return Plan(
        clients=options.clients,
        messages=options.messages,
        rooms=options.rooms,
        processes=options.processes,
        size=options.size,
        rate=options.rate,
        seed=options.seed,
        run=secrets.token_hex(4),
        deadline=time.monotonic() + options.timeout,
    )


def count_files(plan: Plan) -> int:
    """Return how many files a client process has open at once."""
    return 64 + max(len(plan.clients_in(p)) + len(plan.rooms_in(p)) for p in range(plan.processes))


def start_server(plan: Plan, options: argparse.Namespace, stack: ExitStack) -> OwnServer:
    command = shlex.split(options.command)
    command += f"--port 0 --workers {options.workers} --rate 0".split()
    command += ["--max-clients", str(plan.clients + plan.observers + 8)]
    with deferred_interrupts():
        server = stack.enter_context(closing(OwnServer(command)))
    server.address(plan.deadline)
    return server


def check_listening(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError as error:
        raise ToolError(f"{host}:{port}: {in_words(error)}") from error


def run(options: argparse.Namespace) -> int:
    """Run against a server of our own, or against one that is running, which is left running."""
    plan, server, log = make_plan(options), None, ""
    raise_file_limit(count_files(plan))
    with ExitStack() as stack:
        if options.connect:
            host, port = options.connect
            check_listening(host, port)
        else:
            server = start_server(plan, options, stack)
            host, port = server.host, server.port
        meter = Meter(server.pid if server else options.pid or find_server(host, port))
        plan = dataclasses.replace(plan, host=host, port=port)
        outcome = conduct(plan)
        seconds, usages = meter.read_usages()
        if server is not None:
            outcome.faults.merge(server.end())
            log = server.log_tail()
        report = make_report(plan, outcome, seconds, usages)
        if server is not None:
            report |= {"server_ready_s": server.ready_s, "server_end_s": server.end_s}
    return tell(options.json, report, format_report(report), log)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    return conclude("stress", lambda: run(options))
