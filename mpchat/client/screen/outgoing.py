"""What becomes of what was typed or pasted: lines to send, a question first, or a reason why not.

Pure. Promises that no text disappears: what is not sent is either kept in the input line or named in a reason.
"""

import re
from dataclasses import dataclass

from mpchat.client.typed import as_read, quote
from mpchat.wire.line.meaning import Kind, read_meaning

MAX_LINE = 4096
"""Bytes of a line that an mpchat server takes by default (docs/reference/line-protocol.md, "Framing")."""

_LINE_END = re.compile(r"\r\n|\r|\n")
_LIMIT = re.compile(r"That line is too long: (\d+) bytes at most\..*")


@dataclass(frozen=True, slots=True)
class Paste:
    """Lines that were pasted at once, with what stood in the input line around them."""

    lines: tuple[str, ...]

    @property
    def question(self) -> str:
        return f"Send {len(self.lines)} lines? y/n"

    @property
    def to_send(self) -> tuple[str, ...]:
        """Pasted lines are text, like those of a pipe: a line that says `quit` is said."""
        return tuple(quote(line) for line in self.lines)


def read_paste(text: str, before: str, after: str) -> Paste | str:
    """What is to be done with a pasted text: a Paste of several lines, or a text to put at the cursor.

    `before` and `after` is what stands around the cursor; it belongs to the first and the last line. Blank lines are
    left out, since no server says them.
    """
    lines = _LINE_END.split(text.strip("\r\n"))
    if len(lines) == 1:
        return lines[0]
    lines[0] = before + lines[0]
    lines[-1] += after
    return Paste(tuple(line for line in lines if line.strip()))


def find_problem(lines: tuple[str, ...], max_line: int) -> str:
    """Why the server would not take all of these lines; empty if it would."""
    for number, line in enumerate(lines, 1):
        size = len(line.encode(errors="replace"))
        if size > max_line:
            which = "The line" if len(lines) == 1 else f"Line {number} of {len(lines)}"
            return f"{which} has {size} bytes, and the server takes {max_line}. Nothing was sent."
    return ""


def read_limit(error: str) -> int | None:
    """How many bytes a line may have, if this error of the server says so."""
    found = _LIMIT.fullmatch(error)
    return int(found[1][:9]) if found else None


def show_own(line: str, me: str) -> str:
    """How a line that was sent looks in the room, where the server does not show it to me; empty for most commands."""
    kind, text = read_meaning(as_read(line))
    if kind is Kind.MESSAGE:
        return f"{me}: {text}"
    word, _, argument = text.partition(" ")
    if kind is Kind.COMMAND and argument.strip():
        if word.lower() == "/me":
            return f"** {me} {argument}"
        if word.lower() == "/say":
            return f"{me}: {argument}"
    return ""
