"""Adoption: carrying on the clients that another worker had, byte for byte.

Nobody kept a book of what each client was sent. What a client is told is a function of the log, so it is made again:
a second replica, the *shadow*, starts from a snapshot of the log and applies it up to where this worker has come,
with a fan-out of its own to *tapes* instead of sockets. A tape begins at its client's mark ("what records up to `seq`
gave it ends at `position`") and so has everything that the client was to be sent from that position on. The kernel
says how much of that the dead worker had written; the rest is sent, from the middle of a line if need be.

A worker that gives a client back in good order has written a mark just then, and left in the carry what the client had
not taken: it is sent first.

One thing that clients are told is not in the log: the notice of an outage (`outage`). The page says where in the output
the dead worker has put it, and there it is put again.

Promises: nothing lost, doubled, reordered or torn, in either direction. What cannot be made again, because the log is
trimmed, ends that one session with a reason. Takes its time in slices of SLICE, so that the worker's other clients
notice nothing: the snapshot is loaded, the log applied and the output made bit by bit. Talks to nobody: it says what it
has to know of the log (`call`), and is told (`tell`).
"""

import logging
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

log = logging.getLogger(__name__)

SLICE = 0.03
"""Seconds of work between two looks at the loop."""


class _Tape:
    """A `fanout.Sink` that keeps everything."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self.size = 0

    @property
    def content(self) -> bytes:
        return b"".join(self._blocks)

    def send(self, block: bytes) -> None:
        self._blocks.append(block)
        self.size += len(block)

    def finish(self) -> None:
        """The session is over: the live replica says so too."""


@dataclass(slots=True)
class Adoptee:
    """One client to carry on with. `progress` and `mark` are read when it comes, when nobody else can change them."""

    handed: Handed
    socket: socket.socket
    page: Page
    progress: Progress
    mark: Mark
    dialect: Dialect
    carried: bytes = b""
    notice_at: int | None = None
    """Where a notice stands in the output that is made again: the log does not say it."""
    tape: _Tape = field(default_factory=_Tape)

    @property
    def consumed(self) -> int:
        """How far its input was received."""
        if self.progress.exact:
            return self.progress.consumed
        # The kernel may count the end of the stream. Only when the worker died between receiving and noting it, this
        # gives up a byte of a connection that is broken.
        return max(self.page.received, self.progress.consumed - 1)

    @property
    def output(self) -> bytes | None:
        """What it is still to be sent; None when that does not fit with what was written, which is a fault of ours."""
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
        """Where its output ends, what is still to be sent included."""
        notice = 0 if self.notice_at is None else len(encode_notice(self.dialect))
        return self.mark.position + self.tape.size + notice


def receive_adoptee(handed: Handed, client: socket.socket, page: Page, dialect: Dialect) -> Adoptee:
    """Look at what the last worker has left of a client. Raises OSError when the kernel does not say."""
    mark = page.read_mark()
    if kernel.AVAILABLE:
        progress = kernel.read_progress(client)
    else:
        # Only who was given back in good order comes here (see the supervisor), and then the page knows it all.
        progress = Progress(page.received, mark.position - mark.carried, True)
    return Adoptee(handed, client, page, progress, mark, dialect, page.carried(), page.read_notice())


class Adoption:
    """One shadow for a number of clients. Call `advance` until it says that the shadow is there; whenever there is a
    `call`, make it, and `tell` what it gives: nothing goes on before."""

    def __init__(self, limits: Limits, adoptees: Iterable[Adoptee]) -> None:
        self.adoptees = sorted(adoptees, key=lambda adoptee: adoptee.mark.seq)
        """Those who can be carried on, the ones with the oldest marks first."""
        self.lost: list[Adoptee] = []
        """Those whose output cannot be made again."""
        self.applied = 0
        """How many entries were applied again so far."""
        self.carried_on = 0
        """How many of the adoptees were let go."""
        self.call: Call | None = None
        """What is to be asked of the log."""
        self._limits = limits
        self._position = 0
        self._size = 0  # of the snapshot that is loaded
        self._loaded = 0
        self._loading = Loading(limits)
        self._fanout: Fanout[_Tape] | None = None  # of the shadow, when that is loaded
        self._records: deque[Record] = deque()
        self._steps: Iterator[None] | None = None  # of the record at hand
        self._starts: dict[int, list[Adoptee]] = {}
        self._find()

    def tell(self, answer: Any) -> None:
        """What `call` has given, or the LogTrimmed that it has raised."""
        assert self.call is not None
        (method, _), self.call = self.call, None
        trimmed = isinstance(answer, LogTrimmed)
        if method == "find_snapshot":
            self._lose_first() if trimmed else self._load(*answer)
        elif method == "read_snapshot":
            # It has gone while it was read. There is another one, perhaps too new for some.
            self._find() if trimmed else self._feed(answer)
        elif trimmed:
            # It was trimmed faster than we read it.
            self.lost += self.adoptees
            self.adoptees = []
        else:
            self._records.extend(answer)

    def advance(self, target: int) -> bool:
        """Work for a slice of time, as far as nothing has to be asked; true when the shadow has come to record
        `target`, and no further, with all that the adoptees are to be sent on their tapes."""
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
        """One of the adoptees, when `advance` has just said that the shadow is there: from here on it is not ours."""
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
        """There is none: the oldest mark is older than what the log has."""
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
        """Entry by entry."""
        for entry in decode_entries(record.payload):
            effects = self._shadow.apply(entry, record.time)
            if effects:
                fanout.deliver(effects, record.time)
            self.applied += 1
            yield
        self._position = record.seq
        self._start_tapes(fanout)

    def _start_tapes(self, fanout: Fanout[_Tape]) -> None:
        """What has come so far was before the mark of these."""
        for adoptee in self._starts.pop(self._position, ()):
            fanout.attach(adoptee.handed.sid, adoptee.tape, adoptee.dialect)
