"""scripts/chaos.py finds every kind of fault, and none where there is none.

The check is pure and is fed correct and spoilt streams in every chunking; then the whole script runs against the
server, and against sabotaged_server.py, which carries on a dead worker's clients wrongly.
"""

from __future__ import annotations

import errno
import json
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from resource import RLIMIT_NOFILE, RLIMIT_NPROC
from typing import Any, NamedTuple

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpchat_tools.common.faults import Faults, Kind
from mpchat_tools.verify import chaos, reference
from mpchat_tools.verify.check import Guest, RoomCheck
from mpchat_tools.verify.reference import HISTORY
from mpchat_tools.verify.surroundings import (
    HAS_LIMITS,
    LIMITS,
    LONGEST_S,
    NOT_BOUND,
    SHORTEST_S,
    Installation,
    Shortage,
    bound_user,
)
from mpchat_tools.verify.talk import compose, read_line
from mpchat_tools.verify.trouble import Pauses, Strike, weigh
from server import ROOT

SCRIPT = ROOT / "scripts" / "chaos.py"
SABOTAGED = f"{sys.executable} {ROOT / 'tests' / 'support' / 'sabotaged_server.py'}"
RUN_S = 90  # for one run of the script in these tests
ROOM = b"r0"
SILENT = [b"c0", b"c1"]
SHORT_OF = """
import os, sys
print("ready", flush=True)
sys.stdin.readline()
for get in (os.pipe, os.fork):
    try:
        got = get()
        if got == 0:
            os._exit(0)
        print("got it")
    except OSError as error:
        print(type(error).__name__, error.errno)
"""
SHOW = "import mpchat, psutil, tempfile; print(tempfile.gettempdir(), mpchat.__file__, psutil.__file__)"


# -------------------------------------------------------------------------------------------- the check


class Got(NamedTuple):
    """A line that a client receives; `live` when it is of the room's one order, and not history or an answer."""

    line: bytes
    live: bool


class Scene:
    """What happens in a room, and what each client receives of it."""

    def __init__(self, dice: random.Random, events: int = 60) -> None:
        self.dice = dice
        self.streams: dict[bytes, list[Got]] = {}
        self.said: dict[bytes, int] = {}
        self.left: list[bytes] = []
        self._history: list[bytes] = []
        self._members: list[bytes] = []
        for name in [*SILENT, b"c2", b"c3", b"c4"]:
            self._join(name)
        for _ in range(events):
            talkers = self._members[len(SILENT) + 1 :]
            match dice.randrange(20):
                case 0:
                    self._join(b"c%d" % len(self.streams))
                case 1 if len(talkers) > 1:
                    self._leave(dice.choice(talkers))
                case _:
                    self._say(dice.choice(self._members[len(SILENT) :]))

    def _answer(self, name: bytes, *lines: bytes) -> None:
        self.streams[name] += [Got(line + b"\n", False) for line in lines]

    def _tell_others(self, name: bytes, line: bytes) -> None:
        for member in self._members:
            if member != name:
                self.streams[member].append(Got(line, True))

    def _join(self, name: bytes) -> None:
        self.streams[name], self.said[name] = [], 0
        company = b", alone" if not self._members else b" with " + b", ".join(self._members)
        self._answer(name, b"* Welcome to mpchat. What is your name?")
        self._answer(name, b"* Hello, %b. You are in #lobby, alone. /help lists the commands." % name)
        self._answer(name, b"* c99 joined #lobby", b"* You are in #%b%b." % (ROOM, company))
        self.streams[name] += [Got(line, False) for line in self._history[-HISTORY:]]
        self._tell_others(name, b"* %b joined #%b\n" % (name, ROOM))
        self._members.append(name)
        if self.dice.random() < 0.5 and b"c2" in self._members:
            self._say(b"c2")
        self._answer(name, b"* You have left #lobby. You talk in #%b now." % ROOM)

    def _leave(self, name: bytes) -> None:
        self._answer(name, b"* Bye, %b." % name)
        self._members.remove(name)
        self.left.append(name)
        self._tell_others(name, b"* %b left the chat\n" % name)

    def _say(self, name: bytes) -> None:
        self.said[name] += 1
        line = name + b": " + compose(ROOM, name, self.said[name], 24 + self.dice.randrange(40))
        self._history.append(line)
        self._tell_others(name, line)


def check(scene: Scene) -> set[Kind]:
    """Feed all streams in turns and pieces of any kind; give what is found."""
    dice, faults = scene.dice, Faults()
    room = RoomCheck(ROOM, faults)
    streams: dict[bytes, Guest] = {}
    for name in scene.streams:
        streams[name] = room.add(Guest(name, room, silent=name in SILENT))
        room.reference.said[name], streams[name].quitting = scene.said[name], name in scene.left
    rest = {name: b"".join(got.line for got in stream) for name, stream in scene.streams.items()}
    while left := [name for name, blob in rest.items() if blob]:
        name = dice.choice(left)
        size = dice.choice([1, 2, 30, 100, 1000, len(rest[name])])
        streams[name].feed(rest[name][:size])
        rest[name] = rest[name][size:]
        if dice.random() < 0.5:
            room.wake()
        if dice.random() < 0.1:
            room.tend()
    room.wake()
    complete, before = room.complete(), faults.counts.total()
    room.finish()
    assert complete == (faults.counts.total() == before)
    return {kind for kind, count in faults.counts.items() if count}


dices = st.builds(random.Random, st.integers(0, 2**32))  # st.randoms() records far more than it can use


@given(dices)
def test_a_correct_order_is_no_fault_in_any_chunking(dice: random.Random) -> None:
    assert check(Scene(dice)) == set()


def lose(lines: list[Got], at: int) -> None:
    del lines[at]


def double(lines: list[Got], at: int) -> None:
    lines.insert(at + 1, lines[at])


def double_late(lines: list[Got], at: int) -> None:
    later = [place for place, got in enumerate(lines) if got.live and place > at]
    lines.insert(later[-1] if later else at + 1, lines[at])


def swap(lines: list[Got], at: int) -> None:
    lines[at], lines[at + 1] = lines[at + 1], lines[at]


def cut(lines: list[Got], at: int) -> None:
    line = lines[at].line
    lines[at] = Got(line[: len(line) // 2] + line[len(line) // 2 + 3 :], True)


def cut_line_end(lines: list[Got], at: int) -> None:
    lines[at] = Got(lines[at].line[:-1], True)


def cut_last(lines: list[Got], at: int) -> None:
    del lines[at + 1 :]
    lines[at] = Got(lines[at].line[:-5], True)


def misdeliver(lines: list[Got], at: int) -> None:
    lines.insert(at, Got(b"c3: " + compose(b"r9", b"c3", 1, 27), True))


def welcome_again(lines: list[Got], at: int) -> None:
    lines.insert(at, lines[0])


def lose_history(lines: list[Got], at: int) -> None:
    history = [place for place, got in enumerate(lines) if not got.live and got.line.startswith(b"c")]
    if not history:
        lines.pop(0)
    else:
        del lines[history[0]]


Spoil = Callable[[list[Got], int], None]
SPOILT: list[tuple[Spoil, Kind]] = [
    (lose, Kind.LOST),
    (double, Kind.DOUBLED),
    (double_late, Kind.DOUBLED),
    (swap, Kind.DISAGREED),
    (cut, Kind.TORN),
    (cut_line_end, Kind.TORN),
    (cut_last, Kind.TORN),
    (misdeliver, Kind.MISDELIVERED),
    (welcome_again, Kind.DOUBLED),
    (lose_history, Kind.LOST),
]


def spoil_one(scene: Scene, spoil: Spoil, names: list[bytes]) -> bool:
    """Spoil a stream at a message of the one order that another one follows; false where there is none."""
    for name in names:
        lines = scene.streams[name]
        places = [
            at
            for at, (one, two) in enumerate(pairwise(lines))
            if one.live and two.live and not one.line.startswith(b"*") and not two.line.startswith(b"*")
        ]
        if places:
            spoil(lines, scene.dice.choice(places))
            return True
    return False


@pytest.mark.parametrize(("spoil", "kind"), SPOILT, ids=[spoil.__name__ for spoil, _ in SPOILT])
@given(dice=dices)
def test_a_fault_at_one_client_is_named(spoil: Spoil, kind: Kind, dice: random.Random) -> None:
    scene = Scene(dice)
    if spoil_one(scene, spoil, list(scene.streams)[len(SILENT) :]):
        assert kind in check(scene)


@pytest.mark.parametrize("spoil", [lose, double, swap, cut])
@given(dice=dices)
def test_a_fault_at_an_observer_is_found(spoil: Spoil, dice: random.Random) -> None:
    scene = Scene(dice)
    if spoil_one(scene, spoil, [dice.choice(SILENT)]):
        assert check(scene)


@given(dice=dices)
def test_a_message_that_nobody_got_is_lost(dice: random.Random) -> None:
    scene = Scene(dice)
    scene.said[b"c2"] += 1
    assert check(scene) == {Kind.LOST}


def test_a_long_stream_is_kept_in_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "WINDOW", 1000)
    room = RoomCheck(ROOM, Faults())
    observer = room.add(Guest(b"c0", room, silent=True))
    observer.feed(b"* Welcome to mpchat. What is your name?\n")
    observer.feed(b"* Hello, c0. You are in #lobby, alone. /help lists the commands.\n* You are in #r0, alone.\n")
    observer.feed(b"* You have left #lobby. You talk in #r0 now.\n")
    first = b"c2: " + compose(ROOM, b"c2", 1, 34)
    for number in range(1, 200):
        observer.feed(b"c2: " + compose(ROOM, b"c2", number, 34))
        room.tend()
    assert room.reference.find(first) is None
    assert len(b"".join(line for _, line in room.reference.lines(room.reference.end - 900, room.reference.end))) == 900
    assert not room.faults.counts
    observer.feed(first)
    assert room.faults.counts == {Kind.DOUBLED: 1}


@pytest.mark.parametrize(
    "line",
    [
        b"c3: " + compose(ROOM, b"c2", 1, 27),
        b"c2: " + compose(ROOM, b"c2", 1, 27).replace(b"x", b"y", 1),
        b"c2: " + compose(ROOM, b"c2", 1, 27).replace(b"xx", b"x", 1),
        b"* c2 joined #r0",
        b"* c2 joined\n",
        b"! You are disconnected: internal error.\n",
    ],
)
def test_what_nobody_typed_is_no_line(line: bytes) -> None:
    assert read_line(line) is None


def test_a_pause_counts_under_the_kinds_of_all_events_around_it() -> None:
    pauses = Pauses()
    pauses.happened(Strike("worker"), 10.0)
    pauses.happened(Strike("stop"), 12.0)
    pauses.happened(Strike("limit", seconds=1.0), 20.0)
    pauses.happened(Strike("hup"), 20.5)
    for start, end in [(5.0, 9.5), (10.05, 10.5), (9.0, 10.1), (11.0, 11.5), (11.9, 14.0), (9.9, 13.0), (13.0, 13.1)]:
        pauses.add(start, end)
    assert pauses.longest == pytest.approx({"none": 4.5, "worker": 1.1, "stop": 2.1, "stop+worker": 3.1})
    pauses.longest.clear()
    for start, end in [(20.1, 20.2), (20.55, 21.0), (21.05, 21.1), (21.2, 22.0)]:
        pauses.add(start, end)
    assert pauses.longest == pytest.approx({"limit": 0.1, "hup+limit": 0.45, "none": 0.8})


def test_who_has_more_clients_is_hit_more_often() -> None:
    assert weigh([12, 40, 12, 13]) == [1, 29, 1, 2]


# --------------------------------------------------------------------------- what can be taken away


def test_an_installation_runs_without_this_checkout_and_goes_part_by_part(tmp_path: Path) -> None:
    with closing(Installation()) as installation:
        # A working directory of that kind would be in the way.
        (tmp_path / "mpchat.py").write_text("raise SystemExit(9)")
        command = [installation.command[0].replace("mpchat-server", "python"), "-P", "-c", SHOW]
        environment = installation.environment
        shown = subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)
        temporary, *modules = shown.stdout.split()
        assert temporary == environment["TMPDIR"]
        folder = installation.working.parent
        assert [Path(module).is_relative_to(folder) for module in modules] == [True, True]
        version = subprocess.run([*installation.command, "--version"], env=environment, check=True, capture_output=True)
        assert version.stdout.startswith(b"mpchat ")
        assert installation.left() == ["program", "tmp", "working"]
        assert installation.left(with_program=False) == ["tmp", "working"]
        for part in installation.left():
            installation.remove(part)
        assert installation.left() == []
        assert not any(folder.iterdir())
    assert not folder.exists()


@pytest.mark.skipif(not HAS_LIMITS, reason="needs prlimit(2)")
@pytest.mark.parametrize("limits", [LIMITS[:1], LIMITS[1:], LIMITS])
@pytest.mark.parametrize("over", [False, True])
def test_in_a_shortage_nothing_more_is_to_be_had(limits: list[int], over: bool) -> None:
    user = bound_user()
    if user is None:
        pytest.skip(NOT_BOUND)
    command = [*user, sys.executable, "-c", SHORT_OF]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        shortage = Shortage(psutil.Process(process.pid), limits, random.Random(0))
        assert SHORTEST_S <= shortage.seconds <= LONGEST_S
        if over:
            shortage.end()
        said, _ = process.communicate("\n")
    refused = {RLIMIT_NOFILE: f"OSError {errno.EMFILE}", RLIMIT_NPROC: f"BlockingIOError {errno.EAGAIN}"}
    assert said.splitlines() == [refused[limit] if limit in limits and not over else "got it" for limit in LIMITS]


# -------------------------------------------------------------------------------------------- the script


def test_each_count_is_explained_where_it_is_printed() -> None:
    report: dict[str, Any] = {
        "plan": {"clients": 1, "rooms": 1, "seconds": 1.0, "workers": 2},
        "connections": 1,
        "messages": 1,
        "deliveries": 1,
        "kept": 5,
        "seen": 4,
        "kills": {"upgrade": 8},
        "done": {"upgrade": 2},
        "pause_ms": {"none": 743.0},
        "longest_round_ms": 3.0,
        "remarks": ["limit: of descriptors only"],
        "faults": {},
    }
    lines = chaos.format_report(report).splitlines()
    for words in ["5  (4 seen)", "upgrade 8", "upgrade 2", "none 743 ms", "3 ms at most"]:
        place = next(place for place, line in enumerate(lines) if words in line)
        assert lines[place + 1].strip().startswith("(")
    assert "limit: of descriptors only" in lines


@pytest.mark.parametrize(
    "arguments",
    [
        ["--clients", "0"],
        ["--kill", "cat"],
        ["--kill", ","],
        ["--every", "nan"],
        ["--seconds", "inf"],
        ["--rate", "-1"],
        ["--until", "cat"],
        ["--clients", "200", "--rooms", "2"],
        ["--kill", "disk", "--command", "mpchat-server"],
        ["--json", "no/such/directory/report.json"],
    ],
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        chaos.parse(arguments)
    assert ended.value.code == 2
    assert arguments[-2] in capsys.readouterr().err


def run(report: Path, arguments: str, *more: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, str(SCRIPT), "--json", str(report), *arguments.split(), *more]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=RUN_S)
    said = done.stdout + done.stderr
    assert report.exists(), said
    return done.returncode, json.loads(report.read_text()), said


@pytest.mark.slow
def test_nobody_notices_that_workers_are_stopped(tmp_path: Path) -> None:
    arguments = "--clients 20 --seconds 4 --kill stop --every 1500 --workers 2 --rate 200"
    status, report, said = run(tmp_path / "report.json", arguments)
    assert report["faults"] == {}, said
    assert status == 0
    assert report["kills"]["stop"] >= 1


@pytest.mark.slow
def test_nobody_notices_that_workers_are_killed_every_100_ms(tmp_path: Path) -> None:
    arguments = "--clients 20 --seconds 6 --kill worker --every 100 --workers 3 --rate 300"
    status, report, said = run(tmp_path / "report.json", arguments)
    assert report["faults"] == {}, said
    assert status == 0
    assert report["kills"]["worker"] >= 10
    assert report["messages"] >= 1000
    assert any("worker" in kinds for kinds in report["pause_ms"])


@pytest.mark.slow
def test_nobody_notices_all_kinds_of_trouble_together(tmp_path: Path) -> None:
    arguments = "--clients 20 --seconds 7 --kill worker,sequencer,stop,hup,upgrade,scale --every 300 --workers 3"
    status, report, said = run(tmp_path / "report.json", arguments, *["--rate", "200", "--settle", "60"])
    assert report["faults"] == {}, said
    assert status == 0
    assert sum(report["kills"].values()) >= 10


@pytest.mark.slow
def test_nobody_notices_that_the_disk_is_cleaned_and_that_limits_are_reached(tmp_path: Path) -> None:
    limit = "limit,limit," if HAS_LIMITS else ""
    arguments = f"--clients 20 --seconds 10 --kill {limit}disk,worker,sequencer --every 300 --workers 3 --rate 200"
    status, report, said = run(tmp_path / "report.json", arguments)
    assert report["faults"] == {}, said
    assert status == 0
    assert report["kills"]["disk"] == 3
    assert report["kills"]["worker"] >= 3
    if HAS_LIMITS:
        assert report["kills"]["limit"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["repeat-doubled", "tear-torn", "reverse-reordered", "abandon-disconnected"])
def test_a_fault_of_adoption_is_found(fault: str, tmp_path: Path) -> None:
    fault, kind = fault.split("-")
    arguments = f"--clients 10 --rooms 1 --seconds 40 --until {kind} --every 10000 --kill worker --workers 2 --rate 400"
    status, report, said = run(tmp_path / "report.json", arguments, "--command", f"{SABOTAGED} {fault}")
    assert kind in report["faults"], said
    assert status == 1
    assert f"WRONG: {kind}" in said


@pytest.mark.slow
def test_what_adoption_loses_is_found(tmp_path: Path) -> None:
    """Only at the end it is certain that something does not come."""
    arguments = "--clients 10 --rooms 1 --seconds 3 --settle 1 --every 10000 --kill worker --workers 2 --rate 400"
    status, report, said = run(tmp_path / "report.json", arguments, "--command", f"{SABOTAGED} forget")
    assert "lost" in report["faults"], said
    assert status == 1
    assert "WRONG: lost" in said


@pytest.mark.slow
def test_what_was_seen_is_kept_though_the_archive_and_then_all_processes_are_killed(tmp_path: Path) -> None:
    arguments = "--clients 20 --seconds 12 --kill archive,all,worker,stop,hup --every 500 --workers 2 --rate 200"
    status, report, said = run(tmp_path / "report.json", arguments, "--settle", "60")
    assert report["faults"] == {}, said
    assert status == 0
    assert report["kills"]["all"] >= 1
    assert report["kills"]["archive"] >= 1
    assert report["kept"] >= report["seen"] >= 200


@pytest.mark.slow
def test_a_server_starts_again_though_its_disk_was_cleaned_and_its_limits_were_reached(tmp_path: Path) -> None:
    limit = "limit," if HAS_LIMITS else ""
    arguments = f"--clients 10 --seconds 10 --kill {limit}disk,all,archive,upgrade --every 400 --workers 2 --rate 100"
    status, report, said = run(tmp_path / "report.json", arguments, "--settle", "60")
    assert report["faults"] == {}, said
    assert status == 0
    assert report["kills"]["all"] >= 1
    assert report["kept"] >= report["seen"]
