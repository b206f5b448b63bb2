"""The port of a framing: from the bytes of one connection to frames.

A framing owns what has been received of one connection and has not been taken yet. It never does I/O, reads no clock
(it asks to be woken through `deadline`), and never raises, whatever the peer sends.
"""

from typing import Any, Protocol

from mpchat.chat.requests import Negotiate

Frame = tuple[int, Any]
"""(end, content): the stream position just behind the frame, and what the dialect's `read` takes.

Positions count raw bytes since the connection began. They grow from frame to frame.
"""


class Framing(Protocol):
    """The bytes of one connection, turned into frames.

    Time is in seconds of any clock that never goes back. Bytes stay inside until they are taken, so a caller that
    throttles takes few frames, and bounds what waits by not calling `receive`. The framing itself bounds a frame whose
    end does not come: it may hold no more than half of the ring in which the server keeps unapplied input
    (`server.ledger.ring_size`).
    """

    @property
    def position(self) -> int:
        """The stream position of the first byte that is not taken, skipped or dropped. It only grows."""

    @property
    def deadline(self) -> float | None:
        """When `wake` wants to be called. None: never."""

    @property
    def modes(self) -> tuple[str, str]:
        """How a framing that carries on elsewhere has to take what follows a frame of the last `take`.

        The first is for all frames but the last one, the second for the last one. Only the framing itself knows what
        they mean; they go through the log, so they are short.
        """

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Take in one received chunk."""

    def receive_eof(self) -> None:
        """The peer has sent everything. Nothing may be received after this."""

    def wake(self, now: float) -> None:
        """Tell the time. Does something only when `deadline` is reached."""

    def take(self, limit: int) -> list[Frame]:
        """The next frames in order, at most `limit`. Empty when none is complete."""

    def take_note(self) -> tuple[int, Negotiate] | None:
        """What the client's program has asked for on its own account since the last note: (at, request). None: nothing.

        It is about the bytes in front of `at`, which may lie within a frame that is not complete. A note has to be
        published in front of the frames of the `take` before it. A framing that carries on is told the last note, and
        does not say again what was in that.
        """
