"""A connection of an event loop to the sequencer.

Owns one end of the connection, and one call that is under way. The messages are those of `multiprocessing.managers`:
(object, method, arguments, keywords) out, (kind, result) back. Promises never to wait in `call`, `pump` and `take`,
whatever the sequencer does in the middle of a message. `receive` waits only if `take` has not said that it need not.
Every failure of the connection is a LogLost.

Trust: calls and answers are unpickled without restriction, as in every Manager. Both ends are processes of main: they
run as the same user, and have shown each other main's key, before either reads a pickle. What clients said is inside as
bytes, in payloads and snapshots; the log does not decode those, and its users do so with `chat.codec`.
"""

import os
import pickle
import select
import struct
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from mpchat.errors import in_words
from mpchat.log.port import LogError, LogLost, Record

_RECEIVED = 64 << 10  # bytes; nearly every answer is smaller

_LENGTH = struct.Struct("!i")
_LONG_LENGTH = struct.Struct("!Q")


def _as_records(answer: Any) -> list[Record]:
    return [Record(*record) for record in answer]


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"read": _as_records}
"""What makes the result of a method of the answer to it, if that is something else."""


class ManagerLink:
    """A `port.LogLink` to the Manager of a log; or to the Manager itself, when `ident` is None."""

    def __init__(
        self, link: "connection.Connection[Any, Any]", ident: str | None, patience: float | None = None
    ) -> None:
        """`ident`: the log's name in its Manager. `patience`: how many seconds `receive` waits for anything to happen;
        None: for ever."""
        os.set_blocking(link.fileno(), False)
        self._link = link
        self._ident = ident
        self._patience = patience
        self._outgoing = memoryview(b"")
        self._incoming = b""
        self._message: memoryview | None = None  # of which there are `_filled` bytes
        self._filled = 0
        self._lost: Exception | None = None
        self._convert: Callable[[Any], Any] | None = None  # the answer of the call under way

    def fileno(self) -> int:
        """The descriptor. It is readable when a part of the answer has come, or the sequencer is gone."""
        return self._link.fileno()

    @property
    def backlog(self) -> bool:
        """Whether a part of the call is still to be sent: `pump` when the descriptor is writable."""
        return bool(self._outgoing)

    def call(self, method: str, *arguments: object) -> None:
        """Send a call, as far as there is room. Its answer must be received before the next call. Raises LogLost."""
        self._convert = _CONVERSIONS.get(method)
        message = pickle.dumps((self._ident, method, arguments, {}))
        size = len(message)
        if size < 1 << 31:
            self._outgoing = memoryview(_LENGTH.pack(size) + message)
        else:
            self._outgoing = memoryview(_LENGTH.pack(-1) + _LONG_LENGTH.pack(size) + message)
        self.pump()
        self._check()

    def pump(self) -> None:
        """Send more of the call, as far as there is room."""
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[os.write(self._link.fileno(), self._outgoing) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(error)

    def take(self) -> bool:
        """Take what has come of the answer. Return True when it is whole, or will not come: `receive` will not wait."""
        try:
            while self._lost is None and not self._is_whole:
                self._receive_some()
        except BlockingIOError:
            return False
        return True

    def receive(self) -> Any:
        """Return the answer, or raise what the method raised (LogTrimmed, LogFull). Raises LogLost."""
        while not self.take():
            self._wait()
            self.pump()
        if not self._is_whole:
            self._check()
        assert self._message is not None
        message, self._message = self._message, None
        kind, result = pickle.loads(message)
        if kind == "#RETURN":
            return result if self._convert is None else self._convert(result)
        if isinstance(result, BaseException):
            raise result
        raise LogError(f"the sequencer failed: {result}")

    def close(self) -> None:
        self._link.close()

    @property
    def _is_whole(self) -> bool:
        return self._message is not None and self._filled == len(self._message)

    def _receive_some(self) -> None:
        """Receive once. Raises BlockingIOError."""
        try:
            if self._message is None:
                received = os.read(self._link.fileno(), _RECEIVED)
                size = len(received)
                self._begin_message(self._incoming + received)
            else:
                size = os.readv(self._link.fileno(), [self._message[self._filled :]])
                self._filled += size
        except BlockingIOError:
            raise
        except OSError as error:
            self._lose(error)
            return
        if not size:
            self._lose(EOFError("it has ended"))

    def _wait(self) -> None:
        """Wait for more of the answer, or for room for more of the call."""
        poll = select.poll()
        poll.register(self._link, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        if not poll.poll(None if self._patience is None else self._patience * 1000):
            self._lose(TimeoutError("it does not answer"))

    def _begin_message(self, data: bytes) -> None:
        """Take the beginning of an answer. Nothing follows an answer, since the next call has not been sent."""
        start = _LENGTH.size
        length = _LENGTH.unpack_from(data)[0] if len(data) >= start else None
        if length == -1:
            start += _LONG_LENGTH.size
            length = _LONG_LENGTH.unpack_from(data, _LENGTH.size)[0] if len(data) >= start else None
        if length is None:
            self._incoming = data
            return
        self._incoming = b""
        self._filled = len(data) - start
        if self._filled > length:
            self._lose(OSError("more than one answer has come"))
        elif self._filled == length:
            self._message = memoryview(data)[start:]
        else:
            self._message = memoryview(bytearray(length))
            self._message[: self._filled] = data[start:]

    def _lose(self, error: Exception) -> None:
        self._lost = error
        self._outgoing = memoryview(b"")

    def _check(self) -> None:
        if self._lost is not None:
            raise LogLost(f"the sequencer is gone: {in_words(self._lost)}") from self._lost
