"""One client's socket in the worker that has it: bytes in, bytes out, and an orderly end.

Owns the descriptor, the send queue and the linger. Knows nothing of messages: received bytes go to a `Receiver`.

The contract:

* `send` MUST never block, and MUST keep the order of its calls. What the kernel does not take waits in the send queue.
  When more than `sendq` bytes wait, the receiver is told once (`overflowed`) and has to end the session: a slow client
  is disconnected, never waited for. What still comes until `finish`, such as the reason, goes behind what waits. When
  twice as much waits, the connection is aborted.
* Reading MUST stop after `pause_reading`: the client is then held up by its own full window, and costs no memory here.
* `finish` MUST write what waits before it ends the stream, and MUST NOT let the kernel discard it. Closing with
  unread input sends a reset, which can overtake output (RFC 2525, 2.17). So `finish` reads and drops what still comes,
  sends the end of the stream (SHUT_WR) behind the last output, and waits up to LINGER seconds for the peer to end too.
* What a client sent before it broke the connection MUST still be received. A client that closes while it has output of
  ours unread makes its kernel send a reset, and our next write fails while its last lines wait to be read. So a failed
  write only mutes the connection. A failed or ended read is reported (`ended`), and the end comes by `finish` or
  `abort`.
* `closed` MUST be called exactly once, last, after `finish` or `abort`, and never after `release`. Main keeps a
  duplicate of the descriptor, so shutdown or reset ends the stream, not our close.

The socket is watched with `add_reader` and `add_writer` and not through an asyncio transport. A transport cannot give
its socket away, which a hand-off to another worker needs, and does not say how much output the kernel has taken.
"""

import asyncio
import enum
import socket
import struct
from typing import Protocol

from mpchat.server.kernel import Peer, find_peer

DROP_MOST = 1 << 16
"""Bytes to receive at once in order to drop them."""

SEND_MOST = 1 << 18
"""Bytes to give to the kernel at once from the send queue, in up to SEND_PARTS parts (IOV_MAX is 1024 on Linux)."""
SEND_PARTS = 256

LINGER = 2.0
"""Seconds that a peer has to end its side after we have ended ours."""

FINISH_WAIT = 10.0
"""Seconds that a client has to take the last of its output."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


class Receiver(Protocol):
    """Is told what happens to a connection."""

    def room(self) -> memoryview:
        """Return where to receive into. If it is empty, reading has been paused."""

    def received(self, data: memoryview) -> None:
        """Take these bytes, which are at the start of the room."""

    def ended(self, reset: bool) -> None:
        """Note that the input has ended: the peer has ended its side, or (`reset`) broken the connection."""

    def overflowed(self) -> None:
        """The send queue is full: the session has to end."""

    def closed(self) -> None:
        """The connection is over and its descriptor is closed."""


class _Phase(enum.Enum):
    OPEN = enum.auto()
    MUTED = enum.auto()  # nothing can be written any more, but there may be something to read
    FINISHING = enum.auto()  # the last output waits in the send queue
    LINGERING = enum.auto()  # our end of the stream is sent, and the peer's has not come
    CLOSED = enum.auto()


_READABLE = (_Phase.OPEN, _Phase.MUTED)


class Connection:
    """The socket of one client."""

    __slots__ = (
        "_broken", "_eof", "_limit", "_loop", "_overflowed", "_phase", "_queue", "_queued",
        "_reading", "_receiver", "_sendq", "_socket", "_timer",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, receiver: Receiver, sendq: int) -> None:
        self._loop = loop
        self._socket = sock
        self._receiver = receiver
        self._sendq = self._limit = sendq
        # No deque, which takes 600 bytes with nothing in it.
        self._queue: list[memoryview] = []
        self._queued = 0
        self._overflowed = False
        self._phase = _Phase.OPEN
        self._eof = False
        self._broken = False
        self._reading = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def queued(self) -> int:
        """Bytes in the send queue."""
        return self._queued

    @property
    def spare(self) -> int:
        """How many bytes can be sent before the send queue overflows; 0 if nothing can be sent any more."""
        if self._phase is not _Phase.OPEN or self._overflowed:
            return 0
        return max(0, self._limit - self._queued)

    @property
    def peer(self) -> Peer:
        """What is known of the peer, however much of its input waits to be received."""
        return find_peer(self._socket) if self._phase is _Phase.OPEN else Peer.GONE

    @property
    def reading(self) -> bool:
        return self._reading

    def resume_reading(self) -> None:
        """Read from here on. A connection starts paused."""
        if not self._reading and not self._eof and self._phase in _READABLE:
            self._watch_input()

    def pause_reading(self) -> None:
        """Leave what comes in the kernel."""
        if self._reading and self._phase in _READABLE:
            self._unwatch_input()

    def send(self, block: bytes) -> None:
        """Send `block` now, as far as the kernel takes it, and queue the rest. Does nothing once the end has begun."""
        if self._phase is not _Phase.OPEN or not block:
            return
        sent = 0
        if not self._queue:
            try:
                sent = self._socket.send(block)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._mute(broken=not isinstance(error, BrokenPipeError))
                return
            if sent == len(block):
                return
            self._loop.add_writer(self._socket, self._writable)
        self._queue.append(memoryview(block)[sent:])
        self._queued += len(block) - sent
        if len(self._queue) > SEND_PARTS:
            # Many small blocks take many times the memory of their bytes.
            self._queue = [memoryview(b"".join(self._queue))]
        if self._queued > self._limit and not self._overflowed:
            self._overflowed = True
            self._receiver.overflowed()
        if self._queued > 2 * self._limit:
            self.abort()

    def send_carried(self, block: bytes) -> None:
        """Send output that waited while no worker had the connection.

        Until the send queue is empty again, it holds that much more: the client was not slow.
        """
        self._limit = self._sendq + len(block)
        self.send(block)

    def mute(self, broken: bool) -> None:
        """Write nothing any more, and read to the end: the process that had the connection found out.

        `broken`: as for `_mute`.
        """
        if self._phase is _Phase.OPEN:
            self._mute(broken)

    def finish(self) -> None:
        """Write what waits, then end the connection in an orderly way."""
        if self._phase not in _READABLE:
            return
        if self._phase is _Phase.MUTED:
            self._close()
            return
        self._phase = _Phase.FINISHING
        if not self._reading and not self._eof:
            # Input is dropped from here on. A peer that is busy sending would otherwise never read our last output.
            self._watch_input()
        if self._queue:
            self._timer = self._loop.call_later(FINISH_WAIT, self.abort)
        else:
            self._linger()

    def abort(self) -> None:
        """End the connection at once. What waits is lost, and the peer sees a reset."""
        if self._phase is not _Phase.CLOSED:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            except OSError:
                pass  # macOS refuses options on a socket that its peer has reset
            self._close()

    def release(self) -> bytes:
        """Let go of the connection without ending it, and return what waits to be sent. Calls the receiver no more."""
        unsent = b"".join(self._queue)
        self._forget()
        self._socket.close()
        return unsent

    def _readable(self) -> None:
        reset = self._broken
        count = 0
        try:
            if self._phase in _READABLE:
                room = self._receiver.room()
                if not room:
                    return
                count = self._socket.recv_into(room)
            else:
                count = len(self._socket.recv(DROP_MOST))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            reset = True
        if not count:
            self._input_over(reset)
        elif self._phase in _READABLE:
            self._receiver.received(room[:count])

    def _input_over(self, reset: bool) -> None:
        """The peer has ended its side, or broken the connection."""
        self._eof = True
        self._unwatch_input()
        if self._phase in _READABLE:
            if reset:
                self._mute(broken=True)
            self._receiver.ended(reset)
        elif reset or self._phase is _Phase.LINGERING:
            self._close()

    def _writable(self) -> None:
        parts, size = [], 0
        for part in self._queue:
            parts.append(part)
            size += len(part)
            if size >= SEND_MOST:
                break
        try:
            sent = self._socket.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._mute(broken=not isinstance(error, BrokenPipeError))
            return
        self._drop_sent(sent)
        if not self._queue:
            self._limit = self._sendq
            self._loop.remove_writer(self._socket)
            if self._phase is _Phase.FINISHING:
                self._linger()

    def _drop_sent(self, sent: int) -> None:
        self._queued -= sent
        whole = 0
        for part in self._queue:
            if len(part) > sent:
                break
            sent -= len(part)
            whole += 1
        del self._queue[:whole]
        if sent:
            self._queue[0] = self._queue[0][sent:]

    def _linger(self) -> None:
        """End our side, now that all is written, and wait for the peer to end its own."""
        if self._timer is not None:
            self._timer.cancel()
        self._phase = _Phase.LINGERING
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._close()  # the peer is gone already
            return
        if self._eof:
            self._close()
            return
        self._timer = self._loop.call_later(LINGER, self._close)

    def _mute(self, broken: bool) -> None:
        """Write nothing any more. Unless `broken`, the peer had ended its side before, so its input is whole.

        A reset is reported once: to a write, and then not to the read that follows. On Linux the error of that write is
        EPIPE if the end of the stream had come before the reset, and ECONNRESET if not (tcp_reset() in
        net/ipv4/tcp_input.c).
        """
        self._broken = broken
        self._loop.remove_writer(self._socket)
        self._queue.clear()
        self._queued = 0
        if self._phase is _Phase.FINISHING:
            self._close()
        else:
            self._phase = _Phase.MUTED
            # If reading is paused, the end would never be noticed. The receiver pauses again if it must.
            self.resume_reading()

    def _watch_input(self) -> None:
        self._reading = True
        self._loop.add_reader(self._socket, self._readable)

    def _unwatch_input(self) -> None:
        self._reading = False
        self._loop.remove_reader(self._socket)

    def _forget(self) -> None:
        self._phase = _Phase.CLOSED
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._queue.clear()
        self._queued = 0

    def _close(self) -> None:
        self._forget()
        try:
            # Main has a duplicate, so close() alone would not end the stream.
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not connected any more
        self._socket.close()
        self._receiver.closed()
