"""The messages between main and a worker, and the channel that carries them together with descriptors.

Owns the messages and one end of a duplex Pipe. Promises that messages arrive whole and in order, and a descriptor with
its message; and that nothing here waits for the other side, which may be stopped: what its buffer does not take stays
in the outbox. A message is one write of less than MESSAGE_MOST bytes, so that the other side never sees a part of one,
even if the writer is killed (unix(7): a write of up to 32 KiB is queued as one buffer).
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
from mpchat.errors import MpchatError, in_words
from mpchat.log.port import LogAddress

T = TypeVar("T")

MESSAGE_MOST = 16 << 10

HANDOFF_MOST = 100
"""Clients in one HandOff. The kernel takes 253 descriptors at once (SCM_MAX_FD). With an id and an address for each
client, this number keeps the message within MESSAGE_MOST."""

SIDS_MOST = 256
"""Session ids in one message."""

PRESENCE_MOST = 32
"""Sessions with their names in one message. A name has 128 bytes at most."""


NO_LOG = 75
"""Exit code of a worker that did not come up because the sequencer was gone, which is no failure of the worker
(sysexits.h, EX_TEMPFAIL)."""

DAMAGED = 5
"""Exit code of an archive whose database cannot be used as it is."""


class ChannelClosed(MpchatError):
    """The other process has gone."""


class Handed(NamedTuple):
    """A client as main hands it over. `page`: its page of the ledger. `dialect`: the id of the dialect that it speaks
    (`wire.registry`). `epoch`: how many workers had it before."""

    sid: SessionId
    address: str
    page: int
    dialect: str
    epoch: int


# --- main to worker -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HandOff:
    """Serve these clients. As many descriptors come with the message. Answered with Received.

    `more`: another HandOff follows, whose clients belong together with these.
    """

    clients: tuple[Handed, ...]
    more: bool = False


@dataclass(frozen=True, slots=True)
class EndSessions:
    """End these sessions of a dead worker in the log. Answered with Closed when that is applied.

    Each comes with the epoch that it would have had with its next worker: entries of earlier epochs do not count then.
    """

    sessions: tuple[tuple[SessionId, int], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """Give these clients back. Answered with Released when all that they sent is applied."""

    sids: tuple[SessionId, ...]


@dataclass(frozen=True, slots=True)
class Retire:
    """Give all clients back, and end."""


@dataclass(frozen=True, slots=True)
class Pause:
    """As Quiesce, and then apply no more of the log. Answered with Paused instead of Quiesced."""


@dataclass(frozen=True, slots=True)
class Conclude:
    """After Pause: apply the log up to exactly `seq`, put a snapshot of it if asked to, then do as for Retire."""

    seq: int
    snapshot: bool


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Connect to the new sequencer at this address, read on, and publish again what was not answered."""

    address: LogAddress


@dataclass(frozen=True, slots=True)
class Quiesce:
    """Stop reading clients. Answered with Quiesced when all that they sent is applied."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Publish that the server stops. When that is applied, every worker finishes its clients and ends."""

    reason: str


# --- worker to main -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The replica has applied the log to its end, so clients can come."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The loop runs."""


@dataclass(frozen=True, slots=True)
class Received:
    """A HandOff has been taken, so the next one can come."""


@dataclass(frozen=True, slots=True)
class Closed:
    """These sessions have ended: their connections are closed, and their ends are applied."""

    sids: tuple[SessionId, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """No worker has these clients now: the worker's descriptors are closed, and the ledger has what the next one needs.

    `last`: the Release or Retire is done. A client of it that was not given back is closed, or about to be.
    """

    sids: tuple[SessionId, ...]
    last: bool


@dataclass(frozen=True, slots=True)
class Presence:
    """What the access log is to know of the worker's clients: those that are `named` so now, which main may know
    already, and those that have `left`, with their last names and the reasons."""

    named: tuple[tuple[SessionId, str], ...]
    left: tuple[tuple[SessionId, str, str], ...]


@dataclass(frozen=True, slots=True)
class Quiesced:
    """The answer to Quiesce."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The answer to Pause: the log is applied up to `seq`."""

    seq: int


@dataclass(frozen=True, slots=True)
class Unlinked:
    """The links to the log are broken. Answered with Reconnect when there is a sequencer."""


ToWorker = HandOff | EndSessions | Release | Retire | Pause | Conclude | Reconnect | Quiesce | Stop
ToMain = Ready | Beat | Received | Closed | Released | Presence | Quiesced | Paused | Unlinked


class Channel:
    """One end of the channel. Watch `fileno()`: call `receive` when it is readable, and, while there is a `backlog`,
    `pump` when it is writable."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe = pipe
        # The same socket again: multiprocessing.reduction sends descriptors over a socket, not a Connection.
        self._socket = socket.fromfd(pipe.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
        self._outbox: deque[tuple[bytes, Sequence[int]]] = deque()

    def fileno(self) -> int:
        return self._pipe.fileno()

    @property
    def backlog(self) -> int:
        """How many messages wait for room."""
        return len(self._outbox)

    def post(self, message: ToWorker | ToMain, descriptors: Sequence[int] = ()) -> None:
        """Send `message` after all that were posted before, as soon as there is room. Raises ChannelClosed.

        The descriptors must stay open until it is sent (`backlog` is 0).
        """
        data = bytes(ForkingPickler.dumps(message))
        if len(data) >= MESSAGE_MOST:
            raise ValueError(f"a control message of {len(data)} bytes")
        self._outbox.append((data, descriptors))
        self.pump()

    def pump(self) -> None:
        """Send the messages that there is room for. Raises ChannelClosed."""
        try:
            while self._outbox and self._has_room():
                data, descriptors = self._outbox.popleft()
                self._pipe.send_bytes(data)
                if descriptors:
                    reduction.sendfds(self._socket, list(descriptors))
        except OSError as error:
            raise ChannelClosed(f"the control channel is closed: {in_words(error)}") from error

    def receive(self) -> tuple[Any, list[int]]:
        """Return the next message and its descriptors, which then belong to the caller. To be called when readable.
        Raises ChannelClosed."""
        try:
            message = self._pipe.recv()
            descriptors = self._receive_descriptors(len(message.clients)) if isinstance(message, HandOff) else []
        except (EOFError, OSError) as error:
            raise ChannelClosed(f"the control channel is closed: {in_words(error)}") from error
        return message, descriptors

    def readable(self) -> bool:
        """Return whether there is a message, or the other side has gone."""
        return self._pipe.poll()

    def close(self) -> None:
        self._socket.close()
        self._pipe.close()

    def _receive_descriptors(self, count: int) -> list[int]:
        return [int(descriptor) for descriptor in array("i", reduction.recvfds(self._socket, count))]

    def _has_room(self) -> bool:
        """Return whether a whole message and its descriptors fit.

        A Unix stream socket polls writable only while at most a quarter of its send buffer is used (unix_writable() in
        net/unix/af_unix.c). The buffer has 208 KiB by default.
        """
        poll = select.poll()
        poll.register(self._pipe.fileno(), select.POLLOUT)
        return any(events & select.POLLOUT for _, events in poll.poll(0))


def in_chunks(items: Sequence[T]) -> Iterator[tuple[T, ...]]:
    """Yield session ids, or items of that size, in chunks that fit into a message."""
    for start in range(0, len(items), SIDS_MOST):
        yield tuple(items[start : start + SIDS_MOST])
