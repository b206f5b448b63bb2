"""The client's side of a conversation: who speaks first, line ends or not, the name, then messages.

    GREETING --- a line, or `greeting` s ---> NAME --- claim() ---> CLAIM --- "* Hello, " ---> READY
                                               ^ |                    |                          ^
                                               | +--- a silent server has no answer to a name ---+
                                               +--- "! ..." ----------+

A server that says nothing in GREETING is taken for one that greets nobody and takes each chunk it receives for
a message: from then on messages are SEGMENTS, without line ends. If it is an mpchat server that was slow, its
question still counts as long as nothing was sent. A server that greets with something else gets LINES, and
`stranger` seconds to answer the name, because its answer cannot be understood.

Pure: bytes and the time (seconds, monotonic) in, events and bytes out. It asks for a call of `wake` at
`deadline`. Each of its waits ends.
"""

import enum
from dataclasses import dataclass

from mpchat.client.net.incoming import Incoming
from mpchat.client.timing import Timing

# What the line dialect fixes (docs/reference/line-protocol.md, "Signing on" and "What is shown").
QUESTION = "* Welcome to mpchat"
HELLO = "* Hello, "
TAKEN = " is taken; you are "
ERROR = "! "
NO_EARLIER = "/history off"
"""Not to be shown what was said earlier. Before the name, it is not answered."""


class Phase(enum.Enum):
    """How far the conversation is; see the picture above."""

    GREETING = enum.auto()
    NAME = enum.auto()
    CLAIM = enum.auto()
    READY = enum.auto()


class Mode(enum.Enum):
    """What ends a message to the server: a line end, or the end of the segment."""

    LINES = enum.auto()
    SEGMENTS = enum.auto()


@dataclass(frozen=True, slots=True)
class Line:
    """A line to show; clean (see `incoming`)."""

    text: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The name is not acceptable; `text` is the server's line, `reason` the same without its "! "."""

    text: str

    @property
    def reason(self) -> str:
        return self.text.removeprefix(ERROR)


Event = Line | Refusal


class Dialogue:
    """One conversation. `segments` forces that mode whatever the server does; `earlier`: we want to be shown what was
    said before we came."""

    def __init__(self, timing: Timing, *, segments: bool, now: float, earlier: bool = True) -> None:
        self.phase = Phase.GREETING
        self.mode = Mode.SEGMENTS if segments else Mode.LINES
        self.greeted = False
        self.refusal = ""
        """The reason given with the last refusal."""
        self.is_mpchat = False
        """Whether the server has asked for the name as mpchat does. Then it knows the commands of mpchat."""
        self.taken = ""
        """The name that somebody else had, if the server gave us another one for it."""
        self._claimed = ""
        self._timing = timing
        self._forced = segments
        self._wants_earlier = earlier
        self._incoming = Incoming()
        self._incoming.at_once = segments
        self._events: list[Event] = []
        self._phase_ends: float | None = now + timing.greeting
        self._quiet_at: float | None = None

    @property
    def deadline(self) -> float | None:
        """When `wake` wants to be called."""
        return min((at for at in (self._phase_ends, self._quiet_at) if at is not None), default=None)

    def receive(self, data: bytes, now: float) -> None:
        """Take what the server sent."""
        self._take_lines(self._incoming.receive(data))
        # In GREETING its end shows what is held. An mpchat server ends its lines; only the network cuts them.
        patient = self.is_mpchat or self.phase is Phase.GREETING
        self._quiet_at = now + self._timing.quiet if self._incoming.holds and not patient else None

    def receive_eof(self) -> None:
        """The server has sent all it will: show what it did not end."""
        self._take_lines(self._incoming.flush())
        self._phase_ends = self._quiet_at = None

    def wake(self, now: float) -> None:
        """Do what time has come for."""
        if self._quiet_at is not None and now >= self._quiet_at:
            self._quiet_at = None
            self._take_lines(self._incoming.flush())
        if self._phase_ends is not None and now >= self._phase_ends:
            self._phase_ends = None
            self._end_wait()

    def take_events(self) -> list[Event]:
        """What has happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def claim(self, name: str, now: float) -> bytes:
        """What to send to be called `name`. Only in NAME."""
        assert self.phase is Phase.NAME
        self._claimed, self.taken = name, ""
        if self.greeted:
            self.phase = Phase.CLAIM
            self._phase_ends = now + (self._timing.claim if self.is_mpchat else self._timing.stranger)
        else:
            self.phase = Phase.READY
        asks_not = self.is_mpchat and self.mode is Mode.LINES and not self._wants_earlier  # segments are not shown any
        return (self._encode(NO_EARLIER) if asks_not else b"") + self._encode(name)

    def say(self, text: str) -> bytes:
        """What to send to say `text`, one line. Only in READY."""
        assert self.phase is Phase.READY
        return self._encode(text)

    def quit(self) -> bytes:
        """What to send before leaving. A server of segments would show it to everybody: nothing."""
        return self._encode("/quit") if self.phase is Phase.READY and self.mode is Mode.LINES else b""

    def _encode(self, text: str) -> bytes:
        if "\n" in text:
            raise ValueError("a message is one line")
        # "replace": argv and file names can hold lone surrogates, which are no UTF-8.
        return (text if self.mode is Mode.SEGMENTS else text + "\n").encode(errors="replace")

    def _take_lines(self, lines: list[str]) -> None:
        for text in lines:
            asked = text.startswith(QUESTION)
            # What comes late is more likely somebody's message, passed on by a server that greets nobody.
            if self.phase is Phase.GREETING or (asked and self.phase is Phase.NAME):
                self._be_greeted(asked)
            self._events.append(self._understand(text))

    def _be_greeted(self, asked: bool) -> None:
        self.is_mpchat = asked
        self.greeted = True
        if self.phase is Phase.GREETING:
            self.phase = Phase.NAME
            self._phase_ends = None
        if not self._forced:
            self.mode = Mode.LINES
            self._incoming.at_once = False

    def _understand(self, text: str) -> Event:
        if self.phase is Phase.CLAIM and self.is_mpchat:
            if text.startswith(HELLO):
                self.phase = Phase.READY
                self._phase_ends = None
            elif text.startswith("* ") and TAKEN in text:
                self.taken = self._claimed
            elif text.startswith(ERROR):
                return self._be_refused(text)
        return Line(text)

    def _be_refused(self, line: str) -> Refusal:
        self.phase = Phase.NAME
        self._phase_ends = None
        refusal = Refusal(line)
        self.refusal = refusal.reason
        return refusal

    def _end_wait(self) -> None:
        """The wait of this phase has lasted long enough."""
        if self.phase is Phase.GREETING:
            self._take_lines(self._incoming.flush())  # a prompt without line end is a greeting too
            self.phase = Phase.NAME
            if not self.greeted:
                self.mode = Mode.SEGMENTS
                self._incoming.at_once = True
        elif self.is_mpchat:
            self._events.append(self._be_refused(f"{ERROR}The server did not answer the name."))
        else:
            self.phase = Phase.READY
