"""The port of a dialect: what the server needs to know of the language that a client speaks.

A dialect is a value without state; the server has one object of each for all clients that speak it. Everything in it is
a function of its arguments and `Settings`, and gives the same in every process. What a client is told depends on
nothing but the log, so `encode` must not depend on settings that a running server can change (`config.FIXED`).
"""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from mpchat.chat.events import Event
from mpchat.chat.problems import Refusal
from mpchat.chat.requests import Request
from mpchat.chat.state.state import Session
from mpchat.wire.framing import Frame, Framing


class Settings(Protocol):
    """What dialects need of the server's configuration (`config.Config`)."""

    @property
    def max_line(self) -> int:
        """The longest frame, in bytes."""

    @property
    def segment_timeout(self) -> float:
        """Seconds to wait for the first line end. 0: lines only."""


class Dialect(Protocol):
    """One way to write requests and events as bytes."""

    def framing(self, position: int = 0, mode: str = "", noted: int = 0, manner: str = "") -> Framing:
        """The framing of one connection. To carry on, `position` is that of the byte received next, and `mode` is what
        `Framing.modes` said of it; `noted` and `manner` are the position and the manner of the last
        `Framing.take_note`. Raises ValueError for a `mode` that the framing does not know."""

    def read(self, frames: Sequence[Frame]) -> list[tuple[int, Request]]:
        """What the client asks for in `frames`, each with the position just behind it, in order.

        Frames may ask for nothing. A run of messages is one Say, with so few texts that one entry always fits into a
        send queue. Never raises, whatever the frames hold. Texts are clean (`wire.text`), since other clients see them.
        """

    def view(self, session: Session | None, room: str | None) -> Hashable:
        """How this session is shown what happens in `room`; with None, everything that is for the session itself.

        Sessions with equal views share one encoded block, so a view should say no more than it has to. The session is
        None while the log does not know it.
        """

    def encode(self, event: Event, time: int, view: Any) -> bytes:
        """The bytes of `event`, which happened at `time` (ms since the epoch), in this `view`. Empty if
        this view is not shown it."""

    def refuse(self, refusal: Refusal) -> bytes:
        """The bytes that tell a connection why it does not become a session."""
