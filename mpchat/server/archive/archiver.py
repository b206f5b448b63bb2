"""The archive process: it waits for the log and for main, and lets the archivist write.

Owns the database while it runs, one link to the log, and its end of the channel to main. Promises: main hears a beat as
long as the process is not hung, also while nothing can be written; what cannot be written is tried again until it can
be, and is said in the log once when it begins and once when it is over; meanwhile a bounded number of lines waits in
memory, and the others in the log. The process ends by itself when the server has ended in order and that is written.
When the sequencer is gone it ends too, and main starts the next one. What is to be deleted (`housekeeping`) is deleted
while there is nothing to write. Questions of sessions (`answerer`) are answered one at a time, each behind what is to
be written.
"""

import logging
import select
import time
from contextlib import closing
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from mpchat.archive.database import open_database
from mpchat.archive.errors import ArchiveDamaged, ArchiveRefused, NewerArchive
from mpchat.config import Config
from mpchat.errors import ArchiveError
from mpchat.log.port import LogAddress, LogError, LogFull, LogLink, LogLost, LogTrimmed
from mpchat.logs import report_lost_lines, start_logging
from mpchat.server.archive.answerer import Answerer
from mpchat.server.archive.archivist import Archivist
from mpchat.server.archive.housekeeping import DAY, Housekeeping
from mpchat.server.control import DAMAGED, NO_LOG, Beat, Channel, ChannelClosed, Conclude
from mpchat.server.limits import make_limits

log = logging.getLogger(__name__)

NAME = "archive"

BEATS = 4
"""How many beats fit into the silence after which main takes the process for hung."""

READ_WAIT = 20.0
"""Seconds that a read waits in the sequencer when nothing comes."""

WAITING_MOST = 32 << 20
"""How many bytes may wait to be written. While there are more, the archive reads no further."""

PAUSE = 0.1
"""Seconds between what came and the next read. A transaction costs some 0.3 ms of CPU, however few lines are in it.
With one for each message the archive took more CPU than all others."""

FULL_READ = 1 << 19
"""Bytes of payload in a read behind which there is probably more: then there is no pause."""

TRY_AGAIN = 1.0
"""Seconds between two tries to write what could not be written."""


class Archiver:
    """The process from inside. `run` returns when the server has ended, or main has told it to conclude."""

    def __init__(
        self,
        archivist: Archivist,
        housekeeping: Housekeeping,
        answerer: Answerer,
        link: LogLink,
        channel: Channel,
        beat_every: float,
    ) -> None:
        self._archivist = archivist
        self._housekeeping = housekeeping
        self._answerer = answerer
        self._link = link
        self._channel = channel
        self._beat_every = beat_every
        self._beat_at = 0.0
        self._write_at = 0.0  # not before
        self._trouble = False  # with writing
        self._conclude_at: int | None = None
        self._asking = False  # whether a read is under way
        self._ask_at = 0.0  # not before
        self._ended = False  # the server has, and there is nothing more in the log
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)
        self._poll.register(link.fileno(), select.POLLIN)
        self._poll.register(answerer.link.fileno(), select.POLLIN)

    def run(self) -> None:
        """Raises LogLost, ChannelClosed, ArchiveDamaged."""
        while not self._is_over():
            now = time.monotonic()
            self._ask(now)
            self._beat(now)
            self._wait(now)
            if self._link.take():
                self._receive()
            self._write()
            self._answer()
            self._clean_up()

    def _ask(self, now: float) -> None:
        if self._may_ask and now >= self._ask_at:
            self._asking = True
            self._link.call("read", self._archivist.position, READ_WAIT)

    @property
    def _may_ask(self) -> bool:
        return not self._asking and self._archivist.waiting < WAITING_MOST

    def _receive(self) -> None:
        self._asking = False
        try:
            records = self._link.receive()
            # What comes is the answer, perhaps, and the next question follows it.
            hurried = self._answerer.waiting
            self._archivist.take(records)
            hurried |= self._archivist.replica.next_lookup() is not None or self._conclude_at is not None
            if records and not hurried and sum(len(record.payload) for record in records) < FULL_READ:
                self._ask_at = time.monotonic() + PAUSE
        except LogTrimmed:
            log.warning("archive is too slow: the log has forgotten what was not read")
            self._archivist.start()
        if self._archivist.ended:
            # A server that has started again goes on behind that.
            self._link.call("ping")
            self._ended = self._link.receive() == self._archivist.position

    def _write(self) -> None:
        now = time.monotonic()
        if now < self._write_at:
            return
        try:
            self._archivist.write(at_once=self._may_conclude)
        except ArchiveRefused as error:
            if not self._trouble:
                log.error("archive cannot write retry_s=%g reason=%s", TRY_AGAIN, error)
            self._trouble = True
            self._write_at = now + TRY_AGAIN
            return
        if self._trouble:
            log.info("archive writes again")
        self._trouble = False

    def _answer(self) -> None:
        """Take a step towards an answer. Writing comes first: what was read is written, or cannot be."""
        if self._trouble or not self._archivist.waiting:
            self._answerer.advance(time.monotonic(), self._archivist.replica, self._archivist.position, self._trouble)

    @property
    def _may_conclude(self) -> bool:
        return self._conclude_at is not None and self._archivist.position >= self._conclude_at

    def _is_over(self) -> bool:
        return not self._trouble and (self._may_conclude or self._ended)

    def _clean_up(self) -> None:
        """Delete some of what is to be deleted, while there is nothing to write."""
        now = time.monotonic()
        if now < self._housekeeping.deadline or self._archivist.waiting or self._trouble:
            return
        try:
            self._housekeeping.advance(now, time.time_ns() // 1_000_000, self._archivist.position)
        except (ArchiveRefused, LogFull) as error:
            self._housekeeping.postpone(now)
            log.warning("archive cannot delete what it should reason=%s", error)

    def _wait(self, now: float) -> None:
        """Wait until the log or main says something, or a beat or another try to write is due."""
        until = min(self._beat_at, self._write_at if self._trouble else self._housekeeping.deadline)
        if self._may_ask:
            until = min(until, self._ask_at)
        until = min(until, self._answerer.deadline)
        wanted = select.POLLIN | (select.POLLOUT if self._answerer.link.backlog else 0)
        self._poll.modify(self._answerer.link.fileno(), wanted)
        for descriptor, _ in self._poll.poll(max(0.0, until - now) * 1000):
            if descriptor == self._channel.fileno():
                message, _ = self._channel.receive()
                if isinstance(message, Conclude):
                    self._conclude_at = message.seq
                    self._ask_at = 0.0

    def _beat(self, now: float) -> None:
        if now < self._beat_at:
            return
        report_lost_lines()
        self._beat_at = now + self._beat_every
        # A beat that is not read yet says as much as two.
        if not self._channel.backlog:
            self._channel.post(Beat())
        self._channel.pump()


def run_archive(config: Config, pipe: "Pipe[Any, Any]", address: LogAddress, folder: Path, log_id: str) -> int:
    """Do what an archive process does, and return its exit code."""
    start_logging(NAME, config.log_level)
    try:
        channel = Channel(pipe)
        with closing(open_database(folder)) as database, address.open_log() as source:
            archivist = Archivist(source, database, log_id, make_limits(config))
            housekeeping = Housekeeping(source, database, round(config.keep * DAY))
            with (
                closing(address.open_link(f"{NAME} reads")) as link,
                closing(address.open_link(f"{NAME} answers")) as answers,
            ):
                answerer = Answerer(database, answers, config.sendq // 2)
                Archiver(archivist, housekeeping, answerer, link, channel, config.beat_timeout / BEATS).run()
    except LogLost as error:
        log.debug("%s", error)
        return NO_LOG
    except (LogError, ArchiveError, ChannelClosed) as error:
        log.error("archive ends reason=%s", error)
        return DAMAGED if isinstance(error, ArchiveDamaged | NewerArchive) else 1
    return 0
