"""The tables of the database, and how a database of an older version becomes one of this version.

Owns SCHEMA, the number that SQLite keeps in `user_version`. Promises that a migration is one transaction: a process
that is killed in the middle leaves the old version. Never touches a database of a newer version.
"""

import sqlite3
from collections.abc import Callable

from mpchat.archive.errors import NewerArchive

SCHEMA = 1

APPLICATION = 0x6D706368
"""What SQLite keeps in `application_id` to tell our databases from others: "mpch"."""

_VERSION_1 = """
CREATE TABLE rooms (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,      -- as names are compared
    topic TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,        -- in the order of the log
    room INTEGER NOT NULL REFERENCES rooms (id),
    time INTEGER NOT NULL,         -- ms since the epoch; it never goes back
    name TEXT NOT NULL,
    name_key TEXT NOT NULL,
    account TEXT,
    kind INTEGER NOT NULL,         -- 0: said, 1: done (/me)
    text TEXT NOT NULL
) STRICT;
CREATE INDEX messages_by_room ON messages (room, time, id);
CREATE TABLE gaps (
    id INTEGER PRIMARY KEY,
    since INTEGER NOT NULL,        -- ms since the epoch: the last message before the gap
    until INTEGER NOT NULL,        -- and the moment from which on everything is here again
    reason TEXT NOT NULL
) STRICT;
CREATE TABLE place (               -- one row: how much of the log is here
    id INTEGER PRIMARY KEY CHECK (id = 0),
    log TEXT NOT NULL,             -- which log
    seq INTEGER NOT NULL,
    time INTEGER NOT NULL,
    ended INTEGER NOT NULL         -- 1: the server ended in order there, and nothing is missing
) STRICT;
INSERT INTO place VALUES (0, '', 0, 0, 0);
CREATE TABLE wishes (              -- what is to be forgotten, and may still be in the memory of a server
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('name', 'room')),
    key TEXT NOT NULL,
    UNIQUE (kind, key)
) STRICT;
-- Of the text only the index is kept here; the text itself is in messages.
CREATE VIRTUAL TABLE search USING fts5 (
    text, room, name, content='', columnsize=0, tokenize='unicode61 remove_diacritics 2'
);
"""


def _create(database: sqlite3.Connection) -> None:
    for statement in _split(_VERSION_1):
        database.execute(statement)


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_create,)
"""What leads from version N to N + 1, at place N."""


def bring_up(database: sqlite3.Connection) -> None:
    """Bring the database to SCHEMA, from whatever older version it has. Raises NewerArchive."""
    version = read_version(database)
    if version > SCHEMA:
        raise NewerArchive(f"the database has version {version}, and this mpchat knows {SCHEMA} and older ones")
    for migrate in MIGRATIONS[version:]:
        version += 1
        with database:
            database.execute("BEGIN IMMEDIATE")
            migrate(database)
            database.execute(f"PRAGMA user_version = {version}")
            database.execute(f"PRAGMA application_id = {APPLICATION}")


def read_version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _split(script: str) -> list[str]:
    statements: list[str] = []
    rest = ""
    for line in script.splitlines():
        rest += line + "\n"
        if sqlite3.complete_statement(rest):
            statements.append(rest)
            rest = ""
    return statements
