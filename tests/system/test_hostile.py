"""Bad input harms nobody: each kind of it against a real server, while two well-behaved clients chat on.

Whoever sends it gets a clear error or a closed connection. `undisturbed` holds what is true of all of them: the two
get every line of each other and never a character that a terminal would obey; the processes of the server are the
same ones afterwards, log no error, and have not grown by more than GROWTH_MOST.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psutil
import pytest
from server import DEADLINE, Chatter, Server, eventually, running_server

from mpchat.chat.state.state import Limits
from mpchat.config import Config

WELCOME = "* Welcome to mpchat. What is your name?"
WHAT_NAME = "* What is your name?"
TOO_LONG = f"! That line is too long: {Config().max_line} bytes at most. It was not sent."

MIB = 1 << 20
GROWTH_MOST = 40 * MIB
"""All processes together. The log may keep 8 MiB for the next snapshot and a tail of 16 MiB (log.local.memory); the
rest is for what Python keeps for later. What the tests send and nobody must keep is more: see FLOOD."""

FLOOD = 80 * MIB
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s
ROUNDS = 20
"""How often the two write to each other, at the least, before the bad input has begun and again after it."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Without a rate, so that the bad input comes as fast as it can.
    with running_server("--workers", "2", "--rate", "0") as running:
        yield running


@pytest.fixture
def listening(server: Server) -> Iterator[Chatter]:
    """Somebody in the lobby who looks at what the others are shown."""
    chatter = server.chat("listening")
    yield chatter
    leave(chatter)


def leave(chatter: Chatter) -> None:
    """Be gone, also for the log: the name is free then."""
    chatter.say("/quit")
    chatter.expect_start("* Bye, ")
    chatter.close()


def catch_up(chatter: Chatter, name: str) -> None:
    """Take in all that the log held until now: what somebody asks for comes behind it."""
    chatter.say(f"/msg {name} that is all")
    chatter.expect(f"[{name}] that is all")


@contextmanager
def undisturbed(server: Server) -> Iterator[None]:
    """Two clients chat from before the block is entered until after it is left, and the server stays as it was."""
    before, logged, used = pids(server), len(server.stderr), memory(server)
    ping, pong = server.chat("ping"), server.chat("pong")
    started, over = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as thread:
        chatting = thread.submit(chat, ping, pong, started, over)
        try:
            # Also when they failed, which result() says.
            eventually(lambda: started.is_set() or chatting.done(), "the two chat")
            yield
        finally:
            over.set()
        chatting.result()
    for chatter in (ping, pong):
        leave(chatter)
        assert all(line.replace("\t", "").isprintable() for line in chatter.seen)
    assert pids(server) == before
    assert [line for line in server.stderr[logged:] if " ERROR " in line] == []
    assert memory(server) - used < GROWTH_MOST


def chat(ping: Chatter, pong: Chatter, started: threading.Event, over: threading.Event) -> None:
    """Write to and fro until it is over, and a little longer."""
    number, left = 0, ROUNDS
    while left:
        ping.say(f"ping {number}")
        pong.expect(f"ping: ping {number}")
        pong.say(f"pong {number}")
        ping.expect(f"pong: pong {number}")
        number += 1
        if number == ROUNDS:
            started.set()
        if over.is_set():
            left -= 1


def processes(server: Server) -> list[psutil.Process]:
    return [psutil.Process(server.process.pid), *server.children()]


def pids(server: Server) -> set[int]:
    return {process.pid for process in processes(server)}


def memory(server: Server) -> int:
    """The resident memory of all processes of the server, in bytes."""
    return sum(process.memory_info().rss for process in processes(server))


def descriptors(server: Server) -> int:
    """The open descriptors of all processes of the server."""
    return sum(process.num_fds() for process in processes(server))


def members(server: Server) -> set[str]:
    """Who is in the lobby, as is told somebody who goes again at once."""
    asking = server.chat("asking")
    asking.say("/who")
    catch_up(asking, "asking")
    [names] = [found[1] for line in asking.seen if (found := re.fullmatch(r"\* \d+ in #lobby: (.*)", line))]
    leave(asking)
    return set(names.split(", ")) - {"asking"}


# --- lines without end --------------------------------------------------------------------------------------


def flood(chatter: Chatter, data: bytes, size: int) -> None:
    for _ in range(size // len(data)):
        chatter.send(data)


@pytest.mark.parametrize("signed_on", [True, False])
def test_lines_of_10_mb_without_end(server: Server, signed_on: bool) -> None:
    names = [f"long-{number}" for number in range(8)]
    with undisturbed(server):
        longs = [server.chat(name) if signed_on else server.connect() for name in names]
        for chatter in longs:
            flood(chatter, b"x" * MIB, FLOOD // len(longs))
            chatter.expect(TOO_LONG)
    for chatter, name in zip(longs, names, strict=True):
        chatter.send(b"\n")
        if not signed_on:
            chatter.say(name)
            chatter.expect_start(f"* Hello, {name}. ")
        leave(chatter)
        assert chatter.seen.count(TOO_LONG) == 1


def test_one_byte_at_a_time(server: Server, listening: Chatter) -> None:
    with undisturbed(server):
        slow = server.chat("slow")
        for byte in "grüße an alle 🙂\r\n/me waves\n".encode():
            slow.send(bytes([byte]))
        listening.expect("slow: grüße an alle 🙂")
        listening.expect("** slow waves")
    leave(slow)


# --- characters ---------------------------------------------------------------------------------------------

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\r"]

KEYS = "\x08\x15\x17\x7f"
"""Edit the line."""
INTRODUCERS = "\x1b\x8f\x90\x98\x9b\x9d\x9e\x9f"
"""Of sequences for terminals."""


def test_no_control_character_reaches_anybody(server: Server, listening: Chatter) -> None:
    with undisturbed(server):
        evil = server.chat("evil")
        everything = "".join(control for control in CONTROLS if control not in KEYS and control not in INTRODUCERS)
        for control in everything:
            evil.say(f"a{control}b")
            listening.expect("evil: ab")
        for introducer in INTRODUCERS:
            # Whether it takes what follows with it or not, it is not shown.
            evil.say(f"a{introducer}b")
            listening.expect_start("evil: a")
        evil.say(f"tab\tstays, {everything}these go")
        listening.expect("evil: tab\tstays, these go")
        evil.send(b"a\rb\n")
        listening.expect("evil: a")
        listening.expect("evil: b")
        for command in ("me {}", "topic {}", "msg listening {}", "away {}", "join {}x", "leave {}x {}", "nick {}evil"):
            evil.say("/" + command.format(everything, everything))
        evil.say(f"/quit {everything}")
        evil.expect_end()
        evil.close()
        listening.expect_start("* evil left the chat")
        assert all(line.replace("\t", "").isprintable() for line in (*listening.seen, *evil.seen))
    assert all(line.isprintable() for line in server.stderr)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"caf\xe9\n", "caf\ufffd"),
        (b"cut \xf0\x9f\x99\n", "cut \ufffd"),
        (b"over\xc0\xaflong\n", "over\ufffd\ufffdlong"),
        (b"half \xed\xa0\xbd pair\n", "half \ufffd\ufffd\ufffd pair"),
        (b"\xfe\xfe\xfe\n", "\ufffd\ufffd\ufffd"),
        (b"cut at the end \xe2\x82", "cut at the end \ufffd"),
    ],
)
def test_invalid_utf8_is_shown_as_such(server: Server, listening: Chatter, data: bytes, shown: str) -> None:
    with undisturbed(server):
        broken = server.chat("broken")
        broken.send(data)
        broken.end_sending()
        listening.expect(f"broken: {shown}")
        assert broken.expect_end()[-1] == "* Bye, broken."
        broken.close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("z" + "\u0335\u0321" * 5, "! A name cannot contain 'U+0335'"),
        ("\u0301", "! A name cannot contain 'U+0301'"),
        ("\u3164", "! A name needs at least one character."),
        ("\u0440ing", "! A name cannot mix Latin and Cyrillic letters"),
        ("[ping]", "! [ping] cannot be a name here"),
        ("systern", "! systern cannot be a name here"),
        ("-", "! A name needs at least one letter or digit."),
    ],
    ids=ascii,
)
def test_names_that_deceive_are_refused(server: Server, name: str, reason: str) -> None:
    with undisturbed(server):
        deceiver = server.connect()
        deceiver.say(name)
        deceiver.expect_start(reason)
        deceiver.expect(WHAT_NAME)
        deceiver.say("honest")
        deceiver.expect_start("* Hello, honest. ")
        deceiver.say(f"/nick {name}")
        deceiver.expect_start(reason)
    leave(deceiver)


@pytest.mark.parametrize("name", ["ping\u200f", "ping\u200b", "\u2066ping\u2069", "ping\ufe0f"], ids=ascii)
def test_names_that_look_like_one_that_is_taken_are_taken(server: Server, name: str) -> None:
    with undisturbed(server):
        deceiver = server.connect()
        deceiver.say(name)
        deceiver.expect("* ping is taken; you are ping-2.")
    leave(deceiver)


# --- telnet -------------------------------------------------------------------------------------------------

WILL_ECHO = b"\xff\xfb\x01"
DONT_ECHO = b"\xff\xfe\x01"
SUBNEGOTIATION = b"\xff\xfa\x18"


class Telnet(Chatter):
    """A client that asks for what it is refused; the refusals are counted."""

    refused = 0

    def split(self, data: bytes) -> tuple[list[str], bytes]:
        self.refused += data.count(DONT_ECHO)
        return super().split(data.replace(DONT_ECHO, b""))


def test_a_flood_of_telnet_negotiation(server: Server, listening: Chatter) -> None:
    with undisturbed(server):
        telnet = server.connect_as(Telnet)
        telnet.sign_on("telnet")
        flood(telnet, WILL_ECHO * 100_000, 10 * MIB)
        telnet.send(b"hello\r\n")
        listening.expect("telnet: hello")
        listening.say("/msg telnet psst")
        telnet.expect("[listening] psst\r")
        assert 0 < telnet.refused < 100_000
        assert TOO_LONG not in telnet.seen
        telnet.say("/quit")
        telnet.expect_end()
        telnet.close()


def test_a_flood_of_telnet_is_held_to_the_rate() -> None:
    """Each note that it makes necessary goes through the log."""
    with running_server("--workers", "1", "--rate", "1", "--burst", "10") as server:
        telnet = server.connect_as(Telnet)
        telnet.sign_on("telnet")
        for _ in range(300):
            telnet.send(WILL_ECHO)
            telnet.send(b"x\x7f")
        telnet.send(b"\r\n/quit\r\n")
        telnet.expect_end()
        assert 0 < telnet.refused < 100
        telnet.close()


def test_a_telnet_subnegotiation_without_end(server: Server, listening: Chatter) -> None:
    with undisturbed(server):
        telnet = server.chat("telnet")
        telnet.send(SUBNEGOTIATION)
        flood(telnet, b"x" * MIB, FLOOD)
        telnet.expect(TOO_LONG)
        telnet.send(b"\nhello\r\n")
        listening.expect("telnet: hello")
    telnet.say("/quit")
    telnet.expect_end()
    telnet.close()


# --- other protocols ----------------------------------------------------------------------------------------


def make_http_request() -> bytes:
    return b"GET / HTTP/1.1\r\nHost: 127.0.0.1:4000\r\nAccept: */*\r\n\r\n"


def make_tls_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="example.org")
    # It wants the server's answer.
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HERE = "This is mpchat, a chat of plain lines"
HOW = "Connect with nc, telnet or mpchat-client."


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (make_http_request(), [f"HTTP/1.1 400 {HERE}, and no web server. {HOW}\r", "\r"]),
        (make_http_request() + b"hello\r\n" * 100, [f"HTTP/1.1 400 {HERE}, and no web server. {HOW}\r", "\r"]),
        (b"NICK alice\r\nUSER alice 0 * :Alice\r\n", [f"ERROR :{HERE}, and no IRC server. {HOW}\r"]),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", [f"! {HERE}, and no SSH server. {HOW}\r"]),
        (make_tls_hello(), [f"! {HERE}, without TLS. {HOW}\r"]),
    ],
    ids=["http", "http with a body", "irc", "ssh", "tls"],
)
def test_another_protocol_is_told_what_this_is(
    server: Server, listening: Chatter, data: bytes, told: list[str]
) -> None:
    with undisturbed(server):
        catch_up(listening, "listening")
        before = len(listening.seen)
        stranger = server.connect()
        stranger.send(data)
        assert stranger.expect_end() == [WELCOME, *told]
        stranger.close()
        catch_up(listening, "listening")
    shown = [line for line in listening.seen[before:] if "ping" not in line and "pong" not in line]
    assert shown == ["[to listening] that is all", "[listening] that is all"]


# --- connections --------------------------------------------------------------------------------------------


def test_many_that_say_nothing(server: Server) -> None:
    before = descriptors(server)
    with undisturbed(server):
        silent = [server.connect() for _ in range(200)]
        for chatter in silent:
            chatter.expect(WELCOME)
        eventually(lambda: members(server) == {"ping", "pong"}, "who is silent is nobody")
        for chatter in silent:
            chatter.close()
    eventually(lambda: descriptors(server) == before, "no descriptor left")


def test_half_closed_after_sending(server: Server, listening: Chatter) -> None:
    names = [f"half-{number:02d}" for number in range(20)]
    with undisturbed(server):
        halves = [server.connect() for _ in names]
        for chatter, name in zip(halves, names, strict=True):
            chatter.send(f"{name}\nhello\nunfinished".encode())
            chatter.end_sending()
        for chatter, name in zip(halves, names, strict=True):
            assert chatter.expect_end()[-1] == f"* Bye, {name}."
            chatter.close()
        catch_up(listening, "listening")
    for name in names:
        assert [line for line in listening.seen if name in line] == [
            f"* {name} joined #lobby",
            f"{name}: hello",
            f"{name}: unfinished",
            f"* {name} left the chat",
        ]


def test_reset_in_mid_line(server: Server, listening: Chatter) -> None:
    names = [f"break-{number}" for number in range(20)]
    with undisturbed(server):
        breaking = [server.chat(name) for name in names]
        for chatter in breaking:
            chatter.send(b"whole\nhalf")
            chatter.reset()

        def all_have_left() -> bool:
            catch_up(listening, "listening")
            return {f"* {name} left the chat (connection lost)" for name in names} <= set(listening.seen)

        eventually(all_have_left, "all have left")
    for name in names:
        assert [line for line in listening.seen if line.startswith(f"{name}:")] == [f"{name}: whole"]


def test_1000_connections_that_open_and_close_at_once(server: Server) -> None:
    before = descriptors(server)
    with undisturbed(server):
        for batch in range(4):
            # All are open before the first is closed; the system accepts them for the server.
            opened = [socket.create_connection((server.host, server.port), DEADLINE) for _ in range(250)]
            for number, client in enumerate(opened):
                close_somehow(client, number, f"b{batch}-{number}")
        eventually(lambda: members(server) == {"ping", "pong"}, "no ghost is left")
    eventually(lambda: descriptors(server) == before, "no descriptor left")


def close_somehow(client: socket.socket, number: int, name: str) -> None:
    """At once; after giving a name; after also ending this side; by a reset, with a name or without."""
    with client:
        if number % 5:
            client.send(name.encode() + b"\nhello\n")
        if number % 5 == 2:
            client.shutdown(socket.SHUT_WR)
        if number % 5 in (3, 4):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)


# --- too much of something ----------------------------------------------------------------------------------


def test_many_that_ask_for_the_whole_history_at_once() -> None:
    """What they are answered is 2 MB each time: it must not all be made before the first of it is sent."""
    with running_server("--workers", "1", "--rate", "0") as server:
        talker = server.chat("talker")
        talker.send((b"x" * 4000 + b"\n") * 500)
        talker.ask("/who", "* 1 in")
        [worker] = server.workers()
        greedy = [server.connect(receive_buffer=4096) for _ in range(4)]
        before = worker.memory_info().rss
        for number, each in enumerate(greedy):
            each.send(b"greedy%d\n" % number + b"/history 500\n" * 100)
        eventually(lambda: talker.ask("/who", "* ").startswith("* 1 in"), "all four are cut off")
        assert worker.memory_info().rss - before < GROWTH_MOST


def test_a_client_that_joins_10_000_rooms(server: Server, listening: Chatter) -> None:
    most = Limits().rooms_of_session
    refused = f"! You can be in {most} rooms at most."
    with undisturbed(server):
        greedy = server.chat("greedy")
        greedy.send(b"".join(b"/join r%d\n" % number for number in range(10_000)))
        catch_up(greedy, "greedy")
        # The lobby is one of them.
        assert greedy.seen.count(refused) == 10_000 - (most - 1)
        listening.ask(f"/who r{most - 2}", f"* 1 in #r{most - 2}: greedy")
        listening.ask(f"/who r{most - 1}", f"! There is no room #r{most - 1}.")
    leave(greedy)
