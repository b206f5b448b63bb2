"""A connection to a chat server: the asynchronous core under every client.

Owns the socket, the timers of the dialogue and the bounds of what waits in either direction. Reading goes on while
writing waits, so a server that sends before it reads again cannot stop us for ever; only a consumer that does not
take its events stops the reading. Whatever the server sends is data: no input from it raises here.

    connection = await connect(Address("127.0.0.1", 4000))
    await connection.claim("alice")
    await connection.say("hello")
    async for event in connection: ...      # one consumer; ends when the connection does
    connection.end                          # how
"""

import asyncio
import enum
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import cast

from mpchat.client.errors import ConnectFailed, ConnectionEnded, NameRefused, Stalled
from mpchat.client.net.acknowledgement import count_acknowledged
from mpchat.client.net.address import Address
from mpchat.client.net.dialing import dial
from mpchat.client.net.dialogue import Dialogue, Event, Mode, Phase
from mpchat.client.timing import Timing

MAX_EVENTS = 1000
"""Events that may wait for the consumer before the socket is left unread. What one read of asyncio brings (256 KiB)
comes on top."""

SEND_QUEUE = 64 * 1024
"""Bytes that may wait for the socket before say() waits: as much as a server reads at once."""

LAST_READS, LAST_READ = 32, 256 * 1024
"""How often, and how many bytes at a time, a lost connection is read at most: together more than the kernel holds
(6 MiB, tcp_rmem in tcp(7))."""


class End(enum.Enum):
    """How a connection ended."""

    CLOSED = enum.auto()  # in an orderly way: the server closed, or we did
    LOST = enum.auto()


class Connection(asyncio.Protocol, AsyncIterator[Event]):
    """An open connection; made by `connect`. Belongs to the event loop in which it was made."""

    def __init__(self, address: Address, sock: socket.socket, *, timing: Timing, segments: bool, earlier: bool) -> None:
        self.address = address
        self.end: End | None = None
        self.reason = ""
        """What the system says of a connection that was lost."""
        self._loop = asyncio.get_running_loop()
        self._timing = timing
        self._dialogue = Dialogue(timing, segments=segments, now=self._loop.time(), earlier=earlier)
        self._sock = sock
        self._transport: asyncio.Transport | None = None
        self._events: deque[Event] = deque()
        self._stirred = asyncio.Event()
        self._turn = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._is_full = False
        self._moved_at = self._loop.time()
        self._unsent = 0
        self._has_cut_off = False
        self._written = 0
        self.doubtful = 0
        """Of the bytes that were sent last, how many the server's system had not acknowledged at the end."""
        self._is_half_closing = False
        self._caught_up_at = self._loop.time()

    # -- what a client does ---------------------------------------------------------------------------------

    async def wait_greeting(self) -> bool:
        """Wait until it is time for a name; whether the server has asked for it. Raises ConnectionEnded."""
        await self._until(lambda: self._dialogue.phase is not Phase.GREETING)
        return self._dialogue.greeted

    async def claim(self, name: str) -> None:
        """Give the name and wait until it is accepted, as far as this server says so.

        Raises NameRefused (then claim another), ConnectionEnded.
        """
        async with self._turn:
            await self._until(lambda: self._dialogue.phase is Phase.NAME)
            await self._send(self._dialogue.claim(name, self._loop.time()), self._timing.name_gap)
            self._settle()
            await self._until(lambda: self._dialogue.phase is not Phase.CLAIM)
        if self._dialogue.phase is Phase.NAME:
            raise NameRefused(self._dialogue.refusal)

    async def say(self, text: str) -> None:
        """Send one line, after those before it; waits for the name to be accepted and for room in the send queue.

        Raises ConnectionEnded, Stalled.
        """
        async with self._turn:
            await self._until(lambda: self._dialogue.phase is Phase.READY)
            await self._send(self._dialogue.say(text), self._timing.segment_gap)

    def half_close(self) -> None:
        """Nothing more will be said: the server sees the end after all that was. What comes still comes."""
        if self.end is None and not self._wire.is_closing():
            self._is_half_closing = True
            self._wire.set_write_buffer_limits(high=0)  # resume_writing() then means that all has been sent
            if not self._is_full:
                self._shut_down()

    def quit(self) -> None:
        """Leave, politely where the server understands it, without waiting."""
        if self.end is None and not self._wire.is_closing() and not self._is_half_closing:
            self._wire.write(self._dialogue.quit())
            self.half_close()

    def abort(self) -> None:
        """Let go of the socket at once. What the kernel has not yet sent, it still tries to send."""
        self._wire.abort()

    @property
    def mode(self) -> Mode:
        """How messages are ended; settled when the name is claimed."""
        return self._dialogue.mode

    @property
    def is_mpchat(self) -> bool:
        """Whether the server is known to be mpchat, with its commands."""
        return self._dialogue.is_mpchat

    @property
    def taken(self) -> str:
        """The name that was claimed last, if somebody else had it and the server gave us another; else empty."""
        return self._dialogue.taken

    @property
    def has_events(self) -> bool:
        """Whether the next event is there already."""
        return bool(self._events)

    @property
    def written(self) -> int:
        """Bytes that were sent so far, as far as we are concerned."""
        return self._written

    @property
    def has_unsent(self) -> bool:
        """Whether something said has not even reached the kernel, or had not when the server closed."""
        return self._has_cut_off or self._wire.get_write_buffer_size() > 0

    def patience(self, idle: float) -> float:
        """Seconds to go on waiting for this server: until nothing has moved for `idle` s and it must have caught up."""
        now = self._loop.time()
        unsent = self._wire.get_write_buffer_size()
        if unsent < self._unsent or self._events:  # events that wait are our consumer's slowness, not the server's
            self._moved_at = now
        self._unsent = unsent
        return max(self._moved_at, self._caught_up_at) + idle - now

    async def __anext__(self) -> Event:
        while not self._events:
            if self.end is not None:
                raise StopAsyncIteration
            await self._stir()
        event = self._events.popleft()
        if not self._events:
            self._wire.resume_reading()
        return event

    # -- what asyncio calls ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio sets TCP_NODELAY itself, which segments need: each must go out alone, and at once.
        self._transport = cast(asyncio.Transport, transport)
        self._settle()

    def data_received(self, data: bytes) -> None:
        self._moved_at = self._loop.time()
        self._dialogue.receive(data, self._moved_at)
        self._settle()

    def eof_received(self) -> None:
        self._has_cut_off = self.has_unsent
        self._finish(End.CLOSED)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self.end is None:
            self._read_last_words()
            self.reason = getattr(exc, "strerror", None) or str(exc)
        self._finish(End.LOST if exc else End.CLOSED)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if self._is_half_closing:
            self._shut_down()
        self._stirred.set()

    # -- inside ---------------------------------------------------------------------------------------------

    @property
    def _wire(self) -> asyncio.Transport:
        assert self._transport is not None, "made by connect(), which waits for it"
        return self._transport

    async def _send(self, data: bytes, gap: float) -> None:
        """Write; in segment mode wait until it has left and the gap is over, so that the next one stays apart."""
        if self.end is not None or self._wire.is_closing() or self._is_half_closing:
            raise ConnectionEnded(f"The connection to {self.address} is over.")
        if not data:
            return
        is_segment = self._dialogue.mode is Mode.SEGMENTS
        self._wire.set_write_buffer_limits(high=0 if is_segment else SEND_QUEUE)
        self._wire.write(data)
        self._written += len(data)
        if not is_segment:
            self._caught_up_at = max(self._caught_up_at, self._loop.time()) + self._timing.line
        await self._until_room()
        if is_segment:
            await asyncio.sleep(gap)

    async def _until_room(self) -> None:
        while self._is_full and self.end is None:
            patience = self.patience(self._timing.idle)
            if patience <= 0:
                raise Stalled(f"{self.address} does not read what is sent.")
            try:
                async with asyncio.timeout(patience):
                    await self._stir()
            except TimeoutError:
                pass  # the patience may have grown meanwhile: look again

    async def _until(self, is_time: Callable[[], bool]) -> None:
        while not is_time():
            if self.end is not None:
                raise ConnectionEnded(f"The connection to {self.address} is over.")
            await self._stir()

    async def _stir(self) -> None:
        """Wait until something changes. Everybody who waits here is woken and looks for himself."""
        self._stirred.clear()
        await self._stirred.wait()

    def _shut_down(self) -> None:
        # Not transport.write_eof(): it raises when the server has just reset the connection, or later logs a traceback.
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:  # reset: the next read of asyncio tells how
            return

    def _settle(self) -> None:
        """After every turn of the dialogue: hand on its events, set its timer, wake who waits."""
        self._events += self._dialogue.take_events()
        if len(self._events) >= MAX_EVENTS:
            self._wire.pause_reading()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._dialogue.deadline is not None and self.end is None:
            self._timer = self._loop.call_at(self._dialogue.deadline, self._wake)
        self._stirred.set()

    def _wake(self) -> None:
        # call_at may be early by the resolution of the clock; a wake that comes too early only sets the timer again.
        self._dialogue.wake(self._loop.time())
        self._settle()

    def _finish(self, end: End) -> None:
        if self.end is None:
            self.end = end
            self.doubtful = self._written - count_acknowledged(self._sock, self._written)
            self._dialogue.receive_eof()
            self._settle()

    def _read_last_words(self) -> None:
        """What had come when a write failed: asyncio stops reading then, and it may hold the server's reason."""
        try:
            for _ in range(LAST_READS):
                if data := self._sock.recv(LAST_READ):
                    self._dialogue.receive(data, self._loop.time())
                else:
                    return
        except OSError:  # nothing more (it does not block), or the error that we know already
            return


async def connect(
    address: Address, *, timing: Timing | None = None, segments: bool = False, is_bulk: bool = False
) -> Connection:
    """Connect to the first of the host's addresses that answers. Raises ConnectFailed.

    `is_bulk`: more will be sent than a server that throttles has room for. Then it may have no room for longer than
    `silence`, and a network that has vanished is noticed as late as the system does. An mpchat server is asked not to
    show what was said earlier.
    """
    timing = timing or Timing()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timing.connect):
            sock = await dial(address, loop.time() + timing.connect, None if is_bulk else timing.silence)
    except TimeoutError:
        raise ConnectFailed(f"No answer from {address} within {timing.connect:g} s.") from None
    try:
        connection = Connection(address, sock, timing=timing, segments=segments, earlier=not is_bulk)
        await loop.create_connection(lambda: connection, sock=sock)
    except OSError as error:  # reset between connect() and here: macOS says so by EINVAL
        sock.close()
        raise ConnectFailed(f"Cannot connect to {address}: {error.strerror}.") from error
    return connection
