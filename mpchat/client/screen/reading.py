"""What a line of the server is: who speaks, where, to whom. For looks, completion and the bell; never for correctness.

Pure. Knows the shapes of docs/reference/line-protocol.md, "What is shown". Everything else is a line of no kind.
"""

import enum
import re
from dataclasses import dataclass

NAME = r"[^\s:,()]{1,80}"
"""A name as it stands in a line. What a name may hold is the server's business, and could become more."""

_STAMP = r"(?P<stamp>(?:\d{4}-\d\d-\d\d )?\d\d:\d\d(?: UTC)? )?"
_SHAPES = re.compile(
    _STAMP + r"(?:"
    rf"\*\* (?P<actor>{NAME}) (?P<action>.*)"
    r"|\* (?P<notice>.*)"
    r"|! (?P<error>.*)"
    rf"|\[to (?P<addressee>{NAME})\] (?P<outgoing>.*)"
    rf"|(?:#(?P<room>{NAME}) )?(?P<speaker>{NAME}): (?P<message>.*)"
    rf"|\[(?P<sender>{NAME})\] (?P<private>.*)"
    r")"
)


class Kind(enum.Enum):
    """What a line is."""

    MESSAGE = enum.auto()
    ACTION = enum.auto()
    PRIVATE = enum.auto()  # somebody wrote to us
    OWN_PRIVATE = enum.auto()
    NOTICE = enum.auto()
    ERROR = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True, slots=True)
class Reading:
    """`name` is whoever speaks or, of OWN_PRIVATE, is spoken to; `text` what is said, from position `at` on.

    `room` is empty for the current room, `stamp` is the server's time with the space behind it.
    """

    kind: Kind
    text: str
    at: int = 0
    name: str = ""
    room: str = ""
    stamp: str = ""


_PARTS = (
    (Kind.ACTION, "action", "actor"),
    (Kind.NOTICE, "notice", ""),
    (Kind.ERROR, "error", ""),
    (Kind.OWN_PRIVATE, "outgoing", "addressee"),
    (Kind.PRIVATE, "private", "sender"),
    (Kind.MESSAGE, "message", "speaker"),
)


def read_shown(line: str) -> Reading:
    """What `line` is. Never raises."""
    shape = _SHAPES.fullmatch(line)
    if shape is None:
        return Reading(Kind.OTHER, line)
    for kind, text, name in _PARTS:
        if shape[text] is not None:
            return Reading(
                kind,
                shape[text],
                shape.start(text),
                shape[name] if name else "",
                shape["room"] or "",
                shape["stamp"] or "",
            )
    raise AssertionError("each way to match has a text")


def speaks_to(reading: Reading, me: str) -> bool:
    """Whether this line is for me in particular: a private message, or my name in what somebody else says."""
    if reading.kind is Kind.PRIVATE:
        return True
    if reading.kind not in (Kind.MESSAGE, Kind.ACTION) or not me or reading.name.casefold() == me.casefold():
        return False
    return bool(find_name(reading.text, me))


def find_name(text: str, name: str) -> list[tuple[int, int]]:
    """Where `name` stands in `text` as a word of its own, in any case."""
    if not name:
        return []
    pattern = rf"(?<![\w\-]){re.escape(name)}(?![\w\-])"
    return [found.span() for found in re.finditer(pattern, text, re.IGNORECASE)]
