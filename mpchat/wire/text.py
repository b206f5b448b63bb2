"""Clean text: the one rule about characters, for every dialect.

Bytes of a client go in; text comes out that no terminal takes for a command and no client takes for two lines. Promises
that the text has no control character except the tab, and no lone surrogate. Never raises, whatever the bytes are, and
never looks at what the text means.

* Invalid UTF-8 becomes U+FFFD, as with `bytes.decode(errors="replace")`.
* Control characters (Unicode category Cc: C0 without tab, DEL, C1) are removed.
* U+2028 and U+2029 become spaces. Some clients break lines there, so one client could forge a line of another.
"""

import re

__all__ = ["clean_lines", "clean_message"]

# The line feed is in neither set, because clean_lines splits on it.
_ASCII_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n"})
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")


def clean_lines(block: bytes) -> list[str]:
    r"""Return the clean text of each line of `block`: one more than it has line feeds.

    A carriage return is a control character like any other here, so `\r\n` needs no special care.
    """
    # Cleaning the whole block costs less than cleaning each line, and gives the same: a line feed is never part of a
    # longer UTF-8 sequence, so a bad sequence before it cannot swallow it.
    if block.isascii():
        return block.translate(None, _ASCII_CONTROLS).decode("ascii").split("\n")
    # Decode first: removing a control byte from the middle of a bad sequence could turn it into a good one.
    text = _CONTROLS.sub("", block.decode("utf-8", "replace"))
    return text.replace("\u2028", " ").replace("\u2029", " ").split("\n")


def clean_message(data: bytes) -> str:
    """Return the clean text of one message. A line feed inside it is removed like any control character."""
    return "".join(clean_lines(data))
