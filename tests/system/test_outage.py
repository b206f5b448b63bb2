"""There is no sequencer for a while: clients are told so, once, and all that they send arrives when there is one again.

Whatever dies meanwhile, the streams are compared whole: the notice stands behind all that was delivered before the
outage, at most once, and nothing else is in a stream that would not be there without the outage. The server is the one
of fatal_server.py, whose sequencer can be kept from coming up, and which tells its clients soon.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from fatal_server import HOLD, IMPATIENT
from party import DIALECT
from server import (
    WELCOME,
    Chatter,
    Server,
    by_worker,
    eventually,
    expect_next,
    kill_worker_of,
    running_server,
    survivable,
    wait_arrived,
    wait_for_members,
)

from mpchat.server.worker.outage import encode_notice

SCRIPT = Path(__file__).parents[1] / "support" / "fatal_server.py"
NOTICE = encode_notice(DIALECT).decode().rstrip("\n")
WORKERS = 3
BACKLOG = [f"alice: {number} {'x' * 900}" for number in range(60)]
"""Several times what the kernels at both ends take for who does not read."""

tokens = count()


class Stage:
    """A server, and the folder that says what becomes of it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self._folder = folder

    def arm(self, point: str, deaths: int) -> Callable[[], bool]:
        """Have so many workers be killed at `point`; what is given says whether all have."""
        armed = [self._folder / f"{point}.SIGKILL.{next(tokens)}" for _ in range(deaths)]
        for token in armed:
            token.touch()
        return lambda: not any(token.exists() for token in armed)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Within this there is no sequencer."""
        started = sum("sequencer started" in line for line in list(self.server.stderr))
        hold = self._folder / HOLD
        hold.touch()
        try:
            self.server.sequencer().kill()
            self.server.expect_log("sequencer ended", count=started)
            yield
        finally:
            hold.unlink()
        self.server.expect_log("sequencer started", count=started + 1)


@contextmanager
def running_stage(folder: Path, workers: int = WORKERS, *, impatient: bool = True) -> Iterator[Stage]:
    if impatient:
        (folder / IMPATIENT).touch()
    options = ("--workers", str(workers), "--rate", "0", "--history", "0")
    with running_server(*options, command=(sys.executable, str(SCRIPT), str(folder))) as server:
        yield Stage(server, folder)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with running_stage(tmp_path) as stage:
        yield stage


def gather(server: Server, *names: str) -> list[Chatter]:
    """So many as there are workers, each with another one; all of them have seen all of them."""
    chatters = [server.chat(name) for name in names]
    by_worker(server, chatters)
    for each in chatters[:-1]:
        each.expect(f"* {names[-1]} joined #lobby")
    return chatters


# --- what clients are told ----------------------------------------------------------------------------------


def test_all_are_told_once_and_what_they_send_arrives(stage: Stage) -> None:
    alice, bob, carol = gather(stage.server, "alice", "bob", "carol")
    with stage.outage():
        alice.send(b"one\ntw")
        for each in (alice, bob, carol):
            expect_next(each, NOTICE)
        alice.send(b"o\nthree\n")
        wait_arrived(stage.server, alice)
    alice.say("four")
    for each in (bob, carol):
        expect_next(each, "alice: one", "alice: two", "alice: three", "alice: four")
    alice.say("/back")
    expect_next(alice, "* You are back.")


def test_a_client_that_comes_in_an_outage_is_told_and_then_welcomed(stage: Stage) -> None:
    with stage.outage():
        early = stage.server.connect()
        expect_next(early, NOTICE)
        late = stage.server.connect()
        expect_next(late, NOTICE)
        late.say("late")
        wait_arrived(stage.server, late)
    expect_next(early, WELCOME)
    expect_next(late, WELCOME, "* Hello, late. You are in #lobby, alone. /help lists the commands.")


def test_each_outage_is_told_of(stage: Stage) -> None:
    alice, bob, _ = gather(stage.server, "alice", "bob", "carol")
    for number in range(3):
        with stage.outage():
            alice.say(f"{number}")
            expect_next(bob, NOTICE)
        expect_next(bob, f"alice: {number}")


def test_nobody_is_told_of_a_short_outage(tmp_path: Path) -> None:
    with running_stage(tmp_path, 2, impatient=False) as stage:
        alice, bob = gather(stage.server, "alice", "bob")
        with stage.outage():
            alice.say("meanwhile")
            wait_arrived(stage.server, alice)
        expect_next(bob, "alice: meanwhile")


def test_clients_that_were_told_of_an_outage_are_told_of_a_stop_too(stage: Stage) -> None:
    alice, bob, carol = gather(stage.server, "alice", "bob", "carol")
    with stage.outage():
        for each in (alice, bob, carol):
            expect_next(each, NOTICE)
        stage.server.process.terminate()
        stage.server.expect_log("stopping")
    for each in (alice, bob, carol):
        assert each.expect_end() == ["! The server is stopping."]
    stage.server.close_chatters()
    stage.server.expect_exit(0)


# --- whoever dies or moves ----------------------------------------------------------------------------------


class Scene:
    """Alice talks, bob and carol hear it, and a slow one has a backlog that it reads at the end only. In an outage, a
    guest comes before the others are told, and one after that."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.server = stage, stage.server
        self.slow = self.server.connect(receive_buffer=4096)
        self.slow.sign_on("slow")
        self.alice, self.bob, self.carol = (self.server.chat(name) for name in ("alice", "bob", "carol"))
        for each in (self.slow, self.alice, self.bob):
            each.expect("* carol joined #lobby")
        self.alice.send("".join(line.removeprefix("alice: ") + "\n" for line in BACKLOG).encode())
        expect_next(self.bob, *BACKLOG)
        expect_next(self.carol, *BACKLOG)
        self._guests: list[Chatter] = []

    @contextmanager
    def outage(self) -> Iterator[None]:
        """An outage in which all workers tell their clients; those that end at a fault point begin to. Alice says
        "before" before that, and "behind" after it; this happens in between."""
        told = sum("clients told of the outage" in line for line in list(self.server.stderr))
        with self.stage.outage():
            self.alice.say("before")
            self._guests.append(self.server.connect())
            self.server.expect_log("clients told of the outage", count=told + WORKERS)
            self._guests.append(self.server.connect())
            yield
            self.alice.say("behind")

    def check(self, told: int) -> None:
        """Everything has arrived; `told` or more of those who were there before the outage have been told of it."""
        self.alice.say("the end")
        said = ["alice: before", "alice: behind"]
        found = 0
        for each, earlier in ((self.slow, BACKLOG), (self.bob, []), (self.carol, [])):
            lines = each.lines_until("alice: the end")
            assert lines in ([*earlier, *said], [*earlier, NOTICE, *said])
            found += NOTICE in lines
        self.alice.say("/back")
        lines = self.alice.lines_until("* You are back.")
        assert lines in ([], [NOTICE])
        assert found + len(lines) >= told
        for number, guest in enumerate(self._guests):
            guest.sign_on(f"guest{number}")
            assert guest.seen[: guest.seen.index(WELCOME)] in ([], [NOTICE])
        guests = (f"guest{number}" for number in range(len(self._guests)))
        wait_for_members(self.bob, "slow", "alice", "bob", "carol", *guests)
        for each in (self.alice, self.bob, self.carol, *self._guests):
            assert each.seen.count(NOTICE) <= 1


@survivable
@pytest.mark.parametrize("deaths", [1, 2, 3])
@pytest.mark.parametrize("point", ["notice-stored", "halfway", "notice-sent", "notified", "notified-all"])
def test_a_worker_is_killed_as_it_tells(stage: Stage, point: str, deaths: int) -> None:
    scene = Scene(stage)
    happened = stage.arm(point, deaths)
    with scene.outage():
        eventually(happened, "the fault point was come to")
    # Four clients and three workers: at most one client has not been come to. The slow one has nothing written.
    scene.check(told=4 if point == "notified-all" else 2)


@survivable
def test_a_worker_is_killed_before_it_tells(tmp_path: Path) -> None:
    """Nobody can be told anything by those who wait for the log to carry on with its clients."""
    with running_stage(tmp_path, impatient=False) as stage:
        scene = Scene(stage)
        with stage.outage():
            scene.alice.say("before")
            wait_arrived(stage.server, scene.alice)
            for each in (scene.alice, scene.slow):
                stage.server.worker_of(each).kill()
            scene.alice.say("behind")
        scene.check(told=0)


@survivable
def test_all_workers_are_killed_when_they_have_told(stage: Stage) -> None:
    scene = Scene(stage)
    with scene.outage():
        for worker in stage.server.workers():
            worker.kill()
    scene.check(told=4)


@survivable
def test_a_notice_that_nobody_reads_outlives_one_worker_after_the_other(stage: Stage) -> None:
    scene = Scene(stage)
    with scene.outage():
        kill_worker_of(stage.server, scene.slow)
    for _ in range(3):
        carried_on = sum("clients carried on" in line for line in list(stage.server.stderr))
        kill_worker_of(stage.server, scene.slow)
        stage.server.expect_log("clients carried on", count=carried_on + 1)
    scene.check(told=4)


@pytest.mark.slow
@pytest.mark.parametrize("upgrade", [False, True])
def test_a_notice_that_nobody_reads_moves_with_its_client(stage: Stage, upgrade: bool) -> None:
    scene = Scene(stage)
    with scene.outage():
        pass
    for number in range(1, 3):
        stage.server.process.send_signal(signal.SIGUSR2 if upgrade else signal.SIGHUP)
        if upgrade:
            stage.server.expect_log("the program is replaced", count=number)
        else:
            stage.server.expect_log(" retired", count=WORKERS * number)
    scene.check(told=4)
