"""Planned moves: workers are added, retired and replaced while people chat, and nobody notices.

The same hand-over as after a death, but in good order: what a client had not taken yet goes along.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from server import (
    BACKLOG_OPTIONS,
    SERVER,
    WELCOME,
    Backlog,
    Chatter,
    Server,
    by_worker,
    eventually,
    expect_next,
    running_server,
    starting_server,
    suspended,
    wait_arrived,
    wait_for_members,
)


def renew(server: Server, workers: int, times: int = 1) -> None:
    """Have every worker replaced, and wait until all are."""
    server.process.send_signal(signal.SIGHUP)
    server.expect_log(" retired", count=workers * times)


def loads(server: Server, chatters: list[Chatter]) -> list[int]:
    """How many of the chatters each worker has."""
    workers = [server.worker_of(chatter) for chatter in chatters]
    return sorted(workers.count(worker) for worker in server.workers())


def wait_even(server: Server, chatters: list[Chatter], expected: list[int]) -> None:
    eventually(lambda: loads(server, chatters) == expected, f"the workers have {expected} clients")


# --- HUP ----------------------------------------------------------------------------------------------------


def test_nobody_notices_that_all_workers_are_replaced() -> None:
    with running_server("--workers", "2", "--rate", "0") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        before = by_worker(server, [alice, bob])
        server.process.send_signal(signal.SIGHUP)
        for number in range(500):
            alice.say(f"a {number}")
            bob.say(f"b {number}")
        server.expect_log(" retired", count=2)
        for number in range(500, 510):
            alice.say(f"a {number}")
            bob.say(f"b {number}")
        expect_next(bob, *(f"alice: a {number}" for number in range(510)))
        expect_next(alice, *(f"bob: b {number}" for number in range(510)))
        wait_for_members(alice, "alice", "bob")
        assert not any(worker.is_running() for worker in before)
        assert len(server.workers()) == 2


def test_a_single_worker_is_replaced_too() -> None:
    with running_server("--workers", "1") as server:
        alice = server.chat("alice")
        for times in (1, 2, 3):
            renew(server, 1, times)
            assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"


def test_half_a_line_and_a_client_without_a_name_move_along() -> None:
    with running_server("--workers", "2", "--segment-timeout", "0") as server:
        bob, alice, nameless = server.chat("bob"), server.chat("alice"), server.connect()
        bob.expect("* alice joined #lobby")
        nameless.expect(WELCOME)
        alice.send(b"hel")
        nameless.send(b"car")
        for chatter in (alice, nameless):
            wait_arrived(server, chatter)
        renew(server, 2)
        alice.send(b"lo\n")
        expect_next(bob, "alice: hello")
        nameless.send(b"ol\n")
        nameless.expect_start("* Hello, carol.")
        assert nameless.seen.count(WELCOME) == 1


def test_a_client_that_sends_without_line_ends_goes_on_doing_so() -> None:
    with running_server("--workers", "2") as server:
        bob, alice = server.chat("bob"), server.connect()
        alice.send(b"alice")
        alice.expect_start("* Hello, alice.")
        bob.expect("* alice joined #lobby")
        alice.send(b"one")
        expect_next(bob, "alice: one")
        renew(server, 2)
        alice.send(b"two")
        expect_next(bob, "alice: two")


@pytest.mark.parametrize("rounds", [1, 3])
def test_unread_output_moves_along_with_its_client(rounds: int) -> None:
    with running_server(*BACKLOG_OPTIONS) as server:
        backlog = Backlog(server)
        for part in range(rounds):
            backlog.grow()
            renew(server, 2, part + 1)
        backlog.expect_whole()


def test_what_moved_along_is_there_when_the_next_worker_is_killed() -> None:
    with running_server(*BACKLOG_OPTIONS) as server:
        backlog = Backlog(server)
        backlog.grow()
        renew(server, 2)
        backlog.say("meanwhile")
        backlog.bob.ask("/topic all is said", "* ")
        server.worker_of(backlog.slow).kill()
        backlog.expect_whole()


def test_a_reload_changes_what_can_be_changed(tmp_path: Path) -> None:
    file = tmp_path / "mpchat.toml"
    file.write_text('max_clients = 10\nworkers = 1\nlog_level = "info"\nhistory = 100\n')
    with running_server("--config", str(file)) as server:
        alice = server.chat("alice")
        file.write_text('max_clients = 1\nworkers = 2\nlog_level = "debug"\nhistory = 7\n')
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("cannot be changed while the server runs options=history")
        server.expect_log(" retired")
        eventually(lambda: len(server.workers()) == 2, "there are two workers")
        server.connect().expect_start("! The server is full: 1 client.")
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"


def test_more_clients_than_before(tmp_path: Path) -> None:
    file = tmp_path / "mpchat.toml"
    file.write_text("workers = 1\nmax_clients = 2\n")
    with running_server("--config", str(file)) as server:
        first = [server.chat(f"n{number}") for number in range(2)]
        server.connect().expect_start("! The server is full: 2 clients.")
        file.write_text("workers = 1\nmax_clients = 40\n")
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("reloaded")
        more = [server.chat(f"n{number}") for number in range(2, 40)]
        server.connect().expect_start("! The server is full: 40 clients.")
        more[-1].say("is everybody there")
        for each in first + more[:-1]:
            each.expect("n39: is everybody there")
        file.write_text("workers = 1\nmax_clients = 3\n")
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("reloaded", count=2)
        server.connect().expect_start("! The server is full: 3 clients.")
        assert more[-1].ask("/who", "* 40 in #lobby: ")


@pytest.mark.parametrize(
    ("limit", "words", "most"),
    [
        ("-n 200", "max_clients lowered wanted=5000 to=68 reason=limit of 200 open files", 68),
        # Where addresses are dear, there is no more room than was asked for at the start.
        ("-v 8000000", "max_clients lowered wanted=5000 to=20 reason=room made at the first start", 20),
    ],
)
def test_it_says_how_far_more_clients_goes(tmp_path: Path, limit: str, words: str, most: int) -> None:
    file = tmp_path / "mpchat.toml"
    file.write_text("workers = 1\nmax_clients = 20\n")
    command = ("sh", "-c", f'ulimit {limit} && exec "$@"', "sh", *SERVER)
    with running_server("--config", str(file), command=command) as server:
        assert not [line for line in server.stderr if "WARNING" in line]
        file.write_text("workers = 1\nmax_clients = 5000\n")
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("WARNING", words)
        server.expect_log(" retired")
        clients = [server.connect() for _ in range(most)]
        for client in clients:
            client.expect(WELCOME)
        server.connect().expect_start(f"! The server is full: {most} clients.")


def test_what_was_scaled_stays_until_the_configuration_says_another_number(tmp_path: Path) -> None:
    file = tmp_path / "mpchat.toml"
    file.write_text("workers = 1\n")
    with running_server("--config", str(file)) as server:
        server.process.send_signal(signal.SIGTTIN)
        server.expect_log("workers from now on count=2")  # of signals that wait together, HUP would come first
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("workers stay as TTIN and TTOU have set them count=2")
        server.expect_log(" retired")
        file.write_text("workers = 3\n")
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("reloaded", count=2)
        eventually(lambda: len(server.workers()) == 3, "there are three workers")


def test_another_patience_is_for_the_sequencer_too(tmp_path: Path) -> None:
    file = tmp_path / "mpchat.toml"
    file.write_text("workers = 1\nbeat_timeout = 600.0\n")
    with running_server("--config", str(file)) as server:
        file.write_text("workers = 1\nbeat_timeout = 0.5\n")
        server.process.send_signal(signal.SIGHUP)
        server.expect_log(" retired")
        with suspended(server.sequencer()):
            server.expect_log("sequencer killed reason=no answer for 0.5 s")
        assert server.chat("alice").ask("/who", "* 1 in") == "* 1 in #lobby: alice"


def test_a_file_that_is_no_good_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mpchat.toml"
    file.write_text("workers = 1\n")
    with running_server("--config", str(file)) as server:
        before = server.workers()
        file.write_text("workers = 0\n")
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("reload rejected: nothing is changed reason=", "workers = 0: must be an integer")
        alice = server.chat("alice")
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"
        assert server.workers() == before


def test_told_to_stop_in_the_middle_it_stops() -> None:
    with running_server("--workers", "3") as server:
        crowd = [server.chat(f"n{number}") for number in range(30)]
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("retires")
        server.process.terminate()
        for each in crowd:
            assert each.expect_end()[-1] == "! The server is stopping."
        server.close_chatters()
        server.expect_exit(0)


# --- TTIN and TTOU ------------------------------------------------------------------------------------------


def test_a_worker_is_added_and_gets_its_share() -> None:
    with running_server("--workers", "1") as server:
        crowd = [server.chat(f"n{number}") for number in range(12)]
        server.process.send_signal(signal.SIGTTIN)
        wait_even(server, crowd, [6, 6])
        server.process.send_signal(signal.SIGTTIN)
        wait_even(server, crowd, [4, 4, 4])
        crowd[0].say("is everybody there")
        for each in crowd[1:]:
            each.expect("n0: is everybody there")


def test_a_worker_is_retired_and_its_clients_go_to_the_others() -> None:
    with running_server("--workers", "3") as server:
        crowd = [server.chat(f"n{number}") for number in range(12)]
        server.process.send_signal(signal.SIGTTOU)
        wait_even(server, crowd, [6, 6])
        for _ in range(3):
            server.process.send_signal(signal.SIGTTOU)
        server.expect_log(" retired", count=2)
        wait_even(server, crowd, [12])  # the last one stays
        crowd[0].say("is everybody there")
        for each in crowd[1:]:
            each.expect("n0: is everybody there")


def test_a_worker_that_retires_too_slowly_is_killed_and_its_clients_are_adopted() -> None:
    with running_server("--workers", "2", "--drain-timeout", "1", "--beat-timeout", "600") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        newest = next(worker for name, worker in zip("01", server.workers(), strict=True) if name == "1")
        of_newest, other = (alice, bob) if server.worker_of(alice) == newest else (bob, alice)
        with suspended(newest):
            server.process.send_signal(signal.SIGTTOU)
            server.expect_log("killed reason=does not retire in time")
        of_newest.say("still here")
        other.expect_start(("alice" if of_newest is alice else "bob") + ": still here")
        assert len(server.workers()) == 1


def test_after_a_death_the_load_is_evened_out() -> None:
    with running_server("--workers", "2") as server:
        crowd = [server.chat(f"n{number}") for number in range(12)]
        for _ in range(2):
            server.worker_of(crowd[0]).kill()
            wait_even(server, crowd, [6, 6])


# --- signals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU])
def test_a_signal_to_the_whole_group_is_mains_business(number: signal.Signals) -> None:
    with starting_server("--workers", "2", new_group=True) as server:
        server.wait_ready()
        alice = server.chat("alice")
        sequencer = server.sequencer()
        os.killpg(server.process.pid, number)
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"
        assert sequencer.is_running()
        server.close_chatters()
        server.stop()
