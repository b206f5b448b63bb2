"""The whole server as its clients see it: chat across workers, every kind of client, admission and limits."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import closing

from server import DEADLINE, Chatter, Server, TelnetChatter, eventually, running_server

from mpchat.server.main.intake.listener import Listener
from mpchat.wire.registry import LINE

# What telnet(1) sends when it is told to negotiate: IAC DO SUPPRESS-GO-AHEAD, IAC WILL TERMINAL-TYPE (RFC 854).
NEGOTIATION = b"\xff\xfd\x03\xff\xfb\x18"

WELCOME = "* Welcome to mpchat. What is your name?"


def chat_on_different_workers(server: Server, names: Sequence[str]) -> list[Chatter]:
    """Clients that have signed on in this order, each on another worker."""
    chatters = [server.chat(name) for name in names]
    assert len({server.worker_of(chatter).pid for chatter in chatters}) == len(names)
    return chatters


# --- one chat on several workers ----------------------------------------------------------------------------


def test_clients_on_different_workers_see_each_other() -> None:
    with running_server("--workers", "3") as server:
        assert server.ready_line.endswith(", 3 workers")
        alice, bob, carol = chat_on_different_workers(server, ["alice", "bob", "carol"])
        alice.expect("* bob joined #lobby")
        alice.expect("* carol joined #lobby")
        bob.expect("* carol joined #lobby")
        assert carol.ask("/who", "* 3 in #lobby") == "* 3 in #lobby: alice, bob, carol"
        alice.say("who is there?")
        bob.expect("alice: who is there?")
        carol.expect("alice: who is there?")
        bob.say("me")
        alice.expect("bob: me")
        carol.expect("bob: me")
        carol.say("me too")
        alice.expect("carol: me too")
        bob.expect("carol: me too")


def test_everybody_sees_the_same_order() -> None:
    count = 200
    names = ["t0", "t1", "t2"]
    with running_server("--workers", "3", "--rate", "0") as server:
        talkers = chat_on_different_workers(server, names)
        watchers = chat_on_different_workers(server, ["w0", "w1", "w2"])
        for watcher in watchers:
            watcher.say("/quiet on")
        for number in range(count):
            for name, talker in zip(names, talkers, strict=True):
                talker.say(f"{name} says {number}")
        # Only when all is in the log, or the end would not be the end.
        watchers[0].expect_each(*(f"{name}: {name} says {count - 1}" for name in names))
        watchers[0].say("the end")

        said, *others = [_said(each.lines_until("w0: the end")) for each in (*watchers[1:], *talkers)]
        assert len(said) == 3 * count
        assert others[0] == said
        for name, seen in zip(names, others[1:], strict=True):
            assert seen == [line for line in said if not line.startswith(f"{name}: ")]
            assert [line for line in said if line.startswith(f"{name}: ")] == [
                f"{name}: {name} says {number}" for number in range(count)
            ]


def _said(lines: list[str]) -> list[str]:
    return [line for line in lines if " says " in line]


def test_nc_telnet_and_segment_clients_chat_together() -> None:
    with running_server("--workers", "3") as server:
        netcat = server.chat("netcat")
        telnet, segment = server.connect_as(TelnetChatter), server.connect()
        for byte in NEGOTIATION:  # cut everywhere
            telnet.send(bytes([byte]))
        telnet.send(b"telnet\r\n")
        telnet.expect("* Hello, telnet. You are in #lobby with netcat. /help lists the commands.")
        segment.send(b"segment")
        segment.expect("* Hello, segment. You are in #lobby with netcat, telnet. /help lists the commands.")

        segment.send("grüß euch".encode())
        telnet.expect("segment: grüß euch")
        netcat.expect("segment: grüß euch")
        segment.send(b"and again")
        telnet.expect("segment: and again")
        telnet.send(b"plain\r\0" + NEGOTIATION + b"and simple\r\n")
        for other in netcat, segment:
            other.expect("telnet: plain")
            other.expect("telnet: and simple")
        netcat.say("all three")
        for other in telnet, segment:
            other.expect("netcat: all three")


# --- rooms, private messages, history -----------------------------------------------------------------------


def test_rooms_across_workers() -> None:
    with running_server("--workers", "3") as server:
        alice, bob, carol = chat_on_different_workers(server, ["alice", "bob", "carol"])
        assert alice.ask("/join python", "* You are in") == "* You are in #python, alone."
        assert bob.ask("/join #Python", "* You are in") == "* You are in #python with alice."
        alice.expect("* bob joined #python")
        alice.say("who likes snakes?")
        bob.expect("alice: who likes snakes?")
        carol.say("anybody there?")
        bob.expect("#lobby carol: anybody there?")
        alice.expect("#lobby carol: anybody there?")
        assert carol.ask("/rooms", "* #python") == "* #python: 2 members"
        assert not [line for line in carol.seen if "snakes" in line]


def test_private_messages_across_workers() -> None:
    with running_server("--workers", "3") as server:
        alice, bob, carol = chat_on_different_workers(server, ["alice", "bob", "carol"])
        assert alice.ask("/msg bob between us", "[to ") == "[to bob] between us"
        bob.expect("[alice] between us")
        assert bob.ask("/reply it stays here", "[to ") == "[to alice] it stays here"
        alice.expect("[bob] it stays here")
        assert carol.ask("/who", "* 3 in") == "* 3 in #lobby: alice, bob, carol"
        assert not [line for line in carol.seen if "us" in line or "stays" in line]


def test_a_client_that_comes_later_is_shown_the_history() -> None:
    with running_server("--workers", "2") as server:
        alice = server.chat("alice")
        for number in range(25):
            alice.say(f"line {number}")
        assert alice.ask("/history 3", "* The last") == "* The last 3 lines of #lobby:"
        bob = server.chat("bob")
        assert server.worker_of(bob) != server.worker_of(alice)
        bob.expect("* Now.")
        assert bob.seen[2].startswith("* Earlier in #lobby (since ")
        assert bob.seen[3:-1] == [f"alice: line {number}" for number in range(5, 25)]
        bob.say("/history 22")
        assert bob.lines_until("alice: line 24") == [
            "* The last 22 lines of #lobby:",
            *(f"alice: line {number}" for number in range(3, 24)),
        ]


def test_a_program_in_segment_mode_is_not_shown_the_history() -> None:
    with running_server("--workers", "1") as server:
        alice, program = server.chat("alice"), server.connect()
        alice.say("earlier")
        program.expect("* Welcome to mpchat. What is your name?")
        program.send(b"program")
        program.expect_start("* Hello, program. ")
        alice.expect("* program joined #lobby")
        alice.say("live")
        program.expect("alice: live")
        assert "alice: earlier" not in program.seen
        program.send(b"/history")
        program.expect("alice: earlier")


# --- what is sent arrives -----------------------------------------------------------------------------------


def test_a_pasted_block_arrives_whole_and_in_order() -> None:
    block = [f"line {number} of the block" for number in range(50)]
    with running_server("--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.send("".join(f"{line}\n" for line in block).encode())
        alice.say("that was it")
        assert bob.lines_until("alice: that was it") == [f"alice: {line}" for line in block]


def test_over_the_rate_a_block_is_delayed_and_whole() -> None:
    rate, burst, count = 50, 5, 30
    block = [f"line {number}" for number in range(count)]
    with running_server("--workers", "2", "--rate", str(rate), "--burst", str(burst)) as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        start = time.monotonic()
        alice.send("".join(f"{line}\n" for line in block).encode())
        for line in block:
            bob.expect(f"alice: {line}")
        # At least: however fast or slow the machine is, the rate allows no less.
        assert time.monotonic() - start >= (count - burst - 1) / rate
        assert bob.seen[-count:] == [f"alice: {line}" for line in block]


def test_what_was_sent_before_the_half_close_is_delivered() -> None:
    with running_server("--workers", "2") as server:
        bob, alice = server.chat("bob"), server.connect()
        alice.send(b"alice\nhello\nand this has no end")
        alice.end_sending()
        bob.expect("alice: hello")
        bob.expect("alice: and this has no end")
        bob.expect("* alice left the chat")
        assert alice.expect_end()[-1] == "* Bye, alice."


def test_lines_before_a_reset_are_delivered() -> None:
    with running_server("--workers", "2") as server:
        bob, alice = server.chat("bob"), server.connect()
        # To close with something unread makes the kernel send a reset.
        alice.wait_unread()
        alice.send(b"alice\none\ntwo\n")
        alice.close()
        bob.expect("alice: one")
        bob.expect("alice: two")
        bob.expect_start("* alice left the chat")


# --- admission and limits -----------------------------------------------------------------------------------


def test_a_client_that_gives_no_name_is_disconnected() -> None:
    with running_server("--workers", "1", "--sign-on-timeout", "0.3") as server:
        silent = server.connect()
        alice = server.chat("alice")
        assert silent.expect_end() == [WELCOME, "! You are disconnected: no name within 0.3 s."]
        # Having signed on, one may be silent for longer.
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"


def test_a_full_server_says_so() -> None:
    with running_server("--workers", "2", "--max-clients", "2") as server:
        alice, _ = server.chat("alice"), server.chat("bob")
        assert server.connect().expect_end() == ["! The server is full: 2 clients. Try again later."]
        alice.say("/quit")
        alice.expect_end()
        alice.close()
        eventually(lambda: _comes_in(server), "room for one more")
        server.expect_log("WARNING client rejected address=127.0.0.1 reason=server_full")


def test_connections_from_one_address_are_counted() -> None:
    with running_server("--workers", "2", "--max-per-address", "2", "--exempt", "") as server:
        alice, _ = server.chat("alice"), server.connect()
        assert server.connect().expect_end() == ["! Too many connections from your address: 2 at most."]
        alice.say("quit")
        alice.expect_end()
        alice.close()
        eventually(lambda: _comes_in(server), "room for one more")


def _comes_in(server: Server) -> bool:
    """Whether one more client is let in."""
    more = server.connect()
    more.expect_start("")
    return more.seen == [WELCOME]


def test_loopback_is_not_counted_by_default() -> None:
    with running_server("--workers", "1", "--max-per-address", "1") as server:
        server.chat("alice")
        server.chat("bob")


def test_a_line_over_the_limit_is_refused_and_the_client_stays() -> None:
    with running_server("--workers", "2", "--max-line", "100") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.say("x" * 100)
        alice.say("y" * 101)
        alice.expect("! That line is too long: 100 bytes at most. It was not sent.")
        # The limit holds while the line end is waited for.
        alice.send(b"z" * 200)
        alice.expect("! That line is too long: 100 bytes at most. It was not sent.")
        alice.say("z")
        alice.say("short")
        assert bob.lines_until("alice: short") == ["alice: " + "x" * 100]


def test_a_client_that_never_reads_is_cut_off_and_costs_nobody_else_anything() -> None:
    sendq = 256 << 10
    with running_server("--workers", "2", "--rate", "0", "--sendq", str(sendq)) as server:
        alice, bob, carol = (server.chat(name) for name in ("alice", "bob", "carol"))
        deaf = server.connect(receive_buffer=4096)
        deaf.sign_on("deaf")
        for each in alice, bob, carol:
            each.expect("* deaf joined #lobby")
        rounds = _flood_until_cut_off(server, alice, [bob, carol], chunk=sendq // 4)
        for each in bob, carol:
            if (left := "* deaf left the chat (send queue exceeded)") not in each.seen:
                each.expect(left)
            assert len([line for line in each.seen if line.startswith("alice: ")]) == rounds * 16
        assert bob.ask("/who", "* 3 in") == "* 3 in #lobby: alice, bob, carol"
        # It reads at last, and is told why it goes.
        assert deaf.expect_end()[-1] == "! You are disconnected: send queue exceeded."


def _flood_until_cut_off(server: Server, talker: Chatter, readers: Sequence[Chatter], chunk: int) -> int:
    """Let `talker` say chunks of 16 lines, each read by all `readers`, until the server has cut somebody off."""
    rounds = 0
    deadline = time.monotonic() + DEADLINE
    while not [line for line in list(server.stderr) if "send queue exceeded" in line]:
        assert time.monotonic() < deadline, "the send queue has no bound"
        for number in range(16):
            talker.say(f"{rounds} {number} ".ljust(chunk // 16, "x")[: chunk // 16])
        for reader in readers:
            reader.expect_start(f"alice: {rounds} 15 ")
        rounds += 1
    return rounds


# --- the listening socket -----------------------------------------------------------------------------------


def test_accepted_sockets_have_the_options_of_the_listener() -> None:
    with closing(Listener("127.0.0.1", 0, LINE)) as listener:
        host, _, port = listener.address.rpartition(":")
        with socket.create_connection((host, int(port)), DEADLINE):
            (arrival,) = listener.accept()
            with arrival.socket as accepted:
                assert arrival.address == "127.0.0.1"
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                if hasattr(socket, "TCP_KEEPIDLE"):
                    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
                    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 15
                    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 4
                if hasattr(socket, "TCP_USER_TIMEOUT"):
                    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000


def test_accept_never_waits() -> None:
    with closing(Listener("127.0.0.1", 0, LINE)) as listener:
        assert listener.accept() == []
