"""The bytes of a server, as lines that can be shown.

Owns the splitting, the decoding and the cleaning. Promises: a line has no control character but tab (a hostile
server sends no escape sequences to a terminal) and at most MAX_LINE characters; nothing that came is left out but
those characters; invalid UTF-8 is shown as U+FFFD. Pure, and knows no time: when to stop waiting for a line
end is the caller's to say (`flush`).
"""

import codecs
import unicodedata

MAX_LINE = 64 * 1024
"""Bytes held while waiting for a line end; a longer line is shown in pieces. 16 times what an mpchat server
accepts from a client by default (docs/reference/line-protocol.md, "Framing")."""

CONTROLS = {code: None for code in range(0xA0) if unicodedata.category(chr(code)) == "Cc" and chr(code) != "\t"}


class Incoming:
    """Splits what a server sends into lines.

    `at_once`: a chunk without any line end is a message of its own, as with servers that pass on what they receive.
    """

    def __init__(self) -> None:
        self.at_once = False
        self._held = bytearray()

    @property
    def holds(self) -> bool:
        """Whether something waits for its line end."""
        return bool(self._held)

    def receive(self, data: bytes) -> list[str]:
        """The lines that `data` completes, in order."""
        if self.at_once and not self._held and b"\n" not in data:
            self._held += data
            return self._release()
        *lines, rest = bytes(self._held + data).split(b"\n")
        self._held[:] = rest
        texts = [piece for line in lines for piece in cut(line)]
        while len(self._held) > MAX_LINE:
            texts += self._release(MAX_LINE)
        return texts

    def flush(self) -> list[str]:
        """What is held, as a line; nothing more comes, or not for some time."""
        texts = [piece for piece in cut(bytes(self._held)) if piece]
        self._held.clear()
        return texts

    def _release(self, size: int | None = None) -> list[str]:
        """The first `size` held bytes as a line, but for a character that is cut at their end: that stays."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(bytes(self._held[:size]))
        beginning, _ = decoder.getstate()
        del self._held[: len(self._held[:size]) - len(beginning)]
        shown = clean(text)
        return [shown] if shown else []


def cut(line: bytes) -> list[str]:
    """A line as it is shown: in one piece, mostly."""
    text = line.decode(errors="replace")
    return [clean(text[start : start + MAX_LINE]) for start in range(0, max(len(text), 1), MAX_LINE)]


def clean(text: str) -> str:
    """Without control characters (category Cc) other than tab."""
    return text.translate(CONTROLS)
