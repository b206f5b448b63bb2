"""The snapshots that one worker makes for the log.

Owns the snapshot that is on its way: the state is copied between two records (`Reader.capture`), and while the reader
goes on, it is encoded and sent piece by piece, one piece a turn of the loop.

    IDLE --want--> CAPTURING --copied--> SENDING --answer--> SENDING ... --put--> IDLE

Promises that a caller who wants a snapshot is told when the log has it or will not get it; that callers who want one
before it is begun share it; and that it is of the state after exactly one record. The log may refuse it. Then the log
keeps the snapshot before, and a worker that asks later makes the next one.

It also asks the log whether a snapshot is due (`Log.claim_snapshot`), and makes it if so. It asks each time CLAIM_EVERY
was applied, so a log that is written to and read is asked about in time. It also asks when the log is full: then
nothing more is applied, and the worker that holds the claim may be dead. Asking takes its turn on the errands' link, so
neither reading nor publishing waits for it.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from mpchat.chat.state.snapshot import Capture
from mpchat.log.port import PIECE, LogFull, LogTrimmed
from mpchat.server.worker.caller import Errands
from mpchat.server.worker.outbound.reader import Reader

log = logging.getLogger(__name__)

WORTH_ENTRIES = 1000
"""Take a snapshot when more entries than this would be replayed without it."""

BYTES_PER_ENTRY = 100
"""Bytes of a snapshot that are made and loaded in the time of replaying one entry: some 40 ns each, and 5 us
(scripts/stalls.py; short lines, long ones take less)."""

CLAIM_EVERY = 16 << 10
"""Bytes of payload to apply between two questions whether a snapshot is due. Far fewer than come between two snapshots
(`log.local.memory.SNAPSHOT_EVERY`), and so many that the question costs little in comparison."""


class Snapshots:
    """The snapshots of one worker. `on_done` is called when the log has a snapshot that this worker has claimed, or
    will not get it. `fail` is called with LogTrimmed when the log is another one."""

    def __init__(
        self, reader: Reader, errands: Errands, on_done: Callable[[], None], fail: Callable[[Exception], None]
    ) -> None:
        """The reader starts from the latest snapshot."""
        self._on_done = on_done
        self._claiming = False
        self._claim_at = CLAIM_EVERY
        self._covered_entries = 0  # how many of the reader's entries the latest known snapshot covers
        self._entries = 0  # how many the one on its way covers
        self._reader = reader
        self._errands = errands
        self._fail = fail
        self._wanted: list[tuple[float, Callable[[], None]]] = []
        self._sharing: list[Callable[[], None]] = []  # called when the one on its way is done
        self._busy = False
        self._most = 0.0
        self._seq = 0
        self._chunks: Iterator[bytes] = iter(())
        self._sent = 0

    @property
    def busy(self) -> bool:
        """Whether a snapshot is on its way, or wanted."""
        return self._busy or bool(self._wanted)

    def want(self, then: Callable[[], None], most: float = float("inf")) -> None:
        """Make a snapshot of this moment's state or a later one, unless it has more than `most` bytes. Call `then` when
        that is done, and also if it fails."""
        self._wanted.append((most, then))
        self._begin()

    def want_if_worth(self, entries: int, then: Callable[[], None]) -> None:
        """As `want`, but only if making and loading a snapshot costs less than replaying `entries` entries. A successor
        whose clients have marks from here on can start from it."""
        if entries > WORTH_ENTRIES:
            self.want(then, entries * BYTES_PER_ENTRY)
        else:
            then()

    @property
    def uncovered_entries(self) -> int:
        """How many entries this worker has applied since the latest snapshot that it knows of."""
        return self._reader.applied_entries - self._covered_entries

    def note_applied(self) -> None:
        """Ask the log whether a snapshot is due, if enough was applied since the last time."""
        if self._reader.applied_bytes >= self._claim_at:
            self.claim()

    def claim(self) -> None:
        """Ask the log whether a snapshot is due, and make it if so. Does nothing while a question is under way."""
        if not self._claiming:
            self._claiming = True
            self._claim_at = self._reader.applied_bytes + CLAIM_EVERY
            self._errands.ask(self._claimed, "claim_snapshot")

    def _claimed(self, due: bool) -> None:
        self._claiming = False
        if due:
            self.want_of_any_size(self._on_done)

    def want_of_any_size(self, then: Callable[[], None]) -> None:
        """As `want`, but the snapshot that is on its way will do, and now its size does not matter."""
        if self._busy and not self._reader.capturing:
            self._most = float("inf")
            self._sharing.append(then)
        else:
            self.want(then)

    def disconnect(self) -> None:
        """Give up the snapshot on its way, since the sequencer is gone. The next sequencer knows of no claim."""
        self._claiming, self._claim_at = False, 0
        if self._busy and not self._reader.capturing:
            log.warning("snapshot not taken reason=the sequencer is gone")
            self._end()

    def _begin(self) -> None:
        if not self._busy and self._wanted:
            self._busy = True
            self._reader.capture(self._captured)

    def _captured(self, seq: int, capture: Capture) -> None:
        wanted, self._wanted = self._wanted, []
        self._most = max(most for most, _ in wanted)
        self._sharing = [then for _, then in wanted]
        self._seq, self._chunks, self._sent = seq, capture.chunks(), 0
        self._entries = self._reader.applied_entries
        self._send()

    def _send(self, answer: Any = None) -> None:
        """Send the next piece, if the last one was taken."""
        if answer is not None:
            self._refused(answer)
            return
        piece = b""
        for chunk in self._chunks:
            piece += chunk
            if len(piece) >= PIECE:
                break
        start, self._sent = self._sent, self._sent + len(piece)
        if self._sent > self._most:
            self._end()
        elif len(piece) >= PIECE:
            self._errands.ask(self._send, "stage_snapshot", start, piece)
        elif start:
            self._errands.ask(self._send_last, "stage_snapshot", start, piece)
        else:
            self._errands.ask(self._put, "put_snapshot", self._seq, piece)

    def _send_last(self, answer: Any) -> None:
        if answer is not None:
            self._refused(answer)
        else:
            self._errands.ask(self._put, "put_staged_snapshot", self._seq)

    def _put(self, answer: Any) -> None:
        if answer is not None:
            self._refused(answer)
        else:
            self._covered_entries = self._entries
            self._end()

    def _refused(self, error: LogFull | LogTrimmed) -> None:
        if isinstance(error, LogTrimmed):
            self._fail(error)
        else:
            log.warning("snapshot not taken reason=%s", error)
            self._end()

    def _end(self) -> None:
        self._busy, self._chunks = False, iter(())
        sharing, self._sharing = self._sharing, []
        for then in sharing:
            then()
        self._begin()
