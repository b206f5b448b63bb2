"""What a typed line is: a message, a command, or nothing. The one rule, for the server and for clients.

Takes the text of one line as the server understands it: without its line end, edited and clean (`mpchat.wire.text`).
Pure, and imports nothing of the server, so a client that wants to know what its user asks for uses it too. Never looks
at which commands there are: an unknown one is a command all the same, and is never said to anybody.

* White space in front of a command does not matter. In front of a message it is part of the message.
* A line that starts with ``/`` is a command; one that starts with ``//`` is a message that starts with ``/``.
* ``quit`` alone, in any case, is the command ``/quit``.
* A line of nothing but white space asks for nothing.
"""

import enum
from typing import NamedTuple

__all__ = ["Kind", "Meaning", "read_meaning", "write_message"]

_SLASH = "/"
_QUIT = "quit"
_SAY = "/say "

SPECIAL = "/qQ" + "".join(character for character in map(chr, range(0x3001)) if character.isspace())
"""A line that starts with none of these is a message as it stands. For whoever reads many lines."""


class Kind(enum.Enum):
    """What a line is."""

    MESSAGE = enum.auto()
    COMMAND = enum.auto()
    BLANK = enum.auto()


class Meaning(NamedTuple):
    """`text` is what is said; or the command from its slash on (``/quit`` for ``quit``); or empty."""

    kind: Kind
    text: str


_BLANK = Meaning(Kind.BLANK, "")


def read_meaning(text: str) -> Meaning:
    """What the line `text` is. Never raises."""
    bare = text.lstrip()
    if bare.startswith(_SLASH * 2):
        return Meaning(Kind.MESSAGE, text[: len(text) - len(bare)] + bare[1:])
    if bare.startswith(_SLASH):
        return Meaning(Kind.COMMAND, bare)
    if not bare:
        return _BLANK
    if bare.rstrip().lower() == _QUIT:
        return Meaning(Kind.COMMAND, _SLASH + _QUIT)
    return Meaning(Kind.MESSAGE, text)


def write_message(text: str) -> str:
    """The line that says `text` just as it stands, also when it looks like a command.

    The line may be up to five characters longer than `text`. A text of nothing but white space cannot be said; it is
    given back as it is.
    """
    meaning = read_meaning(text)
    if meaning.kind is Kind.BLANK or meaning == (Kind.MESSAGE, text):
        return text
    at = len(text) - len(text.lstrip())
    return text[:at] + _SLASH + text[at:] if text[at] == _SLASH else _SAY + text
