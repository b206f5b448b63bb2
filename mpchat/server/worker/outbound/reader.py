"""The way out of the log: what has come is applied to the replica of one worker, in order, in slices.

Owns the reading link, and the replica's place in the log. Promises: entries are applied in the order of the log, each
once, with no gap; between two slices the loop can do other things; when the sequencer is lost, what was read is
applied, and reading goes on from there as soon as there is another link to the same log. Never decides what comes of an
entry, and never sends anything.

    IDLE --connect--> ASKING --answer--> APPLYING --all applied--> RESTING --> ASKING
      ^                  |                   |
      +---- lost --------+     holding at a record: nothing more is applied, and `on_held` is told
                               capturing, between two records: nothing is applied until the state is copied

It rests as whoever applies says: what comes meanwhile comes in one reading, and is flushed at once.
"""

import asyncio
import enum
import time
from collections.abc import Callable, Iterator
from typing import Any

from mpchat.chat.entries import decode_entries
from mpchat.chat.events import Effect
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.snapshot import Capture
from mpchat.log.port import LogLink, LogLost, Record
from mpchat.server.worker.caller import Caller
from mpchat.server.worker.outbound.fanout import Fanout

READ_WAIT = 20.0
"""Seconds that a read waits in the sequencer when nothing comes."""

FLUSH_SOON = 64 << 10
"""When about so many bytes wait for the flush, a slice ends, or the answers to one reading could fill the memory. A
fraction of the smallest useful send queue."""

SLICE = 0.05
"""Seconds of applying before the worker looks around: a log full of what is dear to apply may take long, but beats,
clients and main may not wait for it."""


class _Stage(enum.Enum):
    IDLE = enum.auto()
    ASKING = enum.auto()
    APPLYING = enum.auto()
    RESTING = enum.auto()


class Reader:
    """The reading end of one worker.

    `on_applied` is called after each slice, and gives after the last one of a reading for how many seconds to rest;
    `fail` is called with what makes it impossible to go on (LogLost: until `connect`).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        replica: Replica,
        position: int,
        fanout: Fanout[Any],
        on_applied: Callable[[], float],
        fail: Callable[[Exception], None],
    ) -> None:
        self.position = position
        """The number of the last record that was applied whole."""
        self.between_records = True
        """Whether what is applied is the log up to `position`, and nothing more."""
        self.applied_entries = 0
        """How many entries this reader has applied, those of whole records."""
        self.applied_bytes = 0
        """How many bytes of payload it has applied."""
        self._loop = loop
        self._replica = replica
        self._fanout = fanout
        self._on_applied = on_applied
        self._fail = fail
        self._caller: Caller | None = None
        self._stage = _Stage.IDLE
        self._steps: Iterator[None] = iter(())
        self._rest: asyncio.TimerHandle | None = None
        self._hold_at: int | None = None
        self._on_held: Callable[[], None] | None = None
        self._capture: Capture | None = None  # under way
        self._on_captured: Callable[[int, Capture], None] | None = None

    def connect(self, link: LogLink) -> None:
        """Read from here on over `link`."""
        self.disconnect()
        self._caller = Caller(self._loop, link, self._guarded(self._answered))
        if self._stage is _Stage.IDLE:
            self._ask()

    def disconnect(self) -> None:
        """The link is of no use any more. What was read is still applied."""
        if self._caller is not None:
            self._caller.close()
            self._caller = None
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._stage is not _Stage.APPLYING:
            self._stage = _Stage.IDLE

    def catch_up(self, link: LogLink) -> None:
        """Read the log to its end, waiting for the answers: nobody is served yet. Raises LogLost."""
        while True:
            link.call("read", self.position, 0.0)
            records = link.receive()
            if not records:
                return
            for _ in self._apply(records):
                pass

    def hold(self, seq: int, on_held: Callable[[], None]) -> None:
        """Apply no record after `seq`; call `on_held` when the replica has come so far, or is further already. A `seq`
        of 0 holds at the end of the record at hand."""
        self._hold_at, self._on_held = seq, on_held
        self._check_hold()

    def capture(self, then: Callable[[int, Capture], None]) -> None:
        """Copy the state after a record, as soon as this is between two, and call `then` with the number of that
        record and the copy. One at a time."""
        if self._on_captured is not None:
            raise ValueError("a capture is under way")
        self._on_captured = then
        self._plan_capturing()

    @property
    def capturing(self) -> bool:
        """Whether there is a capture to be made, or under way."""
        return self._on_captured is not None

    def _plan_capturing(self) -> None:
        # Who applies looks for it between two slices.
        if self._on_captured is not None and self._stage is not _Stage.APPLYING:
            self._loop.call_soon(self._guarded(self._go_on_capturing))

    def _go_on_capturing(self) -> None:
        """Copy for a slice, if there is something to be copied."""
        if self._on_captured is None or not self.between_records:
            return
        if self._capture is None:
            self._capture = self._replica.capture()
        if self._capture.advance():
            (then, self._on_captured), (capture, self._capture) = (self._on_captured, None), (self._capture, None)
            then(self.position, capture)
        else:
            self._plan_capturing()

    def _ask(self) -> None:
        self._rest = None
        if self._caller is None or self._holding:
            self._stage = _Stage.IDLE
        else:
            self._stage = _Stage.ASKING
            self._caller.call("read", self.position, READ_WAIT)

    def _answered(self) -> None:
        assert self._caller is not None
        records = self._caller.receive()
        self._stage = _Stage.APPLYING
        self._steps = self._apply(records)
        self._go_on()

    def _go_on(self) -> None:
        """Apply a slice of what was read, and let the clients see it; when all is applied, ask for what follows."""
        if self._on_captured is not None and self.between_records:
            self._go_on_capturing()
            self._loop.call_soon(self._guarded(self._go_on))
            return
        more = self._apply_slice()
        rest = self._on_applied()
        if more:
            self._loop.call_soon(self._guarded(self._go_on))
        else:
            self._finish_reading(rest)
        self._check_hold()

    def _finish_reading(self, rest: float) -> None:
        if rest and self._caller is not None and not self._holding:
            self._stage = _Stage.RESTING
            self._rest = self._loop.call_later(rest, self._guarded(self._ask))
        else:
            self._ask()
        self._plan_capturing()

    def _apply_slice(self) -> bool:
        """Apply for a while; whether there is more."""
        until = time.monotonic() + SLICE
        return any(self._fanout.pending >= FLUSH_SOON or time.monotonic() >= until for _ in self._steps)

    def _apply(self, records: list[Record]) -> Iterator[None]:
        """Apply what was read, entry by entry."""
        apply, deliver = self._replica.apply, self._fanout.deliver
        for record in records:
            if self._holding:
                return
            entries = decode_entries(record.payload)
            if not entries:
                self.position = record.seq
            for number, entry in enumerate(entries, 1):
                effects: list[Effect] = apply(entry, record.time)
                if effects:
                    deliver(effects, record.time)
                self.between_records = number == len(entries)
                if self.between_records:
                    self.position = record.seq
                    self.applied_entries += number
                    self.applied_bytes += len(record.payload)
                yield

    @property
    def _holding(self) -> bool:
        return self._hold_at is not None and self.position >= self._hold_at

    def _check_hold(self) -> None:
        if self._on_held is not None and self._holding and self.between_records:
            on_held, self._on_held = self._on_held, None
            on_held()
        elif self._stage is _Stage.IDLE and not self._holding:
            self._ask()

    def _guarded(self, step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                step()
            except LogLost as error:
                self.disconnect()
                self._fail(error)
            except Exception as error:  # noqa: BLE001 - a replica in doubt must not go on; main replaces the worker
                self._fail(error)

        return run
