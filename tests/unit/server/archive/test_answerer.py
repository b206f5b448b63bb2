"""Questions of sessions are answered once, whenever the archive is killed: on a real log, and in a real database."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpchat.archive.database import Database, open_database
from mpchat.archive.errors import ArchiveRefused
from mpchat.chat.entries import Answered, Asked, Entry, Opened, Said, decode_entries, encode_entries
from mpchat.chat.events import Failed, Found, History, Told
from mpchat.chat.requests import Act, Ignore, Join, Request, Search, ShowEarlier, ShowHistory
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import Limits
from mpchat.log.local.memory import MemoryLog
from mpchat.log.port import LogFull
from mpchat.server.archive.answerer import NEVER, TRY_AGAIN, Answerer
from mpchat.server.archive.archivist import Archivist

ALICE, BOB = b"a" * 16, b"b" * 16
LIMITS = Limits(archived=True, rooms_stay=True)


class PlayedLink:
    """A link to a log in this process. Its answer comes when it is asked for; `full` refuses the next publication."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.full = False
        self.slow = False
        self.backlog = False
        self._answer: Any = None

    def fileno(self) -> int:
        return -1

    def call(self, method: str, *arguments: Any) -> None:
        assert method == "publish"
        self._answer = LogFull("full") if self.full else self._log.publish(*arguments)

    def pump(self) -> None:
        pass

    def take(self) -> bool:
        return not self.slow

    def receive(self) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def close(self) -> None:
        pass


class Stage:
    """A log with two people in it, and an archive that can be killed."""

    def __init__(self, database: Database, most: int = 1 << 19) -> None:
        self.log = MemoryLog(wall_clock=lambda: 1000, tail=0)
        self.database = database
        self.most = most
        self._end = 0
        self.publish(Opened(ALICE, ""), Opened(BOB, ""))
        self.say("alice")
        self.say("Bob", sid=BOB)
        self.start()

    def start(self) -> None:
        """Start an archive in place of the last one."""
        self.link = PlayedLink(self.log)
        self.archivist = Archivist(self.log, self.database, "log", LIMITS)
        self.answerer = Answerer(self.database, self.link, self.most)

    def publish(self, *entries: Entry) -> None:
        self.log.publish(encode_entries(entries))

    def say(self, *texts: str, sid: bytes = ALICE) -> None:
        self._end += 1
        self.publish(Said(sid, self._end, texts))

    def ask(self, *requests: Request, sid: bytes = ALICE) -> None:
        for request in requests:
            self._end += 1
            self.publish(Asked(sid, self._end, request))

    def turn(self, now: float = 0.0, trouble: bool = False) -> None:
        """What the archive's loop does in one turn."""
        self.archivist.take(self.log.read(self.archivist.position, 0))
        self.archivist.write()
        self.answerer.advance(now, self.archivist.replica, self.archivist.position, trouble)

    def entries(self) -> list[tuple[Entry, int]]:
        return [(entry, record.time) for record in self.log.read(0, 0) for entry in decode_entries(record.payload)]

    def answers(self) -> list[Answered]:
        return [entry for entry, _ in self.entries() if isinstance(entry, Answered)]

    def told(self) -> list[Found | History | Failed]:
        """What comes of all that is in the log, as a worker finds it."""
        replica = Replica(LIMITS)
        effects = [effect for entry, time in self.entries() for effect in replica.apply(entry, time)]
        events = [effect.event for effect in effects if isinstance(effect, Told)]
        return [event for event in events if isinstance(event, Found | History | Failed)]


@contextmanager
def staged(most: int = 1 << 19) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as folder, closing(open_database(Path(folder))) as database:
        yield Stage(database, most)


def found(event: object) -> list[str]:
    assert isinstance(event, Found)
    return [f"#{line.room} {line.name}{'*' if line.action else ''}: {line.text}" for line in event.lines]


def test_it_finds_what_was_said_just_before() -> None:
    with staged() as stage:
        stage.say("Иван пришёл", "我是李雷", "tea leaves", "leaves tea")
        stage.ask(Join("kitchen"), Act("pours tea"))
        stage.say("tea?", sid=BOB)
        questions = (
            Search(("ИВАН",)),
            Search(("雷",)),
            Search(("tea leaves",)),
            Search(("tea",)),
            Search(("tea",), "KITCHEN"),
        )
        stage.ask(*questions)
        for _ in range(10):
            stage.turn()
        stage.ask(Search(("tea",), name="BOB"))
        for _ in range(3):
            stage.turn()
        assert [found(event) for event in stage.told()] == [
            ["#lobby alice: Иван пришёл"],
            ["#lobby alice: 我是李雷"],
            ["#lobby alice: tea leaves"],
            ["#lobby alice: tea leaves", "#lobby alice: leaves tea", "#kitchen alice*: pours tea", "#lobby Bob: tea?"],
            ["#kitchen alice*: pours tea"],
            ["#lobby Bob: tea?"],
        ]


def test_lines_of_the_ignored_are_left_out() -> None:
    with staged() as stage:
        stage.say("tea")
        stage.say("tea", "more tea", sid=BOB)
        stage.ask(Ignore("bob"), Search(("tea",)), ShowHistory(1000))
        for _ in range(5):
            stage.turn()
        search, history = stage.told()
        assert found(search) == ["#lobby alice: tea"]
        assert isinstance(history, History)
        assert [line.text for line in history.lines] == ["tea"]


def test_one_question_is_looked_up_at_a_time() -> None:
    with staged() as stage:
        stage.ask(*[Search(("tea",))] * 3)
        stage.link.slow = True
        for _ in range(3):
            stage.turn()
        assert len(stage.answers()) == 1
        stage.link.slow = False
        # Taken in, but not read back yet.
        stage.answerer.advance(0.0, stage.archivist.replica, stage.archivist.position - 1, trouble=False)
        assert stage.answerer.waiting
        for number in (2, 3, 3):
            stage.turn()
            assert len(stage.answers()) == number


def test_a_full_log_gets_the_answer_later() -> None:
    with staged() as stage:
        stage.ask(Search(("tea",)))
        stage.link.full = True
        stage.turn()
        stage.turn()
        assert stage.answerer.deadline == TRY_AGAIN
        stage.link.full = False
        stage.turn(now=TRY_AGAIN / 2)
        assert stage.answers() == []
        stage.turn(now=TRY_AGAIN)
        assert len(stage.answers()) == 1
        assert stage.answerer.deadline == NEVER


def test_a_database_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ArchiveRefused("disk I/O error")

    with staged() as stage:
        stage.ask(Search(("tea",)))
        monkeypatch.setattr(stage.database, "search", refuse)
        stage.turn()
        monkeypatch.undo()
        stage.ask(Search(("tea",)))
        for _ in range(3):
            stage.turn(trouble=True)
        assert [answer.failed for answer in stage.answers()] == [True, True]
        stage.ask(Search(("tea",)))
        for _ in range(3):
            stage.turn()
        assert [type(event) for event in stage.told()] == [Failed, Failed, Found]


def test_an_answer_goes_into_half_a_send_queue() -> None:
    with staged(most=10_000) as stage:
        stage.say(*("tea " + "x" * 990 for _ in range(40)))
        stage.ask(ShowHistory(1000), Search(("tea",)))
        for _ in range(5):
            stage.turn()
        history, search = stage.answers()
        assert len(history.lines) == 9
        assert len(search.lines) == 20
        assert sum(len(line[-1]) for line in search.lines) < 10_000


def test_history_goes_back_to_the_first_line_once_and_in_order() -> None:
    with staged() as stage:
        stage.say(*map(str, range(600)))
        stage.ask(ShowHistory(200), *[ShowEarlier(200)] * 3)
        for _ in range(10):
            stage.turn()
        shown = [line.text for event in reversed(stage.told()) for line in event.lines]  # type: ignore[union-attr]
        # Two of them came from memory; the third one was asked for before the second had its answer.
        assert shown[-400:] == [str(number) for number in range(200, 600)]


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.sampled_from(["ask", "say", "turn", "kill", "slow"]), max_size=25))
def test_whenever_it_is_killed_each_question_is_answered_once(steps: list[str]) -> None:
    with staged() as stage:
        questions = 0
        for step in steps:
            if step == "ask" and questions < 5:
                questions += 1
                stage.ask(Search((f"nothing{questions}",)))
            elif step == "say":
                stage.say("tea")
            elif step == "turn":
                stage.turn()
            elif step == "kill":
                stage.start()
            elif step == "slow":
                stage.link.slow = not stage.link.slow
        stage.start()
        for _ in range(questions + 3):
            stage.turn()
        assert [type(event) for event in stage.told()] == [Found] * questions
