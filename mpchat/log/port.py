"""The port of the log: what every log promises, whoever keeps it.

`log.local` keeps one for this machine. One suite of tests (`tests/process/test_log_contract.py`) holds every log to
this.

* `publish` numbers records consecutively from 1 and gives each a time that never goes back. It keeps the order in which
  one publisher calls. The log never looks into a payload.
* `read` gives every reader the same records in the same order, with no gap. Reading takes nothing away.
* What the log has answered for, it keeps, also when its process is killed and replaced. A publication without an answer
  is in the log as a whole or not at all.
* A record is kept until there is a snapshot of a state after it. A reader that asks for a record that is gone gets
  LogTrimmed, and starts again from the latest snapshot. A log that gets no snapshots fills up and raises LogFull.
* Snapshots are made by readers. A reader asks with `claim_snapshot` whether one is due; the log tells one reader to
  make it, and another one if the first does not deliver.

`Log` is for callers that can wait. An event loop uses `LogLink`, one connection with one call under way. Both come from
a `LogAddress`, which main gives to each worker.
"""

from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from mpchat.errors import MpchatError

PIECE = 192 << 10
"""How many bytes of a snapshot go in one call. By default a Unix socket takes that many at once (208 KiB, socket(7)),
so that a piece does not wait for the next turn of a loop. Copying it takes far less than 1 ms."""


CONNECT_SECONDS = 5.0
"""Seconds that each step of connecting may take for a caller that can wait. A busy machine takes its time."""


class LogError(MpchatError):
    """Something is wrong with the log. The base of all errors of a log."""


class LogLost(LogError):
    """The log cannot be reached: its process or the connection to it is gone."""


class LogTrimmed(LogError):
    """The log does not have what was asked for. Start from the latest snapshot."""


class LogFull(LogError):
    """The log takes no more until there is a newer snapshot. Publish the same again, later."""


class Record(NamedTuple):
    """One publication. `seq` counts records from 1; `time` is in ms since the epoch."""

    seq: int
    time: int
    payload: bytes


class Snapshot(NamedTuple):
    """A state to which all records up to `seq` were applied. The log never looks into `blob`."""

    seq: int
    blob: bytes


class SnapshotPlace(NamedTuple):
    """Which snapshot there is: the record it is of, and its size in bytes."""

    seq: int
    size: int


class Log(Protocol):
    """The contract. Every method may raise LogLost."""

    def publish(self, payload: bytes) -> int:
        """Append one record and return its number. Raises LogFull, and then appends nothing."""

    def read(self, after: int, wait: float) -> list[Record]:
        """Return the records after record `after`, the oldest first, up to some bound in bytes. `after` 0 is the start.

        If there are none, wait up to `wait` seconds for the next one. Raises LogTrimmed.
        """

    def claim_snapshot(self) -> bool:
        """Ask whether a snapshot is due that nobody else is making. After True, the caller is to put one.

        The claim lapses when the caller sends nothing of a snapshot for some seconds; then another reader gets it.
        """

    def put_snapshot(self, seq: int, blob: bytes) -> None:
        """Store a snapshot of the state after record `seq`. One that is not newer than the latest is ignored.

        Raises LogTrimmed when there is no such record: nobody could read on from there. Raises LogFull when there is no
        room for it; nothing has changed then, and the caller carries on without.
        """

    def get_snapshot(self, at_most: int | None = None) -> Snapshot:
        """Return the latest snapshot, or the latest of a record not after `at_most`.

        Number 0 without bytes is the state before the first record. `read` goes on from its number. Raises LogTrimmed
        when that snapshot is gone.
        """

    def find_snapshot(self, at_most: int | None = None) -> SnapshotPlace:
        """Say which snapshot `get_snapshot` would return, for a reader that takes it in pieces. Raises LogTrimmed."""

    def read_snapshot(self, seq: int, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start` on of the snapshot of record `seq`; fewer at its end. Raises
        LogTrimmed when that snapshot is gone."""


class LogLink(Protocol):
    """One connection of an event loop to the log. One call is under way at a time, and nothing waits.

    `call` takes the name of a method of `Log`, and its arguments. Two more methods send a snapshot in pieces:
    `stage_snapshot(start, piece)` once for each piece, in order, and then `put_staged_snapshot(seq)`, which answers as
    `put_snapshot` does. Pieces belong to the link and are dropped with it.
    """

    def fileno(self) -> int:
        """The descriptor. It is readable when a part of the answer has come, or the log is lost."""

    @property
    def backlog(self) -> bool:
        """Whether a part of the call is still to be sent: `pump` when the descriptor is writable."""

    def call(self, method: str, *arguments: object) -> None:
        """Send a call, as far as there is room. Its answer must be received before the next call. Raises LogLost."""

    def pump(self) -> None:
        """Send more of the call."""

    def take(self) -> bool:
        """Take what has come of the answer. Return True when `receive` will not wait."""

    def receive(self) -> Any:
        """Return what the method of `Log` returns, or raise what it raises (LogTrimmed, LogFull). Raises LogLost. Waits
        for the answer if `take` has not returned True."""

    def close(self) -> None:
        """Close the connection."""


class LogAddress(Protocol):
    """Where a log is. Main can send it to a worker; it means nothing to other processes."""

    def open_log(self) -> AbstractContextManager[Log]:
        """Connect, for a caller that can wait; the connection is closed at the end of the block. Raises LogLost."""

    def open_link(self, name: str, patience: float = CONNECT_SECONDS) -> LogLink:
        """Open a connection for an event loop; `name` is for people. Each step of connecting may take `patience`
        seconds. Raises LogLost."""
