"""The names of people and rooms: which are acceptable, and when two are the same.

Owns the rule for names: 1 to 32 characters after NFKC normalisation; letters and digits of any script, and
``_ - . [ ] { } | ^``. Spaces become ``_``, and case makes no difference. Promises that two names with different keys
differ in at least one visible character. Never looks at who has a name; the state knows that.
"""

import unicodedata

from mpchat.chat.problems import Problem, Refusal

MAX_NAME = 32
_PUNCTUATION = frozenset("_-.[]{}|^")
# These are letters by category, but nothing is drawn for them (Unicode 16, Default_Ignorable_Code_Point). NFKC turns
# the other two Hangul fillers, U+3164 and U+FFA0, into U+1160.
_INVISIBLE_LETTERS = frozenset("\u115f\u1160")
# Many scripts need vowel signs and accents that NFKC cannot compose. None needs piles of them.
_MAX_MARKS = 2


def clean_name(text: str) -> str:
    """The name that `text` asks for. Raises Refusal when it is not acceptable."""
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
    """The key of a name: two names are the same if their keys are equal."""
    return unicodedata.normalize("NFKC", name.casefold())


def clean_room(text: str) -> str:
    """The room that `text` asks for, in folded case. Raises Refusal when it is not acceptable."""
    folded = name_key(clean_name(text))
    # Checked again: folding can make a name longer (ß becomes ss), and nobody could type the name of such a room.
    return clean_name(folded)


def numbered_name(name: str, number: int) -> str:
    """`name` followed by ``-number``, with `name` cut so that the whole is no longer than a name may be."""
    suffix = f"-{number}"
    return name[: MAX_NAME - len(suffix)] + suffix


def _describe(character: str) -> str:
    """The character, or its code point if a terminal could not show it by itself."""
    attached = unicodedata.category(character)[0] == "M"
    if attached or character in _INVISIBLE_LETTERS or not character.isprintable():
        return f"U+{ord(character):04X}"
    return character
