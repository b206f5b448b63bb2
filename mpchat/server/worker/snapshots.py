"""The snapshots that one worker makes for the log.

Owns the one that is on its way: the state is copied between two records (`Reader.capture`), and while the reader goes
on, it is encoded and sent piece by piece, one piece a turn of the loop.

    IDLE --want--> CAPTURING --copied--> SENDING --answer--> SENDING ... --put--> IDLE

Promises that who wants one is told when it is with the log, or will not be; that several who want one before it is
begun share it; and that it is of the state behind one record, exactly. The log may refuse it: nothing is lost then, it
keeps the one before, and asks somebody again.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from mpchat.chat.state.snapshot import Capture
from mpchat.log.local.process import PIECE
from mpchat.log.port import LogFull, LogTrimmed
from mpchat.server.worker.caller import Errands
from mpchat.server.worker.outbound.reader import Reader

log = logging.getLogger(__name__)


class Snapshots:
    """`fail` is told that the log is another one (LogTrimmed)."""

    def __init__(self, reader: Reader, errands: Errands, fail: Callable[[Exception], None], latest: int) -> None:
        self.latest = latest
        """The entry of the last snapshot that the log has, as far as this worker knows."""
        self._reader = reader
        self._errands = errands
        self._fail = fail
        self._wanted: list[tuple[float, Callable[[], None]]] = []
        self._sharing: list[Callable[[], None]] = []  # who is told of the one that is on its way
        self._busy = False
        self._most = 0.0
        self._seq = 0
        self._chunks: Iterator[bytes] = iter(())
        self._sent = 0

    @property
    def busy(self) -> bool:
        """Whether one is on its way, or wanted."""
        return self._busy or bool(self._wanted)

    def want(self, then: Callable[[], None], most: float = float("inf")) -> None:
        """Have a snapshot of a state not before this moment's, unless it has more than `most` bytes; then call
        `then`, in any case."""
        self._wanted.append((most, then))
        self._begin()

    def want_again(self, then: Callable[[], None]) -> None:
        """As `want`, for the log, which may take the one that is on its way, however large that is."""
        if self._busy and not self._reader.capturing:
            self._most = float("inf")
            self._sharing.append(then)
        else:
            self.want(then)

    def disconnect(self) -> None:
        """The sequencer is gone, and what it has not taken yet."""
        if self._busy and not self._reader.capturing:
            log.warning("a snapshot was not taken: the sequencer is gone")
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
        self._send()

    def _send(self, answer: Any = None) -> None:
        """Send the next piece, if this was taken."""
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
            self.latest = max(self.latest, self._seq)
            self._end()

    def _refused(self, error: LogFull | LogTrimmed) -> None:
        if isinstance(error, LogTrimmed):
            self._fail(error)
        else:
            log.warning("the log did not take a snapshot: %s", error)
            self._end()

    def _end(self) -> None:
        self._busy, self._chunks = False, iter(())
        sharing, self._sharing = self._sharing, []
        for then in sharing:
            then()
        self._begin()
