"""The data directory: whose it is, and what is in it.

    DIR/lock      locked by the server that uses DIR; says the server's pid
    DIR/log       the journal of the log (`log.local.journal`)
    DIR/chat.db   the database (`archive.database`)

Owns the lock. Promises: one server at a time has a directory; the lock ends with the server's processes, however they
end (flock(2)); the directory is readable by its owner only. Never deletes or empties anything.

The sequencer and the archive have the lock open, too. They end just after a main that was killed, and until they have,
they may write.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from mpchat.errors import ArchiveError

LOCK = "lock"
JOURNAL = "log"

GHOST_SECONDS = 5.0
"""How long to wait for the last processes of a server whose main has ended."""

LOOK_AGAIN = 0.02
"""Seconds between two looks whether they have ended."""


class Folder:
    """A data directory that this process has to itself. Close it; or keep `descriptor` across exec(2)."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        """The lock. It is kept as long as a process has it open."""

    @property
    def journal(self) -> Path:
        return self.path / JOURNAL

    def close(self) -> None:
        """Let others have the directory."""
        os.close(self.descriptor)


def lock_folder(path: Path) -> Folder:
    """Take the directory, and make it if it is missing. Raises ArchiveError, which says what to do."""
    try:
        path = path.absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ArchiveError(f"cannot use the data directory {path}: {error.strerror}") from error
    try:
        _take(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return Folder(path, descriptor)


def adopt_folder(path: Path, descriptor: int) -> Folder:
    """The directory that this process had before it executed another program."""
    os.set_inheritable(descriptor, False)
    return Folder(path, descriptor)


def read_owner(path: Path) -> int | None:
    """The pid of the server that has the directory; None when nobody has it. Raises ArchiveError."""
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArchiveError(f"cannot use the data directory {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_pid(descriptor)
    finally:
        os.close(descriptor)
    return None


def _take(descriptor: int, path: Path) -> None:
    until = time.monotonic() + GHOST_SECONDS
    while not _try_lock(descriptor, path):
        owner = _read_pid(descriptor)
        if _lives(owner) or time.monotonic() >= until:
            raise ArchiveError(f"the data directory {path} is in use by process {owner}")
        time.sleep(LOOK_AGAIN)
    try:
        os.pwrite(descriptor, f"{os.getpid():<20}\n".encode(), 0)
    except OSError as error:
        raise ArchiveError(f"cannot write to the data directory {path}: {error.strerror}") from error


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ArchiveError(f"cannot lock the data directory {path}: {error.strerror}") from error
    return True


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return pid != 0


def _read_pid(descriptor: int) -> int:
    with suppress(ValueError):
        return int(os.pread(descriptor, 20, 0))
    return 0
