"""The archive alone: how fast an archivist writes, how large its database is, and how long that takes to read.

Owns the messages, and a log in this process that has all of them before the archivist begins. The archivist is the
server's own, and works as in the server: a transaction for each reading of the log, to the disk. Promises to check that
all is there; and that nothing of the database is left.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from statistics import median

from mpchat.archive.database import Database, Line, Place, open_database
from mpchat.archive.tokens import Query
from mpchat.chat.entries import Opened, Said, encode_entries
from mpchat.chat.state.state import LOBBY, Limits
from mpchat.log.local.memory import MemoryLog
from mpchat.server.archive.archivist import Archivist
from mpchat_tools.common.meter import Watch
from mpchat_tools.common.server import disk_folder, running
from mpchat_tools.growth.sample import Figures, Sample
from mpchat_tools.growth.series import WORKERS, Archiving

WORDS = 5000
WORDS_OF_MESSAGE = 10
TEXTS = 20_000  # that are repeated
SENDERS = 20
RARE = "rarissimum"
RARE_EVERY = 100_000  # messages
COMMON = "w0"  # the n-th word comes 1/n as often as the first (Zipf)
PER_WRITE = 10_000  # messages that are kept already go in so large transactions
EVERY_MS = 1000  # between two of them
READS = 20
PAGE = 20
MEMORY = "growth"
"""The name of the log."""


def measure_archive(command: Sequence[str], task: Archiving) -> Sample:
    """Raises ToolError if the server does not start with the database."""
    watch, started = Watch(), time.process_time()
    with disk_folder() as folder:
        with closing(open_database(folder)) as database:
            keep(database, task.kept)
            figures = write(database, task)
            figures |= read(database)
            counts = database.count()
        size = sum(file.stat().st_size for file in folder.iterdir())
        with running([*command, "--data", str(folder)], WORKERS, 0, "error") as server:
            figures["ready_s"] = server.ready_s
    figures |= {"file_mib": size / (1 << 20), "kept_bytes": size / counts.lines}
    wrong = task.kept + task.messages - counts.lines
    found = [f"{wrong} are missing"] * bool(wrong) + [f"{counts.gaps} gaps"] * bool(counts.gaps)
    return Sample(figures, watch.read(time.process_time() - started), found)


def make_texts(count: int) -> Iterator[str]:
    """Texts of words as they are distributed in languages."""
    dice = random.Random(0)
    words, weights = [f"w{number}" for number in range(WORDS)], [1 / (1 + number) for number in range(WORDS)]
    pool = [" ".join(dice.choices(words, weights, k=WORDS_OF_MESSAGE)) for _ in range(min(count, TEXTS))]
    for number in range(count):
        text = pool[number % len(pool)]
        yield f"{text} {RARE}" if number % RARE_EVERY == 0 else text


def keep(database: Database, count: int) -> None:
    """Have so many messages in the database."""
    lines: list[Line] = []
    begin = int(time.time() * 1000) - EVERY_MS * count
    for number, text in enumerate(make_texts(count), 1):
        name = f"n{number % SENDERS}"
        lines.append(Line(LOBBY, begin + EVERY_MS * number, name, name, text))
        if len(lines) == PER_WRITE or number == count:
            database.write(Place("", number, lines[-1].time), lines)
            lines = []
    if count:
        database.write(Place("", count + 1, begin + EVERY_MS * count, ended=True))


def fill(task: Archiving) -> MemoryLog:
    """A log in which all messages are said."""
    log, offsets = MemoryLog(), [0] * SENDERS
    sids = [bytes([number]) * 16 for number in range(SENDERS)]
    names = [Said(sid, 1, (f"n{number}",)) for number, sid in enumerate(sids)]
    log.publish(encode_entries([*(Opened(sid, "") for sid in sids), *names]))
    batch: list[Said] = []
    for number, text in enumerate(make_texts(task.messages), 1):
        sender = number % SENDERS
        offsets[sender] += 1
        batch.append(Said(sids[sender], 1 + offsets[sender], (text,)))
        if len(batch) == task.batch or number == task.messages:
            log.publish(encode_entries(batch))
            batch = []
    return log


def write(database: Database, task: Archiving) -> Figures:
    log = fill(task)
    archivist = Archivist(log, database, MEMORY, Limits(rooms_stay=True))
    started, cpu = time.monotonic(), time.process_time()
    while records := log.read(archivist.position, 0):
        archivist.take(records)
        archivist.write()
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    return {"messages_per_s": task.messages / seconds, "kept_us": cpu * 1e6 / task.messages}


def read(database: Database) -> Figures:
    middle = (next(iter(database.read_lines())).time + database.newest) // 2
    return {
        "common_ms": take(lambda: database.search(Query((COMMON,)))),
        "rare_ms": take(lambda: database.search(Query((RARE,)))),
        "page_ms": take(lambda: database.read_history(LOBBY, PAGE, middle)),
    }


def take(call: Callable[[], object]) -> float:
    """The median time in ms."""
    times = []
    for _ in range(READS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * median(times)
