"""What the tools read of the server's output: each line that they match has its name here. PURE.

`tests/tools/test_serverlog.py` holds these words against what a real server writes.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable

READY = re.compile(rb"mpchat ready on (\S+):(\d+), \d+ workers?\n")
"""The one line on standard output: host and port."""
STARTED = re.compile(r"(worker-\d+|sequencer|archive) started, pid (\d+)$")


class Event(enum.Enum):
    """A line of the log that says what became of a request, by the words that only this line has."""

    RELOADED = "reloaded: every worker will be replaced"
    SCALED = "workers from now on"
    UPGRADE_TRIED = "trying the version that is installed now"
    UPGRADE_REFUSED = "no upgrade reason="
    UPGRADED = "the program is replaced"
    UPGRADE_FAILED = "the program is not replaced"


UPGRADE_ENDS = (Event.UPGRADE_REFUSED, Event.UPGRADED, Event.UPGRADE_FAILED)


def find_event(line: str) -> Event | None:
    return next((event for event in Event if event.value in line), None)


def find_start(line: str) -> tuple[str, int] | None:
    """The process that has been started: its name (`worker-3`, `sequencer`, `archive`) and its pid."""
    match = STARTED.search(line)
    return None if match is None else (match[1], int(match[2]))


def find_kinds(lines: Iterable[str]) -> dict[int, str]:
    """The kind (see `meter`) of each process that the log names, by its pid."""
    kinds = {"sequencer": "sequencer", "archive": "rest"}
    started = [found for line in lines if (found := find_start(line))]
    return {pid: kinds.get(name, "workers") for name, pid in started}
