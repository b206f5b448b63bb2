"""`mpchat-client` in a pipe, against the real server."""

from __future__ import annotations

import subprocess
import sys

from server import DEADLINE, Server, running_server

CLIENT = (sys.executable, "-m", "mpchat.client")


def pipe_to(server: Server, *arguments: str, given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLIENT, "127.0.0.1", str(server.port), *arguments],
        input=given,
        check=False,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )


def test_a_text_is_said_as_it_stands() -> None:
    text = ["/etc/hosts", "quit", "/nick admin", "  /quit x", "", "127.0.0.1\tlocalhost", "//", "the end"]
    with running_server("--workers", "2") as server:
        alice = server.chat("alice")
        done = pipe_to(server, "--name", "bot", given="\n".join(text))
        for line in filter(None, text):
            alice.expect(f"bot: {line}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_that_is_taken_and_a_line_that_is_refused_end_with_1() -> None:
    with running_server("--workers", "1", "--max-line", "100") as server:
        alice = server.chat("alice")
        taken = pipe_to(server, "--name", "alice", given="hello\n")
        assert (taken.returncode, taken.stderr) == (1, "! alice is taken.\n")
        second = pipe_to(server, "--name", "alice", "--any-name", given="hello\n")
        assert second.returncode == 0
        alice.expect("alice-2: hello")
        refused = pipe_to(server, "--name", "bot", given="x" * 200 + "\nbye\n")
        alice.expect("bot: bye")
    assert refused.returncode == 1
    assert refused.stderr.startswith("! The server refused something: That line is too long")
    assert alice.seen.count("alice-2: hello") == 1  # what was piped under the taken name was not said


def test_a_pipe_is_not_shown_what_was_said_earlier_unless_it_asks() -> None:
    with running_server("--workers", "1") as server:
        alice = server.chat("alice")
        alice.say("old")
        alice.say("/history")
        alice.expect("alice: old")
        done = pipe_to(server, "--name", "bot", given="hello\n")
        asked = pipe_to(server, "--name", "bot", "--commands", given="/history\n")
    assert (done.returncode, asked.returncode) == (0, 0)
    assert "old" not in done.stdout
    assert "Earlier" not in asked.stdout
    assert "* The last 2 lines of #lobby:\nalice: old\nbot: hello\n" in asked.stdout
