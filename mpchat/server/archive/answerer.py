"""The answerer looks up what sessions ask the archive, and publishes the answers.

Owns one link to the log. Promises: one question is looked up at a time, and takes LOOKUP_SECONDS at most; the next one
only when the answer has come back in the log. So answers never pile up, writing waits for one lookup at most, and a
question whose answer was not published is simply asked still: by the same process, or by the one that replaces it.
It never waits for the log.
"""

import logging

from mpchat.archive.database import DONE, Database, Kept
from mpchat.archive.errors import ArchiveDamaged, ArchiveRefused
from mpchat.archive.tokens import Query
from mpchat.chat.entries import Answered, encode_entries
from mpchat.chat.rules.recall import FOUND_LINES, Lookup
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.history import Line, measure_line
from mpchat.log.port import LogFull, LogLink

log = logging.getLogger(__name__)

LOOKUP_SECONDS = 1.0
"""How long one lookup may take. Meanwhile nothing is written."""

TRY_AGAIN = 0.5
"""Seconds between two tries to publish to a full log."""

CUT_LEAST = 100
"""Characters that a match shows at least; and about what its date, room and name take."""

NEVER = float("inf")


class Answerer:
    """Call `advance` whenever `link` is readable or writable, when more of the log was read, and at its `deadline`.
    `most`: how many bytes the lines of one answer may have when they are shown."""

    def __init__(self, database: Database, link: LogLink, most: int) -> None:
        self.link = link
        self.deadline = NEVER
        """When to call `advance` at the latest: while the log is full."""
        self._database = database
        self._most = most
        self._calling = False  # a publication is under way
        self._answered_at = 0  # the record of the last answer
        self._position = 0
        self._failing = False

    @property
    def waiting(self) -> bool:
        """Whether an answer is on its way into the log, or back from it."""
        return self._calling or self._position < self._answered_at

    def advance(self, now: float, replica: Replica, position: int, trouble: bool) -> None:
        """Take a step. `replica` has applied the log up to record `position`, all lines of which are in the database;
        or they cannot be written (`trouble`). Raises LogLost."""
        self._position = position
        if self._calling:
            self._finish_call(now)
        if self.waiting or (self.deadline != NEVER and now < self.deadline):
            return
        self.deadline = NEVER
        lookup = replica.next_lookup()
        if lookup is None:
            return
        answer = self._fail(lookup) if trouble else self._look_up(lookup)
        self._calling = True
        self.link.call("publish", encode_entries([answer]))

    def _finish_call(self, now: float) -> None:
        if self.link.backlog:
            self.link.pump()
        if not self.link.take():
            return
        self._calling = False
        try:
            self._answered_at = self.link.receive()
        except LogFull:
            self.deadline = now + TRY_AGAIN

    def _look_up(self, lookup: Lookup) -> Answered:
        try:
            with self._database.limit_reading(LOOKUP_SECONDS):
                lines = self._search(lookup) if lookup.question.terms else self._read_history(lookup)
        except (ArchiveRefused, ArchiveDamaged) as error:
            if not self._failing:
                log.warning("archive cannot answer reason=%s", error)
            self._failing = True
            return self._fail(lookup)
        self._failing = False
        flat = tuple((line.room, line.time, line.name, line.kind == DONE, line.text) for line in lines)
        return Answered(lookup.sid, lookup.question.number, flat)

    def _fail(self, lookup: Lookup) -> Answered:
        return Answered(lookup.sid, lookup.question.number, (), failed=True)

    def _search(self, lookup: Lookup) -> list[Kept]:
        """A page of matches, oldest first. Long texts are cut, so that no match is left out."""
        question = lookup.question
        query = Query(question.terms, question.room, question.name, lookup.hidden)
        found = self._database.search(query, question.skip // FOUND_LINES + 1)
        # A character has four bytes at most.
        most = max(CUT_LEAST, self._most // FOUND_LINES // 4 - CUT_LEAST)
        return [line._replace(text=_cut(line.text, most)) for line in reversed(found)]

    def _read_history(self, lookup: Lookup) -> list[Kept]:
        """The last lines that go into an answer, oldest first."""
        question = lookup.question
        found = self._database.read_history(
            question.room, question.lines, question.before, question.skip, lookup.hidden
        )
        left, shown = self._most, 0
        for line in reversed(found):
            left -= measure_line(Line(line.time, line.name, False, line.text))
            if left < 0:
                break
            shown += 1
        return found[len(found) - shown :]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + " ..."
