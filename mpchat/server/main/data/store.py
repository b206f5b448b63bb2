"""The store: the data directory as main uses it, and the journal in it.

Owns the lock of the directory, and the decision what a server begins with:

    the journal that is there     what becomes of it
    of this boot, readable        goes on; a `Restarted` entry ends the sessions of the server before
    of this boot, damaged         stays as it is: the server does not start
    of this boot, other format    is moved aside (log.old)
    of another boot, or none      is replaced

Where it does not go on, a new journal begins with the state that the database has (`revival`). What the database does
not have of the old one is marked as a gap in it, unless the server before has ended in order.

Promises that a server that is killed at any moment leaves a directory that the next one can use: a new journal is
written beside the old one and renamed, and the place in the database follows. Nothing is overwritten because of an
error.
"""

import hashlib
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from mpchat.archive.database import Database, Gap, Place, open_database
from mpchat.archive.errors import ArchiveDamaged
from mpchat.archive.folder import Folder, adopt_folder, lock_folder
from mpchat.chat.entries import VERSION, Restarted, decode_entries, encode_entries
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.snapshot import SNAPSHOT_VERSION
from mpchat.chat.state.state import Limits
from mpchat.errors import ArchiveError, blame_system
from mpchat.log.local.journal import FORMAT, Frame, Journal, Kind, read_stamp
from mpchat.log.local.memory import MemoryLog, journal_size
from mpchat.log.port import LogError, LogFull, Snapshot
from mpchat.server.main.data.revival import revive

log = logging.getLogger(__name__)

CONTENT = VERSION << 16 | SNAPSHOT_VERSION
"""What the payloads of the journal are: a journal with others cannot go on."""

FIRST = 1
"""The record that a journal which begins with the database's state has a snapshot of."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

LOST = "the machine or the server ended before everything was written"


class Store:
    """A data directory that this server has, and its journal. Close both, or keep the lock across exec(2)."""

    def __init__(self, folder: Folder, journal: Journal) -> None:
        self.folder = folder
        self.journal = journal

    @property
    def log_id(self) -> str:
        """Which log is in the journal, as the database calls it."""
        return f"{self.journal.identity:016x}"

    @property
    def handover(self) -> tuple[str, int, int]:
        """What the next program needs to go on with it (`inherit_store`)."""
        return str(self.folder.path), self.folder.descriptor, self.journal.identity

    def close(self) -> None:
        """Close the journal, and give the directory back."""
        self.journal.close()
        self.folder.close()


def open_store(path: Path, limits: Limits) -> Store:
    """Take the directory, and have a journal for the log to go on with. Raises ArchiveError."""
    folder = lock_folder(path)
    try:
        with closing(open_database(folder.path)) as database:
            journal = _find_journal(folder, database, limits) or _make_journal(folder, database, limits)
    except BaseException:
        folder.close()
        raise
    return Store(folder, journal)


def inherit_store(path: str, lock: int, identity: int, snapshot: Snapshot) -> Store:
    """Go on with the directory of the program before, on a new journal of the same log that begins with `snapshot`.

    There are clients: where the disk has no room for the journal, it is in memory for now.
    """
    folder = adopt_folder(Path(path), lock)
    now = _now()
    with suppress(ArchiveError), closing(open_database(folder.path, read_only=True)) as database:
        now = max(now, database.place.time)
    try:
        journal = _write_journal(folder, snapshot, now, identity)
    except ArchiveError as error:
        log.error("journal is in memory until the next start or upgrade reason=%s", error)
        # It ends with the upgrade, and the database goes further.
        with suppress(OSError):
            _move_aside(folder.journal)
        journal = Journal.make(journal_size(), identity=identity)
        journal.seed(snapshot, now)
    return Store(folder, journal)


# --- the journal that is there


def _find_journal(folder: Folder, database: Database, limits: Limits) -> Journal | None:
    """The journal in the directory, if the log can go on with it. Raises ArchiveError."""
    path, place = folder.journal, database.place
    with blame_system(ArchiveError, f"read {path}"):
        if not path.exists():
            why = "there is no journal" if place.log else ""
        else:
            stamp = read_stamp(path)
            if stamp is None or (stamp.boot == read_boot() and (stamp.format, stamp.content) != (FORMAT, CONTENT)):
                why = f"it is none that this version of mpchat can read, and is now {_move_aside(path)}"
            elif stamp.boot != read_boot():
                why = "the machine has been started again since"
            else:
                return _resume(path, database, limits)
    if not place.log:
        log.info("data directory is new path=%s", folder.path)
    elif place.ended:
        log.info("journal begins anew: the database has everything up_to=%s", write_time(place.time))
    else:
        known = write_time(place.time)
        log.warning("journal is not trusted: going on from the database up_to=%s reason=%s", known, why)
    return None


def _resume(path: Path, database: Database, limits: Limits) -> Journal | None:
    """Go on with this journal, which ends all its sessions. Raises ArchiveError; then it is as it was."""
    try:
        journal = Journal.open_file(path)
    except LogError as error:
        raise _damaged(path, database, error) from error
    try:
        replica, last = replay(journal, limits)
        _catch_up(journal, last, database)
        _end_sessions(journal, last, replica)
    except (LogError, ValueError) as error:
        journal.close()
        raise _damaged(path, database, error) from error
    except BaseException:
        journal.close()
        raise
    log.info("journal goes on records=%d", last.seq)
    return journal


def replay(journal: Journal, limits: Limits) -> tuple[Replica, Frame]:
    """Return the state at the end of the journal, and its last frame. Changes nothing.

    Raises LogError and ValueError for what is no log.
    """
    frames = list(journal.frames())
    if not frames:
        raise LogError("the journal is empty")
    snapshot = next((frame for frame in reversed(frames) if frame.kind is Kind.SNAPSHOT), None)
    replica, position = Replica(limits), 0
    if snapshot is not None:
        replica, position = Replica.load(journal.payload(snapshot), limits), snapshot.seq
    for frame in frames:
        if frame.kind is not Kind.RECORD or frame.seq <= position:
            continue
        if frame.seq != position + 1:
            raise LogError(f"record {frame.seq} follows record {position}")
        for entry in decode_entries(journal.payload(frame)):
            replica.apply(entry, frame.time)
        position = frame.seq
    return replica, max(frames, key=lambda frame: (frame.seq, frame.position))


def _catch_up(journal: Journal, last: Frame, database: Database) -> None:
    """Note the beginning of the journal in the database, if the server before was killed just then. Raises LogError."""
    place, log_id = database.place, f"{journal.identity:016x}"
    if place.log == log_id:
        if place.seq > last.seq:
            raise LogError(f"it ends with record {last.seq}, and the database has record {place.seq}")
    elif last.seq == FIRST:
        _note_beginning(journal, last.time, database)


def _end_sessions(journal: Journal, last: Frame, replica: Replica) -> None:
    """Publish that the server has started again."""
    source, payload = MemoryLog(journal=journal), encode_entries([Restarted()])
    with suppress(LogFull):
        source.publish(payload)
        return
    # Only a snapshot makes room.
    try:
        source.put_snapshot(last.seq, replica.dump())
        source.publish(payload)
    except LogFull as error:
        raise ArchiveError(f"cannot go on with the journal: {error}") from error


def _damaged(path: Path, database: Database, error: Exception) -> ArchiveDamaged:
    place = database.place
    known = f"which has everything up to {write_time(place.time)}" if place.log else "which is empty"
    return ArchiveDamaged(
        f"the journal {path} is damaged: {error}. Nothing is changed."
        f" To go on from the database, {known}, move the journal away and start again"
    )


def _move_aside(path: Path) -> str:
    """Rename the journal to a name that nothing has, and return that name."""
    aside = path.with_name(f"{path.name}.old")
    number = 2
    while aside.exists():
        aside = path.with_name(f"{path.name}.old-{number}")
        number += 1
    path.rename(aside)
    return aside.name


# --- a new journal


def _make_journal(folder: Folder, database: Database, limits: Limits) -> Journal:
    """A new journal, which begins with the state that the database has. Raises ArchiveError."""
    begin = max(_now(), database.place.time)
    journal = _write_journal(folder, Snapshot(FIRST, revive(database, limits).dump()), begin)
    try:
        _note_beginning(journal, begin, database)
    except BaseException:
        journal.close()
        raise
    return journal


def _write_journal(folder: Folder, snapshot: Snapshot, begin: int, identity: int | None = None) -> Journal:
    """Write a journal beside the one that is there, and put it in its place. Raises ArchiveError."""
    path = folder.journal.with_name(f"{folder.journal.name}.new")
    with blame_system(ArchiveError, f"make the journal {folder.journal}"):
        path.unlink(missing_ok=True)  # of a server that was killed here
        journal = Journal.make_file(path, journal_size(), read_boot(), identity, CONTENT)
        try:
            journal.seed(snapshot, begin)
            path.replace(folder.journal)
        except BaseException as error:
            journal.close()
            path.unlink(missing_ok=True)
            if isinstance(error, LogError):
                raise ArchiveError(f"cannot make the journal {folder.journal}: {error}") from error
            raise
    return journal


def _note_beginning(journal: Journal, begin: int, database: Database) -> None:
    """Note in the database that it has all of this journal, which has just begun; and what it has not before that."""
    before = database.place
    gap = Gap(before.time, begin, LOST) if before.log and not before.ended else None
    database.write(Place(f"{journal.identity:016x}", FIRST, begin), gap=gap)


# --- the boot and the time


def read_boot() -> int:
    """Return a number that names this boot of the machine; never 0. Raises ArchiveError."""
    with blame_system(ArchiveError, "find out which boot of the machine this is"):
        if BOOT_ID.exists():
            return hash_boot(BOOT_ID.read_bytes().strip())
        if sys.platform == "darwin":
            return hash_boot(_ask(["sysctl", "-n", "kern.bootsessionuuid"]))
    raise ArchiveError("cannot find out which boot of the machine this is")


def hash_boot(name: bytes) -> int:
    """Return 64 bits that name a boot. They are never 0, which stands for no file."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") or 1


def _ask(command: Sequence[str]) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout.strip()


def _now() -> int:
    return time.time_ns() // 1_000_000


def write_time(milliseconds: int) -> str:
    """The moment, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
