"""The conversation of a person at a terminal: one input line, connections after one another.

Owns the decision what is sent when, what is shown, and whether it is tried again. Promises that nothing typed is lost
in silence: a line is sent, or kept in the input line, or kept until the next connection, or named as not sent. A line
that was sent shortly before a connection was lost is named as perhaps lost.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from mpchat.client.errors import ClientError, ConnectionEnded, NameRefused, ServerClosed, Stalled
from mpchat.client.interrupts import Interrupted, Interrupts
from mpchat.client.net.connection import Connection, End, connect
from mpchat.client.net.dialogue import HELLO, QUESTION, Mode, Refusal
from mpchat.client.plain import Options
from mpchat.client.screen.completion import Offer, complete
from mpchat.client.screen.editor import Editor, Look
from mpchat.client.screen.outgoing import MAX_LINE, Paste, find_problem, read_limit, show_own
from mpchat.client.screen.painting import paint, tell
from mpchat.client.screen.reading import Kind, read_shown, speaks_to
from mpchat.client.screen.reconnecting import DOUBTFUL, Settings, describe_gap, pauses, rejoin
from mpchat.client.screen.roster import Roster
from mpchat.client.terminal import Output
from mpchat.client.typed import as_read, is_quit

EARLIER, NOW = "Earlier in #", "Now."
"""Notices around lines that were said before we came."""

RENAMED = "You are now called "
"""The notice that our name is another one now, because we wanted it."""


MOST_DOUBTFUL = 1000
"""How many of the lines that were sent last are remembered for the case that the connection is lost."""


MOST_NAMED = 20
"""How many lines that were not sent are named one by one."""


class Said(NamedTuple):
    """A line that was sent: when, and how many bytes of the connection were sent with it."""

    line: str
    at: float
    end: int


@dataclass(frozen=True, slots=True)
class Habits:
    """How a person likes it."""

    has_bell: bool = True
    has_time: bool = True
    reconnects: bool = True


async def converse_on_screen(options: Options, habits: Habits, look: Look, source: int, output: Output) -> None:
    """Connect, chat, leave. Returns when we left as wanted; raises ClientError when it did not go well.

    `source` is the descriptor of the terminal. SIGTERM and the like leave, within `farewell` seconds.
    """
    interrupts = Interrupts()
    try:
        connection = await interrupts.race(connect(options.address, timing=options.timing, segments=options.segments))
    except Interrupted:
        return
    chat = Chat(connection, options, habits, look, source, output)
    await chat.run(interrupts)


class Chat:
    """What the person types goes through here to the server, and what the server says to the screen."""

    def __init__(
        self, connection: Connection, options: Options, habits: Habits, look: Look, source: int, output: Output
    ) -> None:
        self._connection: Connection | None = connection
        self._options = options
        self._habits = habits
        self._editor = Editor(self, source, output, look)
        self._roster = Roster()
        self._settings = Settings()
        self._name = options.name
        self._max_line = MAX_LINE
        self._queue: deque[str] = deque()
        self._said: deque[Said] = deque(maxlen=MOST_DOUBTFUL)
        self._has_more = asyncio.Event()
        self._leaving = asyncio.Event()
        self._greeted = asyncio.Event()
        self._named: asyncio.Future[str] | None = None
        self._is_on = False
        self._is_earlier = False
        self._wanted_rooms: tuple[list[str], str] = ([], "")
        self._lost_at = ""
        self._pauses = pauses()
        self._state = "connecting"
        self._stall: Stalled | None = None
        self._problem: ClientError | None = None

    async def run(self, interrupts: Interrupts) -> None:
        """Until the person leaves, or the connection is over for good. Raises ClientError."""
        editing = asyncio.create_task(self._editor.run())
        talking = asyncio.create_task(self._talk())
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            try:
                await interrupts.race(asyncio.wait({editing, talking, leaving}, return_when=asyncio.FIRST_COMPLETED))
            except Interrupted:
                self.leave()
            if not talking.done():
                await self._say_goodbye(talking, interrupts)
            self._tell_unsent()
        finally:
            self._editor.stop()
            for task in (talking, leaving):
                task.cancel()
            await asyncio.gather(talking, leaving, return_exceptions=True)
            if self._connection is not None:
                self._connection.abort()
            await asyncio.gather(editing, return_exceptions=True)
        for task in (editing, talking):
            if not task.cancelled():
                task.result()
        if self._problem is not None:
            raise self._problem

    async def _say_goodbye(self, talking: "asyncio.Task[None]", interrupts: Interrupts) -> None:
        """Leave, and show what still comes; `farewell` seconds at most."""
        self._leaving.set()
        if self._connection is None:
            return
        self._connection.quit()
        try:
            await interrupts.race(asyncio.wait({talking}, timeout=self._options.timing.farewell))
        except Interrupted:
            return

    def _tell_unsent(self) -> None:
        """Name what was typed and does not go out any more."""
        self._tell_not_sent(tuple(self._queue))
        if self._editor.text.strip():
            self._tell(f"Not sent: {self._editor.text}")

    # -- what the person does (editor.Listener) -------------------------------------------------------------

    def enter(self, text: str) -> bool:
        text = as_read(text)
        if is_quit(text):
            if self._is_on and not (self._connection and self._connection.mode is Mode.SEGMENTS):
                self._queue.append(text)
                self._has_more.set()
            else:
                self.leave()
            return True
        if not text.strip():
            return True
        if self._named is not None:
            if not self._named.done():
                self._named.set_result(text)
            return True
        if not self._is_on:
            self._tell("Not connected. The line was not sent.", is_error=True)
            return False
        return self._send_all((text,))

    def paste(self, paste: Paste) -> None:
        if not self._is_on:
            self._tell(f"Not connected. {len(paste.lines)} lines were not sent.", is_error=True)
            return

        def answer(is_yes: bool) -> None:
            if not is_yes:
                self._tell(f"{len(paste.lines)} lines were not sent.")
            elif not self._is_on:
                self._tell(f"Not connected. {len(paste.lines)} lines were not sent.", is_error=True)
            elif self._send_all(paste.to_send):
                self._editor.clear()

        self._editor.ask(paste.question, answer)

    def leave(self) -> None:
        self._leaving.set()

    def complete(self, before: str) -> Offer:
        return complete(before, self._roster)

    def describe(self) -> str:
        who = f"{self._roster.me} at {self._options.address}" if self._roster.me else str(self._options.address)
        return f"{self._roster.describe() or self._state}  {who}"

    # -- connections, after one another ---------------------------------------------------------------------

    async def _talk(self) -> None:
        """Until we leave, or it is over for good."""
        while self._connection is not None:
            await self._converse(self._connection)
            if self._leaving.is_set():
                return
            problem = self._judge(self._connection)
            doubtful = self._list_doubtful(self._connection)
            self._connection.abort()
            self._connection = None
            if not self._habits.reconnects or not (self._roster.me or self._lost_at):
                self._problem = problem
                return
            await self._reconnect(problem, doubtful)

    async def _converse(self, connection: Connection) -> None:
        """Show and send at the same time, until the connection has ended."""
        sender = asyncio.create_task(self._send(connection))
        shower = asyncio.create_task(self._show(connection))
        try:
            await asyncio.wait({sender, shower}, return_when=asyncio.FIRST_COMPLETED)
            if sender.done():
                sender.result()
            await shower
        finally:
            self._is_on = False
            sender.cancel()
            shower.cancel()
            await asyncio.gather(sender, shower, return_exceptions=True)

    async def _show(self, connection: Connection) -> None:
        """Show what comes, until the connection has ended."""
        async for event in connection:
            self._hear(event.text, is_refusal=isinstance(event, Refusal))
            if not connection.has_events:
                await self._editor.shown()

    def _judge(self, connection: Connection) -> ClientError:
        """Why the connection is over."""
        if self._stall is not None:
            stall, self._stall = self._stall, None
            return stall
        if connection.end is End.LOST:
            return ConnectionEnded(f"The connection to {connection.address} was lost: {connection.reason}.")
        return ServerClosed("The server closed the connection.")

    async def _reconnect(self, problem: ClientError, doubtful: list[str]) -> None:
        """Tell what has happened, and try until there is a connection again."""
        if not self._lost_at:
            self._lost_at = self._now()
            self._wanted_rooms = (list(self._roster.rooms), self._roster.current)
            self._tell(f"{problem} Trying again; what you type stays in the line.", is_error=True)
            for line in doubtful:
                self._tell(f"Perhaps not arrived: {line}", is_error=True)
        self._roster.forget_rooms()
        while self._connection is None:
            pause = next(self._pauses)
            self._state = f"not connected, trying again in {pause:g} s"
            self._editor.refresh()
            await asyncio.sleep(pause)
            self._state = "connecting"
            self._editor.refresh()
            try:
                self._connection = await connect(
                    self._options.address, timing=self._options.timing, segments=self._options.segments
                )
            except ClientError:
                continue  # the status line says that we try again

    def _list_doubtful(self, connection: Connection) -> list[str]:
        """The lines of this connection of which nobody can say whether they have arrived."""
        since = asyncio.get_running_loop().time() - DOUBTFUL
        safe = connection.written - connection.doubtful
        lines = [said.line for said in self._said if said.at >= since or said.end > safe]
        self._said.clear()
        return lines

    # -- what comes -----------------------------------------------------------------------------------------

    def _hear(self, line: str, *, is_refusal: bool) -> None:
        """Show a line of the server, and learn from it."""
        if line.startswith(QUESTION) and self._name is not None:
            return  # answered already
        reading = read_shown(line)
        self._roster.hear(reading)
        self._settings.hear(reading)
        if line.startswith(HELLO):
            self._greeted.set()
        if reading.kind is Kind.NOTICE and reading.text.startswith(RENAMED):
            self._name = self._roster.me
        if reading.kind is Kind.NOTICE:
            self._is_earlier = (self._is_earlier or reading.text.startswith(EARLIER)) and reading.text != NOW
        at = "" if self._is_earlier else self._now()
        self._editor.show(paint(line, self._roster.me, at, has_margin=self._habits.has_time))
        if self._habits.has_bell and not self._is_earlier and speaks_to(reading, self._roster.me):
            self._editor.ring()
        if reading.kind is Kind.ERROR and not is_refusal:
            self._max_line = read_limit(reading.text) or self._max_line
        if self._roster.gone and self._roster.gone == self._name != self._roster.me and self._is_on:
            self._queue_line(f"/nick {self._name}")  # the session that we lost is over: the name is free again

    # -- what goes ------------------------------------------------------------------------------------------

    def _send_all(self, lines: tuple[str, ...]) -> bool:
        """Queue lines, unless the server would not take one of them."""
        if problem := find_problem(lines, self._max_line):
            self._tell(problem, is_error=True)
            return False
        for line in lines:
            self._queue_line(line)
        return True

    def _queue_line(self, line: str) -> None:
        self._queue.append(line)
        self._has_more.set()

    async def _send(self, connection: Connection) -> None:
        """Give a name, go back to the rooms, and send what is typed, until the connection ends."""
        try:
            await self._sign_on(connection)
            if connection.is_mpchat:
                await self._greeted.wait()  # it has come; now it has been heard as well
            for line in self._restore():
                await connection.say(line)
            self._is_on = True
            self._offer_unsent()
            while True:
                await self._send_next(connection)
        except Stalled as error:
            self._stall = error
            connection.abort()
        except ConnectionEnded:
            return

    async def _send_next(self, connection: Connection) -> None:
        while not self._queue:
            self._has_more.clear()
            await self._has_more.wait()
        line = self._queue[0]
        await connection.say(line)
        self._queue.popleft()
        self._said.append(Said(line, asyncio.get_running_loop().time(), connection.written))
        if own := show_own(line, self._roster.me or self._name or ""):
            self._editor.show(paint(own, self._roster.me, self._now(), has_margin=self._habits.has_time))
        if is_quit(line):
            self.leave()
            connection.half_close()

    async def _sign_on(self, connection: Connection) -> None:
        self._greeted.clear()
        await connection.wait_greeting()
        while True:
            if self._name is None:
                self._name = await self._ask_name()
            try:
                await connection.claim(self._name)
                break
            except NameRefused:
                self._name = None
        self._pauses = pauses()
        self._editor.prompt = "> "
        self._state = "connected"
        if not self._roster.me:  # a server that does not say hello as mpchat does
            self._roster.me = self._name
        if self._lost_at:
            gap = describe_gap(self._lost_at, self._now())
            self._editor.show(paint(gap, "", "", has_margin=self._habits.has_time))
            self._lost_at = ""

    async def _ask_name(self) -> str:
        self._editor.prompt = "Name: "
        self._editor.refresh()
        self._named = asyncio.get_running_loop().create_future()
        try:
            return await self._named
        finally:
            self._named = None

    def _restore(self) -> list[str]:
        """The commands that make the new session like the one that was lost."""
        rooms, current = self._wanted_rooms
        self._wanted_rooms = ([], "")
        return [*self._settings.list_commands(), *rejoin(rooms, current, self._roster.current)] if rooms else []

    def _offer_unsent(self) -> None:
        """Ask what to do with the lines that the last connection did not take."""
        unsent = tuple(self._queue)
        if not unsent:
            return
        self._queue.clear()

        def answer(is_yes: bool) -> None:
            if is_yes and self._is_on:
                self._send_all(unsent)
            else:
                self._tell_not_sent(unsent)

        count = f"{len(unsent)} lines" if len(unsent) > 1 else "the line"
        self._editor.ask(f"Send {count} that did not go out? y/n", answer)

    def _tell_not_sent(self, lines: tuple[str, ...]) -> None:
        for line in lines[:MOST_NAMED]:
            self._tell(f"Not sent: {line}", is_error=True)
        if len(lines) > MOST_NAMED:
            self._tell(f"Nor were {len(lines) - MOST_NAMED} lines behind these.", is_error=True)

    def _tell(self, text: str, *, is_error: bool = False) -> None:
        self._editor.show(tell(text, self._now(), is_error=is_error, has_margin=self._habits.has_time))

    def _now(self) -> str:
        return time.strftime("%H:%M")
