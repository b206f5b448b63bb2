"""What main and a worker say to each other, and the channel that carries it together with descriptors.

Owns the messages and one end of a duplex Pipe. Promises: messages arrive whole and in order; a descriptor arrives with
its message; nothing here ever waits for the other side, which may be stopped: what its buffer does not take stays in
the outbox. A message is a single write of less than MESSAGE_MOST bytes, so that the other end never sees a part of one,
whatever happens to the writer in between (unix(7): a write is queued as one buffer up to 32 KiB).
"""

import select
import socket
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, TypeVar

from mpchat.chat.entries import SessionId
from mpchat.errors import MpchatError
from mpchat.log.port import LogAddress

T = TypeVar("T")

MESSAGE_MOST = 16 << 10

HANDOFF_MOST = 100
"""Clients handed over in one message. The kernel takes 253 descriptors at once (SCM_MAX_FD); this keeps the message,
with an id and an address for each, within MESSAGE_MOST."""

SIDS_MOST = 256
"""Session ids in one message."""


NO_LOG = 75
"""Exit code of a worker that could not come up since the sequencer was gone: not its own fault (sysexits.h,
EX_TEMPFAIL)."""


class ChannelClosed(MpchatError):
    """The other process has gone."""


class Handed(NamedTuple):
    """A client as main hands it over. `page` is its page of the ledger; `dialect` the id of what it speaks
    (`wire.registry`); `epoch` counts the workers that had it before."""

    sid: SessionId
    address: str
    page: int
    dialect: str
    epoch: int


# --- main to worker -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HandOff:
    """These clients are yours; as many descriptors come with it. Answered with Received. `more` come right behind."""

    clients: tuple[Handed, ...]
    more: bool = False


@dataclass(frozen=True, slots=True)
class EndSessions:
    """End these sessions in the log: the worker that had them is dead. Answered with Closed, once that is applied.

    Each comes with the epoch that it would have had with the next worker, so that no entry of an earlier epoch counts.
    """

    sessions: tuple[tuple[SessionId, int], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """Give these clients back. Answered with Released, when what they have sent has come back from the log."""

    sids: tuple[SessionId, ...]


@dataclass(frozen=True, slots=True)
class Retire:
    """Give all clients back, and end."""


@dataclass(frozen=True, slots=True)
class Pause:
    """As Quiesce, and then apply no more of the log; answer Paused."""


@dataclass(frozen=True, slots=True)
class Conclude:
    """After Pause: apply the log up to `seq`, exactly, put a snapshot of it if asked to, then as Retire."""

    seq: int
    snapshot: bool


@dataclass(frozen=True, slots=True)
class Reconnect:
    """There is a new sequencer, here: read on from it, and publish again what was not answered."""

    address: LogAddress


@dataclass(frozen=True, slots=True)
class Quiesce:
    """Stop reading clients; answer Quiesced when all that they sent has come back from the log."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Say in the log that the server stops. Every worker then says goodbye to its clients, and ends."""

    reason: str


# --- worker to main -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The replica has read the log to its end; clients can come."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The loop runs."""


@dataclass(frozen=True, slots=True)
class Received:
    """One HandOff has been taken; the next one can come."""


@dataclass(frozen=True, slots=True)
class Closed:
    """These sessions are over: their connections are closed, and the log says so."""

    sids: tuple[SessionId, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """These clients are nobody's now: our descriptors are closed, and their pages of the ledger say the rest. `last`:
    the Release is done with; who is missing is closed, or about to be."""

    sids: tuple[SessionId, ...]
    last: bool


@dataclass(frozen=True, slots=True)
class Quiesced:
    """The answer to Quiesce."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The answer to Pause: the log is applied up to `seq`."""

    seq: int


@dataclass(frozen=True, slots=True)
class Unlinked:
    """The links to the log are broken: where is the sequencer?"""


ToWorker = HandOff | EndSessions | Release | Retire | Pause | Conclude | Reconnect | Quiesce | Stop
ToMain = Ready | Beat | Received | Closed | Released | Quiesced | Paused | Unlinked


class Channel:
    """One end of the way between main and a worker. Both sides watch `fileno()`, and pump while `backlog` says so."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe = pipe
        # The same socket once more: multiprocessing.reduction sends descriptors over a socket, not a Connection.
        self._socket = socket.fromfd(pipe.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
        self._outbox: deque[tuple[bytes, Sequence[int]]] = deque()

    def fileno(self) -> int:
        return self._pipe.fileno()

    @property
    def backlog(self) -> int:
        """How many messages wait for the other side to read."""
        return len(self._outbox)

    def post(self, message: ToWorker | ToMain, descriptors: Sequence[int] = ()) -> None:
        """Send `message` behind all that were posted before, as soon as there is room. The descriptors must stay open
        until it is sent (`backlog` is 0). Raises ChannelClosed."""
        data = bytes(ForkingPickler.dumps(message))
        if len(data) >= MESSAGE_MOST:
            raise ValueError(f"a control message of {len(data)} bytes")
        self._outbox.append((data, descriptors))
        self.pump()

    def pump(self) -> None:
        """Send what there is room for. Raises ChannelClosed."""
        try:
            while self._outbox and self._has_room():
                data, descriptors = self._outbox.popleft()
                self._pipe.send_bytes(data)
                if descriptors:
                    reduction.sendfds(self._socket, list(descriptors))
        except OSError as error:
            raise ChannelClosed(f"the control channel is closed: {error!r}") from error

    def receive(self) -> tuple[Any, list[int]]:
        """The next message and its descriptors, which now belong to the caller. Call it when readable. Raises
        ChannelClosed."""
        try:
            message = self._pipe.recv()
            descriptors = self._receive_descriptors(len(message.clients)) if isinstance(message, HandOff) else []
        except (EOFError, OSError) as error:
            raise ChannelClosed(f"the control channel is closed: {error!r}") from error
        return message, descriptors

    def readable(self) -> bool:
        """Whether there is a message, or the other side has gone."""
        return self._pipe.poll()

    def close(self) -> None:
        self._socket.close()
        self._pipe.close()

    def _receive_descriptors(self, count: int) -> list[int]:
        return [int(descriptor) for descriptor in array("i", reduction.recvfds(self._socket, count))]

    def _has_room(self) -> bool:
        """Whether a whole message and its descriptors fit: a Unix stream socket polls writable only while at most a
        quarter of its send buffer is used (unix_writable() in net/unix/af_unix.c), and that is 208 KiB by default."""
        poll = select.poll()
        poll.register(self._pipe.fileno(), select.POLLOUT)
        return any(events & select.POLLOUT for _, events in poll.poll(0))


def in_chunks(items: Sequence[T]) -> Iterator[tuple[T, ...]]:
    """Session ids, or what is as small, in messages' worth."""
    for start in range(0, len(items), SIDS_MOST):
        yield tuple(items[start : start + SIDS_MOST])
