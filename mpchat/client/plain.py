"""The plain client: what comes is printed, what is typed is sent, line by line.

Owns the conversation between a connection and this process's input and output, and the decision whether it ended
well. At a terminal, what comes is printed even in the middle of the line that is being typed.

Promises: piped lines are sent in order, all of them, and never as names (but the first, without `--name`); they are
text, said as it stands, unless they may be commands; the end of a connection is told at once; a line that was not sent
is never taken for one that was.
"""

import asyncio
import re
from dataclasses import dataclass, field

from mpchat.client.errors import (
    ClientError,
    ConnectionEnded,
    LineRefused,
    NameRefused,
    ServerClosed,
    Stalled,
    TerminalFailed,
)
from mpchat.client.interrupts import Interrupted, Interrupts
from mpchat.client.net.address import Address
from mpchat.client.net.connection import Connection, End, connect
from mpchat.client.net.dialogue import Mode, Refusal
from mpchat.client.terminal import CANONICAL_MOST, LineInput, Output
from mpchat.client.timing import Timing
from mpchat.client.typed import as_read, is_command, is_quit, quote

REFUSED = re.compile(r"(\d{4}-\d\d-\d\d )?(\d\d:\d\d )?! ")
"""How the server's errors begin, with `/timestamp on` too. No message begins so: a name stands before it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the person asked for. `name` None: it is read from the input.

    In a pipe: `any_name` takes the name that the server gives when ours is taken, `commands` lets the input give
    commands. `advice` is told at a terminal before anything else.
    """

    address: Address
    name: str | None = None
    segments: bool = False
    any_name: bool = False
    commands: bool = False
    advice: str = ""
    timing: Timing = field(default_factory=Timing)


async def converse(options: Options, source: LineInput, output: Output) -> None:
    """Connect, chat, leave. Returns when we left as wanted; raises ClientError when it did not go well.

    Ctrl-C or SIGTERM leaves, within `farewell` seconds; the second one at once.
    """
    interrupts = Interrupts()
    if options.advice and source.is_terminal and output.is_terminal:
        await output.write(options.advice + "\n")
        await output.flush()
    try:
        is_bulk = not source.is_terminal
        connection = await interrupts.race(
            connect(options.address, timing=options.timing, segments=options.segments, is_bulk=is_bulk)
        )
    except Interrupted:
        return
    chat = Chat(connection, options, source, output)
    try:
        await interrupts.race(chat.run())
    except Interrupted:
        try:
            await interrupts.race(chat.leave())
        except Interrupted:
            return
    finally:
        connection.abort()


class Chat:
    """One conversation over an open connection."""

    def __init__(self, connection: Connection, options: Options, source: LineInput, output: Output) -> None:
        self._connection = connection
        self._options = options
        self._source = source
        self._output = output
        self._takes_commands = source.is_terminal or options.commands
        self._is_leaving = False
        self._refused = ""
        self._problem: ClientError | None = None

    async def run(self) -> None:
        """Until the input or the connection has ended. Raises ClientError unless we left, and could say all."""
        try:
            await self._talk()
        except ClientError:
            await self._output.flush()
            raise
        await self._output.flush()
        self._judge()

    async def _talk(self) -> None:
        """Print and send at the same time, until one of them is over and the other has had its time."""
        printer = asyncio.create_task(self._print())
        sender = asyncio.create_task(self._send())
        try:
            await asyncio.wait({printer, sender}, return_when=asyncio.FIRST_COMPLETED)
            if sender.done():
                sender.result()
                await self._drain(printer)
            if printer.done():
                printer.result()
        finally:
            printer.cancel()
            sender.cancel()
            await asyncio.gather(printer, sender, return_exceptions=True)

    async def leave(self) -> None:
        """Say that we go, and show what still comes; `farewell` seconds at most."""
        self._connection.quit()
        try:
            async with asyncio.timeout(self._options.timing.farewell):
                if self._output.is_terminal:
                    await self._output.write("\n")  # the shell's prompt shall not follow "^C"
                await self._print()
                await self._output.flush()
        except (TimeoutError, ClientError):
            return

    async def _print(self) -> None:
        """Print what comes, until the connection ends. Raises NameRefused in a pipe."""
        async for event in self._connection:
            if isinstance(event, Refusal) and not self._source.is_terminal:
                raise NameRefused(event.reason)  # nobody can be asked for another
            if self._connection.is_mpchat and not self._refused and (start := REFUSED.match(event.text)):
                self._refused = event.text[start.end() :]
            await self._output.write(event.text + "\n")
            if not self._connection.has_events:
                await self._output.flush()

    async def _send(self) -> None:
        """Give a name and send the input, to its end or to a line that quits; then half-close."""
        try:
            if await self._sign_on():
                await self._send_lines()
        except (ConnectionEnded, NameRefused):
            return  # the printer tells, when it has printed what came before
        except TerminalFailed as error:
            self._problem = error  # what was read before shall still be sent
        self._connection.half_close()

    async def _sign_on(self) -> bool:
        """Whether we have a name now; not when the input ends instead. Raises NameRefused if nobody can be asked."""
        has_asked = await self._connection.wait_greeting()
        name = self._options.name
        while True:
            if name is None:
                name = await self._read_name(prompt="" if has_asked else "Name: ")
            if name is None:
                return False
            try:
                await self._connection.claim(name)
            except NameRefused:
                if not self._source.is_terminal:
                    raise
                name = None
            else:
                return self._accept_name()

    def _accept_name(self) -> bool:
        """Whether the name that we have will do: a program that is somebody else all of a sudden must say so."""
        if self._connection.taken and not self._source.is_terminal and not self._options.any_name:
            self._problem = NameRefused(f"{self._connection.taken} is taken.")
            return False
        return True

    async def _read_name(self, prompt: str) -> str | None:
        """The next line that is not blank; None when there is none or it quits."""
        while True:
            if self._source.is_terminal and prompt:
                await self._output.write(prompt)
                await self._output.flush()
            line = await self._read_line()
            if line is None or self._quits(line):
                return None
            if not self._takes_commands and is_command(line):
                self._problem = NameRefused(f"{line!r} is not a name.")
                return None
            if line.strip():
                return line

    async def _send_lines(self) -> None:
        while (line := await self._read_line()) is not None:
            quits = self._quits(line)
            if self._connection.is_mpchat:
                line = as_read(line) if self._takes_commands else quote(line)
            # A server of segments knows no commands: it would show this one to everybody.
            if not (quits and self._connection.mode is Mode.SEGMENTS):
                await self._connection.say(line)
            if quits:
                return

    def _quits(self, line: str) -> bool:
        return self._takes_commands and is_quit(line)

    async def _read_line(self) -> str | None:
        """The next line of the input. Notes whether it is the last: the server may close from then on."""
        while True:
            line = await self._source.read_line()
            if not self._source.was_cut:
                break
            await self._output.write(f"! A line has {CANONICAL_MOST - 1} bytes at most here. It was not sent.\n")
            await self._output.flush()
        self._is_leaving = line is None or self._quits(line)
        if line is None and self._source.is_terminal and self._output.is_terminal:
            await self._output.write("\n")  # Ctrl-D leaves the cursor where it is
        return line

    async def _drain(self, printer: asyncio.Task[None]) -> None:
        """Wait for the server to take all and to close: at a terminal as short as can be."""
        timing = self._options.timing
        idle = timing.farewell if self._source.is_terminal else timing.idle
        while not printer.done() and (patience := self._connection.patience(idle)) > 0:
            await asyncio.wait({printer}, timeout=patience)

    def _judge(self) -> None:
        """Raise what has to be told of how it ended, if anything."""
        connection = self._connection
        if self._problem is not None:
            raise self._problem
        if connection.end is End.LOST and not (self._is_leaving and self._source.is_terminal):
            raise ConnectionEnded(f"The connection to {connection.address} was lost: {connection.reason}.")
        if connection.end is End.CLOSED and (not self._is_leaving or connection.has_unsent):
            raise ServerClosed("The server closed the connection.")
        if connection.end is None and connection.has_unsent:
            raise Stalled(f"{connection.address} does not read what is sent.")
        if self._refused and not self._source.is_terminal:
            raise LineRefused(f"The server refused something: {self._refused}")
