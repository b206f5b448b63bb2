"""Editing keys: what is left of a line that was typed key by key.

Terminals in raw mode, telnet clients in character mode and programs that play a recorded session send the keys that
somebody pressed, corrections included. A line is what is left when it ends, however it is cut into chunks: nothing is
kept of half a line but its bytes.

* BS (8) and DEL (127) take away the last character that the line holds: a base with all that belongs to it.
* ^W (23) takes away the last word, with the white space behind it. ^U (21) takes away the whole line.
* The text is clean otherwise (`mpchat.wire.text`). Keys that move within the line are sequences, and change nothing.
"""

import re
import unicodedata

from mpchat.wire.text import clean_characters, decode_text

__all__ = ["KEYS", "edit_line"]

BACKSPACE, KILL_LINE, KILL_WORD, DELETE = "\x08", "\x15", "\x17", "\x7f"
KEYS = BACKSPACE + KILL_LINE + KILL_WORD + DELETE

_EDITS = re.compile(f"([{KEYS}])")

_JOINER = "\u200d"
_REGIONAL = range(0x1F1E6, 0x1F1FF + 1)
_MOST_FLAGS = 16  # that are looked at, so that many of them take no time that grows with their square
_MODIFIERS = range(0x1F3FB, 0x1F3FF + 1)
_TAGS = range(0xE0020, 0xE007F + 1)
_VOWELS_OR_FINALS = range(0x1160, 0x11FF + 1)  # of Hangul; what stands in front of them belongs to them
_FINALS = range(0x11A8, 0x11FF + 1)


def edit_line(data: bytes) -> str:
    """Return the clean text of one line, without its end, when all keys in it have been pressed. Never raises."""
    text = clean_characters(decode_text(data), keep=KEYS)
    if not _EDITS.search(text):
        return text
    line: list[str] = []
    for part in _EDITS.split(text):
        if part == KILL_LINE:
            line.clear()
        elif part == KILL_WORD:
            _drop_word(line)
        elif part in (BACKSPACE, DELETE):
            _drop_character(line)
        else:
            line += part
    # Again: an isolate may have been taken away, or a byte order mark come to the start.
    return clean_characters("".join(line))


def _drop_word(line: list[str]) -> None:
    while line and line[-1].isspace():
        line.pop()
    while line and not line[-1].isspace():
        line.pop()


def _drop_character(line: list[str]) -> None:
    """Take away the last grapheme cluster: near enough to UAX 29 for what keyboards and input methods send."""
    while line:
        last = line.pop()
        if not _extends(last) and not (line and _continues(line, ord(last))):
            return


def _extends(character: str) -> bool:
    """Whether this belongs to the character in front of it."""
    code = ord(character)
    return unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf") or code in _MODIFIERS or code in _TAGS


def _continues(line: list[str], code: int) -> bool:
    """Whether `code`, which stood behind `line`, is one character with what `line` ends in."""
    before = ord(line[-1])
    if line[-1] == _JOINER:
        return True
    if code in _REGIONAL:
        flags = 0
        while flags < min(len(line), _MOST_FLAGS) and ord(line[-1 - flags]) in _REGIONAL:
            flags += 1
        return flags % 2 == 1
    if code in _FINALS:
        return before in _VOWELS_OR_FINALS or 0xAC00 <= before <= 0xD7A3 or 0x1100 <= before < 0x1160
    return code in _VOWELS_OR_FINALS and (0x1100 <= before < 0x11A8 or 0xAC00 <= before <= 0xD7A3)
