"""The client for people, at an emulated terminal, against small servers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from clientruns import DRIVER, Terminal, draw_command
from drawnclient import Drawn, drawn, drawn_at_shell, drawn_by_hand
from playedserver import DEADLINE, HELLO, QUESTION, Handler, Lines, Server, drop_all, received_by, reset, sign_on

PASTE, PASTED = b"\x1b[200~", b"\x1b[201~"
STRANGE = "李雷 says e\u0301 and 👍 " * 8 + "to the end"


def saying(*lines: str, received: list[bytes] | None = None) -> Handler:
    """Signs on, sends these lines, and keeps what comes."""

    def handle(conn: socket.socket) -> None:
        incoming = sign_on(conn)
        conn.sendall("".join(line + "\n" for line in lines).encode())
        for line in iter(incoming.next, None):
            (received if received is not None else []).append(line)

    return handle


def say_hello(conn: socket.socket) -> None:
    """Sign on, and close."""
    sign_on(conn)


def leave(terminal: Drawn) -> None:
    terminal.type(b"\x15\x04")  # Ctrl-U, Ctrl-D
    assert terminal.wait() == 0


# -- the input line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 120])
def test_the_typed_line_stays_whole_under_200_lines(columns: int) -> None:
    received: list[bytes] = []
    shown = [f"ann: line {number} {'and more ' * (number % 20)}".rstrip() for number in range(200)]
    words = STRANGE.split(" ")

    def handle(conn: socket.socket) -> None:
        lines = sign_on(conn)
        for line in shown:
            assert go.wait(DEADLINE)
            conn.sendall(line.encode() + b"\n")
        received.extend(lines.rest())

    go = threading.Event()
    with Server(handle) as server, drawn(server.address, "--name", "bot", "--no-time", columns=columns) as terminal:
        terminal.see("* Hello, bot.")
        go.set()
        for number, word in enumerate(words):
            terminal.type((" " * bool(number) + word).encode())
            terminal.look()
        terminal.see("ann: line 199")
        terminal.see_line(f"> {STRANGE}")
        everything = " ".join([*terminal.scrolled, *terminal.rows])
        text = " ".join(everything.split())
        assert " ".join(shown) in text
        assert text.count(">") == 1
        terminal.type(b"\r")
        terminal.see("to the end")
        leave(terminal)
    assert received == [STRANGE.encode(), b"/quit"]


def test_a_resize_shows_all_once_and_keeps_the_line() -> None:
    shown = [f"ann: {number} {'word ' * 15}end" for number in range(10)]
    with Server(saying(*shown)) as server, drawn(server.address, "--name", "bot", columns=100) as terminal:
        terminal.see("ann: 9")
        terminal.type(STRANGE.encode())
        terminal.see_line(f"> {STRANGE}")
        for columns, rows in ((50, 24), (120, 24), (120, 12), (80, 24), (100, 24)):
            terminal.resize(columns, rows)
            terminal.until(lambda: sum("#lobby, 2" in row for row in terminal.rows) == 1, "the status line, once")
            terminal.see_line(f"> {STRANGE}")
        for line in shown:
            terminal.see_once(line)
        leave(terminal)


def test_ctrl_z_and_fg(tmp_path: Path) -> None:
    received: list[bytes] = []
    handler = saying("ann: hi", received=received)
    with Server(handler) as server, drawn_by_hand(server.address, "--name", "bot", path=tmp_path / "chat") as terminal:
        terminal.see("ann: hi")
        terminal.type(b"half a li\x1a")
        terminal.until(lambda: terminal.last_row == "shell>", "the shell")
        terminal.type(b"echo the sh''ell\n")
        terminal.see("the shell")
        terminal.type(b"fg\n")
        terminal.see_line("> half a li")
        terminal.type(b"ne\r")
        terminal.see("bot: half a line")
        terminal.type(b"\x04")
        terminal.until(lambda: terminal.last_row == "shell>", "the shell")  # before, what is typed is thrown away
        terminal.type(b"exit\n")
        assert terminal.wait() == 0
    assert received == [b"half a line", b"/quit"]


def test_history_and_emacs_keys() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server, drawn(server.address, "--name", "bot") as terminal:
        terminal.see("* Hello, bot.")
        terminal.type(b"first\rsecond\r")
        terminal.see("bot: second")
        terminal.type(b"\x1b[A\x1b[A")  # Up
        terminal.see_line("> first")
        terminal.type(b"\x01the \x05!\r")  # Ctrl-A, Ctrl-E
        terminal.see("bot: the first!")
        terminal.type(b"\x12sec")  # Ctrl-R
        terminal.see("> second")
        terminal.type(b"\r\r")
        terminal.until(lambda: sum("bot: second" in row for row in terminal.rows) == 2, "second again")
        terminal.type(b"kept")
        terminal.see_line("> kept")
        terminal.type(b"\x03")  # Ctrl-C
        terminal.see_line(">")
        terminal.type(b"\x1b[A")
        terminal.see_line("> kept")
        leave(terminal)
    assert received == [b"first", b"second", b"the first!", b"second", b"/quit"]


def test_completion() -> None:
    received: list[bytes] = []
    lines = ["ada: hi", "* aldo joined #lobby", "anton: hello", "#python eve: x"]
    with Server(saying(*lines, received=received)) as server, drawn(server.address, "--name", "bot") as terminal:
        terminal.see("eve: x")
        for typed, completed in (
            (b"a\t", "> anton:"),  # who spoke last comes first
            (b"\t", "> ada:"),
            (b"\t", "> aldo:"),
            (b"\x1b[Z", "> ada:"),  # Shift-Tab
            (b"\x15ask al\t", "> ask aldo"),
            (b"\x15/wh\t", "> /who"),
            (b"\x15/join py\t", "> /join #python"),
            (b"\x15/msg ev\thello", "> /msg eve hello"),
        ):
            terminal.type(typed)
            terminal.see_line(completed)
        terminal.type(b"\r")
        leave(terminal)
    assert received == [b"/msg eve hello", b"/quit"]


def test_a_line_that_the_server_would_not_take_is_kept() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server, drawn(server.address, "--name", "bot", columns=120) as terminal:
        terminal.see("* Hello, bot.")
        terminal.type(b"x" * 4097 + b"\r")
        terminal.see("! The line has 4097 bytes, and the server takes 4096. Nothing was sent.")
        terminal.type(b"\x7f\r")
        terminal.until(lambda: any("bot: xxx" in row for row in [*terminal.scrolled, *terminal.rows]), "the line")
        leave(terminal)
    assert received == [b"x" * 4096, b"/quit"]


# -- pasting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [b"y", b"n"])
def test_a_paste_of_50_lines_asks_once(answer: bytes) -> None:
    received: list[bytes] = []
    lines = [b"line %d" % number for number in range(48)] + [b"quit", b"/nick admin"]
    with Server(received_by(received)) as server, drawn(server.address, "--name", "bot") as terminal:
        terminal.see("* Hello, bot.")
        terminal.type(PASTE + b"\r".join(lines) + b"\r" + PASTED)
        terminal.see("Send 50 lines? y/n")
        terminal.type(b"x" + answer)
        terminal.see("bot: /nick admin" if answer == b"y" else "* 50 lines were not sent.")
        assert not any("y/n" in row for row in terminal.rows)
        leave(terminal)
    said = [*lines[:48], b"/say quit", b"//nick admin"] if answer == b"y" else []
    assert received == [*said, b"/quit"]


def test_one_pasted_line_is_typed() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server, drawn(server.address, "--name", "bot") as terminal:
        terminal.see("* Hello, bot.")
        terminal.type(b"a  c\x02\x02" + PASTE + b"b\r" + PASTED)
        terminal.see_line("> a b c")
        terminal.type(b"\r")
        leave(terminal)
    assert received == [b"a b c", b"/quit"]


# -- looks --------------------------------------------------------------------------------------------------


def test_names_have_colours_and_mine_is_marked() -> None:
    with Server(saying("ann: hello bot", "! Oh.")) as server, drawn(server.address, "--name", "bot") as terminal:
        terminal.see("! Oh.")
        name = terminal.styles_of("ann: hello")
        assert (name.fg, name.bold) != ("default", False)
        assert name.fg != "default"
        assert terminal.styles_of("bot at").reverse
        assert terminal.styles_of("! Oh.").fg == "d70000"
        assert b"\x07" in terminal.raw
        leave(terminal)


@pytest.mark.parametrize("options", [["--no-bell"], ["--no-time"]])
def test_no_colour_no_bell_no_time(options: list[str]) -> None:
    handler = saying("ann: hello bot", "[ann] psst")
    with Server(handler) as server, drawn(server.address, "--name", "bot", *options, NO_COLOR="1") as terminal:
        terminal.see("[ann] psst")
        assert terminal.styles_of("ann: hello").fg == "default"
        assert (b"\x07" in terminal.raw) == (options != ["--no-bell"])
        assert any(row.startswith("ann: hello") for row in terminal.rows) == (options == ["--no-time"])
        leave(terminal)


def test_old_lines_have_no_time_of_ours_and_ring_no_bell() -> None:
    lines = ["* Earlier in #lobby (since 12:14 UTC):", "ann: hello bot", "* Now.", "ann: so"]
    with Server(saying(*lines)) as server, drawn(server.address, "--name", "bot") as terminal:
        terminal.see("ann: so")
        assert "      ann: hello bot" in terminal.rows
        assert b"\x07" not in terminal.raw
        leave(terminal)


@pytest.mark.parametrize("term", ["dumb", "unknown", ""])
def test_a_dumb_terminal_gets_the_plain_client(term: str) -> None:
    with Server(received_by([])) as server, drawn(server.address, "--name", "bot", TERM=term) as terminal:
        terminal.see("* Hello, bot.")
        terminal.type(b"\x04")
        assert terminal.wait() == 0
        assert b"\x1b" not in terminal.raw


WITHOUT = "import sys; sys.modules['prompt_toolkit'] = None\n"


def test_without_the_extra_it_is_plain_and_says_so_once() -> None:
    with Server(received_by([])) as server:
        program = [sys.executable, "-c", WITHOUT + DRIVER.format(timing=""), server.address, "--name", "bot"]
        terminal = Drawn(program, 200, {})
        try:
            terminal.see("* Hello, bot.")
            terminal.type(b"\x04")
            assert terminal.wait() == 0
            assert terminal.raw.count(b'extra "client"') == 1
            assert b"\x1b" not in terminal.raw
        finally:
            terminal.close()


LOADED = """
import sys
from mpchat.client.cli import main
code = main(sys.argv[1:])
assert not [name for name in sys.modules if name.startswith(("prompt_toolkit", "psutil"))]
sys.exit(code)
"""


def test_a_pipe_needs_no_extra() -> None:
    with Server(received_by([])) as server:
        program = [sys.executable, "-c", LOADED, server.address, "--name", "bot"]
        done = subprocess.run(program, input=b"hello\n", capture_output=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# -- the end, and another beginning -------------------------------------------------------------------------


def end_by_key(terminal: Drawn) -> None:
    terminal.type(b"\x1c")  # Ctrl-\


def end_by_quit(terminal: Drawn) -> None:
    terminal.type(b"\x15hi\rquit\rtouch RAN\r")


def end_by(number: signal.Signals) -> Callable[[Drawn], None]:
    return lambda terminal: os.kill(terminal.child(), number)


@pytest.mark.parametrize(
    "end", [end_by_key, end_by_quit, end_by(signal.SIGTERM), end_by(signal.SIGINT), end_by(signal.SIGHUP)]
)
def test_nothing_that_was_typed_reaches_the_shell(end: Callable[[Drawn], None], tmp_path: Path) -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server, drawn_at_shell(server.address, "--name", "bot") as terminal:
        terminal.see("* Hello, bot.")
        terminal.type(b"touch " + bytes(tmp_path / "RAN"))
        terminal.see("RAN")
        end(terminal)
        terminal.see("ended 0")
        terminal.type(b"\necho do''ne\n")
        terminal.see("done")
        if end is not end_by_quit:
            assert any("Not sent: touch" in row for row in [*terminal.scrolled, *terminal.rows])
    assert not list(tmp_path.iterdir())
    assert received[-1] in (b"quit", b"/quit")


def test_the_terminal_is_as_it_was() -> None:
    with Server(received_by([])) as server, drawn(server.address, "--name", "bot") as terminal:
        before = termios.tcgetattr(terminal.master)
        terminal.see("* Hello, bot.")
        assert termios.tcgetattr(terminal.master) != before
        leave(terminal)
        assert termios.tcgetattr(terminal.master) == before
        assert terminal.raw.rindex(b"\x1b[?2004l") > terminal.raw.rindex(b"\x1b[?2004h")


@pytest.mark.parametrize("end", [socket.socket.close, reset])
def test_a_lost_connection_is_tried_again(end: Handler) -> None:
    received: list[bytes] = []
    go, back = threading.Event(), threading.Event()

    def lose(conn: socket.socket) -> None:
        lines = sign_on(conn)
        conn.sendall(b"* You are in #python with eve.\n* You are in #tea, alone.\n* You talk in #python now.\n")
        conn.sendall(b"* You are now called bob.\n* Timestamps are on.\n12:00 * You ignore eve.\n")
        conn.sendall(b"12:00 * You are away (tea). /back ends it.\n")
        assert lines.next() == b"hello"
        assert go.wait(DEADLINE)
        end(conn)

    def stay(conn: socket.socket) -> None:
        assert back.wait(DEADLINE)
        received_by(received)(conn)

    with Server(lose, stay) as server, drawn(server.address, "--name", "bot", columns=120) as terminal:
        terminal.see("#python, 2 members  bob")
        terminal.type(b"hello\r")
        terminal.see("bob: hello")
        terminal.type(b"half a line")
        terminal.see_line("> half a line")
        go.set()
        terminal.see("trying again in")
        terminal.see("! Perhaps not arrived: hello")
        terminal.type(b"\r")
        terminal.see("! Not connected. The line was not sent.")
        terminal.see_line("> half a line")
        back.set()
        terminal.see("not connected, what was said meanwhile is missing")
        terminal.see("* Hello, bob.")
        terminal.type(b"\r")
        terminal.see("bob: half a line")
        leave(terminal)
    settings = [b"/timestamp on", b"/away tea", b"/ignore eve"]
    assert received == [*settings, b"/join #tea", b"/join #python", b"half a line", b"/quit"]


@pytest.mark.skipif(sys.platform != "linux", reason="a network that vanishes is played by a socket filter of Linux")
def test_what_a_network_that_vanished_swallowed_is_named() -> None:
    received: list[bytes] = []

    def vanish(conn: socket.socket) -> None:
        lines = sign_on(conn)
        assert lines.next() == b"arrived"
        drop_all(conn)
        conn.sendall(b"ann: so\n")
        assert gone.wait(DEADLINE)

    gone = threading.Event()
    with (
        Server(vanish, received_by(received)) as server,
        drawn(server.address, "--name", "bot", timing="silence=8", columns=120) as terminal,
    ):
        terminal.see("* Hello, bot.")
        terminal.type(b"arrived\r")
        terminal.see("ann: so")
        terminal.type(b"swallowed\r")
        terminal.see("Connection timed out")
        gone.set()
        terminal.see("! Perhaps not arrived: swallowed")
        assert not any("not arrived: arrived" in row for row in terminal.rows)
        terminal.see("what was said meanwhile is missing")
        leave(terminal)
    assert received == [b"/quit"]


@pytest.mark.slow
def test_what_a_server_did_not_read_is_offered_again() -> None:
    received: list[bytes] = []

    def stall(conn: socket.socket) -> None:
        sign_on(conn)
        assert stalled.wait(DEADLINE)

    stalled = threading.Event()
    lines = [b"%d " % number + b"x" * 4000 for number in range(1800)]  # more than the buffers on the way hold
    with Server(stall, received_by(received)) as server:
        program = draw_command(server.address, "--name", "bot", timing="idle=8, line=0")
        # Not emulated: so much text takes the emulator minutes.
        with closing(Terminal(program, {**os.environ, "TERM": "xterm"}, (24, 300))) as terminal:
            terminal.expect(b"* Hello, bot.")
            for start in range(0, len(lines), 300):  # prompt_toolkit's time for a paste grows with its square
                terminal.type(PASTE + b"\r".join(lines[start : start + 300]) + PASTED)
                terminal.expect(b"Send 300 lines? y/n")
                terminal.type(b"y")
            terminal.expect(b"does not read what is sent.")
            stalled.set()
            terminal.expect(b"lines that did not go out? y/n")
            terminal.type(b"y")
            terminal.expect(b"bot\x1b[0m: 1799 ")
            terminal.type(b"\x04")
            terminal.expect(b"\x1b[?2004l")
            assert terminal.wait() == 0
    first = lines.index(received[0])
    assert first > 0
    assert received == [*lines[first:], b"/quit"]


def test_no_reconnect() -> None:
    with (
        Server(say_hello) as server,
        drawn(server.address, "--name", "bot", "--no-reconnect") as terminal,
    ):
        assert terminal.wait() == 1
        terminal.see("* The server closed the connection.")


def test_leaving_while_it_tries_again() -> None:
    with Server(say_hello) as server, drawn(server.address, "--name", "bot") as terminal:
        terminal.see("trying again in")
        leave(terminal)


def test_a_person_is_asked_for_a_name_and_for_another() -> None:
    received: list[bytes] = []

    def handle(conn: socket.socket) -> None:
        lines = Lines(conn)
        conn.sendall(QUESTION)
        assert lines.next() == b"b*t"
        conn.sendall(b"! No stars.\n* What is your name?\n")
        assert lines.next() == b"bot"
        conn.sendall(HELLO % b"bot")
        received.extend(lines.rest())

    with Server(handle) as server, drawn(server.address) as terminal:
        terminal.see("Name:")
        terminal.type(b"b*t\r")
        terminal.see("! No stars.")
        terminal.see("Name:")
        terminal.type(b"bot\r")
        terminal.see("* Hello, bot.")
        terminal.type(b"/quit bye\r")
        assert terminal.wait() == 0
    assert received == [b"/quit bye"]


def test_the_name_that_a_lost_session_held_is_taken_back() -> None:
    def handle(conn: socket.socket) -> None:
        lines = Lines(conn)
        conn.sendall(QUESTION)
        assert lines.next() == b"bot"
        conn.sendall(b"* bot is taken; you are bot-2.\n" + HELLO % b"bot-2")
        assert lines.next() == b"hello"
        conn.sendall(b"* bot left the chat (connection lost)\n")
        assert lines.next() == b"/nick bot"
        conn.sendall(b"* You are now called bot.\n")
        lines.rest()

    with Server(handle) as server, drawn(server.address, "--name", "bot") as terminal:
        terminal.see("bot-2 at")
        terminal.type(b"hello\r")
        terminal.see("bot at")
        leave(terminal)


def test_a_terminal_that_is_gone_ends_it() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server:
        terminal = Terminal(draw_command(server.address, "--name", "bot"), {**os.environ, "TERM": "xterm"})
        terminal.expect(b"lobby")
        os.close(terminal.master)
        assert terminal.wait() == 0
    assert received == [b"/quit"]
