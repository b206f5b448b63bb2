"""The whole program is replaced by another version of itself, in the same process, and nobody notices."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from installation import COMMAND, WORDS, Installation, running, upgrade
from server import (
    WELCOME,
    eventually,
    expect_next,
    kill_worker_of,
    survivable,
    suspended,
    wait_arrived,
)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def test_nobody_notices_that_the_program_is_replaced(installation: Installation) -> None:
    with running(installation, "--workers", "2", "--rate", "0") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        bob.say("/join den")
        bob.expect("* You are in #den, alone.")
        before = server.children()
        installation.add("new")
        installation.install("new")
        server.process.send_signal(signal.SIGUSR2)
        number = 0
        while not any("is replaced" in line for line in server.stderr):
            alice.say(f"a {number}")
            bob.say(f"b {number}")
            number += 1
            late = server.chat(f"late{number}")
            late.say("/quit")
            late.expect_end()
        for each in (alice, bob):
            each.say("the end")
        of_alice = [line for line in bob.lines_until("#lobby alice: the end") if "alice: " in line]
        assert of_alice == [f"#lobby alice: a {each}" for each in range(number)]
        assert bob.ask("/who", "* 1 in") == "* 1 in #den: bob"
        alice.say("/join den")
        assert [line for line in alice.lines_until("bob: the end") if line.startswith("bob: ")] == [
            f"bob: b {each}" for each in range(number)
        ][-19:]
        # The new version, in the same process, with the same clients and nothing of the old.
        alice.say("/quit")
        assert alice.expect_end()[-1] == "* The new version says bye."
        eventually(lambda: not any(each.is_running() for each in before), "the old processes have ended")
        assert len(server.stdout) == 1
        assert not [child for child in server.children() if child.status() == psutil.STATUS_ZOMBIE]


def test_before_anybody_has_been_there(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        upgrade(server)
        alice = server.chat("alice")
        upgrade(server, 2)
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"


def test_it_can_be_replaced_again_and_again(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        alice, before = server.chat("alice"), "old"
        descriptors = psutil.Process(server.process.pid).num_fds()
        for times in (1, 2, 3):
            version = f"v{times}"
            installation.add(version)
            installation.install(version)
            upgrade(server, times)
            server.expect_log(f"the program is replaced old={before} new={version}")
            before = version
            guest = server.chat("guest")
            guest.say("/quit")
            assert guest.expect_end()[-1] == f"* The {version} version says bye."
            alice.expect("* guest left the chat")
        eventually(lambda: psutil.Process(server.process.pid).num_fds() <= descriptors, "no descriptor is left over")


def test_half_a_line_a_client_without_a_name_and_unread_output_go_over(installation: Installation) -> None:
    """What waited was put into words by the old version; what is said from then on is by the new one."""
    options = ("--workers", "2", "--rate", "0", "--sendq", str(16 << 20), "--segment-timeout", "0")
    with running(installation, *options) as server:
        slow = server.connect(receive_buffer=4096)
        slow.sign_on("slow")
        alice, bob, nameless = server.chat("alice"), server.chat("bob"), server.connect()
        nameless.expect(WELCOME)
        text = "x" * 1000
        for number in range(3000):
            bob.say(f"{number} {text}")
        alice.send(b"hel")
        nameless.send(b"car")
        for chatter in (alice, bob, nameless):
            wait_arrived(server, chatter)
        package = installation.add("new")
        installation.change(package / WORDS, 'else f"{name}: "', 'else f"{name} says: "')
        installation.install("new")
        upgrade(server)
        alice.send(b"lo\n")
        nameless.send(b"ol\n")
        nameless.expect_start("* Hello, carol.")
        assert nameless.seen.count(WELCOME) == 1
        bob.expect("alice says: hello")
        lines = slow.lines_until("alice says: hello")
        assert [line for line in lines if line.startswith("bob")] == [f"bob: {number} {text}" for number in range(3000)]


@survivable
def test_after_it_workers_and_sequencer_can_die(installation: Installation) -> None:
    with running(installation, "--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        alice.say("before")
        expect_next(bob, "alice: before")
        upgrade(server)
        kill_worker_of(server, bob)
        alice.say("between")
        expect_next(bob, "alice: between")
        server.sequencer().kill()
        alice.say("after")
        expect_next(bob, "alice: after")
        carol = server.chat("carol")
        assert [line for line in carol.lines_until("alice: after") if line.startswith("alice")] == [
            "alice: before",
            "alice: between",
        ]


def test_a_new_configuration_counts_as_far_as_it_can(installation: Installation, tmp_path: Path) -> None:
    file = tmp_path / "mpchat.toml"
    file.write_text("workers = 1\nmax_clients = 2\nmax_line = 4096\nhistory = 100\n")
    # Where addresses are dear, the ledger has room for no more clients than were asked for at the start.
    command = ("sh", "-c", 'ulimit -v 8000000 && exec "$@"', "sh", *COMMAND)
    with running(installation, "--config", str(file), command=command) as server:
        alice = server.chat("alice")
        file.write_text('workers = 2\nmax_clients = 9\nmax_line = 8192\nhistory = 5\nhost = "127.0.0.2"\n')
        upgrade(server)
        for words in (
            "cannot be changed while the server runs options=host",
            "max_clients lowered wanted=9 to=2",
            "max_line lowered",
        ):
            server.expect_log("WARNING", words)
        bob = server.chat("bob")
        assert server.worker_of(alice) != server.worker_of(bob)
        server.connect().expect_start("! The server is full: 2 clients.")
        file.write_text('workers = 2\nhost = "127.0.0.3"\n')
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("cannot be changed while the server runs options=host,history")


def test_what_was_scaled_stays(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        server.process.send_signal(signal.SIGTTIN)
        server.expect_log("workers from now on count=2")
        eventually(lambda: len(server.workers()) == 2, "there are two workers")
        upgrade(server)
        assert server.expect_log("mpchat ready on", ", 2 workers")


def test_another_version_than_the_one_that_was_tried_is_told(installation: Installation) -> None:
    with running(installation, "--workers", "1", "--beat-timeout", "600") as server:
        alice = server.chat("alice")
        installation.add("tried")
        installation.add("later")
        installation.install("tried")
        with suspended(server.workers()[0]):
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("trial passed: upgrading old=old new=tried")
            installation.install("later")
        server.expect_log("the program is replaced old=old new=later")
        server.expect_log("ERROR", "not the one that passed the trial new=later tried=tried")
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"
