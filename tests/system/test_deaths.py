"""Processes of the server are killed or stopped in the middle of the chat: what the clients see of it.

When it is a worker or the sequencer: nothing. Its clients are carried on with by others, byte for
byte, and another sequencer goes on with the same log. When it is main: all goes. Nothing is left behind, whoever dies.
"""

from __future__ import annotations

import signal
from contextlib import suppress

import psutil
import pytest
from server import (
    BACKLOG_OPTIONS,
    WELCOME,
    Backlog,
    by_worker,
    eventually,
    expect_next,
    kill_sequencer,
    kill_worker_of,
    running_server,
    starting_server,
    survivable,
    suspended,
    wait_arrived,
    wait_for_members,
    wait_settled,
)

# --- a worker: its clients ----------------------------------------------------------------------------------


@survivable
def test_nobody_notices_that_a_worker_is_killed() -> None:
    with running_server("--workers", "3") as server:
        alice, bob, carol = server.chat("alice"), server.chat("bob"), server.chat("carol")
        by_worker(server, [alice, bob, carol])
        for each in (alice, bob):
            each.expect("* carol joined #lobby")
        kill_worker_of(server, alice)
        bob.say("from bob")
        expect_next(alice, "bob: from bob")
        alice.say("from alice")
        expect_next(bob, "alice: from alice")
        expect_next(carol, "bob: from bob", "alice: from alice")
        for each in (alice, bob, carol):
            assert each.ask("/who", "* 3 in") == "* 3 in #lobby: alice, bob, carol"


@survivable
def test_what_is_said_before_and_while_the_worker_is_dead_arrives_once() -> None:
    with running_server("--workers", "2", "--rate", "0") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        by_worker(server, [alice, bob])
        alice.expect("* bob joined #lobby")
        for number in range(300):
            alice.say(f"a {number}")
            bob.say(f"b {number}")
            if number == 150:
                server.worker_of(alice).kill()
        expect_next(bob, *(f"alice: a {number}" for number in range(300)))
        expect_next(alice, *(f"bob: b {number}" for number in range(300)))


@survivable
def test_a_line_is_carried_on_in_its_middle() -> None:
    with running_server("--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.send(b"first\nhel")
        bob.expect("alice: first")
        wait_arrived(server, alice)
        kill_worker_of(server, alice)
        alice.send(b"lo \xc3")
        wait_arrived(server, alice)
        kill_worker_of(server, alice)
        alice.send(b"\xa9\n")
        expect_next(bob, "alice: hello \u00e9")


@survivable
def test_a_line_that_is_being_refused_is_still_refused() -> None:
    with running_server("--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.send(b"x" * 5000)
        alice.expect_start("! ")
        for _ in range(2):
            alice.send(b"x" * 20000)
            wait_arrived(server, alice)
            kill_worker_of(server, alice)
        alice.send(b"the end of it\nheard\n")
        expect_next(bob, "alice: heard")


@survivable
def test_a_client_that_sends_without_line_ends_goes_on_doing_so() -> None:
    with running_server("--workers", "2") as server:
        bob, alice = server.chat("bob"), server.connect()
        alice.send(b"alice")
        alice.expect_start("* Hello, alice.")
        bob.expect("* alice joined #lobby")
        kill_worker_of(server, alice)
        alice.send(b"no end")
        expect_next(bob, "alice: no end")


@survivable
def test_signing_on_is_carried_on_where_it_was() -> None:
    with running_server("--workers", "2") as server:
        alice = server.connect()
        alice.expect(WELCOME)
        kill_worker_of(server, alice)
        alice.send(b"!!!\nali")
        alice.expect_start("! ")
        wait_arrived(server, alice)
        kill_worker_of(server, alice)
        alice.send(b"ce\n")
        assert alice.expect_start("* Hello, alice.")
        assert alice.seen.count(WELCOME) == 1


@survivable
@pytest.mark.parametrize("line", ["alice", ""])
def test_a_client_that_was_never_greeted_is_greeted_once(line: str) -> None:
    """The log takes the opening of the dead worker only after its death, and then that of the next."""
    with running_server("--workers", "2") as server:
        with suspended(server.sequencer()):
            alice = server.connect()
            alice.say(line)
            wait_arrived(server, alice)
            kill_worker_of(server, alice)
        alice.expect(WELCOME)
        if not line:
            alice.say("alice")
        alice.expect_start("* Hello, alice.")
        assert alice.seen.count(WELCOME) == 1
        assert len([line for line in alice.seen if line.startswith("* Hello")]) == 1


@survivable
def test_what_was_published_and_has_not_come_back_counts_once() -> None:
    with running_server("--workers", "2", "--rate", "0") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        with suspended(server.sequencer()):
            for number in range(5):
                alice.say(f"{number}")
                wait_arrived(server, alice)
            kill_worker_of(server, alice)
            alice.say("5")
        expect_next(bob, *(f"alice: {number}" for number in range(6)))


@survivable
def test_a_client_that_is_told_much_and_reads_late_gets_all_of_it() -> None:
    """More than the kernel takes: the rest waits in the memory of the worker that is killed."""
    with running_server(*BACKLOG_OPTIONS) as server:
        backlog = Backlog(server)
        backlog.grow()
        kill_worker_of(server, backlog.slow)
        backlog.expect_whole()


@survivable
def test_names_and_private_messages_are_carried_on_with() -> None:
    with running_server("--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        bob.say("/msg alice psst")
        alice.expect("[bob] psst")
        alice.say("/nick al")
        bob.expect_start("* alice is now")
        alice.say("/join den")
        alice.say("/away asleep")
        alice.expect_start("* You are away")
        kill_worker_of(server, alice)
        alice.say("/reply yes?")
        bob.expect("[al] yes?")
        bob.say("/msg al are you there")
        alice.expect("[bob] are you there")
        assert "#den" in alice.ask("/whois al", "* al")


@survivable
def test_a_client_that_is_leaving_leaves_once() -> None:
    with running_server("--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        with suspended(server.sequencer()):
            alice.send(b"last words\n/quit bye\nnot said\n")
            wait_arrived(server, alice)
            kill_worker_of(server, alice)
        alice.expect_end()
        expect_next(bob, "alice: last words", "* alice left the chat (bye)")
        wait_for_members(bob, "bob")


@survivable
def test_the_last_words_sent_to_a_dead_worker_are_heard() -> None:
    with running_server("--workers", "2", "--beat-timeout", "600") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        worker = server.worker_of(alice)
        with suspended(worker):
            alice.send(b"last words\nand these")
            alice.end_sending()
            worker.kill()
        alice.expect_end()
        expect_next(bob, "alice: last words", "alice: and these", "* alice left the chat")
        wait_for_members(bob, "bob")


@survivable
def test_a_client_that_resets_its_connection_to_a_dead_worker_is_no_ghost() -> None:
    with running_server("--workers", "2", "--beat-timeout", "600") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        worker = server.worker_of(alice)
        with suspended(worker):
            alice.send(b"last words\nand a to")
            wait_arrived(server, alice, len(b"last words\nand a to"))
            alice.reset()
            worker.kill()
        expect_next(bob, "alice: last words", "* alice left the chat (connection lost)")
        wait_for_members(bob, "bob")


@survivable
def test_the_place_of_an_adopted_client_stays_taken_until_it_leaves() -> None:
    with running_server("--workers", "2", "--max-clients", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        main = psutil.Process(server.process.pid)
        before = main.num_fds()
        kill_worker_of(server, alice)
        server.connect().expect_start("! ")
        bob.say("/quit")
        bob.expect_end()
        alice.expect("* bob left the chat")
        bob.close()
        eventually(lambda: server.connect().expect_start("") == WELCOME, "the place of who left is free")
        eventually(lambda: main.num_fds() <= before, "no descriptor of the dead worker is left in main")


@survivable
def test_everybody_sees_the_same_members_after_deaths_amid_sign_ons() -> None:
    with running_server("--workers", "3", "--rate", "0") as server:
        first = [server.chat(name) for name in ("a", "b", "c")]
        for each in first:
            each.say("/quiet on")
        main = psutil.Process(server.process.pid)
        before = main.num_fds()
        victims = [server.worker_of(each) for each in first[:2]]
        crowd = []
        for number in range(300):
            crowd.append(server.connect())
            crowd[-1].say(f"guest-{number}")
            if number in (100, 200):
                victims.pop().kill()
        for number, each in enumerate(crowd):
            each.expect_start(f"* Hello, guest-{number}. ")
            assert each.seen.count(WELCOME) == 1
        for each in crowd:
            each.close()
        for each in first:
            wait_for_members(each, "a", "b", "c")
        eventually(lambda: main.num_fds() <= before, "no descriptor of the gone is left in main")


@survivable
def test_a_client_that_leaves_when_its_worker_has_just_died_is_no_ghost() -> None:
    """The sequencer reads the opening of a session only when its worker is dead, and its client gone."""
    with running_server("--workers", "3") as server:
        alice, bob, carol = server.chat("alice"), server.chat("bob"), server.chat("carol")
        by_worker(server, [alice, bob, carol])
        dying = server.worker_of(alice)
        with suspended(server.sequencer()):
            ghosts = [server.connect() for _ in range(6)]
            for number, ghost in enumerate(ghosts):
                ghost.say(f"ghost-{number}")
            # Taken over by their workers, so that their opening is published.
            assert dying in {server.worker_of(ghost) for ghost in ghosts}
            dying.kill()
            server.expect_log("fate=moved")
            for ghost in ghosts:
                ghost.close()
        for each in alice, bob, carol:
            wait_for_members(each, "alice", "bob", "carol")


@survivable
def test_all_workers_killed_at_once() -> None:
    with running_server("--workers", "3") as server:
        alice, bob, carol = (server.chat(name) for name in ("alice", "bob", "carol"))
        alice.say("before")
        bob.expect("alice: before")
        for worker in server.workers():
            worker.kill()
        alice.say("meanwhile")
        dave = server.chat("dave")
        for each in bob, carol:
            each.expect("alice: meanwhile")
        dave.expect("alice: before")
        dave.say("after")
        for each in alice, bob, carol:
            each.expect("dave: after")
            wait_for_members(each, "alice", "bob", "carol", "dave")


@survivable
def test_a_worker_that_dies_again_and_again_is_always_replaced() -> None:
    with running_server("--workers", "1") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        for number in range(5):
            kill_worker_of(server, alice)
            alice.say(f"round {number}")
            expect_next(bob, f"alice: round {number}")


@survivable
def test_a_stopped_worker_is_noticed_and_replaced() -> None:
    with running_server("--workers", "2", "--beat-timeout", "0.5") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        by_worker(server, [alice, bob])
        alice.expect("* bob joined #lobby")
        server.worker_of(alice).suspend()
        bob.say("are you well")
        alice.say("I am")
        server.expect_log("killed reason=does not answer")
        expect_next(alice, "bob: are you well")
        expect_next(bob, "alice: I am")


@survivable
def test_a_client_that_waits_for_a_stopped_worker_goes_to_another() -> None:
    with running_server("--workers", "2", "--beat-timeout", "600") as server:
        stopped, _ = server.workers()
        stopped.suspend()
        waiting = [server.connect()]  # the first is handed over, the others wait
        for _ in range(2):
            # What is answered shows that main has taken in those before it.
            server.connect().expect(WELCOME)
            waiting.append(server.connect())
        server.connect().expect(WELCOME)
        stopped.kill()
        for number, each in enumerate(waiting):
            each.sign_on(f"n{number}")


def test_a_worker_that_dies_while_stopping_holds_nothing_up() -> None:
    with running_server("--workers", "2", "--drain-timeout", "600") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        stopped = server.worker_of(alice)
        stopped.suspend()
        server.process.terminate()
        server.expect_log("stopping")
        stopped.kill()
        assert bob.expect_end()[-1] == "! The server is stopping."
        alice.expect_end()
        server.close_chatters()
        server.expect_exit(0)


# --- main ---------------------------------------------------------------------------------------------------


def test_nothing_stays_when_main_is_killed() -> None:
    with running_server("--workers", "3") as server:
        alice = server.chat("alice")
        server.process.kill()
        server.expect_exit(-signal.SIGKILL)
        alice.expect_end()


def test_nothing_stays_when_main_is_killed_while_a_worker_is_stopped() -> None:
    with running_server("--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        stopped = server.worker_of(alice)
        stopped.suspend()
        eventually(lambda: stopped.status() == psutil.STATUS_STOPPED, "the worker is stopped")
        server.process.kill()
        server.expect_exit(-signal.SIGKILL)
        alice.expect_end()
        bob.expect_end()


# --- the sequencer -------------------------------------------------------------------------------------------


def test_nobody_notices_that_the_sequencer_is_killed() -> None:
    with running_server("--workers", "2", "--rate", "0") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        by_worker(server, [alice, bob])
        alice.expect("* bob joined #lobby")
        for number in range(300):
            alice.say(f"a {number}")
            bob.say(f"b {number}")
            if number in (100, 200):
                kill_sequencer(server)
        expect_next(bob, *(f"alice: a {number}" for number in range(300)))
        expect_next(alice, *(f"bob: b {number}" for number in range(300)))
        assert server.chat("carol").ask("/who", "* 3 in") == "* 3 in #lobby: alice, bob, carol"


def test_what_was_said_before_the_sequencer_was_killed_is_history_after() -> None:
    with running_server("--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.say("before")
        bob.expect("alice: before")
        kill_sequencer(server)
        carol = server.chat("carol")
        assert carol.ask("/history", "* The last") == "* The last 1 line of #lobby:"
        carol.expect("alice: before")


def test_a_client_that_signs_on_without_a_sequencer_is_let_in_afterwards() -> None:
    with running_server("--workers", "2", "--beat-timeout", "600") as server:
        sequencer = server.sequencer()
        with suspended(sequencer):
            alice = server.connect()
            alice.say("alice")
            wait_arrived(server, alice)
            sequencer.kill()
        alice.expect_start("* Hello, alice.")
        assert alice.seen.count(WELCOME) == 1


def test_a_sequencer_that_hangs_is_replaced() -> None:
    with running_server("--workers", "2", "--beat-timeout", "1") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        server.sequencer().suspend()
        alice.say("is anybody there")
        server.expect_log("sequencer killed reason=no answer for 1 s")
        bob.expect("alice: is anybody there")


def test_a_worker_that_finds_no_sequencer_when_it_comes_up_has_not_failed() -> None:
    with starting_server("--workers", "1") as server:
        server.expect_log("sequencer started")
        for count in range(1, 8):
            # More often than a boot loop takes.
            with suppress(psutil.NoSuchProcess):
                server.sequencer().kill()
            server.expect_log("sequencer started", count=count + 1)
        server.wait_ready()
        server.chat("alice")
        server.close_chatters()
        server.stop()


@survivable
def test_the_sequencer_and_a_worker_are_killed_at_once() -> None:
    with running_server("--workers", "2", "--rate", "0", "--beat-timeout", "600") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        by_worker(server, [alice, bob])
        alice.expect("* bob joined #lobby")
        for number in range(5):
            wait_settled(server, [alice, bob])
            sequencer, worker = server.sequencer(), server.worker_of(alice)
            with suspended(sequencer):
                alice.say(f"a {number}")
                wait_arrived(server, alice)
                worker.kill()
                sequencer.kill()
            expect_next(bob, f"alice: a {number}")
            bob.say(f"b {number}")
            expect_next(alice, f"bob: b {number}")
            server.expect_log("sequencer started", count=number + 2)


@survivable
def test_a_late_reader_gets_everything_after_the_sequencer_and_its_worker_died() -> None:
    """What a slow client is still to be told is made again from the log that both have outlived."""
    with running_server(*BACKLOG_OPTIONS) as server:
        backlog = Backlog(server)
        backlog.grow()
        kill_sequencer(server)
        kill_worker_of(server, backlog.slow)
        backlog.expect_whole()
