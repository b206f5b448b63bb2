"""A second dialect, which exists to show that the port of dialects is one. It has nothing in common with lines.

Both ways go frames: a length of two bytes, and as many bytes of UTF-8. What a client sends is a verb and its arguments,
with a NUL before each argument; what it is sent is the `repr` of an event. Other clients' lines may hold anything, and
so may a frame, so nothing is taken for the end of a message but its length.

A frame that is too long is refused as soon as its length is known, and skipped as it comes. So the mode of this framing
is a number, where that of the line framing is a word: how many bytes are still to be skipped.
"""

import struct
from collections.abc import Callable, Sequence

from mpchat.chat.events import Event
from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.requests import Act, Away, Join, ListMembers, Misread, Private, Quit, Request, Say
from mpchat.chat.state.state import Session
from mpchat.wire.dialect import Settings
from mpchat.wire.framing import Frame
from mpchat.wire.text import clean_message

FRAMED = "framed"
HEADER = struct.Struct("!H")

_VERBS: dict[str, Callable[..., Request]] = {
    "say": lambda text: Say((text,)),
    "act": Act,
    "join": Join,
    "who": ListMembers,
    "private": Private,
    "away": Away,
    "quit": Quit,
}


def pack(*words: str) -> bytes:
    """A frame, as a client sends it."""
    content = "\0".join(words).encode()
    return HEADER.pack(len(content)) + content


class FramedFraming:
    """A `wire.framing.Framing`."""

    deadline = None

    def __init__(self, most: int, position: int, skip: int) -> None:
        self.position = position
        self._most = most
        self._data = bytearray()
        self._skip = skip

    @property
    def modes(self) -> tuple[str, str]:
        return "", str(self._skip) if self._skip else ""

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> None:
        self._data += data
        self._drop_skipped()

    def receive_eof(self) -> None:
        """Half a frame is nothing."""

    def wake(self, now: float) -> None:
        """Never asked for."""

    def take(self, limit: int) -> list[Frame]:
        frames: list[Frame] = []
        while len(frames) < limit and len(self._data) >= HEADER.size:
            (size,) = HEADER.unpack_from(self._data)
            if size > self._most:
                self._drop(HEADER.size)
                self._skip = size
                self._drop_skipped()
                frames.append((self.position, None))
            elif len(self._data) >= HEADER.size + size:
                content = bytes(self._data[HEADER.size : HEADER.size + size])
                self._drop(HEADER.size + size)
                frames.append((self.position, content))
            else:
                break
        return frames

    def take_note(self) -> None:
        """There is nothing beside the frames."""

    def _drop_skipped(self) -> None:
        size = min(self._skip, len(self._data))
        self._skip -= size
        self._drop(size)

    def _drop(self, size: int) -> None:
        del self._data[:size]
        self.position += size


class FramedDialect:
    """A `wire.dialect.Dialect`."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_line

    def framing(self, position: int = 0, mode: str = "", noted: int = 0, manner: str = "") -> FramedFraming:
        return FramedFraming(self._most, position, int(mode or 0))

    def read(self, frames: Sequence[Frame]) -> list[tuple[int, Request]]:
        return [(end, self._read(content)) for end, content in frames if content != b""]

    def view(self, session: Session | None, room: str | None) -> tuple[bool, bool, bool, bool]:
        # Equal to a view of the line dialect: whoever mixes them up shows somebody the wrong bytes.
        return (False, False, False, False)

    def encode(self, event: Event, time: int, view: tuple[bool, bool, bool, bool]) -> bytes:
        return pack(repr(event))

    def refuse(self, refusal: Refusal) -> bytes:
        return pack(f"{refusal.problem.name} {refusal.about}")

    def _read(self, content: bytes | None) -> Request:
        if content is None:
            return Misread(Problem.LINE_LONG, str(self._most))
        verb, *words = map(clean_message, content.split(b"\0"))
        try:
            return _VERBS[verb](*words)
        except (KeyError, TypeError):
            return Misread(Problem.UNKNOWN_COMMAND, "say", verb)
