#!/usr/bin/env python3
"""Talk to an mpchat server from many clients at once and check every single delivery.

Owns the command line, the barriers between the client processes, and the figures. stress_check says how a
delivery is checked, stress_crowd what the clients do and when they are done, stress_server how the server
is started, measured and ended. Nothing is waited for longer than --timeout, but for the bounded times that
counting the faults and ending the server take.

Latency is from the time at which a message was to be sent to its receipt by the observers, one receiver
per room and client process. Without --rate a message is to be sent when its sender's turn comes (one message
per client and round); with --rate at its place in the schedule, however late the sender is.

Exit status: 0 all is well, 1 something was wrong, 2 usage, 3 the run was not possible, 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import resource
import secrets
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TextIO

from stress_check import Faults, Kind, Plan, compare_orders
from stress_crowd import CONNECT_S, TICK_S, Progress, Result, Step, run_crowd
from stress_server import Meter, OwnServer, StressError, Usage, find_server

JUDGE_S = 60.0  # a client process may need this long after the deadline to name millions of losses
END_S = 2.0  # for a client process that has told all
QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}
LARGEST = 4000  # bytes of a message: the server takes lines up to 4096


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the client processes found, and how long they took."""

    results: list[Result]
    faults: Faults
    connect_s: float | None
    talk_s: float | None


class Bar:
    """Progress on standard error: a bar on a terminal, else a line every LINE_S."""

    LINE_S = 5.0
    WIDTH = 30

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._tty = out.isatty()
        self._started = self._shown = time.monotonic()

    def show(self, doing: str, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._tty and now - self._shown < self.LINE_S:
            return
        self._shown = now
        filled = "#" * (self.WIDTH * done // max(total, 1))
        text = f"[{filled:.<{self.WIDTH}}] {doing} {done:,}/{total:,} {now - self._started:.1f} s"
        self._out.write(f"\r{text}\x1b[K" if self._tty else f"{text}\n")
        self._out.flush()

    def close(self) -> None:
        if self._tty:
            self._out.write("\r\x1b[K")


class Conductor:
    """Starts the client processes, opens the barriers and collects what they found."""

    def __init__(self, plan: Plan, bar: Bar) -> None:
        self._plan = plan
        self._bar = bar
        self._pipes: list[Connection[Any, Any]] = []
        self._processes: list[BaseProcess] = []
        self._progress: dict[int, Progress] = {}
        self._results: list[Result] = []
        self._reached: dict[Step, int] = dict.fromkeys(Step, 0)
        self._opened_ns: dict[Step, int] = {}

    def run(self) -> Outcome:
        """Raises StressError if a client process dies or does not end after the deadline."""
        try:
            with deferred_interrupts():
                self._start()
            while len(self._results) < self._plan.processes:
                for pipe in wait(self._pipes, TICK_S):
                    assert isinstance(pipe, Connection)
                    self._receive(pipe)
                if time.monotonic() > self._plan.deadline + JUDGE_S:
                    raise StressError("a client process does not end")
                self._show()
            return self._outcome()
        finally:
            self._bar.close()
            self._stop()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for number in range(self._plan.processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=run_crowd, args=(self._plan, number, theirs), daemon=True)
            self._pipes.append(ours)
            process.start()
            self._processes.append(process)
            theirs.close()

    def _receive(self, pipe: Connection[Any, Any]) -> None:
        try:
            message = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise StressError("a client process died") from None
        if isinstance(message, Result):
            self._results.append(message)
            self._pipes.remove(pipe)
            pipe.close()
            return
        self._progress[message.process] = message
        if message.reached is not None:
            self._reached[message.reached] += 1
            if self._reached[message.reached] == self._plan.processes:
                self._open(message.reached)

    def _open(self, step: Step) -> None:
        self._opened_ns[step] = time.monotonic_ns()
        for pipe in self._pipes:
            try:
                pipe.send(step)
            except BrokenPipeError:
                raise StressError("a client process died") from None

    def _show(self) -> None:
        latest = self._progress.values()
        if Step.SIGNING_ON in self._opened_ns:
            self._bar.show("deliveries", sum(p.arrived for p in latest), self._plan.deliveries)
        else:
            everybody = self._plan.clients + self._plan.observers
            self._bar.show("connections", sum(p.signed_on for p in latest), everybody)

    def _outcome(self) -> Outcome:
        self._results.sort(key=lambda result: result.process)
        connect_s, talk_s = None, None
        if Step.SIGNING_ON in self._opened_ns:
            talking_ns = self._opened_ns[Step.SIGNING_ON]
            connect_s = (talking_ns - self._opened_ns[Step.STARTING]) / 1e9
            talk_s = (max(result.last_arrival_ns for result in self._results) - talking_ns) / 1e9
        faults = join_faults(self._plan, self._results)
        return Outcome(self._results, faults, connect_s, talk_s if talk_s and talk_s > 0 else None)

    def _stop(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(END_S)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


def join_faults(plan: Plan, results: Sequence[Result]) -> Faults:
    """What the processes found, and what they disagree about.

    All is well only if all was done: StressError if the check itself must be wrong to say so.
    """
    faults = Faults()
    for result in results:
        faults.merge(result.faults)
    for room in range(plan.rooms):
        faults.merge(compare_orders(plan, room, [result.orders[room] for result in results if room in result.orders]))
    if any(result.timed_out for result in results) and not faults.counts[Kind.STUCK]:
        faults.add(Kind.STUCK, "the time was up between two steps")
    arrived = sum(result.arrived for result in results)
    if not faults.counts.total() and arrived != plan.deliveries:
        raise StressError(f"the check is wrong: no fault, but {arrived} of {plan.deliveries} deliveries")
    return faults


def make_report(plan: Plan, outcome: Outcome, faults: Faults, seconds: float, usages: list[Usage]) -> dict[str, Any]:
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
        "faults": {k.name.lower(): {"count": n, "examples": faults.examples[k]} for k, n in faults.counts.items()},
        "remarks": [remark for result in outcome.results for remark in result.remarks],
    }


def quantile(ordered: Sequence[int], part: float) -> float | None:
    """The nearest-rank quantile of ns, in ms."""
    return ordered[math.ceil(len(ordered) * part) - 1] / 1e6 if ordered else None


def format_report(report: dict[str, Any]) -> str:
    """The table that people read."""

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
    lines = [f"{name:<16}{value}" for name, value in rows]
    return "\n".join([*lines, *format_usages(report), *format_faults(report)])


def format_usages(report: dict[str, Any]) -> Iterator[str]:
    if not report["server"]:
        yield f"{'server':<16}n/a"
        return
    yield f"{'server':<16}{'pid':>8} {'CPU s':>7} {'CPU %':>6} {'RSS MB':>7} {'private MB':>11}"
    for usage in report["server"]:
        private = "n/a" if usage["private"] is None else f"{usage['private'] / 1e6:.1f}"
        share = 100 * usage["cpu_s"] / report["measured_s"]
        yield (
            f"  {usage['role']:<14}{usage['pid']:>8} {usage['cpu_s']:>7.2f} {share:>6.1f}"
            f" {usage['rss'] / 1e6:>7.1f} {private:>11}"
        )


def format_faults(report: dict[str, Any]) -> Iterator[str]:
    for name, fault in report["faults"].items():
        yield f"WRONG: {Kind[name.upper()].value}: {fault['count']:,}"
        yield from (f"    {example}" for example in fault["examples"])
    if report["remarks"]:
        yield "the server also said:"
        yield from (f"    {remark}" for remark in report["remarks"][:10])
    if not report["faults"]:
        yield "all is well: nothing lost, doubled, out of order, torn or misdelivered"


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not 0 < int(port) < 65536:
        raise ValueError
    return host.strip("[]"), int(port)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Talk from many clients at once and check every delivery.")
    parser.add_argument("--clients", type=positive, default=500)
    parser.add_argument("--messages", type=positive, default=20, help="of each client")
    parser.add_argument("--workers", type=positive, default=4, help="of the server started here")
    parser.add_argument("--rooms", type=positive, default=1, help="1: all stay in the lobby")
    parser.add_argument("--connect", type=host_and_port, metavar="HOST:PORT", help="use this server")
    parser.add_argument("--pid", type=positive, help="with --connect: the server's main process, to be measured")
    parser.add_argument("--command", default=f"{shlex.quote(sys.executable)} -m mpchat", help="starts a server")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and faults")
    parser.add_argument("--seed", type=int, default=0, help="decides in which order the clients talk")
    parser.add_argument("--processes", type=positive, default=2, help="that the clients are spread over")
    parser.add_argument("--size", type=positive, default=70, metavar="BYTES", help="of a message, at least")
    parser.add_argument("--rate", type=float, default=0.0, help="messages/s of all; 0: as fast as possible")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help="of the whole run")
    options = parser.parse_args(arguments)
    if options.rooms > options.clients or options.processes > options.clients:
        parser.error("there must be at least as many clients as rooms and as processes")
    if options.size > LARGEST:
        parser.error(f"--size: at most {LARGEST}")
    if not (math.isfinite(options.rate) and options.rate >= 0):
        parser.error("--rate must not be negative")
    if not (math.isfinite(options.timeout) and options.timeout > 0):
        parser.error("--timeout must be positive")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json: {options.json.parent} is no directory")
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
    """How many files a client process has open at once."""
    return 64 + max(len(plan.clients_in(p)) + len(plan.rooms_in(p)) for p in range(plan.processes))


def raise_file_limit(needed: int) -> None:
    """Take all descriptors that we may have; the processes we start inherit the limit, and one must do with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # macOS has a hard limit that it does not grant
            pass
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise StressError(f"{needed} open files are needed, the limit is {soft}")


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Let INT and TERM wait while processes are started, so that none is started and not known."""
    came: list[int] = []
    # Handlers, for what is ignored or blocked here would be so in the processes too.
    old = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def stress_own(plan: Plan, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Run against a server of our own; the report, and the end of the server's log if it is of use."""
    everybody = plan.clients + plan.observers
    command = shlex.split(options.command)
    command += f"--port 0 --workers {options.workers} --rate 0 --max-clients {everybody + 8}".split()
    with ExitStack() as stack:
        with deferred_interrupts():
            server = stack.enter_context(closing(OwnServer(command)))
        host, port = server.address(plan.deadline)
        plan = dataclasses.replace(plan, host=host, port=port)
        meter = Meter(server.pid)
        outcome = Conductor(plan, Bar(sys.stderr)).run()
        seconds, usages = meter.read()
        faults = outcome.faults
        faults.merge(server.end())
        report = make_report(plan, outcome, faults, seconds, usages)
        report |= {"server_ready_s": server.ready_s, "server_end_s": server.end_s}
        return report, server.log_tail() if faults.counts else ""


def stress_other(plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    """Run against the server named, which goes on afterwards."""
    host, port = options.connect
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError as error:
        raise StressError(f"{host}:{port}: {error}") from error
    meter = Meter(options.pid or find_server(host, port))
    outcome = Conductor(dataclasses.replace(plan, host=host, port=port), Bar(sys.stderr)).run()
    return make_report(plan, outcome, outcome.faults, *meter.read())


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    plan, log = make_plan(options), ""
    try:
        raise_file_limit(count_files(plan))
        if options.connect:
            report = stress_other(plan, options)
        else:
            report, log = stress_own(plan, options)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    except (StressError, OSError) as error:
        print(f"stress: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    print(format_report(report))
    if log:
        print(f"the end of the server's log:\n{log}", file=sys.stderr)
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    # TERM as Ctrl-C: the server that we started has a session of its own and would go on without us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
