"""When a lost connection is tried again, and how the gap is told.

Pure.
"""

from collections.abc import Iterator

FIRST, LONGEST = 1.0, 30.0
"""Seconds before the first try, and the most before any other."""

DOUBTFUL = 5.0
"""Seconds before a loss in which what was sent may not have arrived: the server may have been gone already."""


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
