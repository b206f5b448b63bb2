"""Telnet programs against a real server: what only sockets, workers that are killed, and a real telnet can show.

What a byte means is in tests/unit/wire/line; here is that answers come at once, on the wire, and once.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from server import DEADLINE, Chatter, Server, kill_worker_of, running_server, survivable, wait_arrived

IAC, DONT, DO, WONT, WILL, AYT, IP, DM = (bytes([code]) for code in (255, 254, 253, 252, 251, 246, 244, 242))
ECHO, TIMING_MARK, BINARY = b"\x01", b"\x06", b"\0"


class Program(Chatter):
    """A telnet program: the bytes that it is sent, as they are."""

    def __init__(self, host: str, port: int, receive_buffer: int | None = None) -> None:
        super().__init__(host, port, receive_buffer)
        self.bytes = b""

    def split(self, data: bytes) -> tuple[list[str], bytes]:
        self.bytes += data
        return [data.decode("latin-1")], b""

    def expect_bytes(self, wanted: bytes) -> bytes:
        """Wait until these have come; give what came before, and forget both."""
        while wanted not in self.bytes:
            assert self._receive(lambda: f"wanted {wanted!r}, got {self.bytes!r}")
        before, _, self.bytes = self.bytes.partition(wanted)
        return before

    def send_urgent(self, data: bytes) -> None:
        self._socket.send(data, socket.MSG_OOB)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("--workers", "2", "--rate", "0") as running:
        yield running


@pytest.fixture
def bob(server: Server) -> Iterator[Chatter]:
    """Somebody with `nc`."""
    chatter = server.chat("bob")
    yield chatter
    leave(chatter)


def leave(chatter: Chatter) -> None:
    chatter.say("/quit")
    chatter.expect_end()
    chatter.close()


def connect(server: Server, name: str) -> Program:
    program = server.connect_as(Program)
    program.expect_bytes(b"* Welcome to mpchat. What is your name?\n")
    program.send(IAC + WILL + BINARY + name.encode() + b"\r\n")
    program.expect_bytes(b"/help lists the commands.\r\n")
    return program


def test_requests_are_answered_at_once_and_once(server: Server, bob: Chatter) -> None:
    program = connect(server, "tess")
    program.send(b"hal" + IAC + IP + IAC + DO + TIMING_MARK)
    assert program.expect_bytes(IAC + WONT + TIMING_MARK) == b""
    program.send(IAC + DO + ECHO + IAC + AYT)
    assert program.expect_bytes(b"* Yes, mpchat is here.\r\n") == IAC + WONT + ECHO
    program.send(b"f\r\n")
    bob.expect("tess: half")
    bob.say("hello")
    assert program.expect_bytes(b"bob: hello\r\n") == b""
    leave(program)


def test_binary_is_agreed_to(server: Server, bob: Chatter) -> None:
    program = server.connect_as(Program)
    program.expect_bytes(b"name?\n")
    program.send(IAC + WILL + BINARY + IAC + DO + BINARY + b"tess\r\n")
    program.expect_bytes(IAC + DO + BINARY + IAC + WILL + BINARY)
    program.send(IAC + DO + BINARY + "李雷\r\n".encode())
    bob.expect("tess: 李雷")
    bob.say("李雷")
    assert IAC not in program.expect_bytes("bob: 李雷\r\n".encode())
    leave(program)


def test_lines_end_in_lf_for_who_never_sent_iac(server: Server, bob: Chatter) -> None:
    raw = server.connect_as(Program)
    raw.send(b"raw\r\n")
    raw.expect_bytes(b"/help lists the commands.\n")
    bob.say("hello")
    assert b"\r" not in raw.expect_bytes(b"bob: hello\n")
    leave(raw)


def test_urgent_data_is_part_of_the_stream(server: Server, bob: Chatter) -> None:
    """The Data Mark of a Synch comes as urgent data (RFC 854)."""
    program = connect(server, "tess")
    program.send(IAC)
    program.send_urgent(DM)
    program.send(b"good morning\r\n")
    bob.expect("tess: good morning")
    leave(program)


def test_who_types_without_telnet_signs_on_under_the_whole_name(server: Server, bob: Chatter) -> None:
    typing = server.connect()
    for key in b"joe\r\n":
        typing.send(bytes([key]))
        time.sleep(0.3)  # longer than --segment-timeout: that is what is tested
    typing.expect_start("* Hello, joe. ")
    for key in b"helo\x7flo\r":
        typing.send(bytes([key]))
    bob.expect("joe: hello")
    leave(typing)


@survivable
def test_a_worker_dies_between_any_two_bytes() -> None:
    """Each answer comes once, whichever workers died before and behind it, and the line that it stands in is whole."""
    with running_server("--workers", "2", "--rate", "0") as server:
        bob = server.chat("bob")
        program = server.connect_as(Program)
        program.expect_bytes(b"name?\n")
        name = IAC + WILL + BINARY + b"tes" + IAC + DO + TIMING_MARK + b"s\r\n"
        for byte in name + b"h\xc3\xbc" + IAC + AYT + b"x\x7f\x1b[A!\r\n":
            program.send(bytes([byte]))
            wait_arrived(server, program)
            kill_worker_of(server, program)
        bob.expect("tess: hü!")
        bob.say("that is all")
        shown = program.expect_bytes(b"bob: that is all\r\n")
        assert shown.startswith(IAC + DO + BINARY + IAC + WONT + TIMING_MARK + b"* Hello, tess. ")
        assert shown.endswith(b"/help lists the commands.\r\n* Yes, mpchat is here.\r\n")
        assert shown.count(IAC) == 2


@survivable
def test_the_guess_at_who_types_survives_the_worker() -> None:
    with running_server("--workers", "2", "--rate", "0", "--segment-timeout", "0.2") as server:
        bob = server.chat("bob")
        typing = server.connect()
        for key in b"joe":
            typing.send(bytes([key]))
            wait_arrived(server, typing)
            kill_worker_of(server, typing)
        time.sleep(0.5)  # longer than --segment-timeout
        typing.send(b"\r")
        wait_arrived(server, typing)
        kill_worker_of(server, typing)
        typing.send(b"\nhi\n")
        bob.expect("* joe joined #lobby")
        bob.expect("joe: hi")


def test_what_is_agreed_on_goes_on_when_workers_and_the_program_are_replaced() -> None:
    with running_server("--workers", "2", "--rate", "0") as server:
        bob, program = server.chat("bob"), connect(server, "tess")
        program.send(b"hal" + IAC + DO + TIMING_MARK)
        program.expect_bytes(IAC + WONT + TIMING_MARK)
        for number, log in ((signal.SIGHUP, " retired"), (signal.SIGUSR2, "the program is replaced")):
            server.process.send_signal(number)
            server.expect_log(log)
            program.send(IAC + WILL + BINARY + IAC + AYT)
            assert program.expect_bytes(b"* Yes, mpchat is here.\r\n") == b""
            bob.say(log)
            assert program.expect_bytes(f"bob: {log}\r\n".encode()) == b""
        program.send(b"f\r\n")
        bob.expect("tess: half")


# --- a real one ---------------------------------------------------------------------------------------------

TELNET = shutil.which("telnet")


class Terminal:
    """Debian's telnet on a terminal of its own."""

    def __init__(self, server: Server, *options: str) -> None:
        assert TELNET is not None
        self.shown = b""
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [TELNET, *options, server.host, str(server.port)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread runs here
        )
        os.close(slave)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def expect(self, text: bytes) -> None:
        deadline = time.monotonic() + DEADLINE
        while text not in self.shown:
            ready, _, _ = select.select([self._master], [], [], deadline - time.monotonic())
            assert ready, (text, self.shown)
            self.shown += os.read(self._master, 4096)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE)
        os.close(self._master)


@pytest.fixture
def terminal(server: Server) -> Iterator[Terminal]:
    if TELNET is None:
        pytest.skip("needs telnet")
    terminal = Terminal(server, "-8E")
    yield terminal
    terminal.close()


def test_gnu_telnet(server: Server, bob: Chatter, terminal: Terminal) -> None:
    terminal.expect(b"What is your name?")
    terminal.type(b"teresa\n")
    terminal.expect(b"* Hello, teresa. ")
    terminal.type("李雷\n".encode())
    bob.expect("teresa: 李雷")
    bob.say("早安")
    terminal.expect("bob: 早安\r\n".encode())


def test_gnu_telnet_goes_on_after_ctrl_c(server: Server, bob: Chatter, terminal: Terminal) -> None:
    """It shows nothing any more until its timing mark is answered."""
    terminal.expect(b"What is your name?")
    terminal.type(b"teresa\n")
    terminal.expect(b"* Hello, teresa. ")
    terminal.type(b"\x03")
    # It has sent its request when it has sent what comes behind that.
    terminal.type(b"hello\n")
    bob.expect("teresa: hello")
    bob.say("still there?")
    terminal.expect(b"bob: still there?\r\n")
    terminal.type(b"yes\n")
    bob.expect("teresa: yes")
