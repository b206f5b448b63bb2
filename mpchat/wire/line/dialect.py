"""The line dialect as the server uses it: frames to requests, events to lines."""

from collections.abc import Sequence

from mpchat.chat.events import Failed
from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.requests import Misread, Mistake, Request, Say
from mpchat.chat.state.state import Session
from mpchat.wire.dialect import Settings
from mpchat.wire.line.commands import read_command
from mpchat.wire.line.framing import Frame, LineFraming, Mode
from mpchat.wire.line.meaning import SPECIAL, Kind, read_meaning
from mpchat.wire.line.strangers import Stranger
from mpchat.wire.line.telnet import is_telnet
from mpchat.wire.line.words import Style, encode_event

RUN_MOST = 500
"""Texts in one Say. Each is shown with a name of up to 128 bytes, and one entry must fit into a send queue."""


class LineDialect:
    """A `wire.dialect.Dialect`."""

    encode = staticmethod(encode_event)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def framing(self, position: int = 0, mode: str = "", noted: int = 0, manner: str = "") -> LineFraming:
        return LineFraming(
            max_line=self._settings.max_line,
            segment_timeout=self._settings.segment_timeout,
            position=position,
            mode=Mode(mode) if mode else None,
            noted=noted,
            manner=manner,
        )

    def read(self, frames: Sequence[Frame]) -> list[tuple[int, Request]]:
        """A run of messages is one request, a command is one, and a blank line is none."""
        if frames and isinstance(frames[0][1], Stranger):  # what follows is no message
            return [(frames[0][0], Mistake(frames[0][1].value))]
        return self._read_lines(frames)

    def view(self, session: Session | None, room: str | None) -> Style:
        if session is None:
            return Style()
        telnet = is_telnet(session.manner)
        if room is None:
            # Looked at anew whenever it enters a room, which is when `program` matters.
            return Style(False, session.timestamps, telnet, session.mode == Mode.SEGMENT.value)
        return Style(room != session.current, session.timestamps, telnet)

    def refuse(self, refusal: Refusal) -> bytes:
        return encode_event(Failed(refusal.problem, refusal.about, refusal.more), 0)

    def _refuse_line(self) -> Request:
        return Misread(Problem.LINE_LONG, str(self._settings.max_line))

    def _read_lines(self, frames: Sequence[Frame]) -> list[tuple[int, Request]]:
        requests: list[tuple[int, Request]] = []
        texts: list[str] = []
        said = 0
        for end, text in frames:
            if len(texts) == RUN_MOST:
                requests.append((said, Say(tuple(texts))))
                texts = []
            if text and text[0] not in SPECIAL:  # nearly all of them
                texts.append(text)
                said = end
                continue
            kind, spoken = (Kind.COMMAND, None) if text is None else read_meaning(text)
            if kind is Kind.MESSAGE and spoken:
                texts.append(spoken)
                said = end
            elif kind is Kind.COMMAND:
                if texts:
                    requests.append((said, Say(tuple(texts))))
                    texts = []
                requests.append((end, self._refuse_line() if spoken is None else read_command(spoken)))
        if texts:
            requests.append((said, Say(tuple(texts))))
        return requests
