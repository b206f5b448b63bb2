"""What a log promises, whoever keeps it: `memory` and `manager` do, and one suite of tests holds both to it.

* `publish` gives the entries of a publication consecutive sequence numbers, counted from 1, and one time, which never
  goes back. It keeps the order in which one publisher calls. The payload is opaque: nothing in the log reads it.
* `read(after, wait)` gives every reader the same records in the same order, with no gap behind `after`: all that have
  come, up to a bound; when none has, it waits up to `wait` seconds for one. Reading takes nothing away.
* What was answered stays: where the log's memory outlives its process (`journal`), the next process has every record
  and snapshot that a publisher was answered for or a reader was given. One that was not answered for may be there, as a
  whole.
* A record is remembered until a snapshot of a state behind it is there; who asks for what was forgotten is told so
  (`LogTrimmed`), and starts again from the snapshot. A log that nobody makes snapshots of fills up: `LogFull`.
"""

from typing import NamedTuple, Protocol

from mpchat.errors import MpchatError


class LogError(MpchatError):
    """Something is wrong with the log. The base of all that a log raises."""


class LogLost(LogError):
    """The log cannot be reached: its process is gone, or the connection to it."""


class LogTrimmed(LogError):
    """What was asked for is not in the log (any more): start from the latest snapshot."""


class LogFull(LogError):
    """The log takes no more before there is a newer snapshot: publish the same again, later."""


class Record(NamedTuple):
    """One publication: so many `entries` from `seq` on, at `time` (ms since the epoch)."""

    seq: int
    entries: int
    time: int
    payload: bytes

    @property
    def last(self) -> int:
        """The sequence number of its last entry."""
        return self.seq + self.entries - 1


class Reading(NamedTuple):
    """What `read` gives. `snapshot_wanted`: this reader is asked for a snapshot of the state it then has."""

    records: list[Record]
    snapshot_wanted: bool


class Snapshot(NamedTuple):
    """A state in which all entries up to `seq` are applied; opaque to the log."""

    seq: int
    blob: bytes


class SnapshotPlace(NamedTuple):
    """Which snapshot there is: of the state behind entry `seq`, so many bytes."""

    seq: int
    size: int


class Log(Protocol):
    """The contract. Every method may raise LogLost."""

    def publish(self, payload: bytes, entries: int) -> int:
        """Append so many entries, at least one; give the number of the first. Raises LogFull, and then appends none."""

    def read(self, after: int, wait: float) -> Reading:
        """The records behind entry `after`, which must be the last entry of a record or 0. Raises LogTrimmed."""

    def put_snapshot(self, seq: int, blob: bytes) -> None:
        """Here is a state behind entry `seq`, which must be the last of a record. Ignored if not newer than the log's.

        Raises LogTrimmed when the log has no such record: nobody could read on from there. Raises LogFull when there
        is no room for it: then it has changed nothing, and the caller goes on without.
        """

    def get_snapshot(self, at_most: int | None = None) -> Snapshot:
        """The latest snapshot, or the latest behind no later entry than `at_most`; seq 0 and no bytes is the state
        before the first entry. What `read` gives behind it leads on from it. Raises LogTrimmed when such a one is
        gone."""

    def find_snapshot(self, at_most: int | None = None) -> SnapshotPlace:
        """As `get_snapshot`, but says only which one it is: for who takes it in pieces."""

    def read_snapshot(self, seq: int, start: int, size: int) -> bytes:
        """So many bytes of the snapshot behind entry `seq`, from `start` on; fewer at its end. Raises LogTrimmed when
        that snapshot is gone."""
