"""scripts/benchmark.py counts right, finds what is wrong, and compares without naming a wrong winner.

What is pure (dialects, check, workloads, report) is fed right and spoilt input; then the whole script runs, small,
against mpchat and the baselines, and against faulty_server.py, which makes one fault at a time.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import multiprocessing
import random
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interruption import interrupt
from mpchat_tools.bench import command as benchmark
from mpchat_tools.bench import peers
from mpchat_tools.bench.check import (
    Findings,
    Receivers,
    compare_processes,
    find_keys,
    measure_latencies,
    merge_orders,
)
from mpchat_tools.bench.dialects import DIALECTS, Dialect, Irc, Line, Nats, Plain, Redis, name_of
from mpchat_tools.bench.load import EXTRA_S, TICK_S, Load, Task
from mpchat_tools.bench.plot import collect_line
from mpchat_tools.bench.report import format_doubts, format_workload
from mpchat_tools.bench.run import Run
from mpchat_tools.bench.workload import Kind, Workload
from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.figures import Figure
from mpchat_tools.common.meter import Disturbance, Meter, add_up, compare_times
from server import ROOT

from mpchat.archive.database import Gap, Place, open_database

SCRIPT = ROOT / "scripts" / "benchmark.py"
FAULTY = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'tests' / 'support' / 'faulty_server.py'))}"
RUN_S = 60
FAR_NS = 1 << 62  # a time to come
FLOOD = Workload("B", Kind.FLOOD, clients=7, senders=4, messages=5)

Keys = list[bytes]


# ----------------------------------------------------------------------------------------------- workloads


@pytest.mark.parametrize(("clients", "rooms", "senders"), [(200, 1, 20), (200, 1, 200), (1000, 100, 10), (12, 3, 2)])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_everybody_is_in_one_process_and_expects_what_the_others_say(
    clients: int, rooms: int, senders: int, processes: int
) -> None:
    load = Workload("x", Kind.FLOOD, clients, rooms, senders, messages=2, processes=processes)
    assert sorted(c for p in range(processes) for c in load.clients_in(p)) == list(range(clients))
    assert sum(load.is_sender(client) for client in range(clients)) == rooms * senders
    for client in range(0, clients, 7):
        for echoes in (False, True):
            expected = load.expected_keys(client, echoes)
            assert len(expected) == load.expected(client, echoes)
            assert expected == sorted(set(expected))
            own = {load.key(client, n) for n in range(2)}
            assert bool(own & set(expected)) == (echoes and load.is_sender(client))


def test_the_deliveries_of_the_flood_are_those_of_the_issue() -> None:
    flood = Workload("B", Kind.FLOOD, clients=200, senders=20, messages=500)
    assert flood.deliveries(echoes=False) == 10_000 * 200 - 20 * 500
    assert flood.deliveries(echoes=True) == 10_000 * 200


def test_texts_have_the_size_asked_for_and_differ() -> None:
    load = Workload("x", Kind.FLOOD, clients=3, senders=3, messages=3, size=64)
    texts = {text for sender in range(3) for text in load.texts(sender)}
    assert len(texts) == 9
    assert {len(text) for text in texts} == {64}


def test_paced_messages_are_due_at_even_distances() -> None:
    load = Workload("A", Kind.PACED, clients=4, senders=4, messages=3, load=10.0)
    schedule = sorted(load.schedule(0) + load.schedule(1))
    assert [due for due, _, _ in schedule] == [turn * 100_000_000 for turn in range(12)]
    assert len({(sender, number) for _, sender, number in schedule}) == 12
    assert all(load.process_of(sender) == 1 for _, sender, _ in load.schedule(1))


# ------------------------------------------------------------------------------------------------ dialects


def test_what_the_protocols_look_like() -> None:
    text, name = b"hello", name_of(3)
    assert Line().delivery(name, 0, text) == b"c00003: hello\n"
    assert Irc().message(2, text) == b"PRIVMSG #r002 :hello\r\n"
    assert Nats().message(2, text) == b"PUB r002 5\r\nhello\r\n"
    assert Nats().delivery(name, 2, text) == b"MSG r002 1 5\r\nhello\r\n"
    assert Redis().message(2, text) == b"*3\r\n$7\r\nPUBLISH\r\n$4\r\nr002\r\n$5\r\nhello\r\n"
    assert Redis().delivery(name, 2, text) == b">3\r\n$7\r\nmessage\r\n$4\r\nr002\r\n$5\r\nhello\r\n"


def test_in_many_rooms_a_client_of_mpchat_is_in_one() -> None:
    ((said, answered),) = Line().steps(3, dataclasses.replace(FLOOD, clients=8, rooms=2))
    assert said.splitlines()[:3] == [b"c00003", b"/join #r001", b"/leave #lobby"]
    assert answered in b"* You are in #r001.\n! There is no such command.\n"


def test_irc_learns_how_a_sender_is_shown() -> None:
    irc = Irc()
    irc.learn(b":irc.example.net 001 c00003 :Welcome\r\n:c00003!~u@10.0.0.1 JOIN :#r000\r\n")
    assert irc.delivery(name_of(4), 0, b"hello") == b":c00004!~u@10.0.0.1 PRIVMSG #r000 :hello\r\n"


def deliver(dialect: Dialect, load: Workload, keys: Keys, room: int = 0) -> list[bytes]:
    """The lines (or frames) of messages, as a receiver gets them."""
    parts = [(int(sender), int(number)) for sender, _, number in (key.partition(b":") for key in keys)]
    return [dialect.delivery(name_of(sender), room, load.text(sender, number)) for sender, number in parts]


@pytest.mark.parametrize("protocol", DIALECTS)
def test_deliveries_have_one_length_and_are_found_among_others(protocol: str) -> None:
    dialect, load = DIALECTS[protocol](), dataclasses.replace(FLOOD, messages=200, size=50)
    keys = load.expected_keys(6, echoes=True)
    frames = deliver(dialect, load, keys)
    assert {len(frame) for frame in frames} == {dialect.length(load)}
    pattern = dialect.pattern(load, 0)
    assert find_keys(pattern, b"".join(frames)) == keys
    noise = [b"* bob joined\n", b"PING :x\r\n", b"old: line\n", frames[0][:-3], frames[1][3:]]
    random.Random(1).shuffle(noise)
    assert find_keys(pattern, noise[0].join(frames) + b"".join(noise)) == keys
    assert find_keys(pattern, b"".join(deliver(dialect, dataclasses.replace(load, run=b"deadbeef"), keys))) == []


@pytest.mark.parametrize("protocol", ["line", "plain", "irc"])
def test_a_message_under_the_name_of_another_does_not_count(protocol: str) -> None:
    dialect = DIALECTS[protocol]()
    stolen = dialect.delivery(name_of(1), 0, FLOOD.text(2, 0))
    assert find_keys(dialect.pattern(FLOOD, 0), stolen) == []


# ----------------------------------------------------------------------------------------------- the check


def draw_order(load: Workload, room: int, dice: random.Random) -> Keys:
    """A possible order of a room: any mixture of what each sender says in turn."""
    left = dict.fromkeys(load.senders_of(room), 0)
    order = []
    while left:
        sender = dice.choice(list(left))
        order.append(load.key(sender, left[sender]))
        left[sender] += 1
        if left[sender] == load.messages:
            del left[sender]
    return order


def without(keys: Keys, client: int) -> Keys:
    return [key for key in keys if int(key[:5]) != client]


def check_room(load: Workload, spoil: Callable[[Keys], Keys], victim: int, dialect: Dialect | None = None) -> Findings:
    """All receivers of room 0 get what they should, but for one of them."""
    dialect = dialect or Plain()
    order = draw_order(load, 0, random.Random(7))
    streams = []
    for client in sorted(range(load.clients), key=load.is_sender):
        keys = order if dialect.echoes else without(order, client)
        keys = spoil(list(keys)) if client == victim else keys
        streams.append((client, b"".join(deliver(dialect, load, keys))))
    return Receivers(load, dialect, 0, streams).judge()[0]


def keep(keys: Keys) -> Keys:
    return keys


def lose(keys: Keys) -> Keys:
    return keys[:3] + keys[4:]


def double(keys: Keys) -> Keys:
    return keys[:3] + keys[2:]


def swap_of_one_sender(keys: Keys) -> Keys:
    mine = [place for place, key in enumerate(keys) if key[:5] == keys[0][:5]]
    keys[mine[0]], keys[mine[1]] = keys[mine[1]], keys[mine[0]]
    return keys


def swap_neighbours(keys: Keys, nth: int = 0) -> Keys:
    """Of different senders, so that each of the two still says everything in turn."""
    places = [n for n in range(len(keys) - 1) if keys[n][:5] != keys[n + 1][:5]]
    place = places[nth % len(places)]
    keys[place], keys[place + 1] = keys[place + 1], keys[place]
    return keys


TALKERS = [4, 7]  # senders among the 7: with three that only listen, and with none
ALL_ORDERED = FLOOD.clients - 1  # the first is what the others are compared with


@pytest.mark.parametrize("senders", TALKERS)
@pytest.mark.parametrize("protocol", DIALECTS)
def test_what_is_right_is_found_right(protocol: str, senders: int) -> None:
    dialect, load = DIALECTS[protocol](), dataclasses.replace(FLOOD, senders=senders)
    found = check_room(load, keep, 0, dialect)
    assert found.faults == found.strange == 0
    assert (found.streams, found.deliveries) == (load.clients, load.deliveries(dialect.echoes))
    assert found.ordered == (ALL_ORDERED if dialect.one_order else 0)


@pytest.mark.parametrize("senders", TALKERS)
@pytest.mark.parametrize("victim", range(FLOOD.clients))
@pytest.mark.parametrize(
    ("spoil", "name"),
    [(lose, "lost"), (double, "doubled"), (swap_of_one_sender, "reordered")],
    ids=["loss", "double", "swap"],
)
def test_a_fault_at_one_receiver_is_found(spoil: Callable[[Keys], Keys], name: str, victim: int, senders: int) -> None:
    found = check_room(dataclasses.replace(FLOOD, senders=senders), spoil, victim)
    assert {each: getattr(found, each) for each in ("lost", "doubled", "reordered", "disagreed")} == {
        "lost": 0,
        "doubled": 0,
        "reordered": 0,
        "disagreed": 0,
    } | {name: 1}


@pytest.mark.parametrize("senders", TALKERS)
@pytest.mark.parametrize("victim", range(FLOOD.clients))
def test_another_order_is_found(victim: int, senders: int) -> None:
    """Whoever's two messages have changed places, at whomever."""
    load = dataclasses.replace(FLOOD, senders=senders)
    for nth in range(load.expected(victim, echoes=False) - 1):
        found = check_room(load, partial(swap_neighbours, nth=nth), victim)
        assert found.disagreed > 0
        assert found.faults == found.disagreed


def test_another_order_is_no_fault_where_none_is_promised() -> None:
    assert check_room(FLOOD, swap_neighbours, 6, Nats()).faults == 0
    assert check_room(FLOOD, swap_of_one_sender, 6, Nats()).reordered == 1


def test_an_echo_is_a_double_unless_the_protocol_has_it() -> None:
    load = FLOOD
    everything = draw_order(load, 0, random.Random(7))
    assert check_room(load, lambda keys: everything, 0).doubled == load.messages
    assert check_room(load, keep, 0, Redis()).faults == 0
    assert check_room(load, lambda keys: without(keys, 0), 0, Redis()).lost == load.messages


def test_what_is_not_a_delivery_is_counted_in_bytes() -> None:
    frames = deliver(Plain(), FLOOD, FLOOD.expected_keys(5, echoes=False))
    findings, _ = Receivers(FLOOD, Plain(), 0, [(5, b"* hello\n".join(frames))]).judge()
    assert findings.strange == (len(frames) - 1) * len(b"* hello\n")
    assert findings.faults == 0


@pytest.mark.parametrize("protocol", DIALECTS)
@pytest.mark.parametrize("victim", [0, 4, 6])
def test_a_torn_delivery_is_lost_and_its_bytes_are_counted(victim: int, protocol: str) -> None:
    dialect, order, streams = DIALECTS[protocol](), draw_order(FLOOD, 0, random.Random(7)), []
    for client in sorted(range(FLOOD.clients), key=FLOOD.is_sender):
        frames = deliver(dialect, FLOOD, order if dialect.echoes else without(order, client))
        if client == victim:
            frames[3] = frames[3][:30] + frames[3][33:]
        streams.append((client, b"".join(frames)))
    findings, _ = Receivers(FLOOD, dialect, 0, streams).judge()
    assert (findings.lost, findings.strange) == (1, dialect.length(FLOOD) - 3)
    assert findings.faults == 1


def test_two_processes_are_compared() -> None:
    order = draw_order(FLOOD, 0, random.Random(7))
    assert compare_processes([[order], [list(order)]]).disagreed == 0
    assert compare_processes([[order], [swap_neighbours(list(order))]]).disagreed == 1
    sender = without(order, int(order[0][:5]))
    assert compare_processes([[order], [sender]]).faults == 0


@given(st.integers(3, 6), st.integers(1, 6), st.builds(random.Random, st.integers(0, 2**32)))
def test_three_who_lack_their_own_messages_have_the_whole_order(
    senders: int, messages: int, dice: random.Random
) -> None:
    load = dataclasses.replace(FLOOD, clients=senders, senders=senders, messages=messages)
    order = draw_order(load, 0, dice)
    assert merge_orders([without(order, sender) for sender in dice.sample(range(senders), 3)]) == order


def test_faults_are_counted_by_their_kind() -> None:
    """At a receiver that all others agree with: the order that it is compared with is that of somebody else."""
    assert check_room(FLOOD, lambda keys: keys[:1], 6).lost == 4 * 5 - 1
    assert check_room(FLOOD, lambda keys: keys * 3, 6).doubled == 2 * 4 * 5
    assert check_room(FLOOD, lambda keys: [*keys, b"00009:0000000"], 6).doubled == 1
    assert check_room(FLOOD, lambda keys: [*keys, b"00001:0000005"], 6).doubled == 1


def test_what_nobody_got_is_lost_at_everybody() -> None:
    order = draw_order(FLOOD, 0, random.Random(7))
    gone = FLOOD.key(2, 1)
    streams = [
        (client, b"".join(deliver(Plain(), FLOOD, [key for key in without(order, client) if key != gone])))
        for client in sorted(range(FLOOD.clients), key=FLOOD.is_sender)
    ]
    findings, _ = Receivers(FLOOD, Plain(), 0, streams).judge()
    assert (findings.lost, findings.faults) == (FLOOD.clients - 1, FLOOD.clients - 1)


def test_latency_is_from_the_time_a_message_was_due() -> None:
    load = Workload("A", Kind.PACED, clients=2, senders=2, messages=2, load=1000.0)
    matches = [(10, load.key(0, 0)), (20, load.key(1, 0)), (30, load.key(0, 1))]
    arrivals = [(5_000_000, 9), (6_000_000, 25), (9_000_000, 30)]
    assert measure_latencies(matches, arrivals, load, 4_000_000) == array("q", [2_000_000, 1_000_000, 3_000_000])


# ------------------------------------------------------------------------------------------------ measuring


class Times(NamedTuple):
    """What psutil.cpu_times() says on Linux."""

    user: float
    nice: float
    system: float
    idle: float
    iowait: float
    irq: float
    softirq: float
    steal: float
    guest: float
    guest_nice: float


class FewTimes(NamedTuple):
    """What it says on macOS."""

    user: float
    nice: float
    system: float
    idle: float


def test_the_hypervisor_and_other_processes_are_told_apart() -> None:
    before, after = Times(1, 0, 1, 8, 0, 0, 0, 0.5, 3, 0), Times(5, 0, 2, 11, 1, 0, 0, 1.5, 90, 0)
    found = compare_times(before, after, own_s=2.0)
    assert found.stolen == pytest.approx(0.1)
    assert found.foreign == pytest.approx(0.3)
    assert compare_times(before, after, own_s=6.0).foreign == 0.0, "the kernel's ticks are coarse"
    assert compare_times(before, before, own_s=0.0) == Disturbance(None, None)


def test_without_a_figure_of_the_hypervisor_other_processes_are_known() -> None:
    assert compare_times(FewTimes(0, 0, 0, 0), FewTimes(1, 0, 1, 2), own_s=1.0) == Disturbance(None, 0.25)


def test_cpu_and_memory_are_those_of_the_whole_family() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    start = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen([sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        (child,) = psutil.Process(parent.pid).children()
        family, alone = Meter(parent.pid, {child.pid: "workers"}), Meter(child.pid)
        assert sum(family.read_cpu().values()) > alone.read_cpu()["main"] >= 0.3
        assert family.read_cpu()["workers"] >= 0.3
        whole, part = add_up(family.read_memory()), add_up(alone.read_memory())
        assert whole is None or part is None or whole > part > 0
        parent.communicate(b"\n", timeout=RUN_S)
    assert sum(family.read_cpu().values()) == 0.0


# -------------------------------------------------------------------------------------- the load generator


def serve_in_halves(listener: socket.socket, load: Workload) -> None:
    """One sender, one receiver, who gets each line in two pieces, and the last one once more when all seems over."""
    with listener, ExitStack() as stack:
        streams: dict[bytes, socket.socket] = {}
        for _ in range(load.clients):
            client = stack.enter_context(listener.accept()[0])
            streams[client.recv(1000).split()[0]] = client
            client.sendall(b"ok\n")
        for number in range(load.messages):
            line = Plain().delivery(name_of(0), 0, load.text(0, number))
            assert line.endswith(streams[name_of(0)].recv(1000))
            streams[name_of(1)].sendall(line[:40])
            time.sleep(1.5 * TICK_S)
            streams[name_of(1)].sendall(line[40:])
        time.sleep(EXTRA_S / 3)
        streams[name_of(1)].sendall(line)
        with suppress(ConnectionResetError):
            streams[name_of(1)].recv(1)


def test_a_message_in_pieces_is_seen_and_a_late_double_is_found() -> None:
    """It is waited for, however long, while another process still gets something."""
    load = Workload("B1", Kind.CONVERSATION, clients=2, senders=1, messages=3, processes=1)
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    task = Task(load, Plain(), host, port, process=0, window=10, patience=RUN_S, silence=0.0)
    server = threading.Thread(target=serve_in_halves, args=(listener, load))
    server.start()
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, closing(Load(theirs, task, [0, FAR_NS])) as generator:
        for _ in range(2):
            ours.send(time.monotonic_ns())
        generator.run()
        gc.enable()  # the load process has done without
        _, _, done, verdict = (ours.recv() for _ in range(4))
    server.join(RUN_S)
    assert (done.counted, done.disconnected) == (3, 0)
    assert verdict.findings == Findings(streams=2, deliveries=4, doubled=1, ordered=1)


# --------------------------------------------------------------------------------------------- the report


def make_run(server: str, rate: float, **more: Any) -> Run:
    run = Run(
        server=server,
        workload="B",
        expected=100,
        counted=100,
        findings=Findings(streams=2, deliveries=100, ordered=1),
        disconnected=0,
        seconds=1.0,
        deliveries_per_s=rate,
        cpu_us=0.5,
        load_us=0.1,
        load_share=0.2,
        latency_ms={},
        late_ms=None,
        sign_ons_per_s=1.0,
        memory=1 << 20,
        bytes_per_client=None,
        stolen=0.0,
        foreign=0.0,
    )
    return dataclasses.replace(run, **more)


def test_figures_are_medians_with_their_range() -> None:
    assert Figure.of([3.0, None, 1.0, 8.0]) == Figure(3.0, 1.0, 8.0)
    assert Figure.of([None]) is None


def test_the_table_has_medians_ratios_goals_and_losses() -> None:
    runs = [make_run("mpchat", rate) for rate in (7e6, 5e6, 6.5e6)]
    runs += [make_run("other", rate, counted=90) for rate in (2e6, 3.25e6, 4e6)]
    table = format_workload(FLOOD, runs, with_goals=True)
    ours, theirs = (next(line.split() for line in table.splitlines() if name in line) for name in ("mpchat", "other"))
    assert ours[:6] == ["mpchat", "6,500,000", "(5,000,000", "to", "7,000,000)", "1.00"]
    assert theirs[5] == "0.50"
    assert (ours[-1], theirs[-1]) == ("0", "30")
    assert "deliveries/s >= 6,000,000: 6,500,000, reached" in table
    assert "CPU us/delivery <= 0.15: 0.50, MISSED" in table
    assert table.count("WRONG at other: 10 lost") == 3
    assert "goal" not in format_workload(FLOOD, runs, with_goals=False)


@pytest.mark.parametrize(("rate", "said"), [(5.6e6, "0.86, reached"), (5.4e6, "0.83, MISSED")])
def test_a_data_directory_may_cost_a_share_of_what_there_is_without(rate: float, said: str) -> None:
    runs = [make_run("mpchat", 6.5e6), make_run(benchmark.KEEPING, rate), make_run("other", 1e6)]
    table = format_workload(FLOOD, runs, with_goals=True, keeping=benchmark.KEEPING)
    assert f"deliveries/s with --data >= 0.85 of that without: {said}" in table
    assert "with --data" not in format_workload(FLOOD, runs[::2], with_goals=True, keeping=benchmark.KEEPING)


def test_a_database_with_a_gap_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    with closing(open_database(tmp_path / "data")) as database:
        database.write(Place("log", 1, 1), gap=Gap(1, 1, "slow"))
    monkeypatch.setattr(peers, "disk_folder", lambda: nullcontext(tmp_path))
    monkeypatch.setattr(peers, "running_own", lambda *_: nullcontext(None))
    peer = peers.Peer("mpchat", "line", command=["mpchat-server"])
    with peers.running(peer, 2, 2):
        pass
    with pytest.raises(ToolError, match="slow"), peers.running(dataclasses.replace(peer, keeps=True), 2, 2):
        pass


def test_with_data_one_more_server_takes_its_turn() -> None:
    chosen = benchmark.choose_servers(benchmark.parse(["--data", "--only", "mpchat", "--also", "old=old-server"]))
    assert [(server.name, server.keeps) for server in chosen] == [
        ("mpchat", False),
        (benchmark.KEEPING, True),
        ("old", False),
    ]
    assert chosen[0].command == chosen[1].command


def test_doubts_are_said_only_where_there_are_some() -> None:
    assert format_doubts([make_run("mpchat", 1.0, stolen=0.02, foreign=0.05, late_ms=1.0)]) == ""
    stolen = [make_run("mpchat", 1.0, stolen=share) for share in (0.0, 0.2, None)]
    assert format_doubts(stolen).startswith("DOUBT: in 1 of 3 runs the hypervisor took")
    assert format_doubts(stolen).endswith("20% at most")
    for doubt in ({"foreign": 0.2}, {"late_ms": 9.0}, {"seconds": 0.05}):
        assert format_doubts([make_run("mpchat", 1.0, **doubt)]).startswith("DOUBT: in 1 of 1 runs")


def test_the_plot_shows_medians_against_the_load_asked_for() -> None:
    loads = [
        Workload(f"A@{load:g}", Kind.PACED, clients=5, senders=5, messages=4, load=load) for load in (10.0, 20.0, 40.0)
    ]
    runs = [
        make_run("mpchat", 1.0, workload=load.name, expected=80, latency_ms={"p50": ms})
        for load in loads[:2]
        for ms in (1.0, load.load, 1e9)
    ]
    assert collect_line(runs, loads, "mpchat", "p50") == [(40.0, 10.0), (80.0, 20.0)]


# -------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rounds", "0"],
        ["--only", "mpchat,nobody"],
        ["--workloads", "A,X"],
        ["--loads", "100,-1"],
        ["--loads", ","],
        ["--size", "23"],
        ["--size", "401"],
        ["--clients", "3"],
        ["--messages", "10000000"],
        ["--also", "name"],
        ["--json", "no/such/directory/report.json"],
        ["--workloads", "B", "--plot", "x.png"],
    ],
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark.parse(arguments)
    assert ended.value.code == 2
    assert arguments[-2] in capsys.readouterr().err or "no directory" in arguments[-1]


def choose(*arguments: str) -> list[Workload]:
    return list(benchmark.choose_workloads(benchmark.parse(arguments)))


def test_workloads_have_the_sizes_of_the_issue() -> None:
    paced, flood, talk, rooms, idle = choose()
    assert paced.deliveries(echoes=False) == 199 * 200 * 5
    for each in (flood, talk):
        assert (each.clients, each.senders, each.messages) == (200, 20, 500)
    assert (rooms.clients, rooms.rooms, rooms.senders, rooms.messages) == (1000, 100, 10, 200)
    assert (idle.name, idle.clients) == ("D+E", 2000)


def test_workload_a_is_run_at_each_load() -> None:
    found = choose("--workloads", "A", "--loads", "50,100", "--seconds", "2", "--clients", "10")
    assert [(load.name, load.load, load.messages) for load in found] == [("A@50", 50, 10), ("A@100", 100, 20)]


def test_only_what_is_installed_is_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "find_program", lambda name: None)
    chosen = benchmark.choose_servers(benchmark.parse([]))
    assert [peer.name for peer in chosen] == ["mpchat", "blocks", "asyncio", "threads"]
    assert benchmark.main(["--only", "ngircd"]) == 3
    assert "not installed: ngircd" in capsys.readouterr().err


def test_two_versions_are_compared_with_each_other() -> None:
    options = benchmark.parse(["--only", "mpchat", "--also", "old=python3 -m old --flag"])
    ours, old = benchmark.choose_servers(options)
    assert (ours.name, old.name, old.dialect) == ("mpchat", "old", "line")
    assert old.command == ["python3", "-m", "old", "--flag"]


def test_without_matplotlib_there_is_a_word_about_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert benchmark.main(["--plot", "x.png"]) == 3
    assert "pip install '.[plot]' in this clone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("runs", "failed", "status"),
    [
        ([make_run("mpchat", 1.0), make_run("nats", 1.0, counted=90)], [], 0),
        ([make_run("mpchat", 1.0, counted=99)], [], 1),
        ([make_run("mpchat", 1.0, findings=Findings(disagreed=1))], [], 1),
        ([make_run("mpchat", 1.0, disconnected=1)], [], 1),
        ([make_run("old", 1.0, counted=99)], [], 1),
        ([make_run("mpchat", 1.0)], ["mpchat"], 1),
        ([make_run("mpchat", 1.0)], ["nats"], 0),
        ([make_run("nats", 1.0)], ["mpchat"], 3),
        ([], ["mpchat"], 3),
    ],
)
def test_the_exit_status_is_about_mpchat(runs: list[Run], failed: list[str], status: int) -> None:
    servers = benchmark.choose_servers(benchmark.parse(["--only", "mpchat,blocks", "--also", "old=x"]))
    book = benchmark.Book(runs, [(name, "B", "reason") for name in failed])
    assert benchmark.judge(servers, book) == status


@pytest.mark.parametrize("peer", [peer for peer in peers.PEERS if peer.program], ids=lambda peer: peer.name)
def test_peers_listen_on_loopback_at_the_port_given(peer: peers.Peer, tmp_path: Path) -> None:
    assert peer.compose is not None
    command = peer.compose(tmp_path, 12345, 2000)
    written = (tmp_path / "conf").read_text()
    assert command[0] == peer.program
    assert str(tmp_path / "conf") in command
    assert "127.0.0.1" in written
    assert "12345" in written


# --------------------------------------------------------------------------------------- the whole script


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), "--rounds", "1", "--workers", "2", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, folder: Path) -> tuple[int, dict[str, Any], str]:
    """Exit status, the JSON report, and what was printed."""
    file = folder / "report.json"
    with start("--json", str(file), *arguments) as script:
        out, err = script.communicate(timeout=RUN_S)
    assert "Traceback" not in err, err
    return script.returncode, json.loads(file.read_text()), out + err


SMALL = ["--clients", "24", "--messages", "6", "--senders", "4", "--loads", "200", "--seconds", "0.2"]


def test_a_baseline_is_measured(tmp_path: Path) -> None:
    status, report, printed = run("--only", "blocks", "--workloads", "B", *SMALL, folder=tmp_path)
    (found,) = report["runs"]
    assert (status, found["lost"], found["findings"]["disagreed"]) == (0, 0, 0), printed
    assert found["counted"] == found["findings"]["deliveries"] == found["expected"] == 4 * 6 * 23
    assert found["findings"]["ordered"] == 24 - 2 + 1, "all but the references, and these with each other"
    assert found["cpu_us"] > 0
    assert found["memory"] is None or found["memory"] > 0


@pytest.mark.slow
def test_mpchat_and_the_baselines_are_compared(tmp_path: Path) -> None:
    """In a size that is no measurement. The flood is above, and E is measured together with D."""
    paired = run("--only", "mpchat,asyncio,threads", "--workloads", "B1", *SMALL, folder=tmp_path)
    alone = run("--only", "mpchat", "--workloads", "A,C,D,E", *SMALL, folder=tmp_path)
    assert (paired[0], alone[0]) == (0, 0), paired[2] + alone[2]
    runs = paired[1]["runs"] + alone[1]["runs"]
    assert [(each["workload"], each["server"]) for each in runs] == [
        *(("B1", server) for server in ("mpchat", "asyncio", "threads")),
        *((workload, "mpchat") for workload in ("A", "C", "D+E")),
    ]
    for each in runs:
        assert each["counted"] == each["expected"] == each["findings"]["deliveries"], each
        assert (each["expected"] == 0) == (each["workload"] == "D+E")
        assert each["sign_ons_per_s"] > 0
        assert set(each["latency_ms"]) == ({"p50", "p99", "max"} if each["workload"] == "A" else set())


@pytest.mark.parametrize(("fault", "kind"), [("loss", "lost"), ("order", "disagreed")])
def test_a_server_that_errs_is_caught(fault: str, kind: str, tmp_path: Path) -> None:
    command = f"{FAULTY} --fault {fault} --victim ^c00009$ --sound 2"
    arguments = ["--only", "mpchat", "--workloads", "B1", "--command", command, "--silence", "1", *SMALL]
    status, report, printed = run(*arguments, folder=tmp_path)
    (found,) = report["runs"]
    assert status == 1, printed
    assert (found["lost"] if kind == "lost" else found["findings"][kind]) == 1, printed
    assert "WRONG at mpchat" in printed


def test_a_server_that_does_not_come_up_is_said_with_its_log(tmp_path: Path) -> None:
    arguments = ["--only", "mpchat", "--workloads", "B", "--command", f"{FAULTY} --fault unready", *SMALL]
    status, report, printed = run(*arguments, folder=tmp_path)
    assert (status, report["runs"]) == (3, [])
    assert "no, not today" in printed


def test_an_interrupted_run_leaves_nothing_behind() -> None:
    """The server has a session of its own and would go on; conftest.py looks for what was left."""
    with start("--only", "blocks", "--workloads", "A", "--clients", "4", "--loads", "10", "--seconds", "30") as script:
        interrupt(script, signal.SIGTERM)  # the server and two load processes, at least
