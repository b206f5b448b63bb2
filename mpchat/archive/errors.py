"""What can be wrong with the data directory and what is in it. The base, `ArchiveError`, is in `mpchat.errors`.

ArchiveError
├── ArchiveDamaged   the database is not one, or is damaged
├── NewerArchive     the database is of a newer version of mpchat
└── ArchiveRefused   the system refuses to read or write it, for now or for good: the disk is full, say
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from mpchat.errors import ArchiveError

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class ArchiveDamaged(ArchiveError):
    """The database is damaged, or is none of ours."""


class NewerArchive(ArchiveError):
    """The database is of a newer version."""


class ArchiveRefused(ArchiveError):
    """The system refuses to read or to write. A later try may succeed."""


@contextmanager
def blame_database(what: str) -> Iterator[None]:
    """Translate SQLite's errors in this block; a mistake of ours (SQLITE_ERROR, SQLITE_MISUSE ...) stays as it is."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _DAMAGED:
            raise ArchiveDamaged(f"cannot {what}: {error}") from error
        if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
            raise ArchiveRefused(f"cannot {what}: {error}") from error
        raise
