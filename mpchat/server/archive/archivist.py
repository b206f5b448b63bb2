"""The archivist reads the log as a worker does, and writes what was said into the database.

Owns a replica, and how far it has read. Promises: each message of the log is written once and in order, wherever the
last archivist was killed, since lines and place go into one transaction; what the log no longer has is marked as a gap.
Private messages are not written. Never decides anything about the chat.

It starts from a snapshot of a state at or before the place of the database, and replays what lies between without
writing it. When there is none, the log has moved on without the archive: it starts from the latest snapshot, with a
gap.
"""

from collections.abc import Iterable
from contextlib import suppress

from mpchat.archive.database import DONE, SAID, Database, Gap, Line, Place, Topic
from mpchat.chat.entries import Restarted, Stopped, decode_entries
from mpchat.chat.events import Effect, Message, Told, TopicSet
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.names import name_key
from mpchat.chat.state.state import Limits
from mpchat.log.port import Log, LogTrimmed, Record

PLACE_EVERY = 1000
"""Write the place after so many records in which nobody said anything, so that the next archivist replays few."""

LINE_OVERHEAD = 250
"""Bytes that a line takes in memory beside its text, about (`sys.getsizeof` of the tuple, the numbers, the string)."""

TOO_SLOW = "the archive could not keep up, or could not write"
ENDED_BADLY = "the machine or the server ended before everything was written"


class Archivist:
    """Give it what the log has after `position` (`take`), and let it write (`write`). `log_id` names the log: the
    numbers of another one mean nothing here.

    Raises LogLost when it is made, and from `start`.
    """

    def __init__(self, source: Log, database: Database, log_id: str, limits: Limits) -> None:
        self._source = source
        self._database = database
        self._log_id = log_id
        self._limits = limits
        self.ended = False
        """Whether the server has ended in order: nothing more will come."""
        self._lines: list[Line] = []
        self._size = 0  # of them, in memory
        self._topics: list[Topic] = []
        self._gap: Gap | None = None  # that is written with the first record behind it
        self._gap_to = 0  # the last record in it
        self._last: Record | None = None  # that was read and is not written
        self._resumed = False  # the server goes on, and the database says that it has ended
        self.start()

    @property
    def position(self) -> int:
        """The last record that was read."""
        return self._position

    @property
    def waiting(self) -> int:
        """About how many bytes of memory the lines take that were read and are not written."""
        return self._size

    @property
    def replica(self) -> Replica:
        """The state of the chat at `position`."""
        return self._replica

    def start(self) -> None:
        """Begin to read at the place of the database; or, where the log does not have that any more, at the latest
        snapshot, with a gap. Call it again after LogTrimmed. Raises LogLost."""
        place = self._database.place
        self._written = place.seq if place.log == self._log_id else 0
        self.ended = False
        if place.log and place.log != self._log_id and not place.ended:
            self._gap = Gap(place.time, place.time, ENDED_BADLY)
        with suppress(LogTrimmed):
            self._load(self._written)
            self._gap_to = self._position
            # It is read again.
            self._lines, self._topics, self._last, self._size = [], [], None, 0
            return
        # A snapshot can be replaced while it is read; there is always a newer one.
        while True:
            with suppress(LogTrimmed):
                self._load(None)
                break
        # What was read before and is not written comes before the gap, and topics may have been set in it.
        since = place.time if self._last is None else self._last.time
        self._gap, self._gap_to = Gap(since, since, TOO_SLOW), self._position
        self._topics += [Topic(room, topic) for room, topic in self._replica.topics()]

    def take(self, records: Iterable[Record]) -> None:
        """Apply what comes after `position`, and note what was said."""
        for record in records:
            self._apply(record)

    def write(self, at_once: bool = False) -> None:
        """Write what was noted, in one transaction; if nobody has said anything, only now and then, or `at_once`.

        Raises ArchiveRefused: call it again later, nothing is lost. Raises ArchiveDamaged.
        """
        if self._last is None:
            return
        noted = self._lines or self._topics or self._gap or self.ended or self._resumed or at_once
        if not noted and self._last.seq < self._written + PLACE_EVERY:
            return
        place = Place(self._log_id, self._last.seq, self._last.time, self.ended)
        gap = self._gap if self._last.seq > self._gap_to else None
        self._database.write(place, self._lines, self._topics, gap)
        self._written = place.seq
        self._lines, self._topics, self._last, self._size = [], [], None, 0
        if gap is not None:
            self._gap = None
        self._resumed = False

    def _load(self, at_most: int | None) -> None:
        snapshot = self._source.get_snapshot(at_most)
        self._replica = Replica.load(snapshot.blob, self._limits) if snapshot.seq else Replica(self._limits)
        self._position = snapshot.seq

    def _apply(self, record: Record) -> None:
        known = record.seq <= self._written
        for entry in decode_entries(record.payload):
            effects = self._replica.apply(entry, record.time)
            self.ended = isinstance(entry, Stopped)
            if not known:
                self._note(effects, record.time)
                self._resumed |= isinstance(entry, Restarted)
        self._position = record.seq
        if not known:
            self._last = record
            if self._gap is not None and record.seq == self._gap_to + 1:
                self._gap = self._gap._replace(until=record.time)

    def _note(self, effects: Iterable[Effect], time: int) -> None:
        for effect in effects:
            match effect:
                case Told(event=Message(room, name, texts, action)):
                    kind = DONE if action else SAID
                    key = name_key(name)
                    self._size += sum(LINE_OVERHEAD + len(text) for text in texts)
                    self._lines.extend(Line(room, time, name, key, text, kind) for text in texts)
                case Told(event=TopicSet(room=room, topic=topic)):
                    self._topics.append(Topic(room, topic))
