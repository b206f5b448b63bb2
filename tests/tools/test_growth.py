"""scripts/growth.py lets one thing grow at a time, finds what is lost, and tells medians and disturbances.

What is pure (series, report, the exit status) is looked at; then each kind of run is made once, small. No figure of a
run is compared with anything: the machine may be busy.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import re
import shlex
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interruption import interrupt
from mpchat_tools.bench.dialects import Line
from mpchat_tools.bench.workload import SHORTEST, Kind
from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.meter import Disturbance, subtract
from mpchat_tools.common.serverlog import find_kinds
from mpchat_tools.growth import archive, sequencer, stalls
from mpchat_tools.growth import command as growth
from mpchat_tools.growth.capacity import BUSY, Costs, compute, find_costs, format_capacity
from mpchat_tools.growth.parts import PARTS
from mpchat_tools.growth.report import TABLES, format_series
from mpchat_tools.growth.sample import Sample
from mpchat_tools.growth.sequencer import Published, Read, list_faults, list_figures, make_payload
from mpchat_tools.growth.series import SERIES, WORKERS, Archiving, Case, Idle, Part, Sequencing, Start, Talk
from mpchat_tools.growth.talk import IdleLine, MemberLine, with_mark
from server import ROOT

from mpchat.chat.entries import Said, decode_entries
from mpchat.chat.state.state import Limits
from mpchat.log.port import Record

SCRIPT = ROOT / "scripts" / "growth.py"
FAULTY = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'tests' / 'support' / 'faulty_server.py'))}"
RUN_S = 60
CALM = Disturbance(stolen=0.0, foreign=0.0)


# ------------------------------------------------------------------------------------------------- series


def cases_of(series: str, quick: bool = False) -> list[Case]:
    return list(SERIES[series](quick))


def talks_of(series: str) -> list[Talk]:
    talks = [case.what for case in cases_of(series)]
    return [talk for talk in talks if isinstance(talk, Talk)]


def test_each_series_has_a_table_and_rows_of_different_names() -> None:
    assert SERIES.keys() == TABLES.keys()
    for series in SERIES:
        for quick in (False, True):
            cases = cases_of(series, quick)
            assert {case.series for case in cases} == {series}
            assert len({case.row for case in cases}) == len(cases) > 0


def test_the_sizes_are_those_of_the_issue() -> None:
    assert [talk.workers for talk in talks_of("workers")] == [1, 2, 4, 8] * 3
    assert [talk.workload.clients for talk in talks_of("room")] == [10, 50, 200, 1000, 5000] * 3
    rooms = [talk.idle.rooms for talk in talks_of("rooms") if talk.idle]
    assert (rooms[0], rooms[-1]) == (1, Limits().rooms_of_server - 1), "and the lobby"
    assert [talk.idle.clients if talk.idle else 0 for talk in talks_of("idle")] == [0, 1000, 2000, 4000, 8000]
    sizes = [talk.workload.size for talk in talks_of("size")]
    assert (min(sizes), max(sizes)) == (16, 3000)
    for talk in talks_of("crowd"):
        assert (talk.clients, talk.workload.rooms, talk.workload.kind) == (8000, 160, Kind.PACED)
        assert talk.workload.messages * talk.workload.senders * talk.workload.rooms == talk.workload.load * 5


def test_only_one_thing_grows() -> None:
    for series in ("rooms", "memberships", "idle"):
        assert len({(talk.workload, talk.workers) for talk in talks_of(series)}) == 1
    assert len({talk.clients for talk in talks_of("rooms")}) == 1
    assert {talk.workers for series in ("room", "size", "crowd") for talk in talks_of(series)} == {WORKERS}
    for talks in (talks_of("room")[:5], talks_of("room")[5:10]):
        deliveries = [talk.workload.deliveries(echoes=False) for talk in talks]
        assert max(deliveries) < 1.15 * min(deliveries)
    assert len({(talk.workload.senders, talk.workers) for talk in talks_of("room")}) == 1
    assert len({talk.workload.messages for talk in talks_of("room")[10:]}) == 1


@given(clients=st.integers(1, 300), rooms=st.integers(1, 9999))
def test_all_rooms_exist_and_nobody_is_in_too_many(clients: int, rooms: int) -> None:
    idle = Idle(clients, rooms, each=-(-rooms // clients))
    mine = [idle.rooms_of(client) for client in range(clients)]
    assert {room for each in mine for room in each} == set(range(rooms))
    assert all(len(each) == idle.each for each in mine)


def test_nobody_is_in_more_rooms_than_the_server_allows() -> None:
    limits = Limits()
    assert max(talk.idle.each for talk in talks_of("rooms") if talk.idle) <= limits.rooms_of_session
    assert max(talk.more + 1 for talk in talks_of("memberships")) <= limits.rooms_of_session


def test_short_messages_have_no_mark_but_are_told_apart() -> None:
    short, *longer = [with_mark(talk, b"abcdabcd").workload for talk in talks_of("size")]
    assert short.size < SHORTEST
    assert {load.run for load in longer} == {b"abcdabcd"}
    for load in (short, longer[0], longer[-1]):
        said = [(3, 7), (3, 8), (13, 7)]
        texts = [load.text(*each) for each in said]
        assert {len(text) for text in texts} == {load.size}
        names = [b"c%05d" % sender for sender, _ in said]
        stream = b"".join(Line().delivery(name, 0, text) for name, text in zip(names, texts, strict=True))
        found = [match[match.re.groups] for match in Line().pattern(load, 0).finditer(stream)]
        assert found == [load.key(*each) for each in said]


# ------------------------------------------------------------------------------------------------ dialects


def test_idle_clients_are_not_where_there_is_talk() -> None:
    ((said, answered),) = IdleLine(Idle(2, 4, each=2)).steps(1, talks_of("idle")[0].workload)
    name, *commands = said.split(b"\n")
    assert name == b"i00001"
    assert commands == [b"/join #i1", b"/leave #lobby", b"/join #i3", b"/growth-fence", b""]
    assert commands[-2] in answered


def test_who_is_in_many_rooms_talks_in_the_lobby() -> None:
    ((said, _),) = MemberLine(2).steps(1, talks_of("memberships")[0].workload)
    assert said.split(b"\n")[1:4] == [b"/join #m1-0", b"/join #m1-1", b"/join #lobby"]


# -------------------------------------------------------------------------------------------------- figures


def test_the_log_names_the_processes() -> None:
    lines = ["x INFO: sequencer started, pid 12", "worker-0 started, pid 7", "worker-11 started, pid 8", "pid 9", ""]
    assert find_kinds(lines) == {12: "sequencer", 7: "workers", 8: "workers"}


def test_differences_are_by_kind() -> None:
    assert subtract({"main": 3.0, "workers": 5.0}, {"main": 1.0, "workers": 1.5}) == {"main": 2.0, "workers": 3.5}
    assert subtract({}, {"main": 1.0}) == {}


def test_the_sequencer_is_full_when_it_is_busy_all_the_time() -> None:
    task = Sequencing(publishers=2, readers=2, batch=10, seconds=1.0)
    figures = list_figures(task, [Published(100, 2000), Published(100, 1990)], [Read(150, 0), Read(50, 0)], 2.0, 0.5)
    assert (figures["publishes_per_s"], figures["reads_per_s"], figures["entries_per_s"]) == (100, 100, 1000)
    assert (figures["publish_us"], figures["call_us"], figures["entry_us"]) == (2500, 1250, 250)
    assert figures["full_per_s"] == 400


def test_lost_entries_of_the_sequencer_are_found() -> None:
    task = Sequencing(1, 1, 10, 1.0)
    assert list_faults([Published(2, 2)], [Read(2, 0)], task) == []
    assert list_faults([Published(2, 2)], [Read(2, 1)], task) == ["1 gaps"]
    assert list_faults([Published(3, 2)], [Read(2, 0)], task) == ["record 2 is the last of 3"]


def test_a_reader_notices_a_gap() -> None:
    records = [Record(1, 0, b""), Record(3, 0, b"")]
    log: Any = SimpleNamespace(read=lambda after, wait: [record for record in records if record.seq > after])
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        ours.send(0.0)
        sequencer.read(log, theirs, [3, 0], 1)
        assert ours.recv() == Read(calls=1, faults=1)


def test_what_an_archivist_does_not_write_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message never reaches the log; and a server that only says that it is ready is enough here."""
    monkeypatch.setattr(archive, "running", lambda *_: nullcontext(SimpleNamespace(ready_s=1.0)))
    task = Archiving(kept=30, batch=7, messages=100)
    assert archive.measure_archive([], task).wrong == []
    fill = archive.fill
    monkeypatch.setattr(archive, "fill", lambda task: fill(dataclasses.replace(task, messages=task.messages - 1)))
    assert archive.measure_archive([], task).wrong == ["1 are missing"]


def test_a_payload_is_what_a_worker_publishes() -> None:
    entries = decode_entries(make_payload(3))
    assert len({entry.sid for entry in entries if isinstance(entry, Said)}) == 3


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("batch", [1, 10])
def test_each_part_can_be_measured(name: str, batch: int) -> None:
    assert PARTS[name](batch, 0.0) >= 0


# --------------------------------------------------------------------------------------------------- report


def sample(rate: float | None = 1.0, foreign: float | None = 0.0, wrong: list[str] | None = None) -> Sample:
    return Sample({"rate": rate, "cpu_us": 0.5}, Disturbance(0.0, foreign), wrong or [])


def test_a_table_has_medians_ranges_and_what_others_took() -> None:
    samples = [sample(3000.0, 0.2), sample(1000.0, 0.0), sample(8000.0, 0.4)]
    table = format_series("idle", {"10": samples, "2,000": [sample(None, None)]})
    ten, many = (re.split(r" {2,}", line.strip()) for line in table.splitlines()[2:4])
    assert ten == ["10", "3,000", "(1,000 to 8,000)", "0.50", "(0.50 to 0.50)"]
    assert many[0] == "2,000"
    assert "MiB" not in table, "of which nothing is known"
    assert "other processes took 20% of the machine's time (0% to 40%), over 10% in 2 of 3 runs" in table
    assert "nothing lost" in table


def test_what_is_wrong_is_under_its_table() -> None:
    table = format_series("idle", {"0": [sample(), sample(wrong=["3 lost", "1 doubled"])]})
    assert "WRONG at 0: 3 lost, 1 doubled" in table
    assert "nothing lost" not in table


def test_where_the_system_tells_nothing_that_is_said() -> None:
    assert "other processes took nobody knows how much" in format_series("start", {"1": [sample(foreign=None)]})


@pytest.mark.parametrize(
    ("samples", "failed", "status"),
    [
        ([sample()], False, 0),
        ([sample(), sample(wrong=["1 lost"])], False, 1),
        ([sample()], True, 1),
        ([], True, 3),
    ],
)
def test_the_exit_status(samples: list[Sample], failed: bool, status: int) -> None:
    book = growth.Book(failures=[growth.Failure("idle", "0", "reason")] if failed else [])
    for each in samples:
        book.add("idle", "0", each)
    assert growth.judge(book) == status


# -------------------------------------------------------------------------------------------------- capacity

COSTS = Costs(line=5.0, entry=10.0, delivery=5.0, publication=5.0, reading=0.5, client=8000.0, replica=1000.0)


def test_what_a_machine_carries_follows_from_the_costs() -> None:
    found = compute(COSTS, cores=2, members=50)
    assert found.messages == pytest.approx(BUSY * 2e6 / (5 + 2 * 10 + 5 + 2 * 0.5 + 49 * 5))
    assert found.deliveries == pytest.approx(49 * found.messages)
    assert found.memory == pytest.approx(found.clients * 8000)
    assert found.wall == "sending"
    more = compute(COSTS, cores=8, members=50)
    assert more.memory == pytest.approx(more.clients * (8000 + 6 * 1000))


def test_each_machine_meets_its_wall() -> None:
    assert compute(COSTS, cores=64, members=10).wall == "the sequencer is one process"
    without = dataclasses.replace(COSTS, publication=0.1, reading=0.0)
    assert compute(without, cores=64, members=10).wall == "every worker applies every entry"
    assert compute(without, cores=64, members=1000).wall == "sending"


@given(cores=st.integers(2, 128), members=st.integers(2, 5000))
def test_no_machine_is_busier_than_it_may_be(cores: int, members: int) -> None:
    found = compute(COSTS, cores, members)
    sequencer = COSTS.publication + cores * COSTS.reading
    each = COSTS.line + cores * COSTS.entry + sequencer + (members - 1) * COSTS.delivery
    assert found.messages * each <= BUSY * cores * 1e6 * 1.001
    assert found.messages * sequencer <= BUSY * 1e6 * 1.001


def figures(**found: float) -> list[Sample]:
    return [Sample(dict(found), CALM)]


def test_costs_are_slopes_between_rows_of_the_tables() -> None:
    book = {
        "sequencer": {"10, 1": figures(entry_us=6.0), "10, 8": figures(entry_us=13.0)},
        "room": {"paced, 50": figures(message_us=500.0), "paced, 5,000": figures(message_us=500.0 + 4950 * 4)},
        "parts": {"read, 10": figures(us=5.0), "show, 10": figures(us=6.0), "remember, 1": figures(bytes=700.0)},
        "crowd": {"8,000, 160": figures(client_kib=8.0, message_us=300.0)},
    }
    costs = find_costs(book)
    assert costs == Costs(5.0, 6.0, 4.0, 5.0, 1.0, 8192.0, 700.0)
    lines = format_capacity(costs, book).splitlines()
    assert len(lines) == 3 + 1 + 4 * 3 + 1
    assert lines[-1].endswith("computed 220; in crowd 300 at 160 messages/s")
    assert find_costs({name: rows for name, rows in book.items() if name != "crowd"}) is None


def test_the_rows_that_costs_are_taken_from_are_measured() -> None:
    rows = {series: {case.row for case in cases_of(series)} for series in SERIES}
    figure = {"entry_us": 1.0, "message_us": 1.0, "us": 1.0, "bytes": 1.0, "client_kib": 1.0}
    assert find_costs({series: {row: figures(**figure) for row in rows[series]} for series in rows}) is not None


# ----------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    "arguments",
    [["--only", "idle,nothing"], ["--rounds", "0"], ["--also", "name"], ["--json", "no/such/directory/x.json"]],
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        growth.parse(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err or "no directory" in arguments[-1]


def test_rows_take_turns_in_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    book, seen = growth.Book(), []

    def measure(case: Case, command: list[str]) -> Sample:
        seen.append((case.row, command[0]))
        return sample()

    monkeypatch.setattr(growth, "measure", measure)
    cases = [Case("start", "1", Start(1)), Case("parts", "send, 1", Part("send", 1, 0.0))]
    growth.run_all(cases, {"": ["new"], "old": ["old"]}, 2, book)
    assert seen == [("1", "new"), ("1", "old"), ("send, 1", "new")] * 2
    assert list(book.samples["start"]) == ["1", "1, old"]


def test_too_few_descriptors_are_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(needed: int) -> None:
        raise ToolError(f"{needed} open files are needed, the limit is 1024")

    monkeypatch.setattr(growth, "raise_file_limit", refuse)
    assert growth.main(["--only", "crowd"]) == 3
    assert "8200 open files are needed" in capsys.readouterr().err


def test_the_longest_stall_of_each_phase_is_shown() -> None:
    short, long, later = stalls.Stall(1.0, 0.01, 0.0), stalls.Stall(1.5, 0.05, 0.04), stalls.Stall(2.0, 0.2, 0.1)
    result = stalls.Result({"boot": (0.0, 1.0), "both": (1.0, 2.0)}, [short, long, later], [short])
    rows = [line.split() for line in stalls.format_result(result).splitlines()[1:]]
    assert rows == [["boot", "1.00", "0", "0", "0"], ["both", "1.00", "50", "40", "10"]]
    with pytest.raises(SystemExit):
        stalls.parse(["--clients", "0"])


def test_earlier_runs_are_told_too(tmp_path: Path) -> None:
    book, again = growth.Book(), growth.Book()
    book.add("start", "1", sample(wrong=["1 lost"]))
    file = tmp_path / "runs.json"
    file.write_text(json.dumps(growth.make_report(growth.parse([]), book)))
    growth.load_samples(file, again)
    assert again.samples == book.samples
    file.write_text("{}")
    with pytest.raises(ToolError):
        growth.load_samples(file, again)


# ----------------------------------------------------------------------------------------- the whole script


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), "--rounds", "1", "--quick", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: str, folder: Path) -> tuple[int, dict[str, Any], str]:
    """Exit status, the JSON report, and what was printed."""
    file = folder / "report.json"
    with start("--json", str(file), *arguments) as script:
        out, err = script.communicate(timeout=RUN_S)
    assert "Traceback" not in err, err
    return script.returncode, json.loads(file.read_text()), out + err


@pytest.mark.slow
def test_each_kind_of_run_gives_its_figures(tmp_path: Path) -> None:
    """The series that are left out have the same kinds of runs."""
    series = ["sequencer", "parts", "start", "quiet", "crowd", "archive"]
    status, report, printed = run("--only", ",".join(series), folder=tmp_path)
    assert (status, report["failures"]) == (0, []), printed
    assert list(report["series"]) == series
    samples = [each for rows in report["series"].values() for found in rows.values() for each in found]
    assert all(each["figures"] and not each["wrong"] for each in samples)
    (crowd,) = report["series"]["crowd"]["40, 20"]
    assert {"p50_ms", "p99_ms", "workers_us", "sequencer_us", "main_us"} <= crowd["figures"].keys()


@pytest.mark.slow
def test_a_loss_is_found(tmp_path: Path) -> None:
    command = f"{FAULTY} --fault loss --victim ^c00003$ --sound 2"
    status, _, printed = run("--only", "workers", "--command", command, folder=tmp_path)
    assert status == 1, printed
    assert "WRONG at B, 2: 1 lost" in printed


def test_a_server_that_does_not_come_up_is_said_with_its_log(tmp_path: Path) -> None:
    status, report, printed = run("--only", "start", "--command", f"{FAULTY} --fault unready", folder=tmp_path)
    assert (status, report["series"]) == (3, {})
    assert "no, not today" in printed


@pytest.mark.parametrize(("series", "ending"), [("crowd", signal.SIGINT), ("sequencer", signal.SIGTERM)])
def test_an_interrupted_run_leaves_nothing_behind(series: str, ending: signal.Signals) -> None:
    """The server has a session of its own and would go on; conftest.py looks for what was left."""
    with start("--only", series) as script:
        interrupt(script, ending)  # the server and two load processes; the sequencer and two beside it
