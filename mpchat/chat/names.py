"""The names of people and rooms: which are acceptable, and when two are the same.

Owns the rule of the line protocol: 1 to 32 characters after NFKC, letters, digits and ``_ - . [ ] { } | ^`` of any
script; spaces become ``_``; the same name whatever its case. Promises that two names with different keys look
different at least in one visible character. Never looks at who holds a name: that is the replica's.
"""

import unicodedata

from mpchat.chat.problems import Problem, Refusal

MAX_NAME = 32
_PUNCTUATION = frozenset("_-.[]{}|^")
# Letters by category, but nothing is drawn for them (Unicode 16, Default_Ignorable_Code_Point). NFKC turns the other
# two Hangul fillers, U+3164 and U+FFA0, into U+1160.
_INVISIBLE_LETTERS = frozenset("\u115f\u1160")
# Vowel signs and accents that NFKC cannot compose belong to the spelling in many scripts; piles of them do not.
_MAX_MARKS = 2


def clean_name(text: str) -> str:
    """The name that `text` asks for. Raises Refusal (a person can read why) when it is not acceptable."""
    name = unicodedata.normalize("NFKC", text.strip())
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
        elif category[0] == "L" and character not in _INVISIBLE_LETTERS:
            marks = 0
        elif category == "Nd" or character in _PUNCTUATION:
            marks = _MAX_MARKS
        else:
            raise Refusal(Problem.NAME_CHARACTER, _describe(character))
    return name


def name_key(name: str) -> str:
    """What two names share when they are the same name: the name without regard to case."""
    return unicodedata.normalize("NFKC", name.casefold())


def clean_room(text: str) -> str:
    """The room that `text` asks for, folded. Raises Refusal when it is not acceptable."""
    folded = name_key(clean_name(text))
    # Folding can lengthen (ß becomes ss), and a room whose name is refused when it is typed could not be entered.
    return clean_name(folded)


def numbered_name(name: str, number: int) -> str:
    """`name` with ``-number`` behind it, cut so that it keeps within the length of names."""
    suffix = f"-{number}"
    return name[: MAX_NAME - len(suffix)] + suffix


def _describe(character: str) -> str:
    """A character as it can be shown to somebody whose terminal must not be harmed by it."""
    attached = unicodedata.category(character)[0] == "M"
    if attached or character in _INVISIBLE_LETTERS or not character.isprintable():
        return f"U+{ord(character):04X}"
    return character
