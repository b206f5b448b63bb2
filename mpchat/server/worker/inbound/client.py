"""One client of this worker: from the bytes it sends to entries in the log, and back to its connection.

Owns the client's framing, throttle and timers. Promises: what the client has sent is published in order, whole lines
only; over its rate it is read later, never dropped; when it ends its side, all that it sent is published first, then
its end. Never decides what comes of an entry: that comes back from the log, through the fan-out, as bytes to `send`.

Reading pauses while the client is over its rate, while the publisher is congested, and while the ring is full. Then the
client's own full window holds it up; here waits at most one ring.

A client can be carried on by another worker when this one dies, so it leaves in its page of the ledger what that one
needs: input stays in the ring until the log has applied it, and `mark` says now and then how far its output was
written.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mpchat.chat.entries import Ended, Input, Opened, SessionId, Skipped, make_input
from mpchat.chat.state.throttle import Throttle
from mpchat.config import Config
from mpchat.server.control import Handed
from mpchat.server.ledger import SMALL, Mark, Page
from mpchat.server.worker.inbound.connection import Connection
from mpchat.server.worker.inbound.publisher import Publisher
from mpchat.server.worker.outage import encode_notice
from mpchat.wire.dialect import Dialect
from mpchat.wire.framing import Frame

log = logging.getLogger(__name__)


class Host(Protocol):
    """What a client needs of its worker. The roster is one."""

    loop: asyncio.AbstractEventLoop
    config: Config
    dialects: Mapping[str, Dialect]
    publisher: Publisher

    def applied_position(self, sid: SessionId) -> int:
        """Return how far the log has applied the session's input; 0 while it does not know the session."""

    def drain_when_applied(self, client: "Client") -> None:
        """Call the client's `drain` when more of the log has been applied."""

    def drain_when_uncongested(self, client: "Client") -> None:
        """Call the client's `drain` when the publisher is not congested any more."""

    def expect_name(self, client: "Client") -> None:
        """Call the client's `expire_sign_on` if it does not sign on in time."""

    def closed(self, client: "Client") -> None:
        """Take note that the client's connection is closed."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where to carry on with a client: positions in its two streams, and the framing's mode (see `Framing.modes`)."""

    input: int = 0
    output: int = 0
    mode: str = ""


class Client:
    """A `connection.Receiver` and a `fanout.Sink`. Call `open` or `carry_on` first."""

    __slots__ = (
        "_bulky", "_connection", "_dialect", "_framing", "_handed", "_host", "_input_end", "_next_mark", "_output",
        "_page", "_parting", "_published", "_quiesced", "_received", "_throttle", "_timers",
    )  # fmt: skip

    def __init__(self, host: Host, handed: Handed, sock: socket.socket, page: Page, start: Start) -> None:
        config, now = host.config, host.loop.time()
        self._host = host
        self._handed = handed
        self._page = page
        self._dialect = host.dialects[handed.dialect]
        self._framing = self._dialect.framing(start.input, start.mode)
        self._throttle = Throttle(config.rate, config.burst, now)
        self._connection = Connection(host.loop, sock, self, config.sendq)
        self._received = self._published = start.input
        self._output = start.output  # of the whole session, with what waits to be sent
        self._next_mark: Mark | None = None
        self._quiesced = False
        self._bulky = False  # it sends much at a time
        self._input_end: str | None = None  # why nothing more comes, once that is so
        self._parting: str | None = None  # the reason of its end, once that is published
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        host.expect_name(self)

    @property
    def sid(self) -> SessionId:
        return self._handed.sid

    @property
    def dialect(self) -> Dialect:
        return self._dialect

    def open(self) -> None:
        """The client is new: tell the log, and listen."""
        handed = self._handed
        self._host.publisher.add([Opened(handed.sid, handed.address, handed.epoch, handed.dialect)])
        self._connection.resume_reading()

    def carry_on(self, unsent: bytes, unapplied: bytes) -> None:
        """Another worker had the client: send what that one did not, and take up what it had received."""
        if unsent:
            # It is counted in the output position already.
            self._connection.send_carried(unsent)
        if unapplied:
            self._take(unapplied)
        else:
            self.drain()

    def mute(self, reset: bool) -> None:
        """The connection broke (`reset`), or can only be read any more, while nobody had it: hear the last of it."""
        self._connection.mute(reset)

    def lose(self, reason: str) -> None:
        """The client cannot be carried on with: its output would have a gap."""
        self._part(reason)
        self._connection.abort()

    # --- what the connection tells

    def room(self) -> memoryview:
        applied = self._host.applied_position(self.sid)
        if applied == self._received:
            self._page.rebase(applied, small=not self._bulky)
        room = self._page.room(applied, self._received)
        if not room:
            self._connection.pause_reading()
            self._host.drain_when_applied(self)
        return room

    def received(self, data: memoryview) -> None:
        self._bulky = len(data) >= SMALL
        self._take(data)

    def ended(self, reset: bool) -> None:
        try:
            if not reset:
                self._framing.receive_eof()
            self._input_end = "connection lost" if reset else ""
            self._drain()
        except Exception:  # noqa: BLE001 - see _take()
            self._fail()

    def overflowed(self) -> None:
        log.warning("session %s: send queue exceeded", self.sid.hex())
        self._part("send queue exceeded")

    def closed(self) -> None:
        self._cancel_timers()
        self._part("connection lost")
        self._host.closed(self)

    # --- what the fan-out tells

    def send(self, block: bytes) -> None:
        self._output += len(block)
        self._connection.send(block)

    def finish(self) -> None:
        self._cancel_timers()
        self._parting = self._parting or ""
        self._connection.finish()

    # --- what the worker tells

    def drain(self) -> None:
        """Publish what the client has sent, as far as its rate and the publisher allow."""
        try:
            self._drain()
        except Exception:  # noqa: BLE001 - see _take()
            self._fail()

    def expire_sign_on(self) -> None:
        """It has not answered the question for its name in time."""
        self._part(f"no name within {self._host.config.sign_on_timeout:g} s")

    def quiesce(self) -> None:
        """Publish all that was received, whatever the rate, and read no more."""
        self._quiesced = True
        self._connection.pause_reading()
        self.drain()

    def release(self, seq: int) -> None:
        """Let go of the client: what records up to `seq` gave it has been handed to `send`, and what it sent and was
        published has been applied. Its page says all that who has it next needs to know."""
        self._cancel_timers()
        self._page.release(seq, self._output, self._connection.release())

    def mark(self, seq: int) -> bool:
        """What records up to `seq` gave the client has been handed to `send`: say so in its page, if it is written.

        False when some of it waits; then the page says as much as is true, and that the client is behind.
        """
        written = self._output - self._connection.queued
        if written == self._output:
            self._page.write_mark(Mark(seq, self._output))
            self._page.behind = False
            self._next_mark = None
            return True
        self._page.behind = True
        if self._next_mark is not None and self._next_mark.position <= written:
            self._page.write_mark(self._next_mark)
            self._next_mark = None
        if self._next_mark is None:
            self._next_mark = Mark(seq, self._output)
        return False

    def notify(self, seq: int) -> bool:
        """Send the client the notice of an outage, which is not in the log, behind what records up to `seq` gave it. As
        `mark`, say whether its page has a mark behind all of that.

        Not sent: to whom nothing can be sent any more; what would overflow the send queue; and a second notice while a
        mark behind the first one waits to be written, since then the client does not read what it is sent.
        """
        notice = encode_notice(self._dialect)
        if self._connection.spare < len(notice):
            return True
        # Fresh, since the worker's mark for all will not hold for the client until it has one behind the notice.
        marked = self.mark(seq)
        if self._page.read_notice() is not None:
            return marked
        self._page.write_notice(self._output)
        self.send(notice)
        return self.mark(seq)

    # --- inside

    def _take(self, data: memoryview | bytes) -> None:
        try:
            self._received += len(data)
            self._page.received = self._received
            self._framing.receive(data, self._host.loop.time())
            self._drain()
        except Exception:  # noqa: BLE001 - a fault of ours that one client's bytes bring out may cost that client only
            self._fail()

    def _drain(self) -> None:
        if self._parting is not None:
            return
        if self._host.publisher.congested and not self._quiesced:
            self._connection.pause_reading()
            self._host.drain_when_uncongested(self)
            return
        now = self._host.loop.time()
        allowance = Throttle.UNLIMITED if self._quiesced else self._throttle.allowance(now)
        taken = self._publish(allowance)
        if taken >= allowance:
            self._connection.pause_reading()
            self._set_timer(self.drain, self._throttle.ready_at(now))
        elif self._input_end is not None:
            self._part(self._input_end)
        else:
            self._await_more()

    def _publish(self, allowance: int) -> int:
        """Publish at most `allowance` of the messages that are complete; give how many."""
        frames = self._framing.take(allowance)
        if frames and not self._quiesced:
            self._throttle.spend(len(frames))
        entries = self._read(frames)
        if entries:
            self._host.publisher.add(entries)
        return len(frames)

    def _read(self, frames: list[Frame]) -> list[Input]:
        """The entries of `frames`; and one for what was skipped, when the ring would fill up with it."""
        epoch = self._handed.epoch
        within, last = self._framing.modes
        entries: list[Input] = []
        for end, request in self._dialect.read(frames):
            mode = last if end == frames[-1][0] else within
            entries.append(make_input(self.sid, end, request, epoch, mode))
        if entries:
            self._published = entries[-1].end
        position = self._framing.position
        if position - self._published >= self._page.size // 4:
            entries.append(Skipped(self.sid, position, epoch, last))
            self._published = position
        return entries

    def _await_more(self) -> None:
        if self._quiesced:
            return
        self._connection.resume_reading()
        if self._framing.deadline is not None:
            self._set_timer(self._wake, self._framing.deadline)

    def _wake(self) -> None:
        try:
            deadline = self._framing.deadline
            if deadline is not None:
                # A timer may fire a clock tick early.
                self._framing.wake(max(deadline, self._host.loop.time()))
            self._drain()
        except Exception:  # noqa: BLE001 - see _take()
            self._fail()

    def _part(self, reason: str) -> None:
        """Say in the log that the session ends. Its connection ends when that has come back, or has already."""
        if self._parting is None:
            self._parting = reason
            # Nothing that still comes counts, so it need not wait here either.
            self._connection.pause_reading()
            self._host.publisher.add([Ended(self.sid, reason, self._handed.epoch)])

    def _fail(self) -> None:
        log.exception("session %s: a fault of ours ends it", self.sid.hex())
        self._part("internal error")

    def _set_timer(self, callback: Callable[[], None], when: float) -> None:
        timer = self._timers.get(callback)
        if timer is not None:
            timer.cancel()
        self._timers[callback] = self._host.loop.call_at(when, callback)

    def _cancel_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
