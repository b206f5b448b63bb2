"""Characters that make one picture of several: what the input line shows of them.

Pure. Terminals do not agree how wide such a picture is (a family of three may be two columns or six), and a cursor that
is placed by a wrong width tears the line. So the input line shows the parts, each of which is as wide everywhere,
without what joins or changes them. What is sent is what was typed.
"""

_JOINER = "\u200d"
_SELECTORS = "\ufe0e\ufe0f"
_SKINS = "".join(map(chr, range(0x1F3FB, 0x1F400)))
_TAGS = "".join(map(chr, range(0xE0020, 0xE0080)))

JOINING = frozenset(_JOINER + _SELECTORS + _SKINS + _TAGS)
"""What joins pictures, chooses between text and picture, and colours skin (UTS 51, "Emoji"); flags of regions."""


def list_visible(text: str) -> list[int]:
    """The positions in `text` that are shown: all but those that change what stands before them."""
    return [at for at, char in enumerate(text) if char not in JOINING or at == 0]
