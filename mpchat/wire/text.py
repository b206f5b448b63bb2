"""Clean text: the one rule about characters, for every dialect.

Bytes of a client go in; text comes out that no terminal takes for a command and no client takes for two lines. Promises
that the text has no control character except the tab, no lone surrogate, and no direction of writing that goes on
behind its end. Never raises, whatever the bytes are, and never looks at what the text means.

* Invalid UTF-8 becomes U+FFFD, as with `bytes.decode(errors="replace")`.
* Sequences for terminals (ECMA-48: CSI, OSC, DCS, SS3 and the like, in 7 and in 8 bits) are removed whole. One that is
  not finished ends with the line: of OSC and DCS, which carry text, all of it is dropped.
* Control characters (Unicode category Cc: C0 without tab, DEL, C1) are removed.
* U+2028 and U+2029 become spaces. Some clients break lines there, so one client could forge a line of another.
* A byte order mark at the start is removed. Some programs send one in front of the first line, or of every line.
* U+202A to U+202E (embeddings and overrides of the direction) are removed. Isolates (U+2066 to U+2069) are balanced:
  one that is not closed is closed at the end, and a close without an open is removed (UAX 9).
"""

import re

__all__ = ["ASCII_CONTROLS", "clean_characters", "clean_lines", "clean_message", "decode_text"]

# The line feed is in neither set, because clean_lines splits on it.
ASCII_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n"})
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")
_ESC = 0x1B

_ODD = re.compile(r"[\x1b\x80-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
"""Whatever needs more care than to be removed."""

_BOM = "\ufeff"
_EMBEDDINGS = re.compile("[\u202a-\u202e]")
_ISOLATES = re.compile("[\u2066-\u2069]")
_POP_ISOLATE = "\u2069"

# An introducer is ESC and a character, or one character of C1 (ECMA-48, 5.3). An alternative that can fail does not
# look beyond the next introducer of its kind. So the time grows with the length only, whatever a peer sends.
_STRING = r"[^\x07\x18\x1a\x1b\x9c]*"
_CLOSED_STRING = r"[^\x07\x18\x1a\x1b\x98\x9c\x9e\x9f]*"
_STRING_END = r"(?:\x1b\\|[\x07\x18\x1a\x9c]|(?=\x1b)|\Z)"
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)(?:\[[A-E]|[0-?]*[ -/]*[@-~]?)"  # CSI; the function keys of the Linux console have a second [
    r"|(?:\x1bO|\x8f)[0-9;]*[@-~]?"  # SS3: keys
    rf"|(?:\x1b[P\]]|[\x90\x9d]){_STRING}{_STRING_END}"  # DCS, OSC
    rf"|(?:\x1b[X^_k]|[\x98\x9e\x9f]){_CLOSED_STRING}(?:\x1b\\|[\x07\x9c])"  # SOS, PM, APC, a title of screen(1)
    r"|\x1b[#%()*+\-./][0-~]"  # character sets
    r"|\x1b[78=>]",  # cursor and keypad
    re.DOTALL,
)

# Single bytes of C1 in what is not valid UTF-8. A character of UTF-8, also one that is cut, is none of them.
_RAW_C1 = re.compile(
    rb"((?:[\xc2-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xf4][\x80-\xbf]{0,3})+)"
    rb"|\x9b([0-?]*[ -/]*[@-~])|\x8f([@-~])|[\x90\x9d][^\x07\x1b\x9c\n\x80-\xff]*(?:\x07|\x1b\\|\x9c)"
)


def clean_lines(block: bytes) -> list[str]:
    r"""Return the clean text of each line of `block`: one more than it has line feeds.

    A carriage return is a control character like any other here, so `\r\n` needs no special care.
    """
    # Cleaning the whole block costs less than cleaning each line, and gives the same: a line feed is never part of a
    # longer UTF-8 sequence, so a bad sequence before it cannot swallow it.
    if block.isascii() and _ESC not in block:
        return block.translate(None, ASCII_CONTROLS).decode("ascii").split("\n")
    # Decode first: removing a control byte from the middle of a bad sequence could turn it into a good one.
    text = decode_text(block)
    if _ODD.search(text):
        return [clean_characters(line) for line in text.split("\n")]
    return _CONTROLS.sub("", text).split("\n")


def clean_message(data: bytes) -> str:
    """Return the clean text of one message. A line feed inside it is removed like any control character."""
    return clean_characters(decode_text(data).replace("\n", ""))


def decode_text(data: bytes) -> str:
    """Return what `data` says, not cleaned. Sequences of single bytes of C1, which are not UTF-8, are removed."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _RAW_C1.sub(rb"\1", data).decode("utf-8", "replace")


def clean_characters(text: str, keep: str = "") -> str:
    """Return the clean text of one line, in which the control characters of `keep` stay."""
    text = strip_sequences(text).replace("\u2028", " ").replace("\u2029", " ")
    text = _CONTROLS.sub(lambda found: "".join([each for each in found[0] if each in keep]) if keep else "", text)
    # At last, when nothing is in front of it that does not stay.
    return _balance(_EMBEDDINGS.sub("", text)).lstrip(_BOM)


def strip_sequences(text: str) -> str:
    """Return the text of one line without the sequences in it that are for terminals."""
    return _SEQUENCES.sub("", text)


def _balance(text: str) -> str:
    """Return `text` with as many isolates closed as are opened, each behind its opening."""
    if not _ISOLATES.search(text):
        return text
    depth = 0
    kept: list[str] = []
    for character in text:
        if character == _POP_ISOLATE:
            if not depth:
                continue
            depth -= 1
        elif "\u2066" <= character < _POP_ISOLATE:
            depth += 1
        kept.append(character)
    return "".join(kept) + _POP_ISOLATE * depth
