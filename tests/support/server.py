"""A whole server for system tests, and clients to talk to it: real processes, real sockets, a deadline on every wait.

    with running_server("--workers", "3") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.say("hello")
        bob.expect("alice: hello")

Owns the processes it starts. Promises that leaving the block ends them, and the clients, whatever happened in it; and
that it fails when the server, told to stop, does not end with exit code 0 or leaves a process, a temporary file or its
port behind. (Shared memory and our own descriptors are the business of conftest.py.) Never sleeps in the hope that
something has happened by then: `eventually` looks again until it has.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

import psutil
import pytest

from mpchat.server import kernel

DEADLINE = 10.0
"""Seconds for anything that is bound to happen."""

LOOK_AGAIN = 0.01
"""Seconds between two looks at what nobody can tell us of."""

WELCOME = "* Welcome to mpchat. What is your name?"
survivable = pytest.mark.skipif(not kernel.AVAILABLE, reason="here the clients of a dead worker are disconnected")

ROOT = Path(__file__).parents[2]
SERVER = (sys.executable, "-m", "mpchat")

_READY = re.compile(r"mpchat ready on (?P<host>.+):(?P<port>\d+), (?P<workers>\d+) workers?")
_STARTED = re.compile(r"(?P<name>worker-\d+|sequencer|archive) started, pid (?P<pid>\d+)")
_NO_MARK = b"\xff\xfc\x06"  # WONT TIMING-MARK
_ANSWER = re.compile(rb"\xff[\xfb-\xfe].", re.DOTALL)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


def eventually(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Wait until `condition` holds; fail when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not come about in {seconds:g} s: {what}"
        time.sleep(LOOK_AGAIN)


def run_mpchat(*arguments: str, command: Sequence[str] = SERVER) -> subprocess.CompletedProcess[str]:
    """Run the server command to its end, for what ends by itself."""
    return subprocess.run(
        [*command, *arguments], check=False, cwd=ROOT, capture_output=True, text=True, timeout=3 * DEADLINE
    )


# --- a client -----------------------------------------------------------------------------------------------


class Chatter:
    """A blocking client. Every line it is sent is looked at once, in order, and stays in `seen`."""

    def __init__(self, host: str, port: int, receive_buffer: int | None = None) -> None:
        """`receive_buffer`: bytes that the kernel takes for a client that does not read, instead of its default."""
        self.seen: list[str] = []
        self._unfinished = b""
        self._next = 0
        self._ended = False
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._socket = socket.socket(address[0], address[1])
        try:
            if receive_buffer is not None:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self._socket.settimeout(DEADLINE)
            self._socket.connect(address[4])
        except BaseException:
            self._socket.close()
            raise

    @property
    def local_port(self) -> int:
        """The port at this end of the connection."""
        return int(self._socket.getsockname()[1])

    # --- sending

    def say(self, line: str) -> None:
        """Send a line, as `nc` does."""
        self.send(line.encode() + b"\n")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def sign_on(self, name: str) -> str:
        """Answer the question for the name; give the line that greets."""
        self.expect("* Welcome to mpchat. What is your name?")
        self.say(name)
        return self.expect_start(f"* Hello, {name}. ")

    def end_sending(self) -> None:
        """Close this half of the connection, as `nc -N` does at the end of its input."""
        self._socket.shutdown(socket.SHUT_WR)

    # --- receiving

    def expect(self, line: str) -> None:
        """Wait for exactly this line; skip those before it."""
        self._skip_to(lambda seen: seen == line, line)

    def expect_start(self, start: str) -> str:
        """Wait for a line that starts so, skip those before it; give the line."""
        return self._skip_to(lambda seen: seen.startswith(start), f"{start}...")

    def lines_until(self, line: str) -> list[str]:
        """Wait for exactly this line; give those before it that were not looked at yet."""
        first = self._next
        self.expect(line)
        return self.seen[first : self._next - 1]

    def expect_each(self, *lines: str) -> None:
        """Wait for all of these lines, in whatever order; skip others."""
        missing = set(lines)

        def is_last(seen: str) -> bool:
            missing.discard(seen)
            return not missing

        self._skip_to(is_last, f"each of {lines}")

    def wait_unread(self) -> None:
        """Wait until there is something to receive, and leave it there."""
        assert self._socket.recv(1, socket.MSG_PEEK)

    def ask(self, command: str, start: str) -> str:
        """Type a command; give the line of its answer, which starts so."""
        self.say(command)
        return self.expect_start(start)

    def expect_end(self) -> list[str]:
        """Wait for the end of the connection, in good order or by a reset; give the whole lines before it."""
        first = self._next
        while self._receive(lambda: "wanted the end of the connection"):
            pass
        self._next = len(self.seen)
        return self.seen[first:]

    def _skip_to(self, wanted: Callable[[str], bool], what: str) -> str:
        first = self._next
        while True:
            while self._next < len(self.seen):
                line = self.seen[self._next]
                self._next += 1
                if wanted(line):
                    return line
            if not self._receive(lambda: f"wanted {what!r} after {self.seen[:first]}, got {self.seen[first:]}"):
                raise AssertionError(f"ended; wanted {what!r}, got {self.seen[first:]}")

    def _receive(self, trouble: Callable[[], str]) -> bool:
        """Take in what comes; False at the end of the connection."""
        if self._ended:
            return False
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            raise AssertionError(trouble()) from None
        except ConnectionError:
            data = b""
        self._ended = not data
        lines, self._unfinished = self.split(self._unfinished + data)
        self.seen += lines
        return not self._ended

    def split(self, data: bytes) -> tuple[list[str], bytes]:
        """The whole lines in what has come, and the rest."""
        *lines, rest = data.split(b"\n")
        return [line.decode() for line in lines], rest

    # --- the end

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Break the connection."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._socket.close()


class TelnetChatter(Chatter):
    """A client with a telnet program. In `seen` its lines end where they do for others, and what it is answered is not
    in them; `marks` counts the answers to MARK."""

    MARK = b"\xff\xfd\x06"
    """DO TIMING-MARK."""

    def __init__(self, host: str, port: int, receive_buffer: int | None = None) -> None:
        super().__init__(host, port, receive_buffer)
        self.marks = 0

    def split(self, data: bytes) -> tuple[list[str], bytes]:
        self.marks += data.count(_NO_MARK)
        lines, rest = super().split(_ANSWER.sub(b"", data))
        return [line.removesuffix("\r") for line in lines], rest


C = TypeVar("C", bound=Chatter)


# --- a server -----------------------------------------------------------------------------------------------


class _Lines:
    """The lines of a stream, collected by a thread until its end."""

    def __init__(self, stream: IO[str]) -> None:
        self.lines: list[str] = []
        self._stream = stream
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        for line in self._stream:
            self.lines.append(line.rstrip("\n"))

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def finish(self) -> None:
        """Wait for the end of the stream, which comes when the last process that has it ends."""
        self._thread.join(DEADLINE)
        assert self.ended, "somebody still has the server's output open"
        self._stream.close()


class Server:
    """A server that was started. `running_server` makes it."""

    def __init__(
        self, command: Sequence[str], options: Sequence[str], env: Mapping[str, str], folder: Path, new_group: bool
    ) -> None:
        self._folder = folder
        self._chatters: list[Chatter] = []
        self.host, self.port, self.ready_line = "", 0, ""
        self.process = subprocess.Popen(
            [*command, "--port", "0", *options],
            cwd=ROOT,
            # A folder of its own shows what the server leaves in it, and which processes are the server's.
            env={**os.environ, "TMPDIR": str(folder), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0 if new_group else None,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._stdout, self._stderr = _Lines(self.process.stdout), _Lines(self.process.stderr)

    # --- what there is to see

    @property
    def stdout(self) -> list[str]:
        """What the server has written to its standard output so far."""
        return self._stdout.lines

    @property
    def stderr(self) -> list[str]:
        """What the server has logged so far."""
        return self._stderr.lines

    def expect_log(self, *parts: str, count: int = 1) -> str:
        """Wait for as many lines of the log that hold all of these; give the last of them."""

        def find() -> list[str]:
            return [line for line in list(self.stderr) if all(part in line for part in parts)]

        eventually(lambda: len(find()) >= count, f"{count} times {parts} in {self.stderr}")
        return find()[count - 1]

    def children(self) -> list[psutil.Process]:
        """All processes that descend from main."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def relatives(self) -> list[psutil.Process]:
        """All processes of this server, also those that main left behind."""
        return [each for each in psutil.process_iter() if self._is_relative(each)]

    def workers(self) -> list[psutil.Process]:
        """The workers there are, in the order of their slots, as the log tells them."""
        count = int(self.ready_line.split()[-2]) if self.ready_line else 0
        # The log comes by another way than the line that says ready, and may be behind it.
        others = {"sequencer", "archive"}
        eventually(lambda: len(self._started().keys() - others) >= count, "the log names all workers")
        pids = [pid for name, pid in sorted(self._started().items()) if name not in others]
        return [found for pid in pids if (found := _find_process(pid))]

    def worker_of(self, chatter: Chatter) -> psutil.Process:
        """The worker that has this client, as the system tells it (main has a duplicate of every connection)."""
        found: list[psutil.Process] = []

        def find() -> bool:
            found[:] = [each for each in self.workers() if chatter.local_port in _peers(each)]
            return len(found) == 1

        eventually(find, "exactly one worker has the client")
        return found[0]

    def sequencer(self) -> psutil.Process:
        """The one that there is, or will be in a moment."""
        return self._find_started("sequencer")

    def archive(self) -> psutil.Process:
        """The one that there is, or will be in a moment."""
        return self._find_started("archive")

    def _find_started(self, name: str) -> psutil.Process:
        found: list[psutil.Process] = []

        def find() -> bool:
            pid = self._started().get(name)
            process = None if pid is None else _find_process(pid)
            found[:] = [] if process is None else [process]
            return bool(found)

        eventually(find, f"there is a process {name}")
        return found[0]

    def _started(self) -> dict[str, int]:
        found = (_STARTED.search(line) for line in list(self.stderr))
        return {match["name"]: int(match["pid"]) for match in found if match}

    def _is_relative(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("TMPDIR", "") == str(self._folder)
        except psutil.Error:  # gone, a zombie, or somebody else's
            return False

    # --- what there is to do

    def connect(self, receive_buffer: int | None = None) -> Chatter:
        """A client that has said nothing yet; it is closed with the server."""
        return self.connect_as(Chatter, receive_buffer)

    def connect_as(self, make: type[C], receive_buffer: int | None = None) -> C:
        """As `connect`, for a client of another kind."""
        chatter = make(self.host, self.port, receive_buffer)
        self._chatters.append(chatter)
        return chatter

    def chat(self, name: str) -> Chatter:
        """A client that has signed on; it is closed with the server."""
        chatter = self.connect()
        chatter.sign_on(name)
        return chatter

    def close_chatters(self) -> None:
        """Close every client that `connect` and `chat` made."""
        for chatter in self._chatters:
            chatter.close()

    def wait_ready(self) -> None:
        """Wait for the one line on standard output."""
        eventually(lambda: self.stdout or self._stdout.ended, f"ready; log: {self.stderr}", 3 * DEADLINE)
        match = _READY.fullmatch(self.stdout[0] if self.stdout else "")
        assert match, f"{self.stdout}; log: {self.stderr}"
        self.ready_line = match[0]
        self.host, self.port = match["host"].strip("[]"), int(match["port"])

    def kill_everything(self) -> None:
        """Kill all processes of the server at once, as well as that can be done; see that nothing is left behind."""
        for process in [psutil.Process(self.process.pid), *self.children()]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.expect_exit(-signal.SIGKILL)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Tell main to stop; see that it ends with exit code 0 and leaves nothing behind."""
        self.process.send_signal(number)
        self.expect_exit(0)

    def expect_exit(self, code: int, seconds: float = 2 * DEADLINE) -> None:
        """Wait for main to end with `code` (negative: killed by that signal); see that nothing is left behind.

        A main that was killed cannot clean up: its children do, within two seconds.
        """
        try:
            found = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs; log: {self.stderr}") from None
        eventually(lambda: not self.relatives(), f"no process left of {self.relatives()}", 2.0)
        self._stdout.finish()
        self._stderr.finish()
        assert found == code, self.stderr
        assert not [line for line in self.stderr if line.startswith("Traceback") or "[Errno" in line], self.stderr
        assert not list(self._folder.iterdir()), "left in the temporary folder"
        if self.port:
            socket.create_server((self.host, self.port), family=_family(self.host)).close()

    def end(self) -> None:
        """End what still runs, however it is, and close what is ours."""
        self.close_chatters()
        # Again until there is none: one of them may just have started another.
        eventually(self._kill_relatives, "no process left")
        self.process.wait(DEADLINE)
        self._stdout.finish()
        self._stderr.finish()

    def _kill_relatives(self) -> bool:
        relatives = self.relatives()
        for each in relatives:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                pass  # as good
        return not relatives


@contextmanager
def starting_server(
    *options: str, env: Mapping[str, str] | None = None, command: Sequence[str] = SERVER, new_group: bool = False
) -> Iterator[Server]:
    """A server on a free port of loopback, ready or not; it is ended when the block is left, in whatever way."""
    with ExitStack() as stack:
        # Resolved, since processes are told apart by it. Short, since sockets with paths of 108 bytes go into it.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mpc"))).resolve()
        server = Server(command, options, env or {}, folder, new_group)
        stack.callback(server.end)
        yield server


@contextmanager
def running_server(
    *options: str, env: Mapping[str, str] | None = None, command: Sequence[str] = SERVER
) -> Iterator[Server]:
    """A server that is ready. At the end of the block it is stopped by TERM, unless it has ended by then; that it ends
    with exit code 0 and leaves nothing behind is checked."""
    with starting_server(*options, env=env, command=command) as server:
        server.wait_ready()
        yield server
        if server.process.poll() is None:
            # Who does not read does not end its side either, and a server that stops waits a while for that.
            server.close_chatters()
            server.stop()


# --- what several tests do with it --------------------------------------------------------------------------


def by_worker(server: Server, chatters: Sequence[Chatter]) -> dict[psutil.Process, Chatter]:
    """The chatters by the workers that have them: one each."""
    found = {server.worker_of(chatter): chatter for chatter in chatters}
    assert len(found) == len(chatters)
    return found


def wait_settled(server: Server, chatters: Sequence[Chatter]) -> None:
    """Wait until each of these, who are all that there are, has a worker of its own again and is served by it.

    When a worker joins after a death, the load is evened out: clients move. Who is on the move is read by nobody until
    the log has said so.
    """

    def is_even() -> bool:
        return len({server.worker_of(chatter) for chatter in chatters}) == len(chatters)

    eventually(is_even, "each client has a worker of its own")
    for chatter in chatters:
        chatter.ask("/who", f"* {len(chatters)} in #lobby: ")


class Backlog:
    """A client, `slow`, that reads nothing until `expect_whole`, and `bob`, who tells it more than the kernel takes:
    the rest waits with its worker. Wants a server with BACKLOG_OPTIONS."""

    def __init__(self, server: Server) -> None:
        self.slow = server.connect(receive_buffer=4096)
        self.slow.sign_on("slow")
        self.bob = server.chat("bob")
        self.slow.expect("* bob joined #lobby")
        self._server = server
        self._said: list[str] = []

    def grow(self, lines: int = 3000) -> None:
        """Bob says so many lines more, of a thousand characters. All of them have come into the log."""
        for number in range(len(self._said), len(self._said) + lines):
            self.say(f"{number} {'x' * 1000}")
        wait_arrived(self._server, self.bob)
        self.bob.ask("/topic all is said", "* ")

    def say(self, text: str) -> None:
        self.bob.say(text)
        self._said.append(f"bob: {text}")

    def expect_whole(self) -> None:
        """The slow one reads at last: all of it is there, once and in order."""
        self.bob.say("the end")
        lines = self.slow.lines_until("bob: the end")
        assert [line for line in lines if line.startswith("bob: ")] == self._said


BACKLOG_OPTIONS = ("--workers", "2", "--rate", "0", "--sendq", str(16 << 20))


def kill_worker_of(server: Server, chatter: Chatter) -> None:
    """Kill the worker that has this client, and wait until another has it."""
    worker = server.worker_of(chatter)
    worker.kill()
    eventually(lambda: server.worker_of(chatter) != worker, "another worker has the client")


def kill_sequencer(server: Server) -> None:
    """Kill the sequencer, and wait until there is another."""
    sequencer = server.sequencer()
    before = len([line for line in server.stderr if "sequencer started" in line])
    sequencer.kill()
    server.expect_log("sequencer started", count=before + 1)


@contextmanager
def suspended(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    eventually(lambda: process.status() == psutil.STATUS_STOPPED, "it is stopped")
    yield
    with suppress(psutil.NoSuchProcess):  # killed
        process.resume()


def wait_arrived(server: Server, chatter: Chatter, unread: int = 0) -> None:
    """Wait until all that the client has sent has arrived, and all but `unread` bytes of it are taken by the worker."""
    ports = (f":{chatter.local_port:04X}", f":{server.port:04X}")

    def queues() -> dict[str, int]:
        """Bytes that wait to be acknowledged (client) and to be read (server), as proc(5) tells of /proc/net/tcp."""
        found = {}
        for line in Path("/proc/net/tcp").read_text().splitlines():
            fields = line.split()
            if fields[1].endswith(ports[0]) and fields[2].endswith(ports[1]):
                found["unacked"] = int(fields[4].split(":")[0], 16)
            elif fields[1].endswith(ports[1]) and fields[2].endswith(ports[0]):
                found["unread"] = int(fields[4].split(":")[1], 16)
        return found

    eventually(lambda: queues() == {"unacked": 0, "unread": unread}, "the worker has what the client sent")


def wait_for_members(chatter: Chatter, *names: str) -> None:
    """Wait until these are the members of the lobby, as this client's worker sees it."""
    wanted = f"* {len(names)} in #lobby: {', '.join(names)}"
    # What comes first may be a notice; the answer is then found the next time.
    eventually(lambda: chatter.ask("/who #lobby", "* ") == wanted, wanted)


def expect_next(chatter: Chatter, *lines: str) -> None:
    """Wait for the last of these lines, and see that just these have come since the last look."""
    assert chatter.lines_until(lines[-1]) == [*lines[:-1]]


def _find_process(pid: int) -> psutil.Process | None:
    """The process, unless it has ended; main may not have come to reap it yet."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


def _peers(process: psutil.Process) -> set[int]:
    """The ports at the other ends of a process's TCP connections."""
    try:
        return {each.raddr.port for each in process.net_connections("tcp") if each.raddr}
    except psutil.Error:  # gone meanwhile
        return set()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
