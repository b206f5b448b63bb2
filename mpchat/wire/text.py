"""Clean text: what may be shown on somebody else's terminal.

Owns the one rule about characters: bytes of a client in, text out that no terminal takes for a command and no client
takes for two lines. Promises that no text it returns holds a control character other than tab, nor a lone
surrogate. Never raises, whatever the bytes; never looks at what the text means.

* Invalid UTF-8 becomes U+FFFD, as `bytes.decode(errors="replace")` does it.
* Control characters (Unicode category Cc: C0 but tab, DEL, C1) are taken out.
* U+2028 and U+2029 become a space: some clients break lines there, and a name could then say anything.
"""

import re

__all__ = ["clean_lines", "clean_message"]

# The line feed is in neither set: clean_lines splits on it, and so takes it out.
_ASCII_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n"})
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")


def clean_lines(block: bytes) -> list[str]:
    r"""Return the clean text of each line of `block`; exactly one more than there are line feeds in it.

    A carriage return is a control character like any other here, so `\r\n` needs no care.
    """
    # Whole blocks at a time cost less than line by line, and mean the same: a line feed is never part of a
    # longer UTF-8 sequence, so a bad sequence before it cannot swallow it.
    if block.isascii():
        return block.translate(None, _ASCII_CONTROLS).decode("ascii").split("\n")
    # Decoded first: taking a control byte out of the middle of a bad sequence could make a good one of it.
    text = _CONTROLS.sub("", block.decode("utf-8", "replace"))
    return text.replace("\u2028", " ").replace("\u2029", " ").split("\n")


def clean_message(data: bytes) -> str:
    """Return the clean text of one message; a line feed inside is a control character and taken out too."""
    return "".join(clean_lines(data))
