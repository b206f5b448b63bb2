"""The examples of the documentation, against a real server."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from server import ROOT, Server, eventually, running_server

EXAMPLES = ROOT / "docs" / "examples"


@contextmanager
def example(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server("--workers", "2") as running:
        yield running


def test_the_echo_bot_answers_who_speaks_to_it_and_nobody_else(server: Server) -> None:
    alice = server.chat("alice")
    with example("echo_bot.py", "127.0.0.1", str(server.port)):
        alice.expect_start("* echo joined")
        alice.say("hello all")
        alice.say("echo: are you there: yes or no?")
        alice.expect("echo: alice: are you there: yes or no?")
        assert not any(line.startswith("echo: ") for line in alice.seen[:-1])


def test_the_logger_keeps_what_is_said_in_its_room(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "chat.log"
    alice = server.chat("alice")
    alice.say("/join #news")
    alice.expect_start("* You are in #news")
    with example("logger.py", str(file), "#news", "127.0.0.1", str(server.port)):
        alice.expect("* logger joined #news")
        alice.say("/msg logger a secret")
        alice.say("first")
        alice.say("/me waves")
        eventually(lambda: file.read_text("utf-8").count("\n") == 2, "two lines")
    lines = [line.split(" ", 2)[2] for line in file.read_text("utf-8").splitlines()]
    assert lines == ["alice: first", "** alice waves"]


@pytest.mark.parametrize(
    ("posted", "said"),
    [
        (b"build 41 passed", "webhook: build 41 passed"),
        (b"/quit\nnow", "webhook: /quit now"),
        ("Привет".encode(), "webhook: Привет"),
    ],
)
def test_the_bridge_says_what_is_posted(server: Server, posted: bytes, said: str) -> None:
    alice = server.chat("alice")
    with example("webhook_bridge.py", "0", "127.0.0.1", str(server.port)) as bridge:
        assert bridge.stdout is not None
        address = bridge.stdout.readline().rpartition(" ")[2].strip()
        with urllib.request.urlopen(f"http://{address}/", data=posted, timeout=10) as answer:
            assert answer.status == 204
        alice.expect(said)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_can_be_read_at_a_glance(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < 40
