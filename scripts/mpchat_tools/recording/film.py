"""What several terminals have shown, from moment to moment, and an SVG that plays it.

Each row of a terminal is drawn once for each time that it stays the same, and CSS shows it for that time only: so the
file stays small, and plays wherever a browser shows an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from mpchat_tools.recording.terminal import Row, Run

WIDTH, HEIGHT = 8.4, 19.0
"""Pixels of one character."""

MARGIN = 14.0
TITLE = 26.0

COLORS = {
    "default": "#d8dee9", "black": "#4c566a", "red": "#e06c75", "green": "#98c379", "brown": "#e5c07b",
    "yellow": "#e5c07b", "blue": "#61afef", "magenta": "#c678dd", "cyan": "#56b6c2", "white": "#eceff4",
}  # fmt: skip


@dataclass
class Pane:
    """One terminal in the picture: where it is, in characters, and what each row has shown since when, in seconds."""

    title: str
    columns: int
    lines: int
    left: int
    top: int
    shown: list[list[tuple[float, Row]]] = field(default_factory=list)

    def look(self, now: float, rows: Sequence[Row]) -> None:
        """The terminal shows these rows."""
        if not self.shown:
            self.shown = [[] for _ in rows]
        for seen, row in zip(self.shown, rows, strict=True):
            if not seen or seen[-1][1] != row:
                seen.append((now, row))


def draw(panes: Sequence[Pane], seconds: float) -> str:
    """The SVG, which plays for so many seconds and then begins again."""
    width = max((pane.left + pane.columns) * WIDTH + 3 * MARGIN for pane in panes)
    height = max((pane.top + pane.lines) * HEIGHT + TITLE + 3 * MARGIN for pane in panes)
    styles: list[str] = []
    body: list[str] = []
    for number, pane in enumerate(panes):
        body.append(_draw_pane(pane, number, seconds, styles))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">\n'
        "<style>text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre}"
        f".r{{visibility:hidden;animation:{seconds:.2f}s step-end infinite}}\n" + "\n".join(styles) + "</style>\n"
        '<rect width="100%" height="100%" rx="8" fill="#20242c"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _draw_pane(pane: Pane, number: int, seconds: float, styles: list[str]) -> str:
    x = MARGIN + pane.left * WIDTH
    y = MARGIN + pane.top * HEIGHT
    parts = [
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{pane.columns * WIDTH + MARGIN:.0f}" '
        f'height="{pane.lines * HEIGHT + TITLE + 8:.0f}" rx="6" fill="#14171c"/>',
        f'<text x="{x + 10:.0f}" y="{y + 18:.0f}" fill="#7b8496">{escape(pane.title)}</text>',
    ]
    for line, seen in enumerate(pane.shown):
        bottom = y + TITLE + (line + 1) * HEIGHT - 4
        for index, (since, row) in enumerate(seen):
            if not row:
                continue
            until = seen[index + 1][0] if index + 1 < len(seen) else seconds
            name = f"p{number}l{line}i{index}"
            styles.append(_write_style(name, since / seconds * 100, until / seconds * 100))
            spans = "".join(_write_run(run, x + 8) for run in row)
            parts.append(f'<text class="r" style="animation-name:{name}" y="{bottom:.1f}">{spans}</text>')
    return "\n".join(parts)


def _write_run(run: Run, left: float) -> str:
    weight = ' font-weight="bold"' if run.bold else ""
    x = left + run.column * WIDTH
    return f'<tspan x="{x:.1f}" fill="{_name_color(run.color)}"{weight}>{escape(run.text)}</tspan>'


def _write_style(name: str, start: float, end: float) -> str:
    before = "" if start <= 0 else "0%{visibility:hidden}"
    after = "" if end >= 100 else f"{end:.3f}%{{visibility:hidden}}"
    return f"@keyframes {name}{{{before}{max(start, 0):.3f}%{{visibility:visible}}{after}}}"


def _name_color(color: str) -> str:
    return COLORS.get(color) or (f"#{color}" if len(color) == 6 else COLORS["default"])
