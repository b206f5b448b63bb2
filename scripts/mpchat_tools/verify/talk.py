"""What clients say, and what the lines are that they receive. PURE.

A message is `ROOM NAME NUMBER SENT_NS xxx CRC`: who said it where, as which of its messages and when, and whether the
line is whole. Numbers of a sender begin with 1 and have no gaps.
"""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

TALK = re.compile(rb"(#\S+ )?(\S+): ((\S+) (\S+) (\d+) (\d+) x*) ([0-9a-f]{8})\n", re.ASCII)
NOTICE = re.compile(rb"\* (\S+) (?:joined #(\S+)|left the chat(?: \([^)\n]*\))?)\n")
CHECKSUM = 9  # bytes, with the space before it


class Said(NamedTuple):
    """A whole line about somebody: message `number` of `name` to `room`, or (number 0) that it `joined` or left.

    `room` is None if it left, and empty in a message that the server marks as of another room.
    """

    name: bytes
    room: bytes | None
    number: int
    joined: bool = False
    sent_ns: int = 0


def compose(room: bytes, name: bytes, number: int, size: int, sent_ns: int = 0) -> bytes:
    """A message as it is typed, of at least `size` bytes."""
    text = (b"%b %b %d %d " % (room, name, number, sent_ns)).ljust(size - CHECKSUM, b"x")
    return b"%b %08x\n" % (text, zlib.crc32(text))


def read_line(line: bytes) -> Said | None:
    """What `line` says, or None when it is not as anybody typed it or the server words it."""
    talk = TALK.fullmatch(line)
    if talk is not None:
        whole = talk[2] == talk[5] and int(talk[8], 16) == zlib.crc32(talk[3])
        return Said(talk[2], b"" if talk[1] else talk[4], int(talk[6]), sent_ns=int(talk[7])) if whole else None
    notice = NOTICE.fullmatch(line)
    return None if notice is None else Said(notice[1], notice[2], 0, joined=notice[2] is not None)
