"""A server with a data directory: what was said is in the database once and in order, whatever is killed; and what a
server that starts again in the same directory shows."""

from __future__ import annotations

import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import psutil
import pytest
from server import (
    ROOT,
    Chatter,
    Server,
    eventually,
    run_mpchat,
    running_server,
    starting_server,
    survivable,
)

from mpchat.archive.database import Gap, Line, Place, Wish, open_database
from mpchat.archive.schema import SCHEMA
from mpchat.log.local import journal

SCRIPT = Path(__file__).parents[1] / "support" / "fatal_server.py"
DAY = 86_400_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@contextmanager
def serving(data: Path, *options: str) -> Iterator[Server]:
    with running_server("--data", str(data), *options) as server:
        yield server


@contextmanager
def perishing(data: Path, *options: str) -> Iterator[Server]:
    """A server that is ready, and need not end well."""
    with starting_server("--data", str(data), *options) as server:
        server.wait_ready()
        yield server


def kept(data: Path, room: str = "lobby") -> list[str]:
    with closing(open_database(data, read_only=True)) as database:
        return [line.text for line in database.read_lines(room)]


def gaps(data: Path) -> list[Gap]:
    with closing(open_database(data, read_only=True)) as database:
        return database.list_gaps()


def place(data: Path) -> Place:
    with closing(open_database(data, read_only=True)) as database:
        return database.place


def wait_kept(data: Path, texts: list[str], room: str = "lobby") -> None:
    eventually(lambda: kept(data, room) == texts, f"{texts} in the database")


def forget_boot(data: Path) -> None:
    with (data / "log").open("r+b") as file:
        file.seek(8 * journal._BOOT_AT)
        file.write(struct.pack("=Q", 12345))


def furnish(server: Server) -> Chatter:
    """Somebody who has said something in two rooms and in private."""
    alice = server.chat("alice")
    for line in ("hello", "/join room", "/topic Snakes", "/me hisses", "/msg alice secret"):
        alice.say(line)
    alice.ask("/who", "* 1 in #room")
    return alice


# --- starting again


def test_after_an_end_in_order_the_chat_is_as_it_was(data: Path) -> None:
    with serving(data) as server:
        furnish(server)
        wait_kept(data, ["hello"])
        wait_kept(data, ["hisses"], "room")
    assert place(data).ended
    with serving(data) as server:
        bob = server.chat("alice")
        bob.expect("alice: hello")
        assert bob.ask("/rooms", "* #lobby") == "* #lobby: 1 member"
        bob.expect("* #room: 0 members, Snakes")
        bob.say("/join room")
        bob.expect("* Topic: Snakes")
        bob.expect("** alice hisses")
    assert gaps(data) == []


def test_after_a_kill_of_every_process_all_that_was_seen_is_there_once_and_nobody_is(data: Path) -> None:
    seen: list[str] = []
    for number in range(4):
        with perishing(data) as server:
            alice, bob = server.chat("alice"), server.chat("bob")
            assert alice.ask("/who", "* 2 in #lobby") == "* 2 in #lobby: alice, bob"
            for line in (f"{number}.{part}" for part in range(50)):
                alice.say(line)
                seen.append(line)
            bob.expect(f"alice: {seen[-1]}")
            server.kill_everything()
    with serving(data, "--history", "1000") as server:
        assert server.expect_log("journal goes on")
        carol = server.chat("alice")
        carol.say("/history 1000")
        carol.expect_start(f"* The last {len(seen)} lines")
        assert [carol.expect_start("alice: ").removeprefix("alice: ") for _ in seen] == seen
        wait_kept(data, seen)
    assert gaps(data) == []


def test_after_a_power_cut_the_chat_is_what_the_database_has(data: Path) -> None:
    with perishing(data) as server:
        furnish(server)
        wait_kept(data, ["hisses"], "room")
        server.kill_everything()
    forget_boot(data)
    with serving(data) as server:
        server.expect_log("journal is not trusted", "up_to=", "started again")
        alice = server.chat("alice")
        alice.expect("alice: hello")
        alice.say("/join room")
        alice.expect("* Topic: Snakes")
        alice.say("again")
        wait_kept(data, ["hisses", "again"], "room")
    assert len(gaps(data)) == 1


def test_a_server_that_is_killed_while_it_upgrades_or_reloads_has_everything(data: Path) -> None:
    with perishing(data) as server:
        alice = furnish(server)
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("the program is replaced")
        alice.say("after")
        alice.ask("/who", "* 1 in #room")
        server.kill_everything()
    with serving(data):
        wait_kept(data, ["hisses", "after"], "room")
    assert gaps(data) == []


# --- while it runs


def test_an_upgrade_keeps_the_log_and_the_directory(data: Path) -> None:
    with serving(data, "--workers", "2") as server:
        alice = furnish(server)
        before = place(data).log
        for number in range(1, 3):
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("the program is replaced", count=number)
            alice.say(f"after {number}")
            wait_kept(data, ["hisses", *(f"after {each}" for each in range(1, number + 1))], "room")
            assert place(data).log == before
        assert run_mpchat("--port", "0", "--data", str(data)).returncode == 5
    assert (gaps(data), place(data).ended) == ([], True)


def test_a_reload_replaces_the_archive(data: Path) -> None:
    with serving(data) as server:
        alice, before = furnish(server), server.archive()
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("archive started", count=2)
        assert server.archive().pid != before.pid
        alice.say("after")
        wait_kept(data, ["hisses", "after"], "room")
        assert not [line for line in server.stderr if "ERROR" in line]


def test_an_archive_or_a_sequencer_that_is_killed_is_replaced(data: Path) -> None:
    with serving(data) as server:
        alice, said = server.chat("alice"), []
        for number in range(6):
            victim = server.archive if number % 2 else server.sequencer
            victim().kill()
            for part in range(20):
                said.append(f"{number}.{part}")
                alice.say(said[-1])
        wait_kept(data, said)
    assert gaps(data) == []


def test_an_archive_that_hangs_is_replaced_and_nobody_waits_for_it(data: Path) -> None:
    with serving(data, "--beat-timeout", "0.5") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        server.archive().suspend()
        alice.say("hello")
        bob.expect("alice: hello")
        server.expect_log("archive killed", "silent")
        wait_kept(data, ["hello"])


def test_a_disk_that_is_full_is_said_once_and_the_archive_catches_up(data: Path) -> None:
    with serving(data) as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.say("before")
        wait_kept(data, ["before"])
        archive = server.archive()
        # Nothing that it writes gets any longer.
        archive.rlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        said = [f"meanwhile {number}" for number in range(50)]
        for line in said:
            alice.say(line)
        bob.expect(f"alice: {said[-1]}")
        server.expect_log("archive cannot write")
        time.sleep(2.5)  # some more tries
        assert len([line for line in server.stderr if "archive cannot write" in line]) == 1
        assert kept(data) == ["before"]
        archive.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_kept(data, ["before", *said])
        server.expect_log("archive writes again")
        assert server.archive().pid == archive.pid
    assert gaps(data) == []


def test_an_end_does_not_wait_for_ever_for_an_archive_that_hangs(data: Path) -> None:
    with serving(data, "--drain-timeout", "1") as server:
        alice = server.chat("alice")
        server.archive().suspend()
        alice.say("hello")
        alice.ask("/who", "* 1 in #lobby")
        server.close_chatters()
        server.stop()
        assert [line for line in server.stderr if "archive is late" in line]
    assert kept(data) == []
    with serving(data):
        wait_kept(data, ["hello"])
    assert gaps(data) == []


def test_at_an_interrupt_the_archive_is_not_waited_for(data: Path) -> None:
    with serving(data) as server:
        alice = server.chat("alice")
        server.archive().suspend()
        alice.say("hello")
        alice.ask("/who", "* 1 in #lobby")
        server.stop(signal.SIGINT)
    with serving(data):
        wait_kept(data, ["hello"])


def test_what_somebody_wants_forgotten_is_forgotten_everywhere(data: Path) -> None:
    with serving(data) as server:
        alice, bob = server.chat("Alice"), server.chat("bob")
        alice.say("one")
        bob.expect("Alice: one")
        bob.say("two")
        wait_kept(data, ["one", "two"])
        done = subprocess.run(
            [sys.executable, "-m", "mpchat.admin.cli", "forget", "--data", str(data), "--name", "alice"],
            cwd=ROOT, check=True, capture_output=True, timeout=30, text=True,
        )  # fmt: skip
        assert done.stdout == "deleted\n"
        assert kept(data) == ["two"]
        bob.say("/history 9")
        bob.expect("* The last 1 line of #lobby:")
        bob.expect("bob: two")


def test_old_lines_are_deleted(data: Path) -> None:
    data.mkdir()
    now = time.time_ns() // 1_000_000
    with closing(open_database(data)) as database:
        lines = [Line("lobby", now - age * DAY, "alice", "alice", f"{age} days old") for age in (20, 11, 9, 0)]
        database.write(Place("earlier", 5, now, True), lines)
    with serving(data, "--keep", "10") as server:
        wait_kept(data, ["9 days old", "0 days old"])
        alice = server.chat("bob")

        def shown() -> str:
            return alice.ask("/history 9", "* The last")

        eventually(lambda: shown() == "* The last 2 lines of #lobby:", "memory has forgotten them, too")


# --- each step of an archive


numbers = count()


class Stage:
    def __init__(self, server: Server, tokens: Path, data: Path) -> None:
        self.server = server
        self.data = data
        self.alice = server.chat("alice")
        self.said: list[str] = []
        self._tokens = tokens

    def arm(self, point: str, how: str) -> Callable[[], bool]:
        token = self._tokens / f"{point}.{how}.{next(numbers)}"
        token.touch()
        return lambda: not token.exists()

    def say(self) -> None:
        self.said.append(f"line {next(numbers)}")
        self.alice.say(self.said[-1])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tokens, data = tmp_path_factory.mktemp("tokens"), tmp_path_factory.mktemp("data")
    options = ("--data", str(data), "--rate", "0", "--workers", "1")
    with running_server(*options, command=(sys.executable, str(SCRIPT), str(tokens))) as server:
        yield Stage(server, tokens, data)


POINTS = ("starting", "loaded", "asking", "read", "applied", "writing", "wrote", "written")
WISH_POINTS = ("wishing", "wished", "forgetting", "forgot", "granting", "granted")


@survivable
@pytest.mark.parametrize("how", ["SIGKILL", "raise"])
@pytest.mark.parametrize("point", POINTS)
def test_what_is_said_is_kept_once_wherever_the_archive_ends(stage: Stage, point: str, how: str) -> None:
    stage.say()
    has_died = stage.arm(f"archive-{point}", how)
    if point in ("starting", "loaded"):
        stage.server.archive().kill()

    def speak() -> bool:
        stage.say()
        return has_died()

    eventually(speak, f"the archive ends at {point}")
    stage.say()
    wait_kept(stage.data, stage.said)
    assert gaps(stage.data) == []


@survivable
@pytest.mark.parametrize("point", WISH_POINTS)
def test_a_wish_is_granted_wherever_the_archive_is_killed(stage: Stage, point: str) -> None:
    stage.alice.say("/join secret")
    stage.alice.say("forget this")
    wait_kept(stage.data, ["forget this"], "secret")
    has_died = stage.arm(f"archive-{point}", "SIGKILL")
    with closing(open_database(stage.data)) as database:
        database.wish(Wish("room", "secret"))
        eventually(has_died, f"the archive ends at {point}")
        eventually(lambda: not database.list_wishes(), "the wish is granted")
        assert list(database.read_lines("secret")) == []
    stage.alice.ask("/history 9", "* #secret: no history")
    stage.alice.say("/join lobby")
    stage.say()
    wait_kept(stage.data, stage.said)


# --- what cannot be used


def refused(data: Path, *options: str) -> str:
    done = run_mpchat("--port", "0", "--data", str(data), *options)
    assert (done.returncode, done.stdout) == (5, "")
    return done.stderr.splitlines()[-1]


def test_one_server_at_a_time_has_the_directory(data: Path) -> None:
    with serving(data) as server:
        assert refused(data).endswith(f"{data} is in use by process {server.process.pid}")


def test_a_database_of_a_newer_version_is_left_alone(data: Path) -> None:
    with serving(data):
        pass
    with closing(sqlite3.connect(data / "chat.db")) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = (data / "chat.db").read_bytes()
    assert f"version {SCHEMA + 1}" in refused(data)
    assert (data / "chat.db").read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text"])
def test_a_damaged_database_is_left_alone(data: Path, damage: str) -> None:
    with serving(data) as server:
        furnish(server)
        wait_kept(data, ["hisses"], "room")
    (data / "log").unlink()
    path = data / "chat.db"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[5000:]
    elif damage == "flipped":
        for at in range(100, len(content), 512):
            content[at] ^= 0xFF
    else:
        content[:] = b"this is no database\n" * 1000
    path.write_bytes(content)
    assert "chat.db" in refused(data) or "database" in refused(data)
    assert path.read_bytes() == content


def test_a_file_is_no_directory(data: Path) -> None:
    data.touch()
    assert "cannot use the data directory" in refused(data)


def on_small_disk(data: Path, size: str) -> tuple[str, ...]:
    """The command of a server to which `data` is a disk of this size; the disk ends with the server."""
    script = f'mount -t tmpfs -o size={size} none {data} && exec "$0" "$@"'
    return ("unshare", "-m", "sh", "-c", script, sys.executable, "-m", "mpchat")


def has_small_disks() -> bool:
    return subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0


needs_small_disks = pytest.mark.skipif(
    not shutil.which("unshare") or not has_small_disks(), reason="mounting a disk takes root and unshare(1)"
)


@needs_small_disks
def test_a_disk_that_is_full_at_the_start_is_an_error(data: Path) -> None:
    data.mkdir()
    done = run_mpchat("--port", "0", "--data", str(data), command=on_small_disk(data, "20m"))
    assert (done.returncode, done.stdout) == (5, "")
    assert "No space left" in done.stderr


@pytest.mark.slow
@needs_small_disks
def test_with_a_disk_that_fills_up_the_chat_goes_on(data: Path) -> None:
    data.mkdir()
    options = ("--data", str(data), "--rate", "0", "--history", "10", "--drain-timeout", "2", "--workers", "1")
    with running_server(*options, command=on_small_disk(data, "110m")) as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        numbers = count()

        def talk() -> None:
            number = next(numbers)
            for part in range(100):
                alice.say(f"{number}.{part} {'x' * 3900}")
            bob.expect_start(f"alice: {number}.99 ")

        def fill() -> bool:
            talk()
            return any("archive cannot write" in line for line in server.stderr)

        eventually(fill, "the disk is full", 60.0)
        for _ in range(100):  # 40 MB more
            talk()


def test_without_a_directory_there_is_no_archive() -> None:
    with running_server() as server:
        server.chat("alice")
        assert len(psutil.Process(server.process.pid).children()) == 3
        assert not [line for line in server.stderr if "archive" in line or "journal" in line]
