"""The plain client as a process in pipes, against small servers of every kind."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from clientruns import at_terminal, command, pipe_through, running, wait_for_signals
from playedserver import (
    DEADLINE,
    HELLO,
    QUESTION,
    Lines,
    Server,
    drop_all,
    next_name,
    receive_segments,
    received_by,
    reset,
    sign_on,
)

from mpchat.client.errors import ConnectionEnded
from mpchat.client.net.address import parse_address
from mpchat.client.net.connection import End, connect

# -- in a pipe ----------------------------------------------------------------------------------------------


def test_a_pipe_sends_all_lines_and_leaves() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"hello\r\n\nw\xc3\xb6rld\n and\xff the last")
    assert received == [b"hello", b"", "wörld".encode(), " and� the last".encode()]
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == QUESTION + HELLO % b"bot"


def test_a_pipe_without_a_name_gives_its_first_line() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server:
        done = pipe_through(server.address, given=b"\nbot\nhello\n")
    assert received == [b"hello"]
    assert HELLO % b"bot" in done.stdout


def test_a_pipe_sends_nothing_before_it_is_signed_on() -> None:
    def handle(conn: socket.socket) -> None:
        lines = Lines(conn)
        conn.sendall(QUESTION)
        assert [lines.next(), lines.next()] == [b"/history off", b"bot"]
        assert not select.select([conn], [], [], 0.3)[0], "something was sent before the hello"
        conn.sendall(b"* bot is taken.\n" + HELLO % b"bot-2")
        assert lines.rest() == [b"hello"]

    with Server(handle) as server:
        assert pipe_through(server.address, "--name", "bot", given=b"hello\n").returncode == 0


@pytest.mark.parametrize("closes", [False, True])
def test_a_pipe_gives_up_when_its_name_is_refused(closes: bool) -> None:
    def handle(conn: socket.socket) -> None:
        lines = Lines(conn)
        conn.sendall(QUESTION)
        assert next_name(lines) == b"b*t"
        conn.sendall(b"! A name has letters and digits.\n* What is your name?\n")
        if not closes:
            assert lines.rest() == []

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "b*t", given=b"secret\n")
    assert (done.returncode, done.stderr) == (1, b"! A name has letters and digits.\n")


@pytest.mark.parametrize("farewell", [b"/quit see you", b"QUIT", b"/exit", b"  /quit x", b" quit ", b"a\rquit"])
def test_a_pipe_with_commands_can_quit(farewell: bytes) -> None:
    received: list[bytes] = []

    def handle(conn: socket.socket) -> None:
        received.extend(sign_on(conn).rest())

    with Server(handle) as server:
        given = b"hello\n" + farewell + b"\nlost\n"
        done = pipe_through(server.address, "--name", "bot", "--commands", given=given)
    assert received == [b"hello", *farewell.split(b"\r")]
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_pipe_prints_what_comes_after_its_end() -> None:
    def handle(conn: socket.socket) -> None:
        assert sign_on(conn).rest() == [b"/who"]
        conn.sendall(b"* In #lobby: ann, bot.\nno line end")

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot", "--commands", given=b"/who\n")
    assert done.stdout.endswith(b"* In #lobby: ann, bot.\nno line end\n")
    assert done.returncode == 0


TEXTS = {
    b"/etc/hosts": b"//etc/hosts",
    b"/nick admin": b"//nick admin",
    b"//": b"///",
    b"  /quit x": b"  //quit x",
    b"quit": b"/say quit",
    b"\x08/nick admin": b"//nick admin",
    b"127.0.0.1\tlocalhost": b"127.0.0.1\tlocalhost",
    b"10 %\r/who\r": b"10 %\n//who",
    b"x\x15quit": b"/say quit",
    b"helo\x7flo": b"hello",
}


def test_a_pipe_is_text() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"\n".join(TEXTS))
    assert b"\n".join(received) == b"\n".join(TEXTS.values())
    assert (done.returncode, done.stderr) == (0, b"")


def test_text_for_a_server_that_is_no_mpchat_stays_as_it_is() -> None:
    def handle(conn: socket.socket) -> None:
        conn.sendall(b"Hi, who are you?\n")
        assert Lines(conn).rest() == [b"bot", b"/etc/hosts", b"quit"]

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"/etc/hosts\nquit\n", timing="stranger=0.1")
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_command_is_no_name() -> None:
    def handle(conn: socket.socket) -> None:
        conn.sendall(QUESTION)
        assert Lines(conn).rest() == []

    with Server(handle) as server:
        done = pipe_through(server.address, given=b"/etc/hosts\nhello\n")
    assert (done.returncode, done.stderr) == (1, b"! '/etc/hosts' is not a name.\n")


@pytest.mark.parametrize("stamp", [b"", b"10:00 ", b"2026-11-25 10:00 "])
def test_a_refused_line_ends_a_pipe_with_1(stamp: bytes) -> None:
    received: list[bytes] = []

    def handle(conn: socket.socket) -> None:
        lines = sign_on(conn)
        received.append(lines.next() or b"")
        conn.sendall(stamp + b"! That line is too long.\n" + stamp + b"! And again.\n")
        received.extend(lines.rest())

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"long\nhello\n")
    assert received == [b"long", b"hello"]  # those behind it are sent all the same
    assert (done.returncode, done.stderr) == (1, b"! The server refused something: That line is too long.\n")


def test_what_others_say_is_no_refusal() -> None:
    def handle(conn: socket.socket) -> None:
        lines = sign_on(conn)
        conn.sendall(b"ann: ! no\n[ann] ! no\n** ann ! no\n#a ann: ! no\n10:00 ann: ! no\n")
        assert lines.rest() == [b"hello"]

    with Server(handle) as server:
        assert pipe_through(server.address, "--name", "bot", given=b"hello\n").returncode == 0


@pytest.mark.parametrize("any_name", [False, True])
def test_a_taken_name(any_name: bool) -> None:
    received: list[bytes] = []

    def handle(conn: socket.socket) -> None:
        lines = Lines(conn)
        conn.sendall(QUESTION)
        assert next_name(lines) == b"bot"
        conn.sendall(b"* bot is taken; you are bot-2.\n" + HELLO % b"bot-2")
        received.extend(lines.rest())

    with Server(handle) as server:
        options = ["--any-name"] if any_name else []
        done = pipe_through(server.address, "--name", "bot", *options, given=b"hello\n")
    if any_name:
        assert (received, done.returncode, done.stderr) == ([b"hello"], 0, b"")
    else:
        assert (received, done.returncode, done.stderr) == ([], 1, b"! bot is taken.\n")


def test_host_and_port_as_with_nc() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server:
        host, _, port = server.address.partition(":")
        assert pipe_through(host, port, "--name", "bot", given=b"hello\n").returncode == 0
    assert received == [b"hello"]


def test_a_throttling_server_is_waited_for() -> None:
    received: list[bytes] = []

    def handle(conn: socket.socket) -> None:
        lines = sign_on(conn)
        for _ in range(3):
            threading.Event().wait(0.4)  # longer than idle, and nothing moves that the client could see
            received.append(lines.next() or b"")
        conn.sendall(b"* done\n")

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"1\n2\n3\n", timing="idle=0.2")
    assert received == [b"1", b"2", b"3"]
    assert done.stdout.endswith(b"* done\n")
    assert done.returncode == 0


def test_a_server_that_never_closes_is_left() -> None:
    left = threading.Event()

    def handle(conn: socket.socket) -> None:
        assert sign_on(conn).rest() == [b"hello"]
        assert left.wait(DEADLINE)

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"hello\n", timing="idle=0.1, line=0.1")
        left.set()
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_server_that_never_answers_the_name() -> None:
    def handle(conn: socket.socket) -> None:
        conn.sendall(QUESTION)
        assert Lines(conn).rest() == [b"/history off", b"bot"]

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"hello\n", timing="claim=0.2")
    assert (done.returncode, done.stderr) == (1, b"! The server did not answer the name.\n")


def test_a_server_that_never_reads() -> None:
    left = threading.Event()

    def handle(conn: socket.socket) -> None:
        sign_on(conn)
        assert left.wait(DEADLINE)

    with Server(handle) as server:
        given = b"x" * 60_000 + b"\n"
        done = pipe_through(server.address, "--name", "bot", given=given * 200, timing="idle=0.2, line=0")
        left.set()
    assert (done.returncode, done.stderr) == (1, f"! {server.address} does not read what is sent.\n".encode())


def test_both_sides_send_before_they_read() -> None:
    flood = b"ann: " + b"y" * 1000 + b"\n"
    count = 10_000
    received: list[bytes] = []

    def handle(conn: socket.socket) -> None:
        lines = sign_on(conn)
        conn.sendall(flood * count)  # 10 MB: ends only if the client reads while it cannot write
        received.extend(lines.rest())

    given = b"z" * 1000 + b"\n"
    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot", given=given * count)
    assert b"".join(line + b"\n" for line in received) == given * count
    assert done.stdout == QUESTION + HELLO % b"bot" + flood * count
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("source", ["file", "null", "closed"])
def test_any_input(source: str, tmp_path: Path) -> None:
    received: list[bytes] = []
    path = tmp_path / "input"
    path.write_bytes(b"hello\n" if source == "file" else b"")
    redirection = {"file": f"<{path}", "null": "</dev/null", "closed": "<&-"}[source]
    with Server(received_by(received)) as server:
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirection}', "sh", *command(server.address, "--name", "bot")],
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
    assert received == ([b"hello"] if source == "file" else [])
    assert (done.returncode, done.stdout, done.stderr) == (0, QUESTION + HELLO % b"bot", b"")


def test_a_closed_output_still_sends() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server:
        arguments = ["sh", "-c", 'exec "$@" >&-', "sh", *command(server.address, "--name", "bot")]
        done = subprocess.run(arguments, input=b"hello\n", stderr=subprocess.PIPE, timeout=DEADLINE, check=False)
    assert received == [b"hello"]
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_output_that_nobody_reads_any_more() -> None:
    def handle(conn: socket.socket) -> None:
        sign_on(conn)
        try:
            while True:
                conn.sendall(b"ann: hi\n")
        except ConnectionError:
            return

    with Server(handle) as server, running(server.address, "--name", "bot") as client:
        assert client.stdout is not None
        assert client.stderr is not None
        assert client.stdout.readline() == QUESTION
        client.stdout.close()
        assert client.wait(DEADLINE) == 0
        assert client.stderr.read() == b""


def test_an_input_that_cannot_be_read() -> None:
    with Server(received_by([])) as server, open(os.devnull, "wb") as source:  # noqa: PTH123 (a name, no path)
        arguments = command(server.address, "--name", "bot")
        done = subprocess.run(arguments, stdin=source, capture_output=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stderr) == (1, b"! Cannot read the input: Bad file descriptor.\n")


def test_an_endless_input_line_ends_it_after_what_came_before() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"hello\n" + b"x" * 1_200_000)
    assert received == [b"hello"]
    assert done.returncode == 1
    assert done.stderr.startswith(b"! A line of the input is over ")


# -- servers without line ends ------------------------------------------------------------------------------


def test_a_silent_server_gets_one_segment_a_message() -> None:
    segments: list[bytes] = []
    with Server(receive_segments(segments)) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"one\n\ntwo\nthree\nquit\n")
    assert segments == [b"bot", b"one", b"two", b"three", b"quit"]
    assert done.stdout == b"<bot>\n<one>\n<two>\n<three>\n<quit>\n"
    assert (done.returncode, done.stderr) == (0, b"")


def test_segments_can_be_forced() -> None:
    segments: list[bytes] = []

    def handle(conn: socket.socket) -> None:
        conn.sendall(QUESTION)
        segments.append(conn.recv(1024))
        conn.sendall(HELLO % b"bot")
        while data := conn.recv(1024):
            segments.append(data)

    with Server(handle) as server:
        done = pipe_through(server.address, "--segments", given=b"bot\none\ntwo\n")
    # A server that is kept from reading for longer than the gap gets two in one; no client can know.
    assert segments[0] == b"bot"
    assert b"".join(segments[1:]) == b"onetwo"
    assert (done.returncode, done.stderr) == (0, b"")


def test_garbage_reaches_no_terminal() -> None:
    def handle(conn: socket.socket) -> None:
        sign_on(conn)
        conn.sendall(b"\x1b[2J\x07ding\x9b\xc2\x9b\xff\xfb\x01\r\n" + b"L" * 200_000 + b"\nhalf \xe2\x82")

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot")
    text = done.stdout.decode()
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "\n[2Jding���\n" in text  # of the last bytes, 9B, FF and FB are no UTF-8, C2 9B and 01 are controls
    assert text.count("L") == 200_000
    assert text.endswith("half �\n")


# -- connections that fail or end ---------------------------------------------------------------------------


def test_the_server_closes_unasked() -> None:
    def handle(conn: socket.socket) -> None:
        conn.sendall(b"! The server is full.\n")

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"hello\n")
    assert done.stdout == b"! The server is full.\n"
    assert (done.returncode, done.stderr) == (1, b"* The server closed the connection.\n")


def test_the_server_resets() -> None:
    def handle(conn: socket.socket) -> None:
        sign_on(conn).rest()
        reset(conn)

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"hello\n")
    assert done.returncode == 1
    assert done.stderr == f"! The connection to {server.address} was lost: Connection reset by peer.\n".encode()


def test_the_last_words_of_a_lost_connection_are_heard() -> None:
    signed_on, ended = threading.Event(), threading.Event()

    def handle(conn: socket.socket) -> None:
        sign_on(conn)
        assert signed_on.wait(DEADLINE)
        conn.sendall(b"! You have been too slow.\n")
        reset(conn)
        ended.set()

    async def talk(address: str) -> tuple[list[str], End | None]:
        connection = await connect(parse_address(address))
        await connection.claim("bot")
        signed_on.set()
        assert ended.wait(DEADLINE)  # the loop stands still: it sees what came only after its next write has failed
        with pytest.raises(ConnectionEnded):
            for _ in range(2):
                await connection.say("hello")
                connection.quit()
        return [event.text async for event in connection], connection.end

    with Server(handle) as server:
        texts, end = asyncio.run(talk(server.address))
    assert texts[-1] == "! You have been too slow."
    assert end is End.LOST


def test_leaving_twice_still_hears_what_comes() -> None:
    def handle(conn: socket.socket) -> None:
        assert sign_on(conn).rest() == []
        conn.sendall(b"* Bye.\n")

    async def talk(address: str) -> tuple[list[str], End | None]:
        connection = await connect(parse_address(address))
        await connection.claim("bot")
        connection.half_close()
        connection.quit()
        return [event.text async for event in connection], connection.end

    with Server(handle) as server:
        texts, end = asyncio.run(talk(server.address))
    assert (texts[-1], end) == ("* Bye.", End.CLOSED)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system cannot bound the silence of a peer")
@pytest.mark.skipif(sys.platform != "linux", reason="a network that vanishes is played by a socket filter of Linux")
def test_a_network_that_vanishes_ends_the_connection() -> None:
    lost = threading.Event()

    def handle(conn: socket.socket) -> None:
        sign_on(conn)
        drop_all(conn)
        conn.sendall(b"ann: lost\n")  # never acknowledged either; it is under way when the client says something
        assert lost.wait(DEADLINE)

    with Server(handle) as server, at_terminal(server.address, "--name", "bot", timing="silence=0.5") as terminal:
        terminal.expect(b"* Hello, bot.")
        terminal.expect(b"ann: lost")
        terminal.type(b"hello\n")
        terminal.expect(b"was lost: Connection timed out.")
        assert terminal.wait() == 1
        lost.set()


def test_a_server_that_has_no_room_for_longer_than_a_dead_one_is_waited_for() -> None:
    received: list[bytes] = []

    def handle(conn: socket.socket) -> None:
        lines = sign_on(conn)
        assert not threading.Event().wait(1.5)  # three times `silence`
        received.extend(lines.rest())

    given = (b"x" * 60_000 + b"\n") * 200
    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot", given=given, timing="silence=0.5")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"".join(line + b"\n" for line in received) == given


def test_what_a_closing_server_did_not_take_is_known() -> None:
    left = threading.Event()

    def handle(conn: socket.socket) -> None:
        lines = sign_on(conn)
        assert lines.next() == b"hello"
        conn.recv(1)  # the long line is on its way
        conn.shutdown(socket.SHUT_WR)
        assert left.wait(DEADLINE)

    async def talk(address: str, last: str) -> tuple[End | None, bool]:
        connection = await connect(parse_address(address))
        await connection.claim("bot")
        await connection.say("hello")
        saying = asyncio.create_task(connection.say(last))
        async for _ in connection:
            pass
        await saying
        connection.abort()  # empties the buffer, as a reset after the close does
        return connection.end, connection.has_unsent

    for size, unsent in ((1, False), (20_000_000, True)):  # more than the kernel's buffers hold together
        left.clear()
        with Server(handle) as server:
            assert asyncio.run(talk(server.address, "x" * size)) == (End.CLOSED, unsent)
            left.set()


def test_nobody_listens() -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else gets this port
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        done = pipe_through(address, "--name", "bot", given=b"hello\n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == f"! Nobody listens on {address}: connection refused.\n".encode()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse when the queue is full")
@pytest.mark.parametrize("interrupted", [False, True])
def test_nobody_answers(interrupted: bool) -> None:
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # listen(0) holds one; what comes to a full queue is not answered at all
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        if interrupted:
            with at_terminal(address) as terminal:
                wait_for_signals(terminal.process.pid)
                terminal.type(b"\x03")
                assert terminal.wait() == 0
            return
        done = pipe_through(address, timing="connect=0.3")
    assert (done.returncode, done.stderr) == (1, f"! No answer from {address} within 0.3 s.\n".encode())


def test_a_host_that_cannot_exist() -> None:
    done = pipe_through("a..b")
    assert (done.returncode, done.stderr) == (1, b"! Cannot find a..b: not a host name.\n")


RESOLVER = """
import socket, sys, threading
def look_up(*args, **kwargs):
    {action}
socket.getaddrinfo = look_up
from mpchat.client.cli import main
from mpchat.client.timing import Timing
sys.exit(main(["host.example"], timing=Timing(connect=0.3)))
"""


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("raise socket.gaierror(socket.EAI_NONAME, 'Name unknown')", "! Cannot find host.example: Name unknown.\n"),
        ("threading.Event().wait()", "! No answer from host.example:4000 within 0.3 s.\n"),
    ],
)
def test_a_host_that_is_not_found(action: str, told: str) -> None:
    program = [sys.executable, "-W", "error", "-c", RESOLVER.format(action=action)]
    done = subprocess.run(program, capture_output=True, timeout=DEADLINE, check=False, text=True)
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.parametrize(
    "args",
    [
        ["host:x"],
        ["::1:x"],
        ["--name", ""],
        ["--name", "a\nb"],
        ["--name", "/quit"],
        ["a", "b"],
        ["a:1", "2"],
        ["a", "0"],
        ["--nome"],
    ],
)
def test_wrong_usage(args: list[str]) -> None:
    done = pipe_through(*args)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"usage: mpchat-client" in done.stderr


def test_it_runs_as_a_module() -> None:
    program = [sys.executable, "-m", "mpchat.client", "--version"]
    done = subprocess.run(program, capture_output=True, timeout=DEADLINE, check=True)
    assert done.stdout.startswith(b"mpchat-client ")
