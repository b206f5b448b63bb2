"""The database: what was said, in which room, and how much of the log is here.

Owns one connection to the file `chat.db` of a data directory. Promises:

* `write` is one transaction: lines, topics and the place in the log get to the disk together or not at all (WAL,
  `synchronous=FULL`: what `write` has returned for survives a power cut).
* A record that is here already changes nothing: `write` refuses to go back, and the caller starts from `place`.
* Reading never sees half of a `write`, and never waits for one.

Never holds a private message, and never deletes anything because of an error. Errors are `archive.errors`.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from mpchat.archive import schema
from mpchat.archive.errors import ArchiveDamaged, ArchiveRefused, blame_database
from mpchat.archive.tokens import Query, mark, segment, write_match

FILE = "chat.db"

BUSY_SECONDS = 5.0
"""How long to wait for another process that writes: `mpchat-admin forget`, say."""

SEARCH_LINES = 20
"""How many matches a page has."""

PROGRESS_STEPS = 1000
"""How many steps of SQLite's virtual machine lie between two looks at the clock; each line that is read takes some."""

EXPIRE_LINES = 500
"""How many lines one transaction deletes at most, so that nobody waits for it."""

SAID, DONE = 0, 1
"""The kinds of lines: `name: text`, and `/me`."""


class Place(NamedTuple):
    """How much of the log is here: all records of log `log` up to `seq`, the last of them of `time` (ms).

    `ended`: the server ended in order behind that record.
    """

    log: str
    seq: int
    time: int
    ended: bool = False


class Line(NamedTuple):
    """One thing that was said or done in a room. `time` in ms since the epoch."""

    room: str
    time: int
    name: str
    name_key: str
    text: str
    kind: int = SAID
    account: str | None = None


class Topic(NamedTuple):
    """A room has another topic, or is made (with an empty one)."""

    room: str
    topic: str


class Gap(NamedTuple):
    """What was said between two moments (ms since the epoch) is not here, because of `reason`."""

    since: int
    until: int
    reason: str


class Wish(NamedTuple):
    """All lines of a name, or of a room, are to be forgotten. `kind` is "name" or "room"."""

    kind: str
    key: str


class Kept(NamedTuple):
    """A line as it was found."""

    room: str
    time: int
    name: str
    kind: int
    text: str


class KeptRoom(NamedTuple):
    """A room: its topic, and when something was last said (0: never, or it is deleted by now)."""

    key: str
    topic: str
    last: int


class Counts(NamedTuple):
    """How much there is."""

    lines: int
    rooms: int
    gaps: int
    size: int
    """Bytes of the file."""


class Database:
    """One connection. Close it."""

    def __init__(self, path: Path, read_only: bool = False) -> None:
        """Open the file, and make it if it is missing. Raises ArchiveDamaged, NewerArchive, ArchiveRefused."""
        self.path = path
        with blame_database(f"open {path}"):
            target = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self._database = sqlite3.connect(
                target, timeout=BUSY_SECONDS, isolation_level=None, uri=True, check_same_thread=False
            )
        try:
            with blame_database(f"open {path}"):
                self._set_up(read_only)
        except BaseException:
            self._database.close()
            raise
        self._rooms: dict[str, int] = {}

    def close(self) -> None:
        self._database.close()

    # --- writing

    def write(
        self, place: Place, lines: Sequence[Line] = (), topics: Iterable[Topic] = (), gap: Gap | None = None
    ) -> None:
        """Keep all this, with the place up to which it is all of the log. Raises ArchiveRefused, ArchiveDamaged.

        `place` must be of another log or behind the last one (ValueError): what is here already is not written again.
        """
        with blame_database("write the database"):
            database = self._database
            database.execute("BEGIN IMMEDIATE")
            try:
                self._check_place(place)
                for topic in topics:
                    database.execute(
                        "INSERT INTO rooms (key, topic) VALUES (?, ?)"
                        " ON CONFLICT (key) DO UPDATE SET topic = excluded.topic",
                        topic,
                    )
                self._add_lines(lines)
                if gap is not None:
                    database.execute("INSERT INTO gaps (since, until, reason) VALUES (?, ?, ?)", gap)
                database.execute("UPDATE place SET log = ?, seq = ?, time = ?, ended = ?", place)
                database.execute("COMMIT")
            except BaseException:
                self._rooms.clear()
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    def expire(self, before: int) -> int:
        """Delete some lines from before that moment (ms), the oldest first; give how many: 0 when there are none."""
        return self._delete(
            "SELECT id FROM (SELECT id, time FROM messages ORDER BY id LIMIT ?) WHERE time < ?", (EXPIRE_LINES, before)
        )

    def has_before(self, moment: int) -> bool:
        """Whether the oldest line is from before that moment (ms)."""
        with blame_database("read the database"):
            row = self._database.execute("SELECT time FROM messages ORDER BY id LIMIT 1").fetchone()
            return row is not None and row[0] < moment

    def wish(self, wish: Wish) -> None:
        """Note that this is to be forgotten, for the server that runs or for the next one."""
        with blame_database("write the database"):
            self._database.execute("INSERT INTO wishes (kind, key) VALUES (?, ?) ON CONFLICT DO NOTHING", wish)

    def grant(self, wish: Wish) -> None:
        """The wish is fulfilled, in memory too."""
        with blame_database("write the database"):
            self._database.execute("DELETE FROM wishes WHERE kind = ? AND key = ?", wish)

    def list_wishes(self) -> list[Wish]:
        """What is still to be forgotten, the oldest first."""
        with blame_database("read the database"):
            return [Wish(*row) for row in self._database.execute("SELECT kind, key FROM wishes ORDER BY id")]

    def forget(self, wish: Wish) -> int:
        """Delete some of the lines; give how many: 0 when there are none left."""
        return self._forget_name(wish.key) if wish.kind == "name" else self._forget_room(wish.key)

    def _forget_name(self, name_key: str) -> int:
        return self._delete(
            "SELECT rowid FROM search WHERE search MATCH ? LIMIT ?", (f"name : {mark(name_key)}", EXPIRE_LINES)
        )

    def _forget_room(self, key: str) -> int:
        """Delete some lines of a room, and in the end the room."""
        room = self._find_room(key)
        if room is None:
            return 0
        deleted = self._delete("SELECT id FROM messages WHERE room = ? LIMIT ?", (room, EXPIRE_LINES))
        if not deleted:
            with blame_database("write the database"):
                self._database.execute("DELETE FROM rooms WHERE id = ?", (room,))
            self._rooms.pop(key, None)
        return deleted

    # --- reading

    @property
    def place(self) -> Place:
        with blame_database("read the database"):
            log, seq, time, ended = self._database.execute("SELECT log, seq, time, ended FROM place").fetchone()
            return Place(log, seq, time, bool(ended))

    @property
    def newest(self) -> int:
        """When the last line was said (ms since the epoch); 0 if there is none."""
        with blame_database("read the database"):
            row = self._database.execute("SELECT time FROM messages ORDER BY id DESC LIMIT 1").fetchone()
            return 0 if row is None else int(row[0])

    def list_rooms(self) -> list[KeptRoom]:
        """All rooms, the one that was last spoken in first."""
        with blame_database("read the database"):
            found = self._database.execute(
                "SELECT key, topic, coalesce((SELECT max(time) FROM messages WHERE room = rooms.id), 0) AS last"
                " FROM rooms ORDER BY last DESC, id"
            )
            return [KeptRoom(*row) for row in found]

    def read_history(
        self, room: str, count: int, before: int = 1 << 62, skip: int = 0, hidden: Sequence[str] = ()
    ) -> list[Kept]:
        """The last `count` lines of a room from before that moment (ms), but for the `skip` last ones; oldest first.

        Lines of `hidden` names (keys) do not count.
        """
        with blame_database("read the database"):
            found = self._database.execute(
                "SELECT rooms.key, time, name, kind, text FROM messages JOIN rooms ON rooms.id = room"
                " WHERE room = (SELECT id FROM rooms WHERE key = ?) AND time < ?"
                f" AND name_key NOT IN ({_mark_places(hidden)})"
                " ORDER BY time DESC, messages.id DESC LIMIT ? OFFSET ?",
                (room, before, *hidden, count, skip),
            )
            return [Kept(*row) for row in found][::-1]

    def search(self, query: Query, page: int = 1) -> list[Kept]:
        """A page of SEARCH_LINES lines that match, the newest first. A query without terms matches nothing."""
        if not query.terms:
            return []
        with blame_database("search the database"):
            # Only the lines of this page are looked up in the table: the index alone knows which they are.
            found = self._database.execute(
                "SELECT rooms.key, messages.time, messages.name, messages.kind, messages.text"
                " FROM (SELECT rowid AS id FROM search WHERE search MATCH ? ORDER BY rowid DESC LIMIT ? OFFSET ?)"
                " AS found JOIN messages ON messages.id = found.id JOIN rooms ON rooms.id = messages.room"
                " ORDER BY found.id DESC",
                (write_match(query), SEARCH_LINES, (page - 1) * SEARCH_LINES),
            )
            return [Kept(*row) for row in found]

    @contextmanager
    def limit_reading(self, seconds: float) -> Iterator[None]:
        """In this block, a statement that is still at work after so many seconds fails with ArchiveRefused, and so does
        one that SQLite cannot carry out for any other reason."""
        until = monotonic() + seconds
        self._database.set_progress_handler(lambda: monotonic() > until, PROGRESS_STEPS)
        try:
            yield
        except sqlite3.Error as error:
            raise ArchiveRefused(f"cannot read the database: {error}") from error
        finally:
            self._database.set_progress_handler(None, 0)

    def read_lines(self, room: str | None = None, since: int = 0, until: int = 1 << 62) -> Iterable[Kept]:
        """All lines, or those of a room, from `since` on and before `until` (ms), in the order of the log."""
        with blame_database("read the database"):
            yield from (
                Kept(*row)
                for row in self._database.execute(
                    "SELECT rooms.key, time, name, kind, text FROM messages JOIN rooms ON rooms.id = room"
                    " WHERE time >= ? AND time < ? AND (? IS NULL OR rooms.key = ?) ORDER BY messages.id",
                    (since, until, room, room),
                )
            )

    def list_gaps(self) -> list[Gap]:
        with blame_database("read the database"):
            return [Gap(*row) for row in self._database.execute("SELECT since, until, reason FROM gaps ORDER BY id")]

    def count(self) -> Counts:
        with blame_database("read the database"):
            one = self._database.execute(
                "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM rooms), (SELECT count(*) FROM gaps)"
            ).fetchone()
        lines, rooms, gaps = one
        return Counts(lines, rooms, gaps, self.path.stat().st_size)

    def check(self) -> list[str]:
        """What SQLite finds wrong; nothing, if nothing is."""
        with blame_database("check the database"):
            found = [row[0] for row in self._database.execute("PRAGMA integrity_check(20)")]
            found += [
                f"a line in a room that is not there: {row[0]}"
                for row in self._database.execute("PRAGMA foreign_key_check")
            ]
        return [each for each in found if each != "ok"]

    def back_up(self, target: Path, progress: Callable[[int, int], None]) -> None:
        """Copy the database to `target` while others write; tell how many pages are left, and of how many.

        Raises ArchiveRefused. `target` must not exist: nothing is overwritten.
        """
        with blame_database(f"write {target}"), closing(sqlite3.connect(target)) as copy:
            self._database.backup(copy, pages=256, progress=lambda _, left, pages: progress(left, pages), sleep=0.0)

    # --- inside

    def _set_up(self, read_only: bool) -> None:
        database = self._database
        database.execute("PRAGMA foreign_keys = ON")
        if read_only:
            if schema.read_version(database) == 0:
                raise ArchiveDamaged(f"{self.path} is no database of mpchat")
            return
        version = schema.read_version(database)
        if version == 0 and database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise ArchiveDamaged(f"{self.path} is a database, but not one of mpchat")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        schema.bring_up(database)

    def _check_place(self, place: Place) -> None:
        log, seq, _ = self._database.execute("SELECT log, seq, time FROM place").fetchone()
        if place.log == log and place.seq <= seq:
            raise ValueError(f"record {place.seq} is here already; the last one is {seq}")

    def _add_lines(self, lines: Sequence[Line]) -> None:
        database = self._database
        first = 1 + database.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()[0]
        rooms = [self._make_room(line.room) for line in lines]
        database.executemany(
            "INSERT INTO messages (id, room, time, name, name_key, account, kind, text)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (number, room, line.time, line.name, line.name_key, line.account, line.kind, line.text)
                for number, (room, line) in enumerate(zip(rooms, lines, strict=True), first)
            ),
        )
        database.executemany(
            "INSERT INTO search (rowid, text, room, name) VALUES (?, ?, ?, ?)",
            (
                (number, segment(line.text), mark(line.room), mark(line.name_key))
                for number, line in enumerate(lines, first)
            ),
        )

    def _find_room(self, key: str) -> int | None:
        row = self._database.execute("SELECT id FROM rooms WHERE key = ?", (key,)).fetchone()
        return None if row is None else int(row[0])

    def _make_room(self, key: str) -> int:
        room = self._rooms.get(key)
        if room is None:
            self._database.execute("INSERT INTO rooms (key) VALUES (?) ON CONFLICT DO NOTHING", (key,))
            found = self._find_room(key)
            assert found is not None
            room = self._rooms[key] = found
        return room

    def _delete(self, which: str, arguments: tuple[object, ...]) -> int:
        """Delete the lines whose ids a statement gives, from the index too; in one transaction."""
        with blame_database("write the database"):
            database = self._database
            database.execute("BEGIN IMMEDIATE")
            try:
                found = database.execute(
                    f"SELECT messages.id, text, rooms.key, name_key FROM messages JOIN rooms ON rooms.id = room"
                    f" WHERE messages.id IN ({which})",
                    arguments,
                ).fetchall()
                # An index without its own copy of the text has to be told what it forgets (sqlite.org/fts5.html, 6.3).
                database.executemany(
                    "INSERT INTO search (search, rowid, text, room, name) VALUES ('delete', ?, ?, ?, ?)",
                    ((number, segment(text), mark(room), mark(name)) for number, text, room, name in found),
                )
                database.executemany("DELETE FROM messages WHERE id = ?", ((row[0],) for row in found))
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
        return len(found)


def _mark_places(values: Sequence[object]) -> str:
    """Placeholders for values in a statement."""
    return ", ".join("?" * len(values))


def open_database(folder: Path, read_only: bool = False) -> Database:
    """The database of a data directory. Raises ArchiveRefused when it is to be read only and is not there."""
    path = folder / FILE
    if read_only and not path.is_file():
        raise ArchiveRefused(f"there is no database in {folder}")
    return Database(path, read_only)
