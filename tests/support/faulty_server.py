"""A small chat server in one process that is correct, or wrong in exactly one way. A fixture, not a model.

It speaks as much of the line dialect as scripts/stress.py uses: signing on, /join, /stress-..., messages.
With --fault one stream (that of the first session whose name matches --victim) is spoilt once, after
--sound lines; all others stay right. It takes the options of mpchat that stress.py and benchmark.py give and says the
same line when it is ready. Some faults are of its conduct as a process: see Fault.
"""

from __future__ import annotations

import argparse
import asyncio
import enum
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

FLUSH_S = 0.02  # between two fan-outs


class Fault(enum.StrEnum):
    """What is done to the victim's stream, or what is wrong with the server itself."""

    NONE = "none"
    LOSS = "loss"
    DOUBLE = "double"
    SWAP = "swap"  # two messages of one sender change places
    ORDER = "order"  # two messages of different senders change places
    TORN = "torn"  # a line loses its second half, and its end
    MISDELIVER = "misdeliver"  # a message of another room
    ECHO = "echo"  # the victim's own message comes back
    CUT = "cut"  # the victim is disconnected
    MUTE = "mute"  # the victim is sent nothing more
    STATUS = "status"  # the exit status is 7
    CHATTY = "chatty"  # a second line on standard output
    ORPHAN = "orphan"  # a child process stays behind
    UNREADY = "unready"  # it ends before it was ready


@dataclass(frozen=True, slots=True)
class Line:
    """A message as it goes to the members of a room."""

    room: str
    sender: str
    text: bytes


def swap(lines: list[Line]) -> list[bytes] | None:
    """The first two of one sender, as soon as there are two."""
    first = lines[0]
    for place, line in enumerate(lines[1:], 1):
        if line.sender == first.sender:
            between, rest = lines[1:place], lines[place + 1 :]
            return [each.text for each in (line, *between, first, *rest)]
    return None


def order(lines: list[Line]) -> list[bytes] | None:
    """The first two neighbours of different senders; what is between them stays."""
    for place, (one, two) in enumerate(pairwise(lines)):
        if one.sender != two.sender:
            rest = [line.text for line in lines[:place]]
            return [*rest, two.text, one.text, *(line.text for line in lines[place + 2 :])]
    return None


# What becomes of some lines of the victim; None means that it takes more lines.
CHANGES: Mapping[Fault, Callable[[list[Line]], list[bytes] | None]] = {
    Fault.LOSS: lambda lines: [line.text for line in lines[:-1]],
    Fault.DOUBLE: lambda lines: [lines[0].text, *(line.text for line in lines)],
    Fault.SWAP: swap,
    Fault.ORDER: order,
    Fault.TORN: lambda lines: [lines[0].text[:30], *(line.text for line in lines[1:])],
}


@dataclass(slots=True, eq=False)
class Session:
    writer: asyncio.StreamWriter
    name: str = ""
    room: str = "#lobby"
    victim: bool = False
    lines: int = 0
    late: list[Line] = field(default_factory=list)


class Server:
    def __init__(self, fault: Fault, victim: str, sound: int) -> None:
        self._fault = fault
        self._sound = sound
        self._victim = re.compile(victim)
        self._chosen = False
        self._spoilt = False
        self._sessions: dict[asyncio.StreamWriter, Session] = {}
        self._said: list[Line] = []
        self._log: list[Line] = []  # all that was ever said
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        session = Session(writer)
        writer.write(b"* Welcome. What is your name?\n")
        try:
            session.name = (await reader.readline()).decode().strip()
            self._admit(session)
            while line := await reader.readline():
                self._take(session, line)
        except ConnectionError:
            pass  # gone is gone
        finally:
            self._sessions.pop(writer, None)
            self.tasks.discard(task)
            writer.close()

    async def flush_often(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self.flush()

    def _admit(self, session: Session) -> None:
        if not self._chosen and self._victim.search(session.name):
            session.victim = self._chosen = True
        self._sessions[session.writer] = session
        session.writer.write(f"* Hello, {session.name}. You are in #lobby.\nold: a line of history\n".encode())

    def _take(self, session: Session, line: bytes) -> None:
        command, _, rest = line.decode().strip().partition(" ")
        if command == "/join":
            session.room = rest
            session.writer.write(f"* You are in {rest}\n".encode())
        elif command.startswith("/"):
            self.flush()
            self._answer(session, command)
        else:
            self._said.append(Line(session.room, session.name, session.name.encode() + b": " + line))

    def _answer(self, session: Session, command: str) -> None:
        """Spoilt or not: what was held back goes first, as the order of the log demands."""
        if not (session.victim and self._spoilt and self._fault is Fault.MUTE):
            session.writer.write(b"".join(line.text for line in session.late))
            session.late.clear()
            session.writer.write(f"! There is no command {command}.\n".encode())

    def flush(self) -> None:
        """One write per session; all receivers of a room that said nothing share one block."""
        said, self._said = self._said, []
        self._log += said
        rooms = {line.room for line in said}
        blocks = {room: b"".join(line.text for line in said if line.room == room) for room in rooms}
        senders = {line.sender for line in said}
        for session in list(self._sessions.values()):
            if session.victim and self._spoilt and self._fault is Fault.MUTE:
                continue
            if session.victim and not self._spoilt:
                self._spoil(session, due(session, said))
            elif session.name in senders:
                session.writer.write(b"".join(line.text for line in due(session, said)))
            elif session.room in rooms:
                session.writer.write(blocks[session.room])

    def _spoil(self, session: Session, lines: list[Line]) -> None:
        """Deliver what is due, wrongly as soon as that can be done; till then hold it back."""
        session.lines += len(lines)
        lines = session.late + lines
        right = [line.text for line in lines]
        wrong = self._wrong(session, lines) if session.lines > self._sound else right
        self._spoilt = wrong not in (None, right)
        session.late = lines if wrong is None else []
        session.writer.write(b"".join(wrong or ()))

    def _wrong(self, session: Session, lines: list[Line]) -> list[bytes] | None:
        right = [line.text for line in lines]
        if self._fault is Fault.MUTE:
            return []
        if self._fault is Fault.CUT:
            session.writer.close()
            return []
        if self._fault is Fault.MISDELIVER:
            others = [line.text for line in self._log if line.room != session.room]
            return right + others[:1]
        if self._fault is Fault.ECHO:
            own = [line.text for line in self._log if line.sender == session.name]
            return right + own[:1]
        change = CHANGES.get(self._fault)
        return change(lines) if lines and change else right


def due(session: Session, said: list[Line]) -> list[Line]:
    return [line for line in said if line.room == session.room and line.sender != session.name]


async def run(server: Server, port: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", port, backlog=1024)
    flushing = asyncio.create_task(server.flush_often())
    host, port = listener.sockets[0].getsockname()[:2]
    print(f"mpchat ready on {host}:{port}, 1 worker", flush=True)  # noqa: T201
    await stop.wait()
    listener.close()
    for task in [*server.tasks, flushing]:
        task.cancel()
    await asyncio.gather(*server.tasks, flushing, return_exceptions=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", type=Fault, default=Fault.NONE, choices=list(Fault))
    parser.add_argument("--victim", default=r"^k[^-]+-1$")
    parser.add_argument("--sound", type=int, default=7)
    parser.add_argument("--port", type=int, default=0)
    for ignored in ("--workers", "--rate", "--max-clients", "--sendq", "--log-level"):
        parser.add_argument(ignored)
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    if options.fault is Fault.UNREADY:
        sys.stderr.write("no, not today\n")
        return 3
    if options.fault is Fault.ORPHAN:
        # It ends by itself, should nobody find it.
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
    asyncio.run(run(Server(options.fault, options.victim, options.sound), options.port))
    if options.fault is Fault.CHATTY:
        sys.stdout.write("bye\n")
    return 7 if options.fault is Fault.STATUS else 0


if __name__ == "__main__":
    sys.exit(main())
