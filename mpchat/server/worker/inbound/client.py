"""One client of this worker: from the bytes it sends to entries in the log, and back to its connection.

Owns the client's framing, throttle and timers. Promises to publish what the client sends in order and in whole frames;
to tell a client that is over its rate so once, and to read it later; to drop nothing while the client is there, and
what would have to wait when it is gone; and to publish all that a client sent before it publishes the client's end.
Never decides what becomes of an entry: that comes back from the log, through the fan-out, as bytes to `send`.

Reading pauses while the client is over its rate, while the publisher is congested, and while the ring is full. The
client is then held up by its own full window, and at most one ring of its input waits here.

Another worker can carry the client on when this one dies. What that worker needs is in the client's page of the ledger:
input stays in the ring until the log has applied it, and `mark` notes now and then how far the output was written.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mpchat.chat.entries import (
    ENDING,
    KEEPING,
    WAITING,
    Ended,
    Entry,
    Noted,
    Opened,
    SessionId,
    Skipped,
    Slowed,
    make_input,
)
from mpchat.chat.state.throttle import Throttle
from mpchat.config import Config
from mpchat.server.control import Handed
from mpchat.server.kernel import Peer
from mpchat.server.ledger import SMALL, Mark, Page
from mpchat.server.worker.inbound.connection import Connection
from mpchat.server.worker.inbound.publisher import Publisher
from mpchat.server.worker.outage import encode_notice
from mpchat.wire.dialect import Dialect
from mpchat.wire.framing import Frame

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
"""Seconds between two looks whether a client is still there, at most, while what it sent waits for its rate."""


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
        """End the client's session if it does not sign on in time."""

    def closed(self, client: "Client") -> None:
        """Take note that the client's connection is closed."""

    def named(self, sid: SessionId, name: str) -> None:
        """Take note that the session has this name."""

    def left(self, sid: SessionId, name: str, reason: str) -> None:
        """Take note that the session is over, and why."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin with a client: positions in its two streams in bytes, the framing's mode (`Framing.modes`),
    position and manner of its last note (`Framing.take_note`), and how it keeps to its rate (`entries.PACES`)."""

    input: int = 0
    output: int = 0
    mode: str = ""
    noted: int = 0
    manner: str = ""
    pace: int = KEEPING


class Client:
    """A `connection.Receiver` and a `fanout.Sink`. Call `open` or `carry_on` first."""

    __slots__ = (
        "_bulky", "_connection", "_end_reason", "_framing", "_handed", "_host", "_input_end", "_name", "_next_mark",
        "_output", "_pace", "_page", "_published", "_quiesced", "_received", "_throttle", "_timers",
        "dialect", "sid",
    )  # fmt: skip

    def __init__(self, host: Host, handed: Handed, sock: socket.socket, page: Page, start: Start) -> None:
        config, now = host.config, host.loop.time()
        self.sid = handed.sid
        self.dialect = host.dialects[handed.dialect]
        self._host = host
        self._handed = handed
        self._page = page
        self._framing = self.dialect.framing(start.input, start.mode, start.noted, start.manner)
        self._throttle = Throttle(config.rate, config.burst, now)
        self._pace = start.pace
        if start.pace != KEEPING:
            # It had used up its burst with the worker before.
            self._throttle.spend(config.burst)
        self._connection = Connection(host.loop, sock, self, config.sendq)
        self._received = self._published = start.input
        self._output = start.output  # of the whole session, with what waits to be sent
        self._name = ""
        self._next_mark: Mark | None = None
        self._quiesced = False
        self._bulky = False  # whether it sends much at a time
        self._input_end: str | None = None  # why there is no more input, once there is none
        self._end_reason: str | None = None  # why the session ends, once that is published
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        host.expect_name(self)

    def open(self) -> None:
        """Begin to serve a new client: publish that it is here, and read it."""
        handed = self._handed
        self._host.publisher.add([Opened(handed.sid, handed.address, handed.epoch, handed.dialect)])
        self._connection.resume_reading()

    def carry_on(self, unsent: bytes, unapplied: bytes) -> None:
        """Go on with a client that another worker had: send `unsent`, parse `unapplied`, which that worker received."""
        if unsent:
            # The output position that this client was made with includes it.
            self._connection.send_carried(unsent)
        if unapplied:
            self._take(unapplied)
        else:
            self.drain()

    def mute(self, reset: bool) -> None:
        """Stop sending: while no worker had the connection, it broke (`reset`), or our side of it was closed."""
        self._connection.mute(reset)

    def lose(self, reason: str) -> None:
        """Disconnect a client that cannot be carried on, since its output would have a gap."""
        self.end_session(reason)
        self._connection.abort()

    # --- what the connection calls (connection.Receiver)

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
        log.warning("send queue exceeded name=%s session=%s", self._name or "-", self.sid.hex())
        self.end_session("send queue exceeded")

    def closed(self) -> None:
        self._cancel_timers()
        self.end_session("connection lost")
        # The end of the session comes too late for a client that is removed. If it has come, this is known already.
        self._host.left(self.sid, self._name, self._end_reason or "connection closed")
        self._host.closed(self)

    # --- what the fan-out calls (fanout.Sink)

    def named(self, name: str) -> None:
        if name != self._name:
            self._name = name
            self._host.named(self.sid, name)

    def left(self, name: str, reason: str) -> None:
        self._host.left(self.sid, name, reason)

    def send(self, block: bytes) -> None:
        self._output += len(block)
        self._connection.send(block)

    def finish(self) -> None:
        self._cancel_timers()
        self._end_reason = self._end_reason or ""
        self._connection.finish()

    # --- what the worker calls

    def drain(self) -> None:
        """Publish what the client has sent, as far as its rate and the publisher allow, and read on if they do."""
        try:
            self._drain()
        except Exception:  # noqa: BLE001 - see _take()
            self._fail()

    def end_session(self, reason: str) -> None:
        """Publish that the session ends. If its connection has not ended, it does when that comes back from the log."""
        if self._end_reason is None:
            self._end_reason = reason
            # The log ignores input that comes after this.
            self._connection.pause_reading()
            self._host.publisher.add([Ended(self.sid, reason, self._handed.epoch)])

    def quiesce(self) -> None:
        """Stop reading for good, and publish all that was received, whatever the rate."""
        self._quiesced = True
        self._connection.pause_reading()
        self.drain()

    def release(self, seq: int) -> None:
        """Let go of the client, and note in its page all that its next worker needs.

        All output of records up to `seq` must have been handed to `send`, and all published input must be applied.
        """
        self._cancel_timers()
        self._page.release(seq, self._output, self._connection.release())

    def mark(self, seq: int) -> bool:
        """Write a mark into the page: all output of records up to `seq`, which was handed to `send`, is written.

        Return False if some of it still waits. The page then has an older mark, and says that the client is behind.
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
        """Send the notice of an outage, which is not in the log, behind the output of records up to `seq`.

        Return, as `mark` does, whether the page has a mark behind all of that. The notice is not sent to a client that
        nothing can be sent to; not if it would overflow the send queue; and not while the mark behind an earlier notice
        is still to be written, since the client does not read then.
        """
        notice = encode_notice(self.dialect)
        if self._connection.spare < len(notice):
            return True
        # The worker's mark for all does not hold for the client until it has a mark behind the notice.
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
        except Exception:  # noqa: BLE001 - a bug that one client's bytes trigger may cost that client only
            self._fail()

    def _drain(self) -> None:
        if self._end_reason is not None:
            return
        if self._host.publisher.congested and not self._quiesced:
            self._connection.pause_reading()
            self._host.drain_when_uncongested(self)
            return
        now = self._host.loop.time()
        allowance = Throttle.UNLIMITED if self._quiesced else self._throttle.allowance(now)
        if self._pace != KEEPING and self._throttle.is_full(now):
            self._keep_pace(KEEPING)
        taken = self._publish(allowance)
        if taken >= allowance:
            self._await_rate(now)
        elif self._input_end is not None:
            self.end_session(self._input_end)
        elif not self._quiesced:
            self._connection.resume_reading()
            if self._framing.deadline is not None:
                self._set_timer(self._wake, self._framing.deadline)

    def _await_rate(self, now: float) -> None:
        """What the client has sent waits until its rate allows more; unless the client is gone."""
        self._connection.pause_reading()
        if self._received > self._framing.position:
            peer = self._connection.peer
            if peer is Peer.GONE:
                self.end_session("connection lost")
                return
            pace = ENDING if peer is Peer.ENDED else WAITING
            if pace > self._pace:
                # Told at once. Of a peer that has ended its side we learn so whether it is still there: if not, its
                # system answers with a reset.
                self._keep_pace(pace)
        self._set_timer(self.drain, min(self._throttle.ready_at(now), now + LOOK_AGAIN))

    def _keep_pace(self, pace: int) -> None:
        self._pace = pace
        rate = float(self._host.config.rate)
        self._host.publisher.add([Slowed(self.sid, self._framing.position, pace, rate, self._handed.epoch)])

    def _publish(self, allowance: int) -> int:
        """Publish up to `allowance` of the frames that are complete, and return how many. A note counts as one."""
        if allowance < 1:
            return 0
        frames = self._framing.take(allowance)
        entries = self._read(frames)
        taken = len(frames)
        note = self._framing.take_note()
        if note is not None:
            # In front: a successor that begins behind one of the frames could not make the note again.
            entries.insert(0, Noted(self.sid, *note, self._handed.epoch))
            taken = min(taken + 1, allowance)
        if taken and not self._quiesced:
            self._throttle.spend(taken)
        if entries:
            self._host.publisher.add(entries)
        return taken

    def _read(self, frames: list[Frame]) -> list[Entry]:
        """Return the entries for `frames`, and one for skipped input if that would otherwise fill the ring."""
        epoch = self._handed.epoch
        within, last = self._framing.modes
        entries: list[Entry] = []
        for end, request in self.dialect.read(frames):
            mode = last if end == frames[-1][0] else within
            entries.append(make_input(self.sid, end, request, epoch, mode))
            self._published = end
        position = self._framing.position
        if position - self._published >= self._page.size // 4:
            entries.append(Skipped(self.sid, position, epoch, last))
            self._published = position
        return entries

    def _wake(self) -> None:
        try:
            deadline = self._framing.deadline
            if deadline is not None:
                # A timer may fire a clock tick early.
                self._framing.wake(max(deadline, self._host.loop.time()))
            self._drain()
        except Exception:  # noqa: BLE001 - see _take()
            self._fail()

    def _fail(self) -> None:
        log.exception("session ended after an internal error name=%s session=%s", self._name or "-", self.sid.hex())
        self.end_session("internal error")

    def _set_timer(self, callback: Callable[[], None], when: float) -> None:
        timer = self._timers.get(callback)
        if timer is not None:
            timer.cancel()
        self._timers[callback] = self._host.loop.call_at(when, callback)

    def _cancel_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
