"""The reading end of a worker: it reads the log and applies it to the worker's replica, in order and in slices.

Owns the reading link, and the replica's position in the log. Promises to apply the entries in the order of the log,
each once, with no gap; and to let the loop do other things between two slices. If the sequencer is lost, the records
that were read are applied, and reading goes on from there over the next link to the same log. Never decides what
becomes of an entry, and never sends anything.

    IDLE --connect--> ASKING --answer--> APPLYING --all applied--> RESTING --> ASKING
      ^                  |                   |
      +---- lost --------+     holding at a record: nothing more is applied, and `on_held` is called
                               capturing, between two records: nothing is applied until the state is copied

After a reading it rests, for as long as `on_applied` says. All that comes meanwhile is read together.
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
"""Seconds that a read waits in the sequencer for the next record."""

FLUSH_SOON = 64 << 10
"""A slice ends when about this many bytes wait for the flush; else the output of one reading could fill the memory.
A fraction of the smallest useful send queue."""

SLICE = 0.05
"""Seconds of a slice. Applying a long reading may take long, but beats, clients and main may not wait for it."""


class _Stage(enum.Enum):
    IDLE = enum.auto()
    ASKING = enum.auto()
    APPLYING = enum.auto()
    RESTING = enum.auto()


class Reader:
    """The reading end of one worker.

    `on_applied` is called after each slice, and returns for how many seconds to rest, which counts after the last slice
    of a reading. `fail` is called with the error that makes it impossible to go on; after LogLost, `connect` helps.
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
        """Whether exactly the log up to `position` is applied, and no part of the next record."""
        self.applied_entries = 0
        """How many entries of whole records this reader has applied."""
        self.applied_bytes = 0
        """How many bytes of payload this reader has applied."""
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
        """Close the link. What was read is still applied."""
        if self._caller is not None:
            self._caller.close()
            self._caller = None
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._stage is not _Stage.APPLYING:
            self._stage = _Stage.IDLE

    def catch_up(self, link: LogLink) -> None:
        """Read the log to its end and wait for the answers, before there are any clients. Raises LogLost."""
        while True:
            link.call("read", self.position, 0.0)
            records = link.receive()
            if not records:
                return
            for _ in self._apply(records):
                pass

    def hold(self, seq: int, on_held: Callable[[], None]) -> None:
        """Apply no record after `seq`, and call `on_held` when the replica is there, or if it is further already.

        A `seq` of 0 holds at the end of the record that is being applied.
        """
        self._hold_at, self._on_held = seq, on_held
        self._check_hold()

    def capture(self, then: Callable[[int, Capture], None]) -> None:
        """Copy the state between two records, as soon as possible, and call `then` with the number of the first of them
        and the copy. One capture at a time."""
        if self._on_captured is not None:
            raise ValueError("a capture is under way")
        self._on_captured = then
        self._plan_capturing()

    @property
    def capturing(self) -> bool:
        """Whether a capture is under way or waits to begin."""
        return self._on_captured is not None

    def _plan_capturing(self) -> None:
        # While records are applied, `_go_on` looks for it between two slices.
        if self._on_captured is not None and self._stage is not _Stage.APPLYING:
            self._loop.call_soon(self._guarded(self._go_on_capturing))

    def _go_on_capturing(self) -> None:
        """Copy for a slice, if a capture is wanted and this is between two records."""
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
        """Apply a slice of what was read, and report it. When all of it is applied, ask for the next records."""
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
        """Apply for a slice, and return whether there is more."""
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
