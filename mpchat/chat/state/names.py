"""The names of people and rooms: which are allowed, which are the same, and which look the same.

Owns the rule for names: 1 to 32 characters after NFKC normalisation, letters and digits of any script and
``_ - . [ ] { } | ^``, with at least one letter or digit. Spaces become ``_``. Characters that are never drawn
(Default_Ignorable_Code_Point) are not part of a name. A name does not mix Latin, Greek and Cyrillic letters.

Two names are the same if their keys are equal: case makes no difference. Two names look the same if they have the same
skeleton of UTS 39, without case; and, if both are ASCII, differ in nothing but case and ``I``, ``l`` and ``|``. The
skeleton alone would make one name of `tom` and `torn`, and one room of `#10` and `#lo`. Promises that both are the same
in every process of a server. Does not know which session has a name; the state does.
"""

import re
import unicodedata
from typing import NamedTuple

from mpchat.chat.problems import ROOM_NAME, Problem, Refusal
from mpchat.chat.state import lookalikes

MAX_NAME = 32
_PUNCTUATION = frozenset("_-.[]{}|^")
# Many scripts need vowel signs and accents that NFKC cannot compose. None needs piles of them.
_MAX_MARKS = 2

_IGNORABLE = re.compile(lookalikes.IGNORABLE)
_SCRIPTS = {
    "Latin": re.compile(lookalikes.LATIN),
    "Greek": re.compile(lookalikes.GREEK),
    "Cyrillic": re.compile(lookalikes.CYRILLIC),
}
"""The scripts that share letters which look alike. Others, such as Han, are mixed with Latin in real names."""

_PROTOTYPES = {
    ord(character): prototype for prototype, alike in lookalikes.CONFUSABLES.items() for character in alike
}

_BARS = str.maketrans("I|", "ll")
"""The characters of ASCII that look the same in most fonts."""


class Look(NamedTuple):
    """How a name looks. `plain` is how it looks beside other names in ASCII; empty if it is not ASCII itself."""

    skeleton: str
    plain: str

    def is_like(self, other: "Look") -> bool:
        """Whether the two look the same."""
        both = self.plain and other.plain
        return self.skeleton == other.skeleton and (not both or self.plain == other.plain)


def clean_name(text: str) -> str:
    """The name that `text` asks for. Raises Refusal when it is not acceptable for a person."""
    name = _clean(text)
    if name_look(name).skeleton in _RESERVED or (name.startswith("[") and name.endswith("]")):
        # A private message begins with its sender's name in brackets.
        raise Refusal(Problem.NAME_RESERVED, name)
    return name


def clean_room(text: str) -> str:
    """The room that `text` asks for, in folded case. Raises Refusal when it is not acceptable."""
    folded = name_key(_clean(text))
    # Checked again: folding can make a name longer (ß becomes ss), and nobody could type the name of such a room.
    return _clean(folded)


def name_key(name: str) -> str:
    """The key of a name: two names are the same if their keys are equal."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFKC", _IGNORABLE.sub("", name).casefold())


def name_look(name: str) -> Look:
    """The look of a name."""
    if name.isascii():
        return Look(name.translate(_PROTOTYPES).lower(), name.translate(_BARS).lower())
    # UTS 39, section 4, "skeleton"; and then the case, since names are the same in any.
    drawn = _IGNORABLE.sub("", unicodedata.normalize("NFD", name))
    return Look(unicodedata.normalize("NFD", drawn.translate(_PROTOTYPES)).casefold(), "")


def numbered_name(name: str, number: int) -> str:
    """`name` followed by ``-number``, with `name` cut so that the whole is no longer than a name may be."""
    suffix = f"-{number}"
    return name[: MAX_NAME - len(suffix)] + suffix


def check_room(text: str) -> str:
    """Return the room that `text` asks for. Raises Refusal that speaks of a room when it is not acceptable."""
    try:
        return clean_room(text)
    except Refusal as refusal:
        raise Refusal(refusal.problem, refusal.about, ROOM_NAME) from refusal


_RESERVED = frozenset(name_look(name).skeleton for name in ("server", "system", "mpchat", "admin", "operator"))
"""The skeletons of names with which somebody could speak for the server."""


def _clean(text: str) -> str:
    name = unicodedata.normalize("NFKC", _IGNORABLE.sub("", text).strip())
    name = "_".join(name.split())
    if not name:
        raise Refusal(Problem.NAME_EMPTY)
    if len(name) > MAX_NAME:
        raise Refusal(Problem.NAME_LONG, str(MAX_NAME))
    marks = _MAX_MARKS
    for character in name:
        category = unicodedata.category(character)
        if category in ("Mn", "Mc") and marks < _MAX_MARKS:
            marks += 1
        elif category[0] == "L":
            marks = 0
        elif category == "Nd" or character in _PUNCTUATION:
            marks = _MAX_MARKS
        else:
            raise Refusal(Problem.NAME_CHARACTER, _describe(character))
    if _PUNCTUATION.issuperset(name):
        raise Refusal(Problem.NAME_PUNCTUATION, name)
    if not name.isascii():
        _refuse_mixture(name)
    return name


def _refuse_mixture(name: str) -> None:
    scripts = [script for script, letter in _SCRIPTS.items() if letter.search(name)]
    if len(scripts) > 1:
        raise Refusal(Problem.NAME_MIXED, " and ".join(scripts))


def _describe(character: str) -> str:
    """The character, or its code point if a terminal could not show it by itself."""
    attached = unicodedata.category(character)[0] == "M"
    if attached or not character.isprintable():
        return f"U+{ord(character):04X}"
    return character
