"""How a line looks: the local time, the names in their colours, what is addressed to me; broken into rows.

Pure: the line, the time and the width come in, rows of styled pieces go out. A style is a colour `#rrggbb`, `bold` or
`reverse`, or several of them; what cannot be shown (colours with NO_COLOR) is left out by whoever draws.
"""

from dataclasses import dataclass, replace

from mpchat.client.screen.colors import ALARM, QUIET, color_of
from mpchat.client.screen.reading import Kind, find_name, read_shown
from mpchat.client.screen.wrapping import Measure, wrap

Piece = tuple[str, str]
"""(style, text)."""

ME = "bold reverse"
"""My name, where others say it."""

TAB = "    "
"""Instead of a tab: how wide that is depends on where it stands."""

TIME_WIDTH = 6
"""Columns of `HH:MM `."""


@dataclass(frozen=True, slots=True)
class Painted:
    """A line to show. `styles` are (start, end, style) in `text`, in order; `time` is HH:MM, or empty for none."""

    text: str
    styles: tuple[tuple[int, int, str], ...] = ()
    time: str = ""
    has_margin: bool = True
    """Whether there is room on the left for the time of day."""


def paint(line: str, me: str, time: str, *, has_margin: bool = True) -> Painted:
    """A line of the server as it is shown to `me`."""
    line = line.replace("\t", TAB)
    reading = read_shown(line)
    start = len(line) - len(reading.text)
    painted = Painted(line, (), time, has_margin)
    if reading.kind is Kind.NOTICE:
        return replace(painted, styles=((0, len(line), QUIET),))
    if reading.kind is Kind.ERROR:
        return replace(painted, styles=((0, len(line), ALARM),))
    if reading.kind is Kind.OTHER:
        return painted
    styles = [(0, len(reading.stamp), QUIET)] if reading.stamp else []
    named = line.index(reading.name, len(reading.stamp) + len(reading.room) + (1 if reading.room else 0))
    if reading.kind is Kind.OWN_PRIVATE:
        named = line.index(reading.name, len(reading.stamp) + len("[to "))
    is_mine = reading.name.casefold() == me.casefold()
    styles.append((named, named + len(reading.name), "bold" if is_mine else f"bold {color_of(reading.name)}"))
    if not is_mine:
        styles += [(start + at, start + end, ME) for at, end in find_name(reading.text, me)]
    return replace(painted, styles=tuple(styles))


def tell(text: str, time: str, *, is_error: bool = False, has_margin: bool = True) -> Painted:
    """A line of our own, of the form of the server's."""
    return paint(f"{'!' if is_error else '*'} {text}", "", time, has_margin=has_margin)


def lay_out(painted: Painted, width: int, measure: Measure) -> list[list[Piece]]:
    """The rows of a line on a terminal of `width` columns. Later rows begin where the text of the first one does."""
    margin = TIME_WIDTH if painted.has_margin and width > 3 * TIME_WIDTH else 0
    rows: list[list[Piece]] = []
    for start, end in wrap(painted.text, width - margin, measure):
        left = f"{painted.time:<{TIME_WIDTH}}"[:margin] if not rows else " " * margin
        row: list[Piece] = [(QUIET, left)] if margin else []
        rows.append(row + _pieces(painted, start, end))
    return rows


def _pieces(painted: Painted, start: int, end: int) -> list[Piece]:
    """The pieces of a part of the text."""
    pieces: list[Piece] = []
    at = start
    for first, last, style in painted.styles:
        begin, stop = max(first, at), min(last, end)
        if begin < stop:
            pieces += [("", painted.text[at:begin])] if begin > at else []
            pieces.append((style, painted.text[begin:stop]))
            at = stop
    return pieces + ([("", painted.text[at:end])] if at < end else [])
