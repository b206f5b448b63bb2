"""The archivist keeps what was said, wherever it is killed: on a real log, and in a real database."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpchat.archive.database import Database, Gap, open_database
from mpchat.archive.errors import ArchiveRefused
from mpchat.chat.entries import Asked, Entry, Opened, Said, Stopped, decode_entries, encode_entries
from mpchat.chat.requests import Act, Join, Private, SetTopic
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import Limits
from mpchat.log.local.memory import MemoryLog
from mpchat.log.port import LogTrimmed
from mpchat.server.archive.archivist import ENDED_BADLY, TOO_SLOW, Archivist

ALICE, BOB = b"a" * 16, b"b" * 16


class Chat:
    """A log, what was published to it, and the time."""

    def __init__(self) -> None:
        self.now = 1000
        self.log = MemoryLog(wall_clock=lambda: self.now, tail=0)
        self._end = 0
        self.publish(Opened(ALICE, ""), Opened(BOB, ""))
        self.say("alice")
        self.say("bob", sid=BOB)

    def publish(self, *entries: Entry) -> int:
        return self.log.publish(encode_entries(entries))

    def say(self, *texts: str, sid: bytes = ALICE) -> int:
        self._end += 1
        return self.publish(Said(sid, self._end, texts))

    def ask(self, request: object, sid: bytes = ALICE) -> int:
        self._end += 1
        return self.publish(Asked(sid, self._end, request))  # type: ignore[arg-type]

    def take_snapshot(self) -> None:
        """Snapshot the state of just now; the log forgets what is before it."""
        replica = Replica(Limits())
        position = 0
        for record in self.log.read(0, 0) if not self.log.get_snapshot().seq else []:
            for entry in decode_entries(record.payload):
                replica.apply(entry, record.time)
            position = record.seq
        self.log.put_snapshot(position, replica.dump())

    def archivist(self, database: Database, log_id: str = "log") -> Archivist:
        return Archivist(self.log, database, log_id, Limits())


@contextmanager
def opened() -> Iterator[Database]:
    with tempfile.TemporaryDirectory() as folder, closing(open_database(Path(folder))) as database:
        yield database


def read(chat: Chat, archivist: Archivist) -> None:
    """Give the archivist what has come, as its process does."""
    try:
        archivist.take(chat.log.read(archivist.position, 0))
    except LogTrimmed:
        archivist.start()


def run(chat: Chat, archivist: Archivist) -> None:
    """Until all is read and written."""
    for _ in range(3):
        read(chat, archivist)
        archivist.write()


def kept(database: Database) -> list[str]:
    return [f"#{line.room} {line.name}{'*' if line.kind else ''}: {line.text}" for line in database.read_lines()]


def test_what_was_said_is_kept_and_nothing_else() -> None:
    chat = Chat()
    chat.say("hello", "world")
    chat.ask(Private("bob", "a secret"))
    chat.ask(Act("waves"))
    chat.ask(Join("python"))
    chat.ask(SetTopic("Snakes"))
    chat.say("here")
    with opened() as database:
        run(chat, chat.archivist(database))
        said = ["#lobby alice: hello", "#lobby alice: world", "#lobby alice*: waves"]
        assert kept(database) == [*said, "#python alice: here"]
        assert [(room.key, room.topic) for room in database.list_rooms() if room.topic] == [("python", "Snakes")]
        assert database.list_gaps() == []


def test_the_next_archivist_goes_on_where_the_last_one_was_killed() -> None:
    chat = Chat()
    chat.say("one")
    with opened() as database:
        run(chat, chat.archivist(database))
        chat.say("two")
        run(chat, chat.archivist(database))
        run(chat, chat.archivist(database))
        assert kept(database) == ["#lobby alice: one", "#lobby alice: two"]


def test_what_the_log_has_forgotten_is_a_gap() -> None:
    chat = Chat()
    chat.say("one")
    with opened() as database:
        run(chat, chat.archivist(database))
        chat.now = 2000
        chat.say("lost")
        chat.take_snapshot()
        chat.now = 3000
        chat.say("three")
        run(chat, chat.archivist(database))
        assert kept(database) == ["#lobby alice: one", "#lobby alice: three"]
        assert database.list_gaps() == [Gap(1000, 3000, TOO_SLOW)]


def test_an_archivist_that_is_too_slow_marks_the_gap_and_goes_on() -> None:
    chat = Chat()
    with opened() as database:
        archivist = chat.archivist(database)
        chat.say("one")
        run(chat, archivist)
        chat.say("lost")
        chat.take_snapshot()
        chat.say("three")
        run(chat, archivist)
        assert kept(database) == ["#lobby alice: one", "#lobby alice: three"]
        assert len(database.list_gaps()) == 1


def test_what_was_read_before_a_gap_and_not_written_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat()
    with opened() as database:
        archivist = chat.archivist(database)
        chat.now = 2000
        chat.say("one")
        with monkeypatch.context() as patch:
            patch.setattr(database, "write", _refuse)
            read(chat, archivist)
            with pytest.raises(ArchiveRefused):
                archivist.write()
        chat.now = 3000
        chat.say("lost")
        chat.ask(SetTopic("Names"))
        chat.take_snapshot()
        chat.now = 4000
        chat.say("three")
        chat.now = 5000
        chat.say("four")
        run(chat, archivist)
        assert kept(database) == ["#lobby alice: one", "#lobby alice: three", "#lobby alice: four"]
        assert database.list_gaps() == [Gap(2000, 4000, TOO_SLOW)]
        assert [room.topic for room in database.list_rooms()] == ["Names"]


def test_a_second_start_reads_again_what_is_not_written() -> None:
    chat = Chat()
    with opened() as database:
        archivist = chat.archivist(database)
        chat.say("one")
        read(chat, archivist)
        archivist.start()
        run(chat, archivist)
        assert kept(database) == ["#lobby alice: one"]


def test_another_log_is_a_gap_unless_the_last_one_ended_in_order() -> None:
    with opened() as database:
        first = Chat()
        first.say("one")
        run(first, first.archivist(database, "first"))
        second = Chat()
        second.now = 5000
        second.say("two")
        second.publish(Stopped(""))
        run(second, second.archivist(database, "second"))
        third = Chat()
        third.say("three")
        run(third, third.archivist(database, "third"))
        assert kept(database) == ["#lobby alice: one", "#lobby alice: two", "#lobby alice: three"]
        assert [gap.reason for gap in database.list_gaps()] == [ENDED_BADLY]


def test_what_could_not_be_written_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat()
    with opened() as database:
        archivist = chat.archivist(database)
        chat.say("one")
        with monkeypatch.context() as patch:
            patch.setattr(database, "write", _refuse)
            for _ in range(3):
                read(chat, archivist)
                with pytest.raises(ArchiveRefused):
                    archivist.write()
        chat.say("two")
        run(chat, archivist)
        assert kept(database) == ["#lobby alice: one", "#lobby alice: two"]
        assert database.list_gaps() == []


def _refuse(*_: object) -> None:
    raise ArchiveRefused("the disk is full")


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.sampled_from(["say", "say two", "step", "kill", "refuse"]), min_size=1, max_size=20))
def test_whenever_it_is_killed_everything_is_kept_once(steps: list[str]) -> None:
    chat = Chat()
    said: list[str] = []
    with opened() as database:
        archivist = chat.archivist(database)
        for number, step in enumerate(steps):
            if step == "step":
                read(chat, archivist)
                archivist.write()
            elif step == "kill":
                archivist = chat.archivist(database)
            elif step == "refuse":
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(database, "write", _refuse)
                    read(chat, archivist)
                    with suppress(ArchiveRefused):  # there may be nothing to write
                        archivist.write()
            else:
                texts = [str(number)] if step == "say" else [f"{number}a", f"{number}b"]
                chat.say(*texts)
                said += texts
        run(chat, archivist)
        assert [line.text for line in database.read_lines()] == said


def test_the_place_is_written_at_once_when_it_is_asked_for() -> None:
    chat = Chat()
    last = chat.ask(Join("python"))
    with opened() as database:
        archivist = chat.archivist(database)
        read(chat, archivist)
        archivist.write()
        assert database.place.seq == 0
        archivist.write(at_once=True)
        assert database.place.seq == last
