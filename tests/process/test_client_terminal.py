"""The plain client at a terminal, against small servers of every kind."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from clientruns import Terminal, at_shell, at_terminal, command, draw_command, running
from playedserver import (
    DEADLINE,
    HELLO,
    QUESTION,
    Handler,
    Lines,
    Server,
    receive_segments,
    received_by,
    reset,
    sign_on,
)


def test_a_person_is_asked_by_the_server_and_chats() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server, at_terminal(server.address) as terminal:
        terminal.expect(b"What is your name?")
        terminal.type(b"\nbot\n")
        terminal.expect(b"* Hello, bot.")
        terminal.type(b"hello\n/quit bye\n")
        terminal.expect(b"* Bye.")
        assert terminal.wait() == 0
    assert received == [b"hello", b"/quit bye"]


def test_a_person_whose_name_is_refused_gives_another() -> None:
    def handle(conn: socket.socket) -> None:
        lines = Lines(conn)
        conn.sendall(QUESTION)
        assert lines.next() == b"b*t"
        conn.sendall(b"! No stars.\n" + QUESTION)
        assert lines.next() == b"bot"
        conn.sendall(HELLO % b"bot")
        assert lines.rest() == []

    with Server(handle) as server, at_terminal(server.address, "--name", "b*t") as terminal:
        terminal.expect(b"! No stars.")
        terminal.type(b"bot\n")
        terminal.expect(b"* Hello, bot.")
        terminal.type(b"\x04")
        assert terminal.wait() == 0


def test_a_silent_server_makes_the_client_ask() -> None:
    segments: list[bytes] = []
    with Server(receive_segments(segments)) as server, at_terminal(server.address, timing="greeting=0.1") as terminal:
        terminal.expect(b"Name: ")
        terminal.type(b"\n")
        terminal.expect(b"Name: ")
        terminal.type(b"bot\n")
        terminal.expect(b"<bot>")
        terminal.type(b"hello\n")
        terminal.expect(b"<hello>")
        terminal.type(b"/quit\n")
        assert terminal.wait() == 0
    assert segments == [b"bot", b"hello"]


@pytest.mark.parametrize("key", [b"\x04", b"quit\n", b"/quit\n", b"\x03"])
def test_leaving_at_the_question_gives_no_name(key: bytes) -> None:
    def handle(conn: socket.socket) -> None:
        conn.sendall(QUESTION)
        assert Lines(conn).rest() == []

    with Server(handle) as server, at_terminal(server.address) as terminal:
        terminal.expect(b"What is your name?")
        terminal.type(key)
        assert terminal.wait() == 0


def test_ctrl_c_says_quit_and_leaves_the_terminal_alone() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server, at_terminal(server.address, "--name", "bot") as terminal:
        terminal.expect(b"* Hello, bot.")
        terminal.type(b"half a line\x03")
        terminal.expect(b"^C\r\n* Bye.\r\n")
        assert terminal.wait() == 0
        assert terminal.seen == b""
    assert received == [b"/quit"]


def test_ctrl_c_waits_for_no_server() -> None:
    left = threading.Event()

    def handle(conn: socket.socket) -> None:
        assert sign_on(conn).rest() == [b"/quit"]
        assert left.wait(DEADLINE)

    with Server(handle) as server, at_terminal(server.address, "--name", "bot", timing="farewell=0.1") as terminal:
        terminal.expect(b"* Hello, bot.")
        terminal.type(b"\x03")
        assert terminal.wait() == 0
        left.set()


def test_a_second_ctrl_c_waits_for_nothing() -> None:
    left = threading.Event()

    def handle(conn: socket.socket) -> None:
        assert sign_on(conn).rest() == [b"/quit"]
        conn.sendall(b"* wait\n")
        assert left.wait(DEADLINE)

    with Server(handle) as server, at_terminal(server.address, "--name", "bot", timing="farewell=600") as terminal:
        terminal.expect(b"* Hello, bot.")
        terminal.type(b"\x03")
        terminal.expect(b"* wait")
        terminal.type(b"\x03")
        assert terminal.wait() == 0
        left.set()


def test_a_signal_ends_the_wait_for_a_server_that_does_not_close() -> None:
    at_end, left = threading.Event(), threading.Event()

    def handle(conn: socket.socket) -> None:
        assert sign_on(conn).rest() == [b"hello"]
        at_end.set()
        assert left.wait(DEADLINE)

    with Server(handle) as server, running(server.address, "--name", "bot", timing="farewell=0.1") as client:
        assert client.stdin is not None
        client.stdin.write(b"hello\n")
        client.stdin.close()
        assert at_end.wait(DEADLINE)
        client.send_signal(signal.SIGINT)
        assert client.wait(DEADLINE) == 0
        left.set()
        assert client.stderr is not None
        assert client.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_its_output_is_stuck(number: signal.Signals) -> None:
    stuck = threading.Event()

    def handle(conn: socket.socket) -> None:
        sign_on(conn)
        try:
            conn.settimeout(1.0)  # that nothing was taken for so long: all buffers on the way are full
            while True:
                conn.sendall(b"ann: " + b"y" * 1000 + b"\n")
        except TimeoutError:
            stuck.set()
        except ConnectionError:
            return
        try:
            conn.settimeout(DEADLINE)
            while conn.recv(4096):
                pass
        except ConnectionError:
            return

    with Server(handle) as server, running(server.address, "--name", "bot", timing="farewell=0.1") as client:
        assert stuck.wait(DEADLINE)
        client.send_signal(number)
        assert client.wait(DEADLINE) == 0
        assert client.stderr is not None
        assert client.stderr.read() == b""


@pytest.mark.parametrize("program", [command, draw_command])
def test_a_signal_ends_it_while_its_terminal_is_stuck(program: Callable[..., list[str]]) -> None:
    """Nobody reads what the terminal shows, as when the network of an ssh session is gone."""
    stuck = threading.Event()

    def handle(conn: socket.socket) -> None:
        sign_on(conn)
        try:
            conn.settimeout(1.0)
            while True:
                conn.sendall(b"ann: " + b"y" * 1000 + b"\n")
        except TimeoutError:
            stuck.set()
        try:
            conn.settimeout(DEADLINE)
            while conn.recv(4096):
                pass
        except ConnectionError:
            return

    with Server(handle) as server:
        options = program(server.address, "--name", "bot", timing="farewell=0.1")
        with closing(Terminal(options, {**os.environ, "TERM": "xterm"})) as terminal:
            assert stuck.wait(DEADLINE)
            terminal.process.send_signal(signal.SIGTERM)
            assert terminal.wait() == 0


@pytest.mark.parametrize(
    ("end", "told"),
    [(socket.socket.close, b"* The server closed the connection."), (reset, b"was lost: Connection reset by peer.")],
)
def test_a_lost_connection_is_told_while_nobody_types(end: Handler, told: bytes) -> None:
    ready = threading.Event()

    def handle(conn: socket.socket) -> None:
        sign_on(conn)
        assert ready.wait(DEADLINE)
        end(conn)

    with Server(handle) as server, at_terminal(server.address, "--name", "bot") as terminal:
        terminal.expect(b"* Hello, bot.")
        terminal.type(b"half a li")
        ready.set()
        terminal.expect(told)
        assert terminal.wait() == 1


def test_what_comes_is_printed_while_a_line_is_typed() -> None:
    typed = threading.Event()

    def handle(conn: socket.socket) -> None:
        lines = sign_on(conn)
        assert typed.wait(DEADLINE)
        conn.sendall(b"ann: hi\n")
        assert lines.rest() == [b"half a line"]

    with Server(handle) as server, at_terminal(server.address, "--name", "bot") as terminal:
        terminal.expect(b"* Hello, bot.")
        terminal.type(b"half ")
        terminal.expect(b"half ")
        typed.set()
        terminal.expect(b"ann: hi")
        terminal.type(b"a line\n\x04")
        assert terminal.wait() == 0


# -- what is left ------------------------------------------------------------------------------------------


def test_what_is_pasted_behind_quit_does_not_reach_the_shell(tmp_path: Path) -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server, at_shell(server.address, "--name", "bot") as terminal:
        terminal.expect(b"* Hello, bot.")
        terminal.type(b"hi\nquit\ntouch " + bytes(tmp_path / "RAN") + b"\n")
        terminal.expect(b"What you typed after that was not sent.")
        terminal.expect(b"ended 0")
        terminal.type(b"echo do''ne\n")
        terminal.expect(b"done")
    assert received == [b"hi", b"quit"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, None])
def test_a_half_line_does_not_reach_the_shell(tmp_path: Path, number: signal.Signals | None) -> None:
    ready = threading.Event()

    def handle(conn: socket.socket) -> None:
        lines = sign_on(conn)
        if number is None:
            assert ready.wait(DEADLINE)
        else:
            lines.rest()

    with Server(handle) as server, at_shell(server.address, "--name", "bot") as terminal:
        terminal.expect(b"* Hello, bot.")
        terminal.type(b"touch " + bytes(tmp_path / "RAN"))
        terminal.expect(b"RAN")
        if number is None:
            ready.set()
        else:
            os.kill(terminal.child(), number)
        terminal.expect(b"ended")
        terminal.type(b"\necho do''ne\n")
        terminal.expect(b"done")
    assert not list(tmp_path.iterdir())


def test_a_line_that_the_terminal_cuts_is_not_sent() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server, at_terminal(server.address, "--name", "bot") as terminal:
        terminal.expect(b"* Hello, bot.")
        terminal.type(b"x" * 4094 + b"\n")
        terminal.type(b"y" * 5000 + b"\n")
        terminal.expect(b"! A line has 4094 bytes at most here. It was not sent.")
        terminal.type(b"\x04")
        assert terminal.wait() == 0
    assert received == [b"x" * 4094]
