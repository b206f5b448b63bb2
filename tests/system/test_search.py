"""What somebody asks the archive of a real server is answered once, whatever is killed between question and answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from server import Chatter, Server, eventually, running_server, survivable

from mpchat.archive.database import Line, Place, open_database

FOUND = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d (#.*)")
HEADING = "* Found, page 1, the newest last:"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@contextmanager
def serving(data: Path, *options: str) -> Iterator[Server]:
    with running_server("--data", str(data), *options) as server:
        yield server


def fill(data: Path, count: int) -> None:
    """A database in which this many lines were said in the lobby, one a minute."""
    data.mkdir()
    start = 1_767_225_600_000  # 2026-01-01
    with closing(open_database(data)) as database:
        lines = [Line("lobby", start + number * 60_000, "carol", "carol", f"line {number}") for number in range(count)]
        database.write(Place("earlier", 5, start + count * 60_000, True), lines)


def result(chatter: Chatter) -> list[str]:
    """The lines of the answer to a search, without their dates."""
    chatter.expect(HEADING)
    lines = chatter.lines_until("* That is all.")
    found = [FOUND.fullmatch(line) for line in lines]
    assert all(found), lines
    return [match[1] for match in found if match]


def search(chatter: Chatter, asked: str) -> list[str]:
    chatter.say(f"/search {asked}")
    return result(chatter)


@contextmanager
def suspended(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        if process.is_running():
            process.resume()


def test_what_was_said_is_found_at_once_and_after_a_restart(data: Path) -> None:
    with serving(data) as server:
        alice, bob = server.chat("alice"), server.chat("Иван")
        alice.say("the tea leaves")
        bob.expect("alice: the tea leaves")
        bob.say("leaves of tea, 李雷")
        bob.say("/join kitchen")
        bob.say("/me makes tea")
        bob.ask("/who", "* 1 in #kitchen")
        said = ["#lobby alice: the tea leaves", "#lobby Иван: leaves of tea, 李雷", "#kitchen ** Иван makes tea"]
        assert search(alice, "TEA") == said
    with serving(data) as server:
        alice = server.chat("alice")
        assert search(alice, "tea") == said
        assert search(alice, '"tea leaves"') == said[:1]
        assert search(alice, "雷") == search(alice, "李雷 tea") == said[1:2]
        assert search(alice, "tea in #Kitchen") == said[2:]
        assert search(alice, "tea from @иван") == said[1:]
        assert search(alice, "tea from иван in #lobby") == said[1:2]
        assert alice.ask("/search tea 2", "* Nothing") == "* Nothing more found."
        assert alice.ask('/search NEAR( AND "', "* Nothing") == "* Nothing found."


def test_history_goes_back_beyond_memory(data: Path) -> None:
    fill(data, 3000)
    with serving(data, "--history", "100") as server:
        alice = server.chat("alice")
        alice.expect("* Now.")
        alice.say("/history 2000")
        alice.expect("* The last 2000 lines of #lobby:")
        lines = [line.split("carol: ")[1] for line in alice.lines_until("* Now.")]
        assert lines == [f"line {number}" for number in range(1000, 3000)]
        alice.say("/history 999 more")
        alice.expect("* The last 999 lines of #lobby before that:")
        assert alice.lines_until("* Now.")[0].endswith("carol: line 1")
        alice.say("/history before 2026-01-01 00:02")
        alice.expect("* The last 2 lines of #lobby before that:")
        assert alice.lines_until("* Now.") == ["2026-01-01 00:00 carol: line 0", "2026-01-01 00:01 carol: line 1"]
        assert alice.ask("/history more", "* #lobby").endswith("nothing is kept from before that.")
        assert alice.ask("/search line 2", HEADING[:9]) == "* Found, page 2, the newest last:"
        assert alice.lines_until("* Page 3 has older ones.")[-1] == "2026-01-03 01:39 #lobby carol: line 2979"


@survivable
@pytest.mark.parametrize("victim", ["archive", "worker", "sequencer"])
def test_whatever_is_killed_the_answer_comes_once(data: Path, victim: str) -> None:
    with serving(data, "--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        bob.say("tea")
        alice.expect("bob: tea")
        for _ in range(3):
            archive = server.archive()
            with suspended(archive):
                alice.say("/search tea")
                alice.ask("/whois bob", "* bob: ")  # the question is in the log
                if victim == "archive":
                    archive.kill()
                elif victim == "worker":
                    for worker in server.workers():
                        worker.kill()
                else:
                    server.sequencer().kill()
            assert result(alice) == ["#lobby bob: tea"]
        alice.ask("/whois bob", "* bob: ")
        assert alice.seen.count(HEADING) == 3


def test_five_questions_may_wait_and_who_leaves_takes_them_along(data: Path) -> None:
    with serving(data) as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        bob.say("tea")
        alice.expect("bob: tea")
        with suspended(server.archive()):
            for number in range(6):
                alice.say(f"/search tea in #lobby{' from bob' * (number % 2)}")
                bob.say("/search tea")
            alice.expect_start("! 5 of your questions wait")
            bob.say("/quit")
            bob.expect("* Bye, bob.")
        for _ in range(5):
            assert result(alice) == ["#lobby bob: tea"]
        assert search(alice, "tea") == ["#lobby bob: tea"]


def test_an_archive_that_cannot_write_says_so_and_memory_answers(data: Path) -> None:
    resource = pytest.importorskip("resource")
    with serving(data) as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        archive = server.archive()
        archive.rlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        bob.say("tea")
        server.expect_log("archive cannot write")
        assert alice.ask("/search tea", "! The archive").endswith("Try again later.")
        alice.say("/history 9")
        alice.expect_start("! The archive")
        alice.expect("bob: tea")
        archive.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        server.expect_log("archive writes again")
        assert search(alice, "tea") == ["#lobby bob: tea"]


def test_a_flood_of_questions_does_not_keep_the_archive_from_writing(data: Path) -> None:
    with serving(data, "--rate", "0", "--workers", "2") as server:
        alice, others = server.chat("alice"), [server.chat(f"bob{number}") for number in range(8)]
        for number in range(40):
            for other in others:
                other.say("/search tea")
            alice.say(f"tea {number}")

        def is_kept() -> bool:
            with closing(open_database(data, read_only=True)) as database:
                return [line.text for line in database.read_lines()] == [f"tea {number}" for number in range(40)]

        eventually(is_kept, "all lines in the database")
        assert search(alice, '"tea 7"') == ["#lobby alice: tea 7"]


def test_without_a_directory_one_line_says_what_is_missing() -> None:
    with running_server("--history", "2") as server:
        alice = server.chat("alice")
        for number in range(3):
            alice.say(str(number))
        assert alice.ask("/search 1", "! ") == "! This server keeps no messages to search in: it runs without --data."
        assert alice.ask("/history 20", "! ").startswith("! This server keeps the last 2 lines of a room at most")
        assert alice.ask("/history before 2020-01-01", "! ").startswith("! This server keeps the last 2 lines")
