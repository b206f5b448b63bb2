"""scripts/stress.py finds every kind of fault, and none where there is none.

The check is pure and is fed correct and spoilt streams in every chunking; then the whole script runs against
faulty_server.py, which makes one fault at a time.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interruption import interrupt
from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.faults import Faults, Kind
from mpchat_tools.verify import stress
from mpchat_tools.verify.check import HELD, Resident, RoomCheck
from mpchat_tools.verify.crowd import Client, Crowd
from mpchat_tools.verify.plan import Plan
from mpchat_tools.verify.reference import Key, compare_orders
from mpchat_tools.verify.talk import Said, compose, read_line
from mpchat_tools.verify.talkers import Result
from server import ROOT

SCRIPT = ROOT / "scripts" / "stress.py"
FAULTY = f"{sys.executable} {ROOT / 'tests' / 'support' / 'faulty_server.py'}"
RUN_S = 60  # for one run of the script in these tests

Lines = list[bytes]


# -------------------------------------------------------------------------------------------- the check


class Room:
    """A room of a plan, all of whose members are in one process, and its check."""

    def __init__(self, plan: Plan, number: int = 0) -> None:
        self.plan = plan
        self.faults = Faults()
        self.name = plan.room_name(number)
        self.members = list(plan.members(number))
        self.check = RoomCheck(self.name, self.faults)
        self.check.reference.said.update({plan.name_of(client): plan.messages for client in self.members})
        run = plan.run.encode()
        self.observer = self.check.add(Resident(plan.observer_of(number, 0), self.check, run, silent=True))
        self.readers = [self.check.add(Resident(plan.name_of(c), self.check, run)) for c in self.members]

    def say(self, member: int, number: int) -> bytes:
        """The line that receivers of a message see."""
        name = self.plan.name_of(self.members[member])
        return name + b": " + compose(self.name, name, number, self.plan.size, 1000 + number)

    def make_streams(self, dice: random.Random) -> list[Lines]:
        """What the observer and each reader should receive: any mixture of what each member says in turn."""
        turns = [member for member in range(len(self.members)) for _ in range(self.plan.messages)]
        dice.shuffle(turns)
        said = [0] * len(self.members)
        order = []
        for member in turns:
            said[member] += 1
            order.append((member, self.say(member, said[member])))
        return [[line for member, line in order if member != own] for own in range(-1, len(self.members))]

    def deliver(self, streams: list[Lines], dice: random.Random) -> None:
        """Feed all streams in turns and pieces of any kind."""
        rest = [b"".join(lines) for lines in streams]
        while left := [number for number, blob in enumerate(rest) if blob]:
            number = dice.choice(left)
            size = dice.choice([1, 2, 30, 100, 1000, len(rest[number])])
            self.check.streams[number].feed(rest[number][:size], 5000)
            rest[number] = rest[number][size:]
            if dice.random() < 0.5:
                self.check.wake()

    def judge(self) -> Faults:
        self.check.finish()
        return self.faults


def kinds(faults: Faults) -> set[Kind]:
    return {kind for kind, count in faults.counts.items() if count}


plans = st.builds(
    Plan,
    clients=st.integers(3, 7),
    messages=st.integers(2, 5),
    rooms=st.integers(1, 2),
    processes=st.just(1),
    size=st.sampled_from([1, 70, 200]),
).filter(lambda plan: plan.clients >= 3 * plan.rooms)
dices = st.builds(random.Random, st.integers(0, 2**32))  # st.randoms() records far more than it can use

NOISE = [
    b"* bob joined #lobby\n",
    b"! There is no /stress-marker-2.\n",
    b"old: a line of history\n",
    b"#elsewhere old: hello\n",
    b"[old] pssst\n",
    b"** old waves\n",
    b"k99999999-1: 99999999 0 1 2 333 xxxx 12345678\n",
]


@given(plans, dices)
def test_a_correct_order_is_no_fault_in_any_chunking(plan: Plan, dice: random.Random) -> None:
    for number in range(plan.rooms):
        room = Room(plan, number)
        streams = room.make_streams(dice)
        for lines in streams:
            for line in NOISE:
                lines.insert(dice.randint(0, len(lines)), line)
        room.deliver(streams, dice)
        room.check.wake()
        assert room.check.complete()
        assert kinds(room.judge()) == set()
        assert [reader.answers for reader in [room.observer, *room.readers]] == [1] * len(streams)
        assert len(room.observer.latencies_ns) == plan.messages * len(room.members)
        assert sum(stream.lines for stream in room.check.streams) == plan.messages * len(room.members) ** 2


Spoiler = Callable[[Plan, Lines, random.Random], None]


def lose(plan: Plan, lines: Lines, dice: random.Random) -> None:
    lines.pop(dice.randrange(len(lines)))


def double(plan: Plan, lines: Lines, dice: random.Random) -> None:
    place = dice.randrange(len(lines))
    lines.insert(dice.randint(place, len(lines)), lines[place])


def swap_of_one_sender(plan: Plan, lines: Lines, dice: random.Random) -> None:
    sender = dice.choice(lines).split()[0]
    one, two = dice.sample([place for place, line in enumerate(lines) if line.split()[0] == sender], 2)
    lines[one], lines[two] = lines[two], lines[one]


def swap_neighbours(plan: Plan, lines: Lines, dice: random.Random) -> None:
    """Of different senders, so that each of the two still says everything in turn."""
    places = [n for n in range(len(lines) - 1) if lines[n].split()[0] != lines[n + 1].split()[0]]
    place = dice.choice(places)
    lines[place : place + 2] = reversed(lines[place : place + 2])


def cut_off(plan: Plan, lines: Lines, dice: random.Random) -> None:
    place = dice.randrange(len(lines))
    lines[place] = lines[place][: dice.randrange(1, len(lines[place]))]


def break_in_two(plan: Plan, lines: Lines, dice: random.Random) -> None:
    place = dice.randrange(len(lines))
    at = dice.randrange(1, len(lines[place]) - 1)
    lines[place] = lines[place][:at] + b"\n" + lines[place][at:]


def garble(plan: Plan, lines: Lines, dice: random.Random) -> None:
    place = dice.randrange(len(lines))
    at = dice.randrange(len(lines[place]) - 1)
    was = lines[place][at : at + 1]
    wrong = b"%d" % (9 - int(was)) if was.isdigit() else b"z"
    lines[place] = lines[place][:at] + wrong + lines[place][at + 1 :]


def add_foreign_room(plan: Plan, lines: Lines, dice: random.Random) -> None:
    """A line that names another room than that of the stream, from whoever."""
    name = plan.name_of(plan.clients - 1)
    lines.insert(dice.randint(0, len(lines)), name + b": " + compose(b"stress-9", name, 1, plan.size))


def mark_as_other_room(plan: Plan, lines: Lines, dice: random.Random) -> None:
    place = dice.randrange(len(lines))
    lines[place] = b"#stress-9 " + lines[place]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lose, {Kind.LOST}),
        (double, {Kind.DOUBLED}),
        (swap_of_one_sender, {Kind.REORDERED, Kind.DISAGREED}),
        (swap_neighbours, {Kind.DISAGREED}),
        (cut_off, {Kind.TORN, Kind.LOST}),
        (break_in_two, {Kind.TORN, Kind.LOST}),
        (garble, {Kind.TORN, Kind.LOST}),
        (add_foreign_room, {Kind.MISDELIVERED}),
        (mark_as_other_room, {Kind.MISDELIVERED, Kind.LOST}),
    ],
)
@given(plan=plans, dice=dices)
def test_each_fault_is_named(spoil: Spoiler, expected: set[Kind], plan: Plan, dice: random.Random) -> None:
    """Whoever it strikes, the observer included, and nothing else is said to be wrong."""
    room = Room(plan)
    streams = room.make_streams(dice)
    victim = dice.randrange(len(streams))
    spoil(plan, streams[victim], dice)
    room.deliver(streams, dice)
    faults = room.judge()
    # What an observer gets too late is not in the order any more.
    assert kinds(faults) in (expected, expected - {Kind.DISAGREED}) if victim == 0 else kinds(faults) == expected
    if Kind.DISAGREED not in expected:
        name = room.check.streams[victim].name.decode()
        assert all(text.startswith(f"{name} ") for texts in faults.examples.values() for text in texts)
    if spoil in (lose, double):
        assert faults.counts.total() == 1


@given(plans, dices)
def test_a_loss_at_everybody_is_counted_for_everybody(plan: Plan, dice: random.Random) -> None:
    """What no stream brings is missing in the reference too, which must not make it right."""
    room = Room(plan)
    gone = room.say(0, dice.randint(1, plan.messages))
    room.deliver([[line for line in lines if line != gone] for lines in room.make_streams(dice)], dice)
    assert not room.check.complete()
    assert room.judge().counts == {Kind.LOST: len(room.members)}  # all but the sender, and the observer


@given(plans, dices)
def test_a_double_at_everybody_is_counted_for_everybody(plan: Plan, dice: random.Random) -> None:
    room = Room(plan)
    twice = room.say(0, 1)
    streams = [[line for each in lines for line in [each] * (1 + (each == twice))] for lines in room.make_streams(dice)]
    room.deliver(streams, dice)
    assert room.judge().counts == {Kind.DOUBLED: len(room.members)}


@given(plans, dices)
def test_an_echo_of_ones_own_message_is_misdelivered(plan: Plan, dice: random.Random) -> None:
    room = Room(plan)
    streams = room.make_streams(dice)
    streams[1].insert(dice.randint(0, len(streams[1])), room.say(0, 1))
    room.deliver(streams, dice)
    assert room.judge().counts == {Kind.MISDELIVERED: 1}


@given(plans, dices)
def test_a_lost_observer_does_not_blame_the_others(plan: Plan, dice: random.Random) -> None:
    room = Room(plan)
    observed, *others = room.make_streams(dice)
    seen = dice.randrange(len(observed))
    room.deliver([observed[:seen], *others], dice)
    faults = room.judge()
    assert faults.counts == {Kind.LOST: len(observed) - seen}
    assert all(text.startswith(room.observer.name.decode()) for text in faults.examples[Kind.LOST])


def test_observers_in_two_processes_are_compared() -> None:
    one, two, three, four = KEYS
    assert compare_orders([[one, three, two, four], [one, three, two, four]]) == []
    assert compare_orders([[one, three, two, four], [three, one, two, four]]) == [one]


KEYS: list[Key] = [(b"k1", 1), (b"k1", 2), (b"k2", 1), (b"k2", 2)]


def make_result(process: int, order: list[Key], **others: Any) -> Result:
    """Of a process that found no fault in a room of its own and of others."""
    fields: dict[str, Any] = {"faults": Faults(), "arrived": 6, "timed_out": False} | others
    return Result(
        process=process,
        orders={0: order},
        latencies_ns=array("q"),
        remarks=[],
        last_arrival_ns=0,
        cpu_s=0.0,
        **fields,
    )


def test_the_results_of_two_processes_are_joined() -> None:
    plan = Plan(clients=2, messages=2)  # 2 readers get 2 lines each, 2 observers 4
    swapped = [KEYS[1], KEYS[0], *KEYS[2:]]
    one, same, other = make_result(0, KEYS), make_result(1, KEYS), make_result(1, swapped)
    assert not stress.join_faults(plan, [one, same]).counts
    assert stress.join_faults(plan, [one, other]).counts == {Kind.DISAGREED: 1}
    lossy = Faults()
    lossy.add(Kind.LOST, "a line", count=2)
    assert stress.join_faults(plan, [one, make_result(1, [], faults=lossy)]) == lossy


def test_a_run_that_was_cut_short_is_not_well() -> None:
    plan = Plan(clients=2, messages=2)
    results = [make_result(0, [], arrived=0, timed_out=True), make_result(1, [], arrived=0)]
    assert stress.join_faults(plan, results).counts == {Kind.STUCK: 1}
    with pytest.raises(ToolError, match="the check is wrong"):
        stress.join_faults(plan, results[1:])


def test_who_is_far_ahead_of_the_reference_is_read_without_it() -> None:
    """More than HELD is not kept; the check goes on line by line, and finds all but another order."""
    room = Room(Plan(clients=2, messages=600, size=4000))
    lines = [room.say(0, number) for number in range(1, 601)]
    assert sum(map(len, lines)) > 2 * HELD
    reader = room.readers[1]
    for line in lines:
        reader.feed(line)
        assert len(reader._held) <= HELD
    room.observer.feed(b"".join([*lines, *(room.say(1, number) for number in range(1, 601))]))
    room.readers[0].feed(b"".join(room.say(1, number) for number in range(1, 601)))
    room.check.wake()
    assert reader.lines == 600
    assert not room.judge().counts


@pytest.mark.parametrize("stream", [0, 1])
def test_a_line_without_end_is_torn_and_not_kept(stream: int) -> None:
    room = Room(Plan(clients=2, messages=1, processes=1))
    for _ in range(20):
        room.check.streams[stream].feed(b"x" * (HELD // 10))
        assert len(room.check.streams[stream]._held) <= HELD
    assert room.judge().counts[Kind.TORN] == 2


@pytest.mark.parametrize("stream", [0, 1])
def test_endless_doubles_are_counted_and_not_kept(stream: int) -> None:
    room = Room(Plan(clients=2, messages=1, processes=1))
    room.check.streams[stream].feed(room.say(1, 1) * 1000)
    assert room.judge().counts[Kind.DOUBLED] == 999
    assert room.check.streams[stream].lines == 1
    assert room.check.streams[stream]._held == b""


def test_answers_behind_held_lines_are_seen_when_all_is_quiet() -> None:
    """Else a loss at the observer alone would hang the run until the deadline."""
    room = Room(Plan(clients=2, messages=1, processes=1))
    room.readers[1].feed(room.say(0, 1) + b"! What?\n")
    assert room.readers[1].answers == 0
    room.check.hurry()
    assert room.readers[1].answers == 1


@given(st.binary())
def test_any_line_is_something_or_torn(line: bytes) -> None:
    assert read_line(line + b"\n") is None


def test_a_message_is_recognised_in_full() -> None:
    line = b"k1: " + compose(b"stress-1", b"k1", 7, 70, 1047)
    assert read_line(line) == Said(b"k1", b"stress-1", 7, sent_ns=1047)
    assert read_line(b"#stress-1 " + line) == Said(b"k1", b"", 7, sent_ns=1047)


@pytest.mark.parametrize("line", [b"\n", b"xxxx 1234abcd\n", b"joined #lobby\n", b"k0123\n", b"k0123abcd-0: 0123\n"])
def test_pieces_of_lines_are_torn(line: bytes) -> None:
    room = Room(Plan(clients=1, messages=1))
    room.readers[0].feed(line)
    assert room.faults.counts == {Kind.TORN: 1}


@given(
    st.integers(1, 60).flatmap(
        lambda clients: st.builds(
            Plan,
            clients=st.just(clients),
            messages=st.integers(1, 3),
            rooms=st.integers(1, clients),
            processes=st.integers(1, clients),
        )
    )
)
def test_the_plan_puts_everybody_somewhere_once(plan: Plan) -> None:
    placed = [client for process in range(plan.processes) for client in plan.clients_in(process)]
    assert sorted(placed) == list(range(plan.clients))
    rooms = [(room, process) for process in range(plan.processes) for room in plan.rooms_in(process)]
    assert len(rooms) == plan.observers
    readers = [sum(plan.process_of(client) == process for client in plan.members(room)) for room, process in rooms]
    receivers = [(len(plan.members(room)) - 1) * count for (room, _), count in zip(rooms, readers, strict=True)]
    observed = [len(plan.members(room)) for room, _ in rooms]
    assert plan.deliveries == plan.messages * (sum(receivers) + sum(observed))


def test_messages_have_the_size_asked_for() -> None:
    assert len(compose(b"lobby", b"k1", 1, 300, 123456789)) == 300 + 1


# ------------------------------------------------------------------------------------- one connection


def test_a_client_that_cannot_send_goes_on_reading() -> None:
    """Its socket is full: what it wants to say waits, what it is told arrives."""
    reader = Room(Plan(clients=1, messages=1, processes=1)).readers[0]
    said = b"x" * 4_000_000
    ended: list[Client[Resident]] = []
    crowd: Crowd[Client[Resident]] = Crowd(lambda client, data: client.stream.feed(data), ended.append)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(listener.getsockname(), reader, RUN_S)
        crowd.add(client)
        theirs, _ = listener.accept()
    with theirs:
        crowd.say(client, said)
        theirs.sendall(b"* still here\n")
        while not reader.notices:
            crowd.turn(RUN_S)
        assert client.unsent
        received = 0
        while received < len(said):
            received += len(theirs.recv(1 << 20))
            crowd.turn(0)
        assert not client.unsent
        theirs.shutdown(socket.SHUT_WR)
        while not ended:
            crowd.turn(RUN_S)
        assert client.gone
    crowd.close()


# --------------------------------------------------------------------------------------- the whole script


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the script."""
    with start(*arguments) as script:
        out, err = script.communicate(timeout=RUN_S)
    return script.returncode, out, err


def run_faulty(fault: str, report: Path, *arguments: str, victim: str = "^k[^-]+-1$") -> tuple[int, dict[str, Any]]:
    """A short talk at a rate that spreads it over several fan-outs of the server."""
    command = f"{FAULTY} --fault {fault} --victim={victim}"
    load = ["--clients", "8", "--messages", "10", "--rooms", "2", "--rate", "800"]
    status, out, err = run(*load, "--command", command, "--json", str(report), *arguments)
    assert report.exists(), out + err
    return status, json.loads(report.read_text())


def test_a_correct_server_is_found_correct(tmp_path: Path) -> None:
    status, report = run_faulty("none", tmp_path / "report.json")
    assert (status, report["faults"]) == (0, {})
    assert report["delivered"] == report["plan"]["deliveries"] == 8 * 10 * (3 + 1)
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p99"] <= report["latency_ms"]["max"]
    assert report["connections_per_s"] > 0
    assert report["messages_per_s"] > 0
    assert report["deliveries_per_s"] > 0
    assert report["server_ready_s"] > 0
    assert report["server_end_s"] > 0
    main = report["server"][0]
    assert main["role"] == "main"
    assert main["rss"] > 0


def test_one_room_is_one_order_across_client_processes() -> None:
    status, out, err = run("--clients", "9", "--messages", "20", "--processes", "3", "--command", FAULTY)
    assert status == 0, out + err
    assert "9 + 3 observers, 1 rooms" in out
    assert "all is well" in out


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("double", {"doubled"}),
        ("swap", {"reordered", "disagreed"}),
        ("torn", {"torn", "lost"}),
        ("misdeliver", {"misdelivered"}),
    ],
)
def test_a_fault_at_one_client_is_named_with_it(fault: str, expected: set[str], tmp_path: Path) -> None:
    status, report = run_faulty(fault, tmp_path / "report.json")
    assert status == 1
    assert set(report["faults"]) == expected
    victim = f"k{report['plan']['run']}-1 "
    assert all(text.startswith(victim) for found in report["faults"].values() for text in found["examples"])


def test_a_client_that_is_cut_off_is_named(tmp_path: Path) -> None:
    """What it could not say any more is lost to the others as well."""
    status, report = run_faulty("cut", tmp_path / "report.json")
    assert status == 1
    assert set(report["faults"]) == {"disconnected", "lost"}
    assert report["faults"]["disconnected"]["examples"] == [f"k{report['plan']['run']}-1 (TALKING)"]


@pytest.mark.parametrize(("fault", "expected"), [("loss", {"lost"}), ("order", {"disagreed"})])
def test_a_fault_at_an_observer_is_named(fault: str, expected: set[str], tmp_path: Path) -> None:
    status, report = run_faulty(fault, tmp_path / "report.json", victim="-o1-1$")
    assert status == 1
    assert set(report["faults"]) == expected


def test_a_loss_at_the_end_of_the_reference_hangs_nobody(tmp_path: Path) -> None:
    """The others are ahead of their reference for good, with the markers' answers behind what it lacks."""
    status, report = run_faulty("loss", tmp_path / "report.json", victim="-o1-1$ --sound 39")
    assert status == 1
    assert {kind: found["count"] for kind, found in report["faults"].items()} == {"lost": 1}


def test_a_server_that_falls_silent_is_not_waited_for_longer_than_allowed(tmp_path: Path) -> None:
    status, report = run_faulty("mute", tmp_path / "report.json", "--timeout", "3")
    assert status == 1
    assert set(report["faults"]) == {"stuck", "lost"}
    assert f"k{report['plan']['run']}-1 still waits" in report["faults"]["stuck"]["examples"][0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [("status", "exit status 7"), ("chatty", "more than one line"), ("orphan", "behind")],
)
def test_a_server_that_does_not_end_well_is_a_fault(fault: str, words: str, tmp_path: Path) -> None:
    status, report = run_faulty(fault, tmp_path / "report.json")
    assert status == 1
    assert set(report["faults"]) == {"server"}
    assert words in report["faults"]["server"]["examples"][0]


def test_a_server_that_does_not_come_up_is_said_with_its_log() -> None:
    status, out, err = run("--clients", "2", "--command", f"{FAULTY} --fault unready")
    assert (status, out) == (3, "")
    assert "ended before it was ready:\nno, not today" in err


def test_a_server_that_is_named_is_used_and_goes_on() -> None:
    with subprocess.Popen(FAULTY.split(), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[3].rstrip(",")
        try:
            status, out, err = run("--clients", "4", "--messages", "3", "--connect", address, "--pid", str(server.pid))
            assert status == 0, out + err
            assert f"  {server.pid}  " in out
            assert server.poll() is None
        finally:
            server.terminate()


def test_nobody_listening_is_no_fault_of_the_server() -> None:
    with socket.socket() as bound:  # bound and not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        status, _, err = run("--clients", "2", "--connect", f"127.0.0.1:{bound.getsockname()[1]}")
    assert status == 3
    assert "stress: 127.0.0.1:" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--clients", "0"],
        ["--clients", "2", "--rooms", "3"],
        ["--connect", "4000"],
        ["--connect", "localhost:x"],
        ["--size", "5000"],
        ["--rate", "-1"],
        ["--timeout", "inf"],
        ["--json", "no/such/directory/report.json"],
    ],
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        stress.parse(arguments)
    assert ended.value.code == 2
    assert arguments[-2] in capsys.readouterr().err


def test_an_interrupted_run_leaves_nothing_behind() -> None:
    """The server has a session of its own and would go on; conftest.py looks for what was left."""
    with start("--clients", "2", "--messages", "1000", "--rate", "10", "--command", FAULTY) as script:
        interrupt(script, signal.SIGINT)  # the server and two client processes, at least
