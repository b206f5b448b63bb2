"""An upgrade that fails leaves the old program as it was, though a process hangs or dies in the middle of it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from installation import COMMAND, Installation, running, upgrade
from server import eventually, expect_next, survivable, suspended, wait_for_members


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def test_a_version_that_does_not_come_up_is_not_taken(installation: Installation) -> None:
    with running(installation, "--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        workers = server.workers()
        package = installation.add("broken")
        module = package / "server" / "worker" / "worker.py"
        installation.change(module, "    start_logging(", "    return 1\n    start_logging(")
        installation.install("broken")
        server.process.send_signal(signal.SIGUSR2)
        assert "the workers do not come up" in server.expect_log("no upgrade reason=the version that is installed now")
        package = installation.add("missing")
        (package / "cli.py").write_text('raise ImportError("a part is missing")')
        installation.install("missing")
        server.process.send_signal(signal.SIGUSR2)
        assert "a part is missing" in server.expect_log("no upgrade reason=the version that is installed now", count=2)
        alice.say("hello")
        expect_next(bob, "alice: hello")
        assert server.workers() == workers


def test_a_version_that_does_not_come_up_is_not_taken_where_children_leave_no_status(
    installation: Installation,
) -> None:
    """Who has started the server ignored SIGCHLD, and so it would, too."""
    ignoring = "import os, sys; from signal import *; signal(SIGCHLD, SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    with running(installation, "--workers", "1", command=(sys.executable, "-c", ignoring, *COMMAND)) as server:
        package = installation.add("broken")
        (package / "cli.py").write_text('raise ImportError("a part is missing")')
        installation.install("broken")
        server.process.send_signal(signal.SIGUSR2)
        assert "ended with exit code 1" in server.expect_log("no upgrade reason=the version that is installed now")
        server.chat("alice")


def test_a_version_that_does_not_say_that_it_came_up_is_not_taken(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        package = installation.add("silent")
        (package / "cli.py").write_text("raise SystemExit(0)")
        installation.install("silent")
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("no upgrade reason=the version that is installed now", "did not say that it came up")
        package = installation.add("stopped")
        # As by TERM, before any worker is there.
        ended = "    def _is_over(self) -> bool:\n        return True\n\n    def _unused("
        installation.change(package / "server" / "main" / "supervisor.py", "    def _is_over(", ended)
        installation.install("stopped")
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("no upgrade reason=the version that is installed now", "told to stop before it was ready")
        server.chat("alice")


def test_a_version_that_is_still_on_trial_when_we_stop_leaves_nothing(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        package = installation.add("slow")
        slow = "    import signal\n    signal.pause()\n"
        check = "    if wanted not in READABLE:"
        installation.change(package / "cli.py", check, slow + check)
        installation.install("slow")
        before = len(server.relatives())
        server.process.send_signal(signal.SIGUSR2)
        eventually(lambda: len(server.relatives()) > before, "it is on trial")


def test_a_version_that_closes_its_output_and_stays_is_not_taken(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        package = installation.add("mute")
        mute = "    import os, signal\n    os.close(1)\n    os.close(2)\n    signal.pause()\n"
        check = "    if wanted not in READABLE:"
        installation.change(package / "cli.py", check, mute + check)
        installation.install("mute")
        before = len(server.relatives())
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("no upgrade reason=the version that is installed now fails its trial")
        server.chat("alice")
        eventually(lambda: len(server.relatives()) == before, "it has ended")


def test_a_version_that_means_something_else_by_the_state_is_not_taken(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        alice = server.chat("alice")
        package = installation.add("other")
        installation.change(package / "server" / "main" / "upgrade" / "handover.py", 'FORMAT = f"4.', 'FORMAT = f"5.')
        installation.install("other")
        server.process.send_signal(signal.SIGUSR2)
        assert "other reads 5." in server.expect_log("no upgrade")
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"


@survivable
def test_a_worker_that_hangs_keeps_the_old_program(installation: Installation) -> None:
    """And its clients are carried on with, as after any death."""
    with running(installation, "--workers", "2", "--drain-timeout", "1", "--beat-timeout", "600") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        with suspended(server.worker_of(alice)):
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("no upgrade reason=the workers have timed out")
        alice.say("hello")
        expect_next(bob, "alice: hello")
        upgrade(server)
        bob.say("hello")
        expect_next(alice, "bob: hello")


@survivable
@pytest.mark.parametrize("victim", ["worker", "sequencer"])
def test_a_death_in_the_middle_keeps_the_old_program(installation: Installation, victim: str) -> None:
    with running(installation, "--workers", "2", "--beat-timeout", "600") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        slow = server.worker_of(alice)
        with suspended(slow):
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("trial passed")
            alice.say("hello")
            (slow if victim == "worker" else server.sequencer()).kill()
            server.expect_log("no upgrade")
        expect_next(bob, "alice: hello")
        wait_for_members(alice, "alice", "bob")


def test_told_to_stop_meanwhile_it_stops_afterwards(installation: Installation) -> None:
    with running(installation, "--workers", "2", "--beat-timeout", "600") as server:
        alice = server.chat("alice")
        with suspended(server.workers()[0]):
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("trial passed")
            server.process.terminate()
            server.expect_log("stopping after the upgrade")
        assert alice.expect_end()[-1] == "! The server is stopping."
        server.close_chatters()
        server.expect_exit(0)
