"""Adoption: carrying on the clients that another worker had, byte for byte.

Nobody kept a book of what each client was sent. What a client is told is a function of the log, so it is made again:
a second replica, the *shadow*, starts from a snapshot of the log and applies it up to where this worker has come,
with a fan-out of its own to *tapes* instead of sockets. A tape begins at its client's mark ("what entries up to `seq`
gave it ends at `position`") and so has everything that the client was to be sent from that position on. The kernel
says how much of that the dead worker had written; the rest is sent, from the middle of a line if need be.

A worker that gives a client back in good order has written a mark just then, and left in the carry what the client had
not taken: it is sent first.

One thing that clients are told is not in the log: the notice of an outage (`outage`). The page says where in the output
the dead worker has put it, and there it is put again.

Promises: nothing lost, doubled, reordered or torn, in either direction. What cannot be made again, because the log is
trimmed, ends that one session with a reason. Takes its time in slices of SLICE, so that the worker's other clients
notice nothing.
"""

import logging
import socket
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from mpchat.bus.contract import Log, LogTrimmed, Record
from mpchat.chat.entries import decode_entries
from mpchat.chat.replica import Replica
from mpchat.chat.state import Limits
from mpchat.server import kernel
from mpchat.server.control import Handed
from mpchat.server.kernel import Progress
from mpchat.server.ledger import Mark, Page
from mpchat.server.worker.fanout import Fanout
from mpchat.server.worker.outage import encode_notice

log = logging.getLogger(__name__)

SLICE = 0.03
"""Seconds of work between two looks at the loop."""


class _Tape:
    """A `fanout.Sink` that keeps everything."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []

    @property
    def content(self) -> bytes:
        return b"".join(self._blocks)

    def send(self, block: bytes) -> None:
        self._blocks.append(block)

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
            content = content[:at] + encode_notice() + content[at:]
        written = self.progress.written - start
        return content[written:] if 0 <= written <= len(content) else None

    @property
    def output_position(self) -> int:
        """Where its output ends, what is still to be sent included."""
        notice = 0 if self.notice_at is None else len(encode_notice())
        return self.mark.position + len(self.tape.content) + notice


def receive_adoptee(handed: Handed, client: socket.socket, page: Page) -> Adoptee:
    """Look at what the last worker has left of a client. Raises OSError when the kernel does not say."""
    mark = page.read_mark()
    if kernel.AVAILABLE:
        progress = kernel.read_progress(client)
    else:
        # Only who was given back in good order comes here (see the supervisor), and then the page knows it all.
        progress = Progress(page.received, mark.position - mark.carried, True)
    return Adoptee(handed, client, page, progress, mark, page.carried(), page.read_notice())


class Adoption:
    """One shadow for a number of clients. Call `advance` until it says that the shadow is there.

    Both raise LogLost when the sequencer is gone; `advance` goes on where it was when `source` is another way to the
    same log.
    """

    def __init__(self, source: Log, limits: Limits, adoptees: Iterable[Adoptee]) -> None:
        self.source = source
        self.adoptees: list[Adoptee] = []
        self.lost: list[Adoptee] = []
        """Those whose output cannot be made again."""
        self.applied = 0
        """How many entries were applied again so far."""
        self._records: deque[Record] = deque()
        by_mark = sorted(adoptees, key=lambda adoptee: adoptee.mark.seq)
        self._shadow, self._position = self._load_shadow(limits, by_mark)
        self._fanout: Fanout[_Tape] = Fanout(self._shadow)
        self._starts: dict[int, list[Adoptee]] = {}
        for adoptee in self.adoptees:
            self._starts.setdefault(adoptee.mark.seq, []).append(adoptee)
        self._start_tapes()

    def advance(self, target: int) -> bool:
        """Work for a slice of time; true when the shadow has come to entry `target`, and no further."""
        until = time.monotonic() + SLICE
        while self.adoptees and self._position < target:
            if not self._records:
                self._read()
                continue
            self._apply(self._records.popleft())
            if time.monotonic() >= until:
                return False
        self._fanout.flush()
        return True

    def _load_shadow(self, limits: Limits, by_mark: list[Adoptee]) -> tuple[Replica, int]:
        """A replica from before all marks; whose mark is older than what the log has is lost."""
        for number, adoptee in enumerate(by_mark):
            try:
                snapshot = self.source.get_snapshot(adoptee.mark.seq)
            except LogTrimmed:
                self.lost.append(adoptee)
                continue
            self.adoptees = by_mark[number:]
            shadow = Replica.load(snapshot.blob, limits) if snapshot.seq else Replica(limits)
            return shadow, snapshot.seq
        return Replica(limits), 0

    def _read(self) -> None:
        """Take what follows; when the log was trimmed faster than we read it, all who are left are lost."""
        try:
            self._records.extend(self.source.read(self._position, 0.0).records)
        except LogTrimmed:
            self.lost += self.adoptees
            self.adoptees = []

    def _apply(self, record: Record) -> None:
        for entry in decode_entries(record.payload):
            effects = self._shadow.apply(entry, record.time)
            if effects:
                self._fanout.deliver(effects, record.time)
        self.applied += record.entries
        self._position = record.last
        self._start_tapes()

    def _start_tapes(self) -> None:
        """What has come so far was before the mark of these."""
        for adoptee in self._starts.pop(self._position, ()):
            self._fanout.attach(adoptee.handed.sid, adoptee.tape)
