"""The server with *fault points*: exact steps at which a process of it ends itself, if it is told to.

``python fatal_server.py FOLDER OPTION...``: the options are those of `mpchat-server`. A process that comes to a point
for which there is a *token* in the folder, a file named ``POINT.HOW.NUMBER``, takes it away and does HOW: the name of
a signal, which it sends to itself, or ``raise``. So each token is one death, and who sees that it is gone knows that
the point was come to. Without a token nothing happens.

Owns the tables of the points, WORKER, SEQUENCER and MAIN: what is patched in which process. The product knows nothing
of it.
A file HOLD in the folder keeps a sequencer that is started from coming up; when there is a file IMPATIENT, workers tell
their clients of an outage after TELL_AFTER.
Some bounds are lower here, so that little is enough to come by every step: a shadow applies one record a slice, every
adoption leaves a snapshot, one is due after each SNAPSHOT_EVERY bytes, clients are given back one in a
message, and the kernel takes little for a client that does not read.
"""

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

from mpchat import cli
from mpchat.archive.database import Database
from mpchat.chat.entries import Opened, decode_entries
from mpchat.errors import MpchatError
from mpchat.log.local import journal, memory, process
from mpchat.log.local.journal import Journal, Kind
from mpchat.log.local.link import ManagerLink
from mpchat.log.local.memory import MemoryLog
from mpchat.server import control
from mpchat.server.archive import archiver
from mpchat.server.archive.archivist import Archivist
from mpchat.server.archive.housekeeping import Housekeeping
from mpchat.server.control import Channel, Paused, Quiesced, Ready, Received, Released
from mpchat.server.ledger import Ledger, Page, _Carry
from mpchat.server.main.upgrade.upgrade import Upgrade
from mpchat.server.main.workers.workerprocess import WorkerProcess
from mpchat.server.main.workers.workforce import Workforce
from mpchat.server.worker import outage, snapshots, worker
from mpchat.server.worker.inbound.client import Client
from mpchat.server.worker.inbound.connection import Connection
from mpchat.server.worker.inbound.publisher import Publisher
from mpchat.server.worker.mainlink import MainLink
from mpchat.server.worker.moves import adoption, takeover
from mpchat.server.worker.moves.adoption import Adoption
from mpchat.server.worker.moves.departure import Departure
from mpchat.server.worker.moves.takeover import Takeover
from mpchat.server.worker.outbound.fanout import Fanout
from mpchat.server.worker.outbound.pace import Pace
from mpchat.server.worker.outbound.reader import Reader
from mpchat.server.worker.snapshots import Snapshots
from mpchat.server.worker.sweep import Sweep
from mpchat.server.worker.worker import Worker
from mpchat.wire.line.framing import LineFraming

SNAPSHOT_EVERY = 4000
CLAIM_EVERY = 500
SEND_BUFFER = 4096
HOLD, IMPATIENT = "hold", "impatient"
TELL_AFTER = 0.3
PIECE = 1000
"""Bytes of a snapshot in one message: so it is never one only."""

folder = Path()
"""Where the tokens are; set in each process."""


def fault(point: str) -> None:
    """This process has come to `point`: end it, if there is a token."""
    for token in folder.glob(f"{point}.*"):
        try:
            token.unlink()
        except FileNotFoundError:  # another process was quicker
            continue
        how = token.name.split(".")[1]
        if how == "raise":
            raise MpchatError(f"fault point {point}")
        os.kill(os.getpid(), signal.Signals[how])


# --- how a point is put where it belongs --------------------------------------------------------------------

Condition = Callable[..., bool]
Point = Callable[[str], None]
"""Given its name, it is put in its place in this process."""


def before(owner: Any, method: str, when: Condition = lambda *arguments: True) -> Point:
    """As the call comes. `when`: given its arguments."""

    def patch(point: str) -> None:
        original = getattr(owner, method)

        @wraps(original)
        def patched(*arguments: Any, **more: Any) -> Any:
            if when(*arguments):
                fault(point)
            return original(*arguments, **more)

        setattr(owner, method, patched)

    return patch


def after(owner: Any, method: str, when: Condition = lambda result, *arguments: True) -> Point:
    """As the call returns. `when`: given its result and its arguments."""

    def patch(point: str) -> None:
        original = getattr(owner, method)

        @wraps(original)
        def patched(*arguments: Any, **more: Any) -> Any:
            result = original(*arguments, **more)
            if when(result, *arguments):
                fault(point)
            return result

        setattr(owner, method, patched)

    return patch


def halfway(point: str) -> None:
    """Half of a block is given to the kernel: the end of it is in the middle of a line."""
    original = Connection.send

    def send(self: Connection, block: bytes) -> None:
        if len(block) < 2 or not any(folder.glob(f"{point}.*")):
            original(self, block)
            return
        half = len(block) // 2
        original(self, block[:half])
        if not self.queued:
            fault(point)
        original(self, block[half:])

    Connection.send = send  # type: ignore[method-assign]


class Words:
    """The words of a page's header; each store is a point, named after the word."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, number: int) -> int:
        return int(self._words[number])

    def __setitem__(self, number: int, value: int) -> None:
        self._words[number] = value
        fault(f"word-{number}")


def watch_words(_: str) -> None:
    original = Page.__init__

    def init(self: Page, header: memoryview, *more: Any) -> None:
        original(self, Words(header), *more)  # type: ignore[arg-type]

    Page.__init__ = init  # type: ignore[method-assign, assignment]


# --- the points ---------------------------------------------------------------------------------------------


def adopting(_: None, publisher: Publisher) -> bool:
    """Whether the publication under way tells of clients that others had."""
    under_way = publisher._under_way
    entries = decode_entries(under_way) if under_way else []
    return any(isinstance(entry, Opened) and entry.epoch for entry in entries)


def has_notice(_: None, client: Client, *more: Any) -> bool:
    """Whether no mark says yet that the client was sent a notice."""
    return client._page.read_notice() is not None


def pending(pace: Any) -> bool:
    return bool(pace._fanout.pending)


concludes = False
"""Whether this worker has begun to conclude."""


def begins_to_conclude(*_: Any) -> bool:
    global concludes  # noqa: PLW0603 - one for each process
    concludes = True
    return True


def in_conclusion(condition: Condition = lambda *arguments: True) -> Condition:
    return lambda *arguments: concludes and condition(*arguments)


def says(kind: type) -> Condition:
    return lambda host, message, *more: isinstance(message, kind)


def said(kind: type) -> Condition:
    return lambda result, host, message, *more: isinstance(message, kind)


def calls(method: str) -> Condition:
    return lambda link, name, *arguments: name == method


def called(method: str) -> Condition:
    return lambda result, link, name, *arguments: name == method


WORKER: dict[str, Point] = {
    # what a client sends
    "received": before(Client, "received"),
    "noted": before(LineFraming, "receive"),
    "framed": after(LineFraming, "receive"),
    "waiting": after(Publisher, "add"),
    "asking": before(Publisher, "_send"),
    "asked": after(Publisher, "_send"),
    "answered": before(Publisher, "_answered"),
    "published": after(Publisher, "_answered"),
    # what comes back
    "come": before(Reader, "_apply"),
    "applied": before(Pace, "flush", pending),
    "flushing": before(Fanout, "flush"),
    "sending": before(Client, "send"),
    "halfway": halfway,
    "sent": after(Client, "send"),
    "flushed": after(Fanout, "flush"),
    # the marks
    "word": watch_words,
    "marked": after(Page, "write_mark"),
    "sweeping": before(Ledger, "set_sweep_mark"),
    "swept": after(Ledger, "set_sweep_mark"),
    # a notice
    "notice-stored": after(Page, "write_notice"),
    "notice-sent": after(Client, "send", has_notice),
    "notified": after(Client, "notify"),
    "notified-all": after(Sweep, "notify"),
    # a hand-off
    "new": after(Client, "open"),
    "taken": after(takeover, "receive_adoptee"),
    "receiving": before(MainLink, "post", says(Received)),
    # an adoption
    "claiming": before(Takeover, "_claim"),
    "claimed": after(Publisher, "_send", adopting),
    "ours": before(Takeover, "_claimed"),
    "shadow": after(Adoption, "_start"),
    "told-of-snapshot": before(Adoption, "_feed"),
    "slice": after(Adoption, "advance", lambda done, *_: not done),
    "made": before(Takeover, "_begin_to_carry_on"),
    "wanted": after(Snapshots, "want_if_worth"),
    "carried": after(Client, "carry_on"),
    "carried-one": after(Takeover, "_carry_on"),
    # a snapshot
    "captured": before(Snapshots, "_captured"),
    "claiming-snapshot": after(ManagerLink, "call", called("claim_snapshot")),
    "claimed-snapshot": before(Snapshots, "_claimed"),
    "staged": after(ManagerLink, "call", called("stage_snapshot")),
    "dumped": before(ManagerLink, "call", calls("put_staged_snapshot")),
    "put": after(ManagerLink, "call", called("put_staged_snapshot")),
    "saved": before(Snapshots, "_end"),
    # planned moves
    "quiesced": before(Departure, "_released"),
    "carry": after(_Carry, "write"),
    "let-go": after(Client, "release"),
    "telling": before(MainLink, "post", says(Released)),
    "told": after(MainLink, "post", said(Released)),
    "retiring": before(Departure, "retire"),
    # an upgrade, and the end
    "pausing": before(MainLink, "post", says(Paused)),
    "paused": after(MainLink, "post", said(Paused)),
    "concluding": before(Departure, "_conclude", begins_to_conclude),
    "conclusion-put": before(ManagerLink, "call", in_conclusion(calls("put_staged_snapshot"))),
    "conclusion-saved": before(Snapshots, "_end", in_conclusion()),
    "conclusion-let-go": after(Client, "release", in_conclusion()),
    "conclusion-telling": before(MainLink, "post", in_conclusion(says(Released))),
    "conclusion-told": after(MainLink, "post", in_conclusion(said(Released))),
    "ready": before(MainLink, "post", says(Ready)),
    "quiet": before(MainLink, "post", says(Quiesced)),
    "reconnecting": before(Worker, "_reconnect"),
    "reconnected": after(Worker, "_reconnect"),
}


def is_record(_: Any, kind: Kind, *more: Any) -> bool:
    return kind is Kind.RECORD


def is_snapshot(_: Any, kind: Kind, *more: Any) -> bool:
    return kind is Kind.SNAPSHOT


def was_record(_: Any, log: Any, kind: Kind, *more: Any) -> bool:
    return kind is Kind.RECORD


def was_snapshot(_: Any, log: Any, kind: Kind, *more: Any) -> bool:
    return kind is Kind.SNAPSHOT


def is_header(_: None, log: Journal, position: int, data: bytes) -> bool:
    return len(data) == journal.HEADER


SEQUENCER: dict[str, Point] = {
    "log-asked": before(MemoryLog, "publish"),
    "log-header": after(Journal, "_write", is_header),
    "log-payload": after(Journal, "_write", lambda *arguments: not is_header(*arguments)),
    "log-appending": before(Journal, "append", is_record),
    "log-appended": after(Journal, "append", was_record),
    "log-published": after(MemoryLog, "publish"),
    "log-reading": before(MemoryLog, "read"),
    "log-read": after(MemoryLog, "read", lambda records, *_: bool(records)),
    "log-snapshot-claimed": after(MemoryLog, "claim_snapshot", lambda granted, *_: granted),
    "log-snapshot-put": before(MemoryLog, "put_snapshot"),
    "log-snapshot-appending": before(Journal, "append", is_snapshot),
    "log-snapshot-appended": after(Journal, "append", was_snapshot),
    "log-trimming": before(Journal, "trim"),
    "log-trimmed": after(Journal, "trim"),
    "log-snapshot-taken": after(MemoryLog, "put_snapshot"),
    "log-snapshot-staged": after(MemoryLog, "expect_snapshot"),
    "log-snapshot-asked": before(MemoryLog, "find_snapshot"),
    "log-snapshot-given": after(MemoryLog, "read_snapshot"),
}


MAIN: dict[str, Point] = {
    "main-concludes": before(Workforce, "conclude"),
    "main-hears": before(WorkerProcess, "_hear", lambda ending, events: ending.concluded_at > 0),
    "main-hands-over": before(Upgrade, "_hand_over"),
}


ARCHIVE: dict[str, Point] = {
    "archive-starting": before(Archivist, "start"),
    "archive-loaded": after(Archivist, "start"),
    "archive-asking": before(ManagerLink, "call", calls("read")),
    "archive-read": before(Archivist, "take"),
    "archive-applied": after(Archivist, "take"),
    "archive-writing": before(Database, "write"),
    "archive-wrote": after(Database, "_add_lines"),
    "archive-written": after(Database, "write"),
    "archive-wishing": before(Housekeeping, "_publish"),
    "archive-wished": after(Housekeeping, "_publish"),
    "archive-forgetting": before(Database, "forget"),
    "archive-forgot": after(Database, "forget"),
    "archive-granting": before(Database, "grant"),
    "archive-granted": after(Database, "grant"),
}


# --- the processes ------------------------------------------------------------------------------------------


def prepare(path: Path, points: Iterable[tuple[str, Point]]) -> None:
    global folder  # noqa: PLW0603 - one for each process
    folder = path
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, point in points:
        point(name)


class FatalWorker:
    """In the place of `worker.run_worker`. It runs in the worker's process, and so do the patches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: Any) -> int:
        prepare(self.folder, WORKER.items())
        adoption.SLICE = takeover.SLICE = 0.0  # type: ignore[attr-defined]
        snapshots.WORTH_ENTRIES, snapshots.BYTES_PER_ENTRY = 0, 1 << 20
        snapshots.PIECE = adoption.PIECE = PIECE  # type: ignore[attr-defined]
        snapshots.CLAIM_EVERY = CLAIM_EVERY
        control.SIDS_MOST = 1
        if (self.folder / IMPATIENT).exists():
            outage.TELL_AFTER = TELL_AFTER
        receive_descriptors = Channel._receive_descriptors

        def receive_small(channel: Channel, count: int) -> list[int]:
            descriptors = receive_descriptors(channel, count)
            for descriptor in descriptors:
                with socket.socket(fileno=os.dup(descriptor)) as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            return descriptors

        Channel._receive_descriptors = receive_small  # type: ignore[method-assign, assignment]
        return worker.run_worker(*arguments)


class FatalSequencer:
    """In the place of `process._run_log_server`. It runs in the sequencer's process, and so do the patches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = process._run_log_server

    def __call__(self, *arguments: Any) -> int:
        while (self.folder / HOLD).exists():
            time.sleep(0.01)
        prepare(self.folder, SEQUENCER.items())
        journal._JOIN = 0
        memory.ASK_AGAIN = 0.1
        init = MemoryLog.__init__

        def init_small(self: MemoryLog, **bounds: Any) -> None:
            init(self, **{"snapshot_every": SNAPSHOT_EVERY, **bounds})

        MemoryLog.__init__ = init_small  # type: ignore[method-assign, assignment]
        return self.run(*arguments)


class FatalArchive:
    """In the place of `archiver.run_archive`. It runs in the archive's process, and so do the patches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = archiver.run_archive

    def __call__(self, *arguments: Any) -> int:
        prepare(self.folder, ARCHIVE.items())
        return self.run(*arguments)


if __name__ == "__main__":
    if "--trial" in sys.argv:  # only the server itself is to die
        sys.exit(cli.main(sys.argv[2:]))
    tokens = Path(sys.argv[1])
    prepare(tokens, MAIN.items())
    with (
        mock.patch("mpchat.server.main.workers.workerprocess.run_worker", FatalWorker(tokens)),
        mock.patch("mpchat.log.local.process._run_log_server", FatalSequencer(tokens)),
        mock.patch("mpchat.server.archive.archiver.run_archive", FatalArchive(tokens)),
    ):
        sys.exit(cli.main(sys.argv[2:]))
