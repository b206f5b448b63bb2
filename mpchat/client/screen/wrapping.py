"""Where a long line is broken: between words, links left whole.

Pure: how wide a character is on this terminal is handed in.
"""

import re
import unicodedata
from collections.abc import Callable

Measure = Callable[[str], int]
"""The columns that a text takes."""

_WORD = re.compile(r"\s*\S+|\s+$")
_JOINER = "\u200d"


def wrap(text: str, width: int, measure: Measure) -> list[tuple[int, int]]:
    """The rows of `text`, as (start, end), each at most `width` columns wide.

    The space at which a row is broken is in none, nor is that in front of a first word for which it leaves no room. A
    link that is too long for a row is left whole in a row of its own, which the terminal then breaks, so that it can be
    clicked and copied. Any other word that is too long is broken between characters, from the row on in which it
    begins. Always gives a row, and ends for every width.
    """
    rows: list[tuple[int, int]] = []
    start = end = used = 0
    room = max(width, 1)
    for found in _WORD.finditer(text):  # each word with the white space before it
        bare = found[0].lstrip()
        size = measure(found[0])
        is_whole = measure(bare) <= room or _has_link(bare)
        if used + size > room and is_whole:
            if text[start:end].strip():  # a mark alone takes no column, and is there
                rows.append((start, end))
            start, used = found.end() - len(bare), 0
            size = measure(bare)
        end = found.end()
        used += size
        if used > room and not is_whole:
            *full, (start, end) = _cut(text, start, end, room, measure)
            rows += full
            used = measure(text[start:end])
    return [*rows, (start, end)]


def _has_link(word: str) -> bool:
    return "://" in word or "www." in word


def _cut(text: str, start: int, end: int, room: int, measure: Measure) -> list[tuple[int, int]]:
    """The pieces of `text[start:end]`: at most `room` columns, but at least a character each."""
    pieces: list[tuple[int, int]] = []
    used = 0
    at = start
    while at < end:
        after = next_character(text, at, end)
        size = measure(text[at:after])
        if used and used + size > room:
            pieces.append((start, at))
            start, used = at, 0
        used += size
        at = after
    return [*pieces, (start, end)]


def next_character(text: str, at: int, end: int) -> int:
    """The end of what a person sees as one character: with its combining marks, and with what is joined to it."""
    at += 1
    while at < end and (
        unicodedata.category(text[at]) in ("Mn", "Me", "Mc") or text[at] == _JOINER or text[at - 1] == _JOINER
    ):
        at += 1
    return at
