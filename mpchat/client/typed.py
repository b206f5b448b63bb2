"""What a line of our input is, and what to send for it, by the same rules as the server (`mpchat.wire.line`).

Pure. A line from a person is sent as it was typed, but without what the server takes out: so both read the same. A line
of a text is sent so that the server says it just as it stands, also when it looks like a command.
"""

from mpchat.chat.requests import Quit
from mpchat.wire.line.commands import read_command
from mpchat.wire.line.editing import edit_line
from mpchat.wire.line.meaning import Kind, read_meaning, write_message


def is_command(line: str) -> bool:
    """Whether an mpchat server takes `line` for a command, known or not."""
    return read_meaning(as_read(line)).kind is Kind.COMMAND


def is_quit(line: str) -> bool:
    """Whether `line` leaves the chat."""
    kind, text = read_meaning(as_read(line))
    return kind is Kind.COMMAND and isinstance(read_command(text), Quit)


def is_name(text: str) -> bool:
    """Whether `text` could be sent as a name: one line, no command. What a name may hold is the server's to say."""
    return as_read(text) == text and read_meaning(text) == (Kind.MESSAGE, text)


def quote(line: str) -> str:
    """What to send so that an mpchat server says `line` as it stands."""
    return write_message(as_read(line))


def as_read(line: str) -> str:
    """`line` as the server reads it: edited by the keys in it, and without other control characters."""
    return edit_line(line.encode(errors="replace").translate(None, b"\r\n"))
