"""The sequencer's desk: one thread answers every call of the log.

A Manager gives each connection a thread of its own, and those threads pass the interpreter's lock around: with two
workers, `strace -f -c` counted seven futex(2) for each call. So the Manager accepts and authenticates a connection, and
then seats it at this desk. The messages stay those of `multiprocessing.managers`.

    IDLE --call--> answered at once, or ----> READING, until there is something or its time is up
      ^                  |                       |
      +--- all of the answer has gone out <------+      a caller is not read before that

A snapshot is large, and one message of its size would keep everybody waiting. So a caller sends it in pieces, which are
*staged* here until it is whole, and reads one in pieces.

Owns the connections that are seated at it. Promises to answer the calls of a connection in order, and never to wait for
a caller: one that is stopped in the middle of a message holds up only itself. At most one answer waits for each caller.
A connection that ends, breaks or sends something that is not a call is closed, and what it waited for is forgotten.
Never looks into what is published.
"""

import logging
import operator
import os
import pickle
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from traceback import format_exc
from typing import Any, NamedTuple, NoReturn

from mpchat.log.local.memory import MemoryLog
from mpchat.log.port import LogError
from mpchat.logs import report_lost_lines

log = logging.getLogger(__name__)

MESSAGE_MOST = 1 << 30
"""How many bytes a call may have: twice the largest snapshot that a log takes. A longer message is not a call."""

CHUNK = 256 << 10
"""How many bytes are received or sent at a time. Then it is the turn of the other callers."""

WAIT_MOST = 3600.0
"""How many seconds a `read` may wait at most, whatever it asks for."""

EARLY = 0.0005
"""Seconds before its time at which a `read` may be answered: the selector waits for whole milliseconds, rounded up."""

_STAGING = ("stage_snapshot", "put_staged_snapshot")

_LENGTH = struct.Struct("!i")
_LONG_LENGTH = struct.Struct("!Q")
_LONG = -1

Find = Callable[[str], tuple[MemoryLog, Collection[str]]]
"""The log of this name, and the methods of it that may be called. Raises KeyError."""


class _NoCall(Exception):
    """Something came that is not a call."""


class _Read(NamedTuple):
    """A `read` that is under way. Times are of the monotonic clock."""

    source: MemoryLog
    after: int
    wait_until: float

    @property
    def due(self) -> float:
        """When to answer: 0 (now) if there are records, else when its wait is over."""
        return self.wait_until if self.source.ping() == self.after else 0.0

    def answer(self) -> list[tuple[object, ...]]:
        """Return the records, as plain tuples: pickle looks up a class for each object of one. Raises LogTrimmed."""
        return [tuple(record) for record in self.source.read(self.after, 0.0)]


class _Caller:
    """One connection: messages in and out, as `multiprocessing.connection` frames them."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.is_watched_for_room = False
        self._incoming = bytearray()
        self._outgoing: deque[memoryview] = deque()
        self._staged = bytearray()

    @property
    def has_answer(self) -> bool:
        """Whether a part of an answer is still to be sent."""
        return bool(self._outgoing)

    def receive(self, space: memoryview) -> None:
        """Receive what has come, by way of `space`. Raises OSError, and EOFError at the end of the stream."""
        size = self.connection.recv_into(space)
        if not size:
            raise EOFError
        self._incoming += space[:size]

    def take_call(self) -> Any:
        """Take the next whole call; None if there is none. Raises _NoCall."""
        if len(self._incoming) < _LENGTH.size:
            return None
        start = _LENGTH.size
        (length,) = _LENGTH.unpack_from(self._incoming)
        if length == _LONG:
            start += _LONG_LENGTH.size
            if len(self._incoming) < start:
                return None
            (length,) = _LONG_LENGTH.unpack_from(self._incoming, _LENGTH.size)
        if not 0 <= length <= MESSAGE_MOST:
            raise _NoCall(f"a message of {length} bytes")
        end = start + length
        if len(self._incoming) < end:
            return None
        try:
            # In place, since copying a large message would make the others wait.
            with memoryview(self._incoming) as incoming, incoming[start:end] as message:
                return pickle.loads(message)
        except Exception as error:  # whatever pickle makes of it
            raise _NoCall(repr(error)) from error
        finally:
            del self._incoming[:end]

    @property
    def has_said_more(self) -> bool:
        """Whether more has come after the last call that was taken."""
        return bool(self._incoming)

    def send(self, message: bytes) -> None:
        """Send what there is room for; `flush` sends the rest. Raises OSError."""
        size = len(message)
        length = _LENGTH.pack(size) if size < 1 << 31 else _LENGTH.pack(_LONG) + _LONG_LENGTH.pack(size)
        self._outgoing += (memoryview(length + message),) if size < CHUNK else (memoryview(length), memoryview(message))
        self.flush()

    def flush(self) -> None:
        """Send what there is room for, but CHUNK bytes at most. Raises OSError."""
        left = CHUNK
        while self._outgoing and left > 0:
            try:
                sent = self.connection.send(self._outgoing[0][:CHUNK])
            except BlockingIOError:
                return
            left -= sent
            if sent < len(self._outgoing[0]):
                self._outgoing[0] = self._outgoing[0][sent:]
            else:
                self._outgoing.popleft()

    def stage_snapshot(self, source: MemoryLog, start: int, piece: bytes) -> None:
        """Keep a piece of a snapshot until `put_staged_snapshot` or the end of the connection. Raises ValueError when
        it is not the next piece, LogFull when the snapshot becomes too large."""
        if start == 0:
            self._staged = bytearray()
        if start != len(self._staged):
            raise ValueError(f"a piece of a snapshot from {start} on; there are {len(self._staged)} bytes")
        source.expect_snapshot(start + len(piece))
        self._staged += piece

    def put_staged_snapshot(self, source: MemoryLog, seq: int) -> None:
        """Put the staged snapshot, which is whole. Raises LogTrimmed, LogFull."""
        staged, self._staged = self._staged, bytearray()
        source.put_snapshot(seq, staged)


class Desk:
    """The loop. Any thread may call `seat`; all else is for the thread that calls `run`."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._space = memoryview(bytearray(CHUNK))
        self._selector = selectors.DefaultSelector()
        self._reads: dict[_Caller, _Read] = {}
        self._new_reads: list[_Caller] = []
        self._has_grown = False  # a log has grown since the reads were last looked at
        self._nearest = float("inf")  # when the next of them is due
        self._arrivals: deque[socket.socket] = deque()
        self._bell, self._door = socket.socketpair()
        self._bell.setblocking(False)
        self._door.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)

    def __len__(self) -> int:
        """How many connections are seated."""
        return len(self._selector.get_map()) - 1

    def seat(self, descriptor: int) -> None:
        """Answer the calls of this connection from now on; the descriptor is the desk's."""
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            raise
        connection.setblocking(False)
        self._arrivals.append(connection)
        try:
            self._door.send(b"!")
        except BlockingIOError:
            pass  # the bell has rung often enough

    def run(self) -> NoReturn:
        """Answer calls for ever."""
        timeout: float | None = None
        while True:
            timeout = self.turn(timeout)
            report_lost_lines()

    def turn(self, timeout: float | None) -> float | None:
        """Wait up to `timeout` seconds (None: for ever) for something to happen, handle it, return the next timeout."""
        for key, events in self._selector.select(timeout):
            if key.data is None:
                self._welcome()
            else:
                self._see_to(key.data, events)
        return self._answer_reads()

    def close(self) -> None:
        """Close all connections."""
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self._close(key.data)
        self._selector.close()
        for end in self._bell, self._door, *self._arrivals:
            end.close()

    def _welcome(self) -> None:
        self._bell.recv(1024)
        while self._arrivals:
            connection = self._arrivals.popleft()
            self._selector.register(connection, selectors.EVENT_READ, _Caller(connection))

    def _see_to(self, caller: _Caller, events: int) -> None:
        """The connection can be read, or written again."""
        try:
            if events & selectors.EVENT_WRITE:
                caller.flush()
            else:
                caller.receive(self._space)
            self._hear(caller)
        except (OSError, EOFError):
            self._close(caller)
        except _NoCall as error:
            log.error("log connection closed reason=%s", error)
            self._close(caller)

    def _hear(self, caller: _Caller) -> None:
        """Answer the calls that have come whole, one at a time."""
        while not (caller.has_answer or caller in self._reads):
            call = caller.take_call()
            if call is None:
                break
            self._take_call(caller, call)
        if caller in self._reads and caller.has_said_more:
            raise _NoCall("a call before the last one is answered")
        self._watch(caller)

    def _watch(self, caller: _Caller) -> None:
        """Watch for room while an answer is to be sent, and else for the next call."""
        if caller.has_answer != caller.is_watched_for_room:
            caller.is_watched_for_room = caller.has_answer
            events = selectors.EVENT_WRITE if caller.has_answer else selectors.EVENT_READ
            self._selector.modify(caller.connection, events, caller)

    def _take_call(self, caller: _Caller, call: Any) -> None:
        """Carry out a call, or answer that it cannot be. Raises _NoCall."""
        try:
            ident, method, arguments, keywords = call
        except (TypeError, ValueError) as error:
            raise _NoCall(repr(error)) from error
        try:
            source, methods = self._find(ident)
            if method not in methods or keywords:
                raise AttributeError(f"the log has no method {method!r} with keywords {keywords}")
            if method == "read":
                self._reads[caller] = _start_read(source, *arguments)
                self._new_reads.append(caller)
                return
            if method in _STAGING:
                do = partial(getattr(caller, method), source, *arguments)
            else:
                do = partial(getattr(source, method), *arguments)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            caller.send(pickle.dumps(("#TRACEBACK", format_exc())))
        else:
            self._has_grown |= method == "publish"
            caller.send(_answer(do))

    def _answer_reads(self) -> float | None:
        """Answer the reads that are due; return in how many seconds the next one will be."""
        now = time.monotonic() + EARLY
        # There is one read for each worker, and most turns concern one of them.
        if self._has_grown or now >= self._nearest:
            callers, self._nearest = list(self._reads), float("inf")
        else:
            callers = self._new_reads
        self._new_reads, self._has_grown = [], False
        for caller in callers:
            read = self._reads.get(caller)
            if read is None:
                continue  # its connection has ended
            due = read.due
            if due <= now:
                self._finish_read(caller, read)
            else:
                self._nearest = min(self._nearest, due)
        return None if self._nearest == float("inf") else max(0.0, self._nearest - now)

    def _finish_read(self, caller: _Caller, read: _Read) -> None:
        del self._reads[caller]
        try:
            caller.send(_answer(read.answer))
            self._watch(caller)
        except OSError:
            self._close(caller)

    def _close(self, caller: _Caller) -> None:
        self._selector.unregister(caller.connection)
        caller.connection.close()
        self._reads.pop(caller, None)


def _start_read(source: MemoryLog, after: int, wait: float) -> _Read:
    """Check the arguments of a `read`, so that they cannot stop the loop later. Raises TypeError, ValueError,
    OverflowError."""
    now = time.monotonic()
    return _Read(source, operator.index(after), now + min(float(wait), WAIT_MOST))


def _answer(do: Callable[[], object]) -> bytes:
    """The message with what the call returns or raises."""
    try:
        return pickle.dumps(("#RETURN", do()))
    except (LogError, ValueError) as error:
        return pickle.dumps(("#ERROR", error))
    except Exception:  # noqa: BLE001 - a bug of ours; the caller is told, and handles it
        return pickle.dumps(("#TRACEBACK", format_exc()))
