"""Adoption: making the output of clients again that another worker had, byte for byte.

No process records what each client was sent. But the output is a function of the log, so it can be made again. A second
replica, the *shadow*, starts from a snapshot and replays the log up to where this worker has come, with a fan-out of
its own to *tapes* instead of sockets. A tape begins at its client's mark ("the output of records up to `seq` ends at
`position`"), so it has all output from that position on. The kernel says how much of it the dead worker had written.
The rest is sent, even from the middle of a line.

A worker that gives a client back itself has written a mark at that moment, and has left output that the client had not
taken in the carry. That is sent first.

One thing that clients are sent is not in the log: the notice of an outage (`outage`). The page says where in the output
the dead worker has put it, and it is put there again.

Promises that nothing is lost, doubled, reordered or torn in either direction. If output cannot be made again because
the log is trimmed, that one session ends with a reason. Works in slices of SLICE, so that the worker's other clients
notice nothing. Does no I/O: it says which call of the log it needs (`call`), and is given the answer (`tell`).
`takeover` has the steps before and after.
"""

import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mpchat.chat.entries import decode_entries
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.snapshot import Loading
from mpchat.chat.state.state import Limits
from mpchat.log.port import PIECE, LogTrimmed, Record
from mpchat.server import kernel
from mpchat.server.control import Handed
from mpchat.server.kernel import Progress
from mpchat.server.ledger import Mark, Page
from mpchat.server.worker.outage import encode_notice
from mpchat.server.worker.outbound.fanout import Fanout
from mpchat.server.worker.outbound.reader import FLUSH_SOON
from mpchat.wire.dialect import Dialect

Call = tuple[str, tuple[object, ...]]
"""A method of the log, and its arguments."""

SLICE = 0.03
"""Seconds of a slice of work, after which the loop turns."""


class _Tape:
    """A `fanout.Sink` that keeps everything."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self.size = 0
        self.parting: tuple[str, str] | None = None
        """The name and the reason of a session that has ended."""

    @property
    def content(self) -> bytes:
        return b"".join(self._blocks)

    def send(self, block: bytes) -> None:
        self._blocks.append(block)
        self.size += len(block)

    def named(self, name: str) -> None:
        """The client that carries on is named by the live fan-out."""

    def left(self, name: str, reason: str) -> None:
        """The live fan-out never had this session."""
        self.parting = (name, reason)

    def finish(self) -> None:
        """Do nothing. The worker's own replica says that the session is over, too."""


@dataclass(slots=True)
class Adoptee:
    """A client to carry on. `progress` and `mark` are read when it comes: no other process can change them then."""

    handed: Handed
    socket: socket.socket
    page: Page
    progress: Progress
    mark: Mark
    dialect: Dialect
    carried: bytes = b""
    notice_at: int | None = None
    """The output position of a notice behind the mark. The log does not have it."""
    tape: _Tape = field(default_factory=_Tape)

    @property
    def consumed(self) -> int:
        """How much of its input the last worker received, as a position in the stream."""
        if self.progress.exact:
            return self.progress.consumed
        # The kernel may have counted the end of the stream. If the worker died between receiving and noting it, this
        # gives up the last byte of a connection that is broken.
        return max(self.page.received, self.progress.consumed - 1)

    @property
    def output(self) -> bytes | None:
        """What it is still to be sent; None if that does not fit what was written, which would be a bug."""
        start = self.mark.position - len(self.carried)
        content = self.carried + self.tape.content
        if self.notice_at is not None:
            at = self.notice_at - start
            if at > len(content):
                return None
            content = content[:at] + encode_notice(self.dialect) + content[at:]
        written = self.progress.written - start
        return content[written:] if 0 <= written <= len(content) else None

    @property
    def output_position(self) -> int:
        """The position at which its output ends, with what is still to be sent."""
        notice = 0 if self.notice_at is None else len(encode_notice(self.dialect))
        return self.mark.position + self.tape.size + notice


def receive_adoptee(handed: Handed, client: socket.socket, page: Page, dialect: Dialect) -> Adoptee:
    """Read what the last worker has left of a client. Raises OSError if the kernel does not say."""
    mark = page.read_mark()
    if kernel.AVAILABLE:
        progress = kernel.read_progress(client)
    else:
        # Main passes on only clients that were given back here (Placement.can_carry_on): their pages say it all.
        progress = Progress(page.received, mark.position - mark.carried, True)
    return Adoptee(handed, client, page, progress, mark, dialect, page.carried(), page.read_notice())


class Adoption:
    """One shadow for a number of clients.

    Call `advance` until it returns True. Whenever there is a `call`, make it and `tell` the answer; nothing goes on
    before. When `advance` has returned True, call `let_go` for the clients.
    """

    def __init__(self, limits: Limits, adoptees: Iterable[Adoptee]) -> None:
        self.adoptees = sorted(adoptees, key=lambda adoptee: adoptee.mark.seq)
        """The clients that can still be carried on, those with the oldest marks first."""
        self.lost: list[Adoptee] = []
        """The clients whose output cannot be made again."""
        self.applied = 0
        """How many entries were replayed so far."""
        self.carried_on = 0
        """How many clients were let go."""
        self.call: Call | None = None
        """The call of the log to make next, if any."""
        self._limits = limits
        self._position = 0
        self._size = 0  # of the snapshot that is loaded
        self._loaded = 0
        self._loading = Loading(limits)
        self._fanout: Fanout[_Tape] | None = None  # of the shadow, once that is loaded
        self._records: deque[Record] = deque()
        self._steps: Iterator[None] | None = None  # of the record that is being applied
        self._starts: dict[int, list[Adoptee]] = {}
        self._find()

    def tell(self, answer: Any) -> None:
        """Take what `call` has returned, or the LogTrimmed that it has raised."""
        assert self.call is not None
        (method, _), self.call = self.call, None
        trimmed = isinstance(answer, LogTrimmed)
        if method == "find_snapshot":
            self._lose_first() if trimmed else self._load(*answer)
        elif method == "read_snapshot":
            # The snapshot was dropped while it was read. There is another one, perhaps too new for some clients.
            self._find() if trimmed else self._feed(answer)
        elif trimmed:
            # The log was trimmed faster than it was read.
            self.lost += self.adoptees
            self.adoptees = []
        else:
            self._records.extend(answer)

    def advance(self, target: int) -> bool:
        """Work for a slice, or until there is a `call` to make.

        Return True when the shadow is at record `target`, and all output of the clients up to there is on their tapes.
        """
        until = time.monotonic() + SLICE
        while self.adoptees and self.call is None:
            if self._fanout is None:
                self._go_on_loading()
            elif self._steps is not None:
                self._go_on_applying(self._steps, self._fanout)
            elif self._position >= target:
                self._fanout.flush()
                return True
            elif self._records:
                self._steps = self._apply(self._records.popleft(), self._fanout)
            else:
                self.call = ("read", (self._position, 0.0))
            if time.monotonic() >= until:
                return False
        return self.call is None

    def let_go(self) -> Adoptee:
        """Return a client, which is not part of this adoption any more. Only after `advance` returned True."""
        self.carried_on += 1
        adoptee = self.adoptees.pop()
        assert self._fanout is not None
        self._fanout.detach(adoptee.handed.sid)
        return adoptee

    # --- the snapshot

    def _find(self) -> None:
        """Look for a snapshot from before all marks."""
        if self.adoptees:
            self.call = ("find_snapshot", (self.adoptees[0].mark.seq,))

    def _lose_first(self) -> None:
        """Give up the clients with the oldest mark, since no snapshot is that old."""
        oldest = self.adoptees[0].mark.seq
        self.lost += [adoptee for adoptee in self.adoptees if adoptee.mark.seq <= oldest]
        self.adoptees = [adoptee for adoptee in self.adoptees if adoptee.mark.seq > oldest]
        self._find()

    def _load(self, seq: int, size: int) -> None:
        self._position, self._size, self._loaded = seq, size, 0
        self._loading = Loading(self._limits)
        if size:
            self._read_more()
        else:
            self._start(Replica(self._limits))

    def _read_more(self) -> None:
        self.call = ("read_snapshot", (self._position, self._loaded, PIECE))

    def _feed(self, piece: bytes) -> None:
        self._loaded += len(piece)
        self._loading.feed(piece)

    def _go_on_loading(self) -> None:
        if self._loading.advance():
            return
        if self._loaded < self._size:
            self._read_more()
        else:
            self._start(Replica(state=self._loading.state))

    def _start(self, shadow: Replica) -> None:
        self._shadow = shadow
        self._fanout = Fanout(shadow)
        for adoptee in self.adoptees:
            self._starts.setdefault(adoptee.mark.seq, []).append(adoptee)
        self._start_tapes(self._fanout)

    # --- the log

    def _go_on_applying(self, steps: Iterator[None], fanout: Fanout[_Tape]) -> None:
        if next(steps, self) is self:
            self._steps = None
        if fanout.pending >= FLUSH_SOON:
            fanout.flush()

    def _apply(self, record: Record, fanout: Fanout[_Tape]) -> Iterator[None]:
        """Apply a record, entry by entry."""
        for entry in decode_entries(record.payload):
            effects = self._shadow.apply(entry, record.time)
            if effects:
                fanout.deliver(effects, record.time)
            self.applied += 1
            yield
        self._position = record.seq
        self._start_tapes(fanout)

    def _start_tapes(self, fanout: Fanout[_Tape]) -> None:
        """Begin the tapes of clients whose mark is at this record."""
        for adoptee in self._starts.pop(self._position, ()):
            fanout.attach(adoptee.handed.sid, adoptee.tape, adoptee.dialect)
