"""The database: a real file, held against a list that remembers everything."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpchat.archive import database as module
from mpchat.archive import schema
from mpchat.archive.database import FILE, Database, Gap, KeptRoom, Line, Place, Topic, Wish, open_database
from mpchat.archive.errors import ArchiveDamaged, ArchiveRefused, NewerArchive
from mpchat.archive.tokens import Query
from mpchat.errors import ArchiveError


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(tmp_path)) as opened:
        yield opened


def said(text: str, time: int = 1, room: str = "lobby", name: str = "alice") -> Line:
    return Line(room, time, name, name, text)


def texts(kept: list[module.Kept]) -> list[str]:
    return [each.text for each in kept]


# --- writing ------------------------------------------------------------------------------------------------


def test_what_was_written_is_there_when_it_is_opened_again(database: Database, tmp_path: Path) -> None:
    database.write(Place("a", 7, 1000), [said("one"), said("two", room="b")], [Topic("lobby", "Snakes")])
    database.close()
    with closing(open_database(tmp_path)) as again:
        assert again.place == Place("a", 7, 1000)
        assert texts(again.read_history("lobby", 10)) == ["one"]
        assert again.list_rooms() == [KeptRoom("lobby", "Snakes", 1), KeptRoom("b", "", 1)]


def test_a_record_that_is_here_is_not_written_again(database: Database) -> None:
    database.write(Place("a", 7, 1000), [said("one")])
    for seq in (6, 7):
        with pytest.raises(ValueError, match="is here already"):
            database.write(Place("a", seq, 1000), [said("one")])
    assert database.count().lines == 1
    database.write(Place("another log", 1, 1000), [said("two")])
    assert texts(database.read_history("lobby", 10)) == ["one", "two"]


def test_a_write_that_fails_leaves_nothing(database: Database) -> None:
    database.write(Place("a", 1, 1), [said("one")])
    with pytest.raises(Exception, match=r".*"):
        database.write(Place("a", 2, 2), [said("two", room="new"), said("three")._replace(text=None)])  # type: ignore[arg-type]
    assert database.place.seq == 1
    assert database.count().lines == 1
    assert [room.key for room in database.list_rooms()] == ["lobby"]
    database.write(Place("a", 2, 2), [said("two", room="new")])
    assert texts(database.read_history("new", 1)) == ["two"]
    assert texts(database.search(Query(("two",)))) == ["two"]


def test_a_topic_is_the_last_one(database: Database) -> None:
    database.write(Place("a", 1, 1), [], [Topic("x", "one"), Topic("x", "two")])
    database.write(Place("a", 2, 1), [], [Topic("x", "")])
    assert database.list_rooms() == [KeptRoom("x", "", 0)]


def test_a_gap_is_marked(database: Database) -> None:
    database.write(Place("a", 1, 1), gap=Gap(1, 5, "the disk was full"))
    assert database.list_gaps() == [Gap(1, 5, "the disk was full")]
    assert database.count().gaps == 1


# --- reading ------------------------------------------------------------------------------------------------


def test_history_pages_back(database: Database) -> None:
    database.write(Place("a", 1, 1), [said(str(number), time=number // 2) for number in range(10)])
    assert texts(database.read_history("lobby", 3)) == ["7", "8", "9"]
    assert texts(database.read_history("lobby", 3, before=3)) == ["3", "4", "5"]
    assert texts(database.read_history("lobby", 3, before=0)) == []
    assert texts(database.read_history("nowhere", 3)) == []
    assert texts(database.read_history("lobby", 2, before=4, skip=1)) == ["5", "6"]


def test_lines_of_hidden_names_do_not_count(database: Database) -> None:
    lines = [said(f"hello {number}", name=name) for number in range(3) for name in ("alice", "bob", "carol")]
    database.write(Place("a", 1, 1), lines)
    assert texts(database.read_history("lobby", 2, hidden=("bob", "carol"))) == ["hello 1", "hello 2"]
    assert texts(database.search(Query(("hello",), hidden=("bob", "carol")))) == ["hello 2", "hello 1", "hello 0"]


def test_a_lookup_that_takes_too_long_is_refused(database: Database) -> None:
    database.write(Place("a", 1, 1), [said(f"hello {number}") for number in range(10_000)])
    with pytest.raises(ArchiveRefused), database.limit_reading(0.0):
        database.search(Query(("hello",)), 400)
    assert len(database.search(Query(("hello",)), 400)) == 20


def test_search_gives_the_newest_first_page_by_page(database: Database) -> None:
    database.write(Place("a", 1, 1), [said(f"hello {number}") for number in range(45)])
    assert texts(database.search(Query(("hello",)))) == [f"hello {number}" for number in range(44, 24, -1)]
    assert texts(database.search(Query(("hello",)), 3)) == [f"hello {number}" for number in range(4, -1, -1)]
    assert database.search(Query(("hello",)), 4) == []
    assert database.search(Query(())) == []


def test_lines_are_exported_in_order_and_between_two_moments(database: Database) -> None:
    database.write(Place("a", 1, 1), [said("1", 1), said("2", 2, room="b"), said("3", 3), said("4", 4)])
    assert [line.text for line in database.read_lines()] == ["1", "2", "3", "4"]
    assert [line.text for line in database.read_lines("lobby", since=2, until=4)] == ["3"]


# --- deleting -----------------------------------------------------------------------------------------------


def test_old_lines_expire_in_small_steps(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXPIRE_LINES", 2)
    database.write(Place("a", 1, 1), [said(f"hello {number}", number) for number in range(6)])
    assert [database.expire(5) for _ in range(4)] == [2, 2, 1, 0]
    assert texts(database.search(Query(("hello",)))) == ["hello 5"]
    assert database.check() == []


def test_a_name_is_forgotten_everywhere(database: Database) -> None:
    lines = [said("hello", name="bob"), said("hello"), said("bye", name="bob", room="b"), said("x", name="bobby")]
    database.write(Place("a", 1, 1), lines)
    assert [database.forget(Wish("name", "bob")) for _ in range(2)] == [2, 0]
    assert [line.name for line in database.read_lines()] == ["alice", "bobby"]
    assert database.search(Query(("bye",))) == []


def test_a_room_is_forgotten(database: Database) -> None:
    database.write(Place("a", 1, 1), [said("hello", room="b"), said("hello")], [Topic("b", "Bees")])
    assert [database.forget(Wish("room", "b")) for _ in range(3)] == [1, 0, 0]
    assert [room.key for room in database.list_rooms()] == ["lobby"]
    database.write(Place("a", 2, 1), [said("again", room="b")])
    assert texts(database.read_history("b", 5)) == ["again"]


def test_a_wish_is_kept_until_it_is_granted(database: Database, tmp_path: Path) -> None:
    bob, bees = Wish("name", "bob"), Wish("room", "bees")
    for wish in (bob, bees, bob):
        database.wish(wish)
    database.grant(bees)
    database.close()
    with closing(open_database(tmp_path)) as again:
        assert again.list_wishes() == [bob]


# --- files that are none ------------------------------------------------------------------------------------


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE)) as raw:
        raw.execute(f"PRAGMA user_version = {schema.SCHEMA + 1}")
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(NewerArchive):
        open_database(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ArchiveDamaged):
        open_database(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as raw:
        raw.execute("CREATE TABLE theirs (x)")
    with pytest.raises(ArchiveDamaged, match="not one of mpchat"):
        open_database(tmp_path)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, read_only: bool) -> None:
    with pytest.raises(ArchiveRefused):
        open_database(tmp_path / "missing", read_only)


def test_a_database_that_is_cut_off_is_damaged_and_says_so(database: Database, tmp_path: Path) -> None:
    database.write(Place("a", 1, 1), [said("hello " * 50) for _ in range(2000)])
    database.close()
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 // 4096 * 4096])
    with pytest.raises(ArchiveError), closing(open_database(tmp_path)) as opened:
        if opened.check():
            raise ArchiveDamaged
        list(opened.read_lines())


def test_who_reads_only_can_change_nothing(database: Database, tmp_path: Path) -> None:
    database.write(Place("a", 1, 1), [said("one")])
    with closing(open_database(tmp_path, read_only=True)) as reader:
        assert texts(reader.read_history("lobby", 5)) == ["one"]
        with pytest.raises(ArchiveRefused):
            reader.write(Place("a", 2, 1))


def test_a_backup_is_a_database_of_its_own(database: Database, tmp_path: Path) -> None:
    database.write(Place("a", 3, 4), [said("one")])
    steps: list[tuple[int, int]] = []
    folder = tmp_path / "copy"
    folder.mkdir()
    database.back_up(folder / FILE, lambda left, pages: steps.append((left, pages)))
    assert steps[-1][0] == 0
    with closing(open_database(folder)) as copy:
        assert copy.place == Place("a", 3, 4)
        assert texts(copy.search(Query(("one",)))) == ["one"]


# --- any prefix again ---------------------------------------------------------------------------------------

BATCHES = st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=5)), max_size=4), min_size=1, max_size=6)


@settings(max_examples=30)
@given(batches=BATCHES, data=st.data())
def test_records_that_come_again_change_nothing(batches: list[list[tuple[str, str]]], data: st.DataObject) -> None:
    """A writer that is killed starts again from `place`, wherever the log then lets it start."""
    with tempfile.TemporaryDirectory() as folder, closing(open_database(Path(folder))) as database:
        written: list[str] = []
        while database.place.seq < len(batches):
            start = data.draw(st.integers(0, database.place.seq), label="start")
            for seq, batch in enumerate(batches[start:], start + 1):
                if seq <= database.place.seq:
                    with pytest.raises(ValueError, match="is here already"):
                        database.write(Place("log", seq, seq), [said(text, seq, room) for room, text in batch])
                    continue
                database.write(Place("log", seq, seq), [said(text, seq, room) for room, text in batch])
                written += [text for _, text in batch]
                if data.draw(st.booleans(), label="killed"):
                    break
        assert [line.text for line in database.read_lines()] == written
        assert written == [text for batch in batches for _, text in batch]
