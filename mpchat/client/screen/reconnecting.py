"""When a lost connection is tried again, how the gap is told, and how the new session becomes like the old one.

Pure.
"""

import re
from collections.abc import Iterator

from mpchat.client.screen.reading import NAME, Kind, Reading

FIRST, LONGEST = 1.0, 30.0
"""Seconds before the first try, and the most before any other."""

DOUBTFUL = 5.0
"""Seconds before a loss in which what was sent may not have arrived: the server may have been gone already."""

_SETTINGS = {
    "Timestamps are on.": ("timestamp", "/timestamp on"),
    "Timestamps are off.": ("timestamp", ""),
    "Notices are hidden.": ("quiet", "/quiet on"),
    "Notices are shown.": ("quiet", ""),
    "On entering a room you are not shown what was said earlier.": ("history", "/history off"),
    "On entering a room you are shown what was said earlier.": ("history", ""),
    "You are back.": ("away", ""),
}
"""What is set by what the server tells, and the command that sets it again; empty where every session begins so."""

_TOLD = re.compile(
    rf"(?P<setting>{'|'.join(map(re.escape, _SETTINGS))})"
    r"|You are (?P<away>away)(?: \((?P<reason>.*)\))?\. /back ends it\."
    rf"|You ignore (?!nobody\.)(?P<ignored>{NAME})\."
    rf"|You no longer ignore (?P<shown>{NAME})\."
    rf"|(?P<gone>{NAME}) left the chat(?: \(.*\))?"
    rf"|(?P<old>{NAME}) is now called (?P<new>{NAME})"
)


class Settings:
    """What the person has set in the session, as far as the server's lines have shown it. It outlives the session."""

    def __init__(self) -> None:
        # By what they set.
        self._commands: dict[str, str] = {}
        self._ignored: dict[str, None] = {}

    def hear(self, reading: Reading) -> None:
        """Learn from a line."""
        told = _TOLD.fullmatch(reading.text) if reading.kind is Kind.NOTICE else None
        if told is None:
            return
        if told["setting"]:
            self._set(*_SETTINGS[told["setting"]])
        elif told["away"]:
            self._set("away", f"/away {told['reason'] or ''}".rstrip())
        elif told["ignored"]:
            self._ignored[told["ignored"]] = None
        elif told["old"] in self._ignored:
            del self._ignored[told["old"]]
            self._ignored[told["new"]] = None
        else:
            self._ignored.pop(told["shown"] or told["gone"], None)

    def list_commands(self) -> list[str]:
        """The commands that make a new session like the old one."""
        return [*self._commands.values(), *(f"/ignore {name}" for name in self._ignored)]

    def _set(self, what: str, command: str) -> None:
        self._commands.pop(what, None)
        if command:
            self._commands[what] = command


def pauses() -> Iterator[float]:
    """Seconds to wait before each try, without end: each twice the one before."""
    pause = FIRST
    while True:
        yield pause
        pause = min(2 * pause, LONGEST)


def rejoin(rooms: list[str], current: str, entered: str) -> list[str]:
    """The commands that lead back to `rooms` from the one that the server puts everybody into."""
    others = [room for room in rooms if room not in (entered, current)]
    commands = [f"/join #{room}" for room in others]
    if current and (current != entered or others):
        commands.append(f"/join #{current}")
    if rooms and entered not in rooms:
        commands.append(f"/leave #{entered}")
    return commands


def describe_gap(lost: str, back: str) -> str:
    """The mark where lines are missing; both are times of day."""
    return f"---- {lost} to {back}: not connected, what was said meanwhile is missing ----"
