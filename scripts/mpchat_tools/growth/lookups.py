"""lookups.py: how long a start, a search and a page of history take with many kept messages, as a client sees it.

Makes a data directory with `--messages` lines in `--rooms` rooms by 1,000 names, starts a server in it, and asks from
one connection, one question after the other. The words of a line are drawn like those of a language: word number n is
1/n as frequent as the first one. A *common* word is in half of all lines, a *rare* one in ten.

Exit status: 0 all was answered, 1 something was not, and those of all tools.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import accumulate
from pathlib import Path

from mpchat.archive.database import Line, Place, open_database
from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.figures import format_table
from mpchat_tools.common.options import conclude, positive
from mpchat_tools.common.server import READY_S, OwnServer

WORDS = 20_000
WORDS_A_LINE = 8
NAMES = 1000
BATCH = 10_000
RARE_LINES = 10
DAY = 86_400_000
ANSWER_S = 30.0

COMMON, RARE = "thing", "quokka"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure a server that has many kept messages.")
    parser.add_argument("--messages", type=positive, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--rooms", type=positive, default=100, help="default: %(default)s")
    parser.add_argument("--rounds", type=positive, default=100, help="how often each is asked; default: %(default)s")
    parser.add_argument("--data", type=Path, help="keep the directory here, and use it again; default: a temporary one")
    return parser


def make_lines(messages: int, rooms: int) -> Iterator[Line]:
    """Lines of the last 30 days."""
    chance = random.Random(10)
    words = [f"word{number}" for number in range(WORDS)]
    weights = list(accumulate(1 / (number + 1) for number in range(WORDS)))
    start = time.time_ns() // 1_000_000 - 30 * DAY
    for number in range(messages):
        text = chance.choices(words, cum_weights=weights, k=WORDS_A_LINE)
        if number % 2:
            text.append(COMMON)
        if number % max(1, messages // RARE_LINES) == 0:
            text.append(RARE)
        name = f"name{chance.randrange(NAMES)}"
        room = "lobby" if number % 3 == 0 else f"room{chance.randrange(rooms)}"
        yield Line(room, start + number * (30 * DAY // messages), name, name, " ".join(text))


def fill(folder: Path, messages: int, rooms: int) -> None:
    folder.mkdir(exist_ok=True)
    with closing(open_database(folder)) as database:
        if database.count().lines:
            return
        batch: list[Line] = []
        for number, line in enumerate(make_lines(messages, rooms), 1):
            batch.append(line)
            if len(batch) == BATCH or number == messages:
                database.write(Place("made", number, line.time, number == messages), batch)
                batch = []


class Asker:
    """A client that waits for the end of each answer."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=ANSWER_S)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._ask("asker", lambda line: line.startswith("* Now."))

    def time(self, question: str, is_last: Callable[[str], bool]) -> float:
        """Ask, and return the seconds until the last line of the answer has come."""
        started = time.perf_counter()
        self._ask(question, is_last)
        return time.perf_counter() - started

    def _ask(self, line: str, is_last: Callable[[str], bool]) -> None:
        self._socket.sendall(line.encode() + b"\n")
        for shown in self._lines:
            if shown.startswith("! "):
                raise ToolError(f"{line} is answered {shown.strip()}")
            if is_last(shown):
                return
        raise ToolError(f"{line} is not answered")

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def is_end_of_search(line: str) -> bool:
    return line.startswith(("* That is all.", "* Page ", "* Nothing"))


def is_end_of_history(line: str) -> bool:
    return line.startswith("* Now.") or line.endswith("is kept from before that.\n")


def list_questions() -> list[tuple[str, list[str], Callable[[str], bool]]]:
    """What is asked: each with the lines that are typed in turn."""
    return [
        ("/search, a common word", [f"/search {COMMON}"], is_end_of_search),
        ("/search, a common word, page 50", [f"/search {COMMON} 50"], is_end_of_search),
        ("/search, a rare word", [f"/search {RARE}"], is_end_of_search),
        ("/search, two common words", [f"/search {COMMON} word0"], is_end_of_search),
        ("/search, a common word from a name in a room", [f"/search {COMMON} in #room1 from name1"], is_end_of_search),
        ("/search, a word that was never said", ["/search nothing"], is_end_of_search),
        ("/history 600, then more of it", ["/history 600", *["/history more"] * 9], is_end_of_history),
        ("/history 100 more, page after page", ["/history 100 more"], is_end_of_history),
        ("/history 2000", ["/history 2000"], is_end_of_history),
    ]


@contextmanager
def serving(folder: Path | None) -> Iterator[OwnServer]:
    command = [sys.executable, "-m", "mpchat", "--port", "0", "--rate", "0"]
    if folder is not None:
        command += ["--data", str(folder)]
    server = OwnServer(command)
    try:
        server.address(time.monotonic() + READY_S)
        yield server
    finally:
        server.close()


def measure(folder: Path, rounds: int) -> list[list[str]]:
    """The rows of the table: what, the median and the 95th percentile in ms, how often. Raises ToolError."""
    rows = [["what", "p50 ms", "p95 ms", "asked"]]
    starts: dict[str, list[float]] = {"start, until it is ready": [], "start without --data": []}
    # The servers ended in order, so each starts from the database.
    for _ in range(5):
        for kind, data in zip(starts, (folder, None), strict=True):
            with serving(data) as server:
                assert server.ready_s is not None
                starts[kind].append(server.ready_s)
    rows += [summarize(kind, times) for kind, times in starts.items()]
    with serving(folder) as server, closing(Asker(server.host, server.port)) as asker:
        for what, lines, is_last in list_questions():
            times = [asker.time(line, is_last) for _ in range(-(-rounds // len(lines))) for line in lines]
            rows.append(summarize(what, times))
    return rows


def summarize(what: str, times: list[float]) -> list[str]:
    ordered = sorted(times)
    middle, late = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)]
    return [what, f"{middle * 1000:.1f}", f"{late * 1000:.1f}", str(len(ordered))]


def run() -> int:
    options = build_parser().parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or Path(temporary) / "data"
        started = time.monotonic()
        fill(folder, options.messages, options.rooms)
        print(f"{options.messages:,} messages are there after {time.monotonic() - started:.0f} s", file=sys.stderr)
        size = (folder / "chat.db").stat().st_size
        print(f"{options.messages:,} messages, {size / 1e6:.0f} MB")
        for line in format_table(measure(folder, options.rounds)):
            print(line)
    return 0


def main() -> int:
    return conclude("lookups.py", run)
