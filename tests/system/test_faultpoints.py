"""A process of the server is ended at one exact step, whatever the step: no client sees anything of it.

fatal_server.py has the steps. One server serves all cases, and dies in part in each; a case fails when its fault point
was not come to. What is said is checked whole: what the silent watcher is shown is the order of all things, each line
of each talker is there once and in turn, and everybody else is shown exactly that, without what they said themselves.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from server import DEADLINE, WELCOME, Chatter, Server, TelnetChatter, eventually, running_server, survivable

SCRIPT = Path(__file__).parents[1] / "support" / "fatal_server.py"
WORKERS = 3
HISTORY = 10
PADDING = "x" * 900
BACKLOG = 40
"""Lines of PADDING: several times what the kernels at both ends take for who does not read."""
GUESTS = 3
LOG_TAIL = 50  # lines that are shown when a case fails

numbers = count()
"""Of scenes and tokens. What only one scene says is not taken for what the history of another shows."""

pytestmark = survivable


class Stage:
    """The one server, and the folder of its tokens."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.spoilt = ""
        """The case that went wrong: what the server is like since, nobody knows."""
        self._folder = folder

    def arm(self, point: str, how: str, deaths: int) -> Callable[[], bool]:
        """Have so many processes end at `point`; what is given says whether all have."""
        tokens = [self._folder / f"{point}.{how}.{next(numbers)}" for _ in range(deaths)]
        for token in tokens:
            token.touch()
        return lambda: not any(token.exists() for token in tokens)

    def resume_main(self) -> None:
        """It has come to a fault point, and is stopped or about to be."""
        main = psutil.Process(self.server.process.pid)
        eventually(lambda: main.status() == psutil.STATUS_STOPPED, "main is stopped")
        main.resume()


@contextmanager
def running_stage(folder: Path, workers: int, *more: str) -> Iterator[Stage]:
    options = f"--workers {workers} --rate 0 --history {HISTORY} --segment-timeout 30 --beat-timeout 2".split()
    with running_server(*options, *more, command=(sys.executable, str(SCRIPT), str(folder))) as server:
        yield Stage(server, folder)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("tokens"), WORKERS) as stage:
        yield stage


class Scene:
    """Clients of all kinds, who talk in rounds until something has happened."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.watcher, self.alice = server.chat("watcher"), server.chat("alice")
        self.bob = server.connect_as(TelnetChatter)
        self.bob.sign_on("bob")
        self.sam, self.slow = server.connect(), server.connect(receive_buffer=4096)
        self.sam.send(b"sam")
        self.sam.expect_start("* Hello, sam.")
        self.slow.sign_on("slow")
        self.guests: list[Chatter] = []
        self.checked = False
        self._said: dict[str, list[str]] = {"alice": [], "bob": [], "sam": []}
        self._round = 0
        number = next(numbers)
        self._here, self._begin, self._end = f"here we are, {number}", f"let us begin, {number}", f"the end, {number}"
        self._gather()

    def _gather(self) -> None:
        """All are there; what follows is the same for all. The slow one reads no more, and has much coming."""
        self.alice.expect("* slow joined #lobby")
        self.alice.say(self._here)
        self.bob.expect(f"alice: {self._here}")
        self.bob.say(self._begin)
        for each in (self.watcher, self.alice, self.sam, self.slow):
            each.expect(f"bob: {self._begin}")
        self.bob.send(b"half" + TelnetChatter.MARK + b" of 0")
        self._say(*(f"{number} {PADDING}" for number in range(BACKLOG)))

    def _say(self, *texts: str) -> None:
        self._said["alice"] += texts
        self.alice.send("".join(f"{text}\n" for text in texts).encode())

    def round(self) -> None:
        """Whole lines, a line in halves with telnet in it, a segment without an end, somebody who signs on.

        It ends when the watcher has heard the segment, since the boundary between two would be lost with a worker.
        """
        number, self._round = self._round, self._round + 1
        self._greet(number)
        self._say(f"{number}a", f"{number}b", f"{number}c")
        self._said["bob"].append(f"half of {number} and the rest")
        self.bob.send(b" and the rest\nhalf%b of %d" % (TelnetChatter.MARK, number + 1))
        self._said["sam"].append(f"segment {number}")
        self.sam.send(b"segment %d" % number)
        self.watcher.expect(f"sam: segment {number}")

    def _greet(self, number: int) -> None:
        """In each of the first rounds a guest comes, who types a wrong name and half of the right one; the other half
        comes in the next."""
        if 0 < number <= len(self.guests):
            self.guests[number - 1].send(b"%d\n" % (number - 1))
        if number < GUESTS:
            self.guests.append(self.server.connect())
            self.guests[-1].send(b"!!!\nguest")

    def check(self) -> None:
        """Everybody has been shown everything exactly."""
        while self._round <= GUESTS:
            self.round()
        for number, guest in enumerate(self.guests):
            guest.expect_start(f"* Hello, guest{number}. ")
        self._say(self._end)
        self.bob.expect(f"alice: {self._end}")
        self.bob.send(f"\n{self._end}\n".encode())
        self._said["bob"] += [f"half of {self._round}", self._end]
        everybody = {"alice": self.alice, "sam": self.sam, "slow": self.slow, "watcher": self.watcher}
        everybody |= {f"guest{number}": guest for number, guest in enumerate(self.guests)}
        for each in everybody.values():
            each.expect(f"bob: {self._end}")
        order = behind(self.watcher.seen, f"bob: {self._begin}")
        for name, texts in self._said.items():
            assert [line for line in order if line.startswith(f"{name}: ")] == [f"{name}: {text}" for text in texts]
        for name in ("alice", "sam", "slow"):
            assert behind(everybody[name].seen, f"bob: {self._begin}") == without(order, name)
        assert behind(self.bob.seen, f"alice: {self._here}") == without(order, "bob")
        for number, guest in enumerate(self.guests):
            self._check_guest(guest, f"guest{number}", self.watcher.seen)
        for name, each in {**everybody, "bob": self.bob}.items():
            each.say("/quit")
            assert each.expect_end()[-1] == f"* Bye, {name}."
        assert self.bob.marks == 1 + self._round
        self.checked = True

    def _check_guest(self, guest: Chatter, name: str, seen: list[str]) -> None:
        welcome, refusal, question, hello, earlier, *shown = guest.seen
        assert (welcome, refusal[0], question) == (WELCOME, "!", "* What is your name?")
        assert hello.startswith(f"* Hello, {name}. ")
        joined = seen.index(f"* {name} joined #lobby")
        history = [line for line in seen[:joined] if not line.startswith("* ")][-HISTORY:]
        assert earlier.startswith("* Earlier in #lobby (since ")
        assert shown == [*history, "* Now.", *seen[joined + 1 :]]


def behind(lines: list[str], line: str) -> list[str]:
    return lines[lines.index(line) + 1 :]


def without(lines: list[str], name: str) -> list[str]:
    """But what this one said."""
    return [line for line in lines if not line.startswith(f"{name}: ")]


# --- what brings a process to the point ---------------------------------------------------------------------


def talk(scene: Scene) -> None:
    """Nothing but the talk."""


def bereave(scene: Scene) -> None:
    """Others must carry on with some of the clients."""
    with suppress(psutil.NoSuchProcess):  # it has just come to the fault point
        scene.server.worker_of(scene.slow).kill()


def renew(scene: Scene) -> None:
    scene.server.process.send_signal(signal.SIGHUP)


def upgrade(scene: Scene) -> None:
    scene.server.process.send_signal(signal.SIGUSR2)


def lose_log(scene: Scene) -> None:
    scene.server.sequencer().kill()


Provoke = Callable[[Scene], None]


def case(provoke: Provoke, point: str, how: str = "SIGKILL", deaths: int = 1) -> Any:
    slow = provoke is upgrade or how == "SIGSTOP"  # a whole server is tried, or a silence is waited for
    marks = [pytest.mark.slow] if slow else []
    words = [provoke.__name__, point, *([how] if how != "SIGKILL" else []), *([str(deaths)] if deaths > 1 else [])]
    return pytest.param(provoke, point, how, deaths, id="-".join(words), marks=marks)


CASES = [
    # between receive and publish, and until all of it is applied
    case(talk, "received"),
    case(talk, "word-1"),
    case(talk, "noted"),
    case(talk, "framed"),
    case(talk, "waiting"),
    case(talk, "asking"),
    case(talk, "asked"),
    case(talk, "answered"),
    case(talk, "published"),
    case(talk, "come"),
    # the way out
    case(talk, "applied"),
    case(talk, "flushing"),
    case(talk, "flushing", "raise"),
    case(talk, "sending"),
    case(talk, "halfway", deaths=2),
    case(talk, "halfway", "SIGSEGV"),
    case(talk, "halfway", "SIGSTOP"),
    case(talk, "sent"),
    case(talk, "flushed"),
    # the marks: both of them have three words, and then there is which of them is valid, and who is behind
    *(case(talk, f"word-{word}") for word in (2, 3, 4, 5, 6, 7, 8, 9)),
    case(talk, "marked"),
    case(talk, "sweeping"),
    case(talk, "swept"),
    # a hand-off and an adoption
    case(talk, "new"),
    case(bereave, "taken"),
    case(bereave, "claiming"),
    case(bereave, "receiving"),
    case(bereave, "claimed"),
    case(bereave, "ours", deaths=2),
    case(bereave, "shadow"),
    case(bereave, "slice", deaths=3),
    case(bereave, "slice", "SIGSTOP"),
    case(bereave, "made", deaths=2),
    case(bereave, "told-of-snapshot"),
    case(bereave, "wanted"),
    case(bereave, "saved"),
    case(bereave, "carried", deaths=2),
    case(bereave, "carried-one", deaths=2),
    case(bereave, "ready"),
    # a snapshot
    case(talk, "captured"),
    case(talk, "staged"),
    case(talk, "dumped"),
    case(talk, "put"),
    # planned moves
    case(renew, "retiring"),
    case(renew, "quiesced"),
    case(renew, "carry"),
    case(renew, "word-3"),
    case(renew, "let-go", deaths=2),
    case(renew, "telling"),
    case(renew, "told"),
    # the sequencer
    case(talk, "log-asked"),
    case(talk, "log-asked", "raise"),
    case(talk, "log-asked", "SIGSTOP"),
    case(talk, "log-appending"),
    case(talk, "log-header"),
    case(talk, "log-payload"),
    case(talk, "log-appended", deaths=2),
    case(talk, "log-published"),
    case(talk, "log-reading"),
    case(talk, "log-read", deaths=2),
    case(talk, "log-snapshot-staged"),
    case(talk, "log-snapshot-put"),
    case(talk, "log-snapshot-appending"),
    case(talk, "log-snapshot-appended"),
    case(talk, "log-trimming"),
    case(talk, "log-trimmed"),
    case(talk, "log-snapshot-taken"),
    case(bereave, "log-snapshot-asked"),
    case(bereave, "log-snapshot-given"),
    case(bereave, "log-snapshot-put"),
    case(lose_log, "reconnecting"),
    case(lose_log, "reconnected"),
    # an upgrade, which is given up
    case(upgrade, "pausing"),
    case(upgrade, "paused"),
    case(upgrade, "concluding"),
    case(upgrade, "conclusion-put"),
    case(upgrade, "conclusion-saved"),
    case(upgrade, "conclusion-let-go"),
    case(upgrade, "conclusion-telling"),
    case(upgrade, "conclusion-told"),
]


@pytest.fixture
def scene(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Scene]:
    if stage.spoilt:
        pytest.fail(f"the server is spoilt since {stage.spoilt}")
    stage.spoilt = request.node.name
    eventually(lambda: len(stage.server.workers()) >= WORKERS, "all workers are there")
    scene = Scene(stage.server)
    yield scene
    stage.server.close_chatters()
    if scene.checked:
        stage.spoilt = ""
    else:
        print("the end of the server's log:", *stage.server.stderr[-LOG_TAIL:], sep="\n")  # noqa: T201


@pytest.mark.parametrize(("provoke", "point", "how", "deaths"), CASES)
def test_nobody_notices(stage: Stage, scene: Scene, provoke: Provoke, point: str, how: str, deaths: int) -> None:
    happened = stage.arm(point, how, deaths)
    provoke(scene)
    deadline = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < deadline, "the fault point was not come to"
        scene.round()
    scene.check()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "die"),
    [
        ("main-concludes", "log-snapshot-put"),
        ("main-concludes", "log-snapshot-appended"),
        ("main-concludes", "log-snapshot-taken"),
        ("main-hands-over", "log-snapshot-asked"),
        ("main-hands-over", "log-snapshot-given"),
    ],
)
def test_nobody_notices_that_an_upgrade_fails_with_its_snapshot(
    stage: Stage, scene: Scene, stop: str, die: str
) -> None:
    """All workers rest, so that the sequencer comes to the point by what main does next."""
    stopped = stage.arm(stop, "SIGSTOP", 1)
    upgrade(scene)
    eventually(stopped, "main is on its way to the next program", 2 * DEADLINE)
    happened = stage.arm(die, "SIGKILL", 1)
    stage.resume_main()
    eventually(happened, "the fault point was come to")
    scene.round()
    scene.check()


@pytest.mark.slow
def test_a_worker_that_stops_while_all_pause_is_not_waited_for(tmp_path: Path) -> None:
    """Everybody waits meanwhile: not for longer than a worker may be silent at any other time."""
    with running_stage(tmp_path, 2, "--drain-timeout", "600") as stage:
        scene = Scene(stage.server)
        stopped = stage.arm("paused", "SIGSTOP", 1)
        upgrade(scene)
        eventually(stopped, "a worker has stopped", 2 * DEADLINE)
        stage.server.expect_log("no upgrade reason=a worker does not answer")
        scene.round()
        scene.check()


def test_what_a_worker_said_last_is_heard_after_its_end(tmp_path: Path) -> None:
    """It concluded, and main did not come to hear it before it had ended."""
    with running_stage(tmp_path, 1) as stage:
        scene = Scene(stage.server)
        stopped = stage.arm("main-hears", "SIGSTOP", 1)
        upgrade(scene)
        eventually(stopped, "the worker is to conclude", 2 * DEADLINE)
        eventually(lambda: not stage.server.workers(), "it has ended")
        stage.resume_main()
        stage.server.expect_log("the program is replaced")
        scene.check()
