"""The plain client as a process, at a terminal and in pipes, against small servers of every kind.

The servers are threads of this process. Each handles one connection, with DEADLINE on all it does, and what it finds
wrong fails the test. None of them is mpchat's own server: the client has to get on with others, and with broken ones.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from mpchat.client.errors import ConnectionEnded
from mpchat.client.net.address import parse_address
from mpchat.client.net.connection import End, connect

DEADLINE = 30.0
HELLO = b"* Hello, %s. You are in #lobby with ann. /help lists the commands.\n"
QUESTION = b"* Welcome to mpchat. What is your name?\n"
# Opening the terminal makes it the controlling one of the new session, so that Ctrl-C is a signal (setsid(2)).
DRIVER = """
import os, sys
from mpchat.client.cli import main
from mpchat.client.timing import Timing
if os.isatty(0):
    os.close(os.open(os.ttyname(0), os.O_RDWR))
sys.exit(main(timing=Timing({timing})))
"""

Handler = Callable[[socket.socket], None]


class Server:
    """Listens on 127.0.0.1 and gives its first connection to the handler, in a thread."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._problem: Exception | None = None
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.join(DEADLINE if kind is None else 0.1)
        self._listener.close()
        if kind is None:
            assert not self._thread.is_alive(), "the server has not come to its end"
            if self._problem is not None:
                raise self._problem

    def _serve(self) -> None:
        try:
            with self._listener.accept()[0] as conn:
                conn.settimeout(DEADLINE)
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is sent is there before a reset
                self._handler(conn)
        except Exception as error:  # noqa: BLE001 (raised again in the test's thread)
            self._problem = error


class Lines:
    """The lines that a connection receives, one by one."""

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn
        self._held = b""

    def next(self) -> bytes | None:
        """The next line without its end; None at the end of the stream."""
        while b"\n" not in self._held:
            data = self._conn.recv(4096)
            if not data:
                assert not self._held, "the client did not end its last line"
                return None
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        return line

    def rest(self) -> list[bytes]:
        return list(iter(self.next, None))


def sign_on(conn: socket.socket) -> Lines:
    """Ask for the name as mpchat does, and say hello to whatever it is."""
    lines = Lines(conn)
    conn.sendall(QUESTION)
    conn.sendall(HELLO % (lines.next() or b""))
    return lines


def received_by(received: list[bytes]) -> Handler:
    """A faithful server in small: it signs on, keeps what it gets, leaves when the client does."""

    def handle(conn: socket.socket) -> None:
        lines = sign_on(conn)
        while (line := lines.next()) is not None:
            received.append(line)
            if line.startswith(b"/quit"):
                conn.sendall(b"* Bye.\n")
                return

    return handle


def receive_segments(segments: list[bytes]) -> Handler:
    """The simplest of servers: greets nobody, and each chunk is a message, which it sends to all (here: back)."""

    def handle(conn: socket.socket) -> None:
        while data := conn.recv(1024):
            segments.append(data)
            conn.sendall(b"<" + data + b">")

    return handle


def reset(conn: socket.socket) -> None:
    """Close with an RST (SO_LINGER with no time: socket(7))."""
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def command(*args: str, timing: str = "") -> list[str]:
    return [sys.executable, "-W", "error", "-c", DRIVER.format(timing=timing), *args]


def pipe_through(*args: str, given: bytes = b"", timing: str = "") -> subprocess.CompletedProcess[bytes]:
    program = command(*args, timing=timing)
    return subprocess.run(program, input=given, capture_output=True, timeout=DEADLINE, check=False)


@contextmanager
def running(*args: str, timing: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """The client with pipes that stay open."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command(*args, timing=timing), stdin=pipe, stdout=pipe, stderr=pipe) as client:
        try:
            yield client
        finally:
            client.kill()


class Terminal:
    """The client at a pseudo terminal; what it writes, standard error included, is what a person would see."""

    def __init__(self, args: Sequence[str], timing: str) -> None:
        self._master, slave = os.openpty()
        program = command(*args, timing=timing)
        try:
            self.process = subprocess.Popen(program, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        finally:
            os.close(slave)
        self.seen = b""

    def type(self, data: bytes) -> None:
        os.write(self._master, data)

    def expect(self, text: bytes) -> None:
        """Read until `text` is seen after what was expected before."""
        while text not in self.seen:
            assert select.select([self._master], [], [], DEADLINE)[0], f"{text!r} is not in {self.seen!r}"
            try:
                self.seen += os.read(self._master, 4096)
            except OSError as error:  # EIO: the client is gone
                raise AssertionError(f"{text!r} is not in {self.seen!r}") from error
        self.seen = self.seen.partition(text)[2]

    def wait(self) -> int:
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        os.close(self._master)


@contextmanager
def at_terminal(*args: str, timing: str = "") -> Iterator[Terminal]:
    with closing(Terminal(args, timing)) as terminal:
        yield terminal


# -- in a pipe ----------------------------------------------------------------------------------------------


def test_a_pipe_sends_all_lines_and_leaves() -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"hello\r\n\nw\xc3\xb6rld\n// and\xff the last")
    assert received == [b"hello", b"", "wörld".encode(), "// and� the last".encode()]
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
        assert lines.next() == b"bot"
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
        assert lines.next() == b"b*t"
        conn.sendall(b"! A name has letters and digits.\n* What is your name?\n")
        if not closes:
            assert lines.rest() == []

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "b*t", given=b"secret\n")
    assert (done.returncode, done.stderr) == (1, b"! A name has letters and digits.\n")


@pytest.mark.parametrize("farewell", [b"/quit see you", b"QUIT", b"/exit"])
def test_a_pipe_can_quit(farewell: bytes) -> None:
    received: list[bytes] = []

    def handle(conn: socket.socket) -> None:
        received.extend(sign_on(conn).rest())

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"hello\n" + farewell + b"\nlost\n")
    assert received == [b"hello", farewell]
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_pipe_prints_what_comes_after_its_end() -> None:
    def handle(conn: socket.socket) -> None:
        assert sign_on(conn).rest() == [b"/who"]
        conn.sendall(b"* In #lobby: ann, bot.\nno line end")

    with Server(handle) as server:
        done = pipe_through(server.address, "--name", "bot", given=b"/who\n")
    assert done.stdout.endswith(b"* In #lobby: ann, bot.\nno line end\n")
    assert done.returncode == 0


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
        assert Lines(conn).rest() == [b"bot"]

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
    assert segments == [b"bot", b"one", b"two", b"three"]
    assert done.stdout == b"<bot>\n<one>\n<two>\n<three>\n"
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
    assert segments == [b"bot", b"one", b"two"]
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


def wait_for_signals(pid: int) -> None:
    """Until the process catches SIGINT by its event loop, which it does just before it connects (proc(5), SigCgt)."""
    bit = 1 << (signal.SIGTERM - 1)
    for _ in range(int(DEADLINE / 0.01)):
        status = Path(f"/proc/{pid}/status").read_text()
        if int(status.partition("SigCgt:")[2].split()[0], 16) & bit:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the client does not catch signals")


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


@pytest.mark.parametrize("args", [["host:x"], ["::1:x"], ["--name", ""], ["--name", "a\nb"], ["a", "b"], ["--nome"]])
def test_wrong_usage(args: list[str]) -> None:
    done = pipe_through(*args)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"usage: mpchat-client" in done.stderr


def test_it_runs_as_a_module() -> None:
    program = [sys.executable, "-m", "mpchat.client", "--version"]
    done = subprocess.run(program, capture_output=True, timeout=DEADLINE, check=True)
    assert done.stdout.startswith(b"mpchat-client ")


# -- at a terminal ------------------------------------------------------------------------------------------


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
