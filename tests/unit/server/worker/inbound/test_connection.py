"""The contract of `server.connection`, held against real TCP connections on a real loop.

Nothing here waits for luck: what must come is awaited with a deadline, and what must not come has had every chance when
the kernel says that the socket is ready and the loop has gone round (`turn`).
"""

from __future__ import annotations

import asyncio
import functools
import os
import select
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import ParamSpec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpchat.server.worker.inbound import connection
from mpchat.server.worker.inbound.connection import SEND_MOST, SEND_PARTS, Connection

DEADLINE = 10.0
"""Seconds for what is bound to happen."""

KERNEL = 1 << 12
"""What the kernel's buffers are set to, so that little is enough to fill them; it takes its own least for it."""

MUCH = 3 << 20
"""More bytes than the buffers of a connection over loopback take, both sides together."""

PLENTY = 1 << 30
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


P = ParamSpec("P")


@pytest.fixture(scope="module", autouse=True)
def _late_bounds() -> Iterator[None]:
    """What ends only by the last resort does not end in time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "LINGER", 10 * DEADLINE)
        patch.setattr(connection, "FINISH_WAIT", 10 * DEADLINE)
        yield


class Ear:
    """A receiver that remembers what it was told, and in which order."""

    def __init__(self, buffer: int) -> None:
        self.data = b""
        self.calls: list[str] = []
        self.on_room: Callable[[], bool] = lambda: True
        self._buffer = memoryview(bytearray(buffer))
        self.on_received: Callable[[], None] = lambda: None
        self._told = asyncio.Event()

    def room(self) -> memoryview:
        assert "closed" not in self.calls
        return self._buffer if self.on_room() else self._buffer[:0]

    def received(self, data: memoryview) -> None:
        assert "closed" not in self.calls
        self.data += bytes(data)
        self._told.set()
        self.on_received()

    def ended(self, reset: bool) -> None:
        self._note("reset" if reset else "ended")

    def overflowed(self) -> None:
        self._note("overflowed")

    def closed(self) -> None:
        self._note("closed")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what was told makes this true."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._told.clear()
                await self._told.wait()

    async def until_told(self, *calls: str) -> None:
        """Wait for the last of these calls; there are no others before it."""
        await self.until(lambda: calls[-1] in self.calls)
        assert self.calls == [*calls]

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self._told.set()


class Line:
    """A connection, its receiver, the peer's end of it, and main's duplicate of ours."""

    def __init__(self, ours: socket.socket, peer: socket.socket, sendq: int, buffer: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.ear = Ear(buffer)
        self.socket = ours
        self.peer = peer
        self.duplicate = os.dup(ours.fileno())
        self.connection = Connection(self.loop, ours, self.ear, sendq)

    async def peer_sends(self, data: bytes) -> None:
        async with asyncio.timeout(DEADLINE):
            await self.loop.sock_sendall(self.peer, data)

    async def peer_reads(self, size: int) -> bytes:
        """So many bytes; fewer at the end of the stream."""
        data = bytearray()
        async with asyncio.timeout(DEADLINE):
            while len(data) < size:
                part = await self.loop.sock_recv(self.peer, min(size - len(data), 1 << 16))
                if not part:
                    break
                data += part
        return bytes(data)

    async def peer_reads_to_end(self) -> bytes:
        """Everything up to the end of the stream, which must be in good order."""
        return await self.peer_reads(PLENTY)

    def reset(self) -> None:
        """The peer breaks the connection."""
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.peer.close()
        self.wait_for(0)

    def wait_for(self, events: int) -> None:
        """Wait until the kernel has this to say of our socket, or that the connection is over (poll(2), POLLHUP)."""
        poll = select.poll()
        poll.register(self.socket, events)
        assert poll.poll(DEADLINE * 1000)

    async def clog(self) -> bytes:
        """Send until the kernel takes no more; give what was sent. The last block waits in the send queue, in part."""
        sent = bytearray()
        while not self.connection.queued:
            block = bytes([len(sent) // KERNEL % 251]) * KERNEL
            sent += block
            self.connection.send(block)
            assert len(sent) < MUCH
            await turn()
        return bytes(sent)

    def end(self) -> None:
        self.peer.close()
        os.close(self.duplicate)
        self.connection.abort()


async def turn() -> None:
    """Let the loop look at all descriptors, and call whom that concerns."""
    for _ in range(3):
        await asyncio.sleep(0)


@contextmanager
def line(*, sendq: int = PLENTY, buffer: int = 1 << 16) -> Iterator[Line]:
    """A line over loopback with small buffers in the kernel; at the end it is closed for good, and once."""
    with socket.socket() as listener:
        # Before they are connected, since the window is made from it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL)
        peer.connect(listener.getsockname())
        ours, _ = listener.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL)
    for each in (ours, peer):
        each.setblocking(False)
    tied = Line(ours, peer, sendq, buffer)
    try:
        yield tied
    finally:
        tied.end()
    assert tied.ear.calls.index("closed") == len(tied.ear.calls) - 1
    assert ours.fileno() == -1


def on_loop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Run a test that is a coroutine on a loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner() as runner:
            runner.run(test(*args, **kwargs))

    return run


def numbered(size: int, count: int) -> list[bytes]:
    """Blocks that cannot be taken for one another."""
    return [f"{number:0{size}d}".encode() for number in range(count)]


# --- sending ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [numbered(7, 20 * SEND_PARTS), numbered(100_000, 20), [bytes(5 * SEND_MOST)]])
@on_loop
async def test_output_arrives_whole_and_in_order(blocks: list[bytes]) -> None:
    with line() as tied:
        await tied.clog()
        queued = tied.connection.queued
        for block in blocks:
            tied.connection.send(block)
        assert tied.connection.queued == queued + sum(map(len, blocks))
        tied.connection.finish()
        assert (await tied.peer_reads_to_end()).endswith(b"".join(blocks))
        assert tied.connection.queued == 0


@on_loop
async def test_output_that_the_kernel_takes_is_not_queued() -> None:
    with line() as tied:
        tied.connection.send(b"hello ")
        tied.connection.send(b"world")
        assert tied.connection.queued == 0
        assert await tied.peer_reads(11) == b"hello world"


@on_loop
async def test_a_partial_write_continues_where_it_stopped() -> None:
    with line() as tied:
        sent = await tied.clog()
        for block in numbered(50, 1000):
            tied.connection.send(block)
            sent += block
        got = b""
        while len(got) < len(sent):
            got += await tied.peer_reads(min(977, len(sent) - len(got)))
        assert got == sent
        assert tied.connection.queued == 0
        tied.connection.send(b"and on")
        assert await tied.peer_reads(6) == b"and on"


@on_loop
async def test_small_blocks_are_sent_together() -> None:
    with line() as tied:
        sent = await tied.clog()
        for block in numbered(20, 20 * SEND_PARTS):
            tied.connection.send(block)
            sent += block
        # A view of 20 bytes takes ten times as much: what the send queue allows would not be what it takes.
        assert len(tied.connection._queue) <= SEND_PARTS
        tied.connection.finish()
        assert await tied.peer_reads_to_end() == sent


@on_loop
async def test_an_empty_block_is_not_queued() -> None:
    with line() as tied:
        sent = await tied.clog()
        tied.connection.send(b"")
        tied.connection.finish()
        assert await tied.peer_reads_to_end() == sent
        tied.peer.close()
        await tied.ear.until_told("closed")


# --- the send queue -----------------------------------------------------------------------------------------


@on_loop
async def test_the_send_queue_holds_exactly_its_limit() -> None:
    with line(sendq=10_000) as tied:
        await tied.clog()
        tied.connection.send(bytes(10_000 - tied.connection.queued))
        assert (tied.connection.queued, tied.ear.calls) == (10_000, [])
        assert tied.connection.spare == 0
        tied.connection.send(b"x")
        assert tied.ear.calls == ["overflowed"]


@on_loop
async def test_who_is_cut_off_and_reads_is_sent_everything_and_the_reason() -> None:
    with line(sendq=10_000) as tied:
        sent = await tied.clog()
        rest = bytes(10_001 - tied.connection.queued)
        tied.connection.send(rest)
        assert tied.ear.calls == ["overflowed"]
        assert tied.connection.spare == 0
        tied.connection.send(b"the reason")
        tied.connection.finish()
        assert await tied.peer_reads_to_end() == sent + rest + b"the reason"
        tied.peer.close()
        await tied.ear.until_told("overflowed", "closed")


@on_loop
async def test_one_block_larger_than_the_send_queue_overflows_it() -> None:
    with line(sendq=10_000) as tied:
        tied.connection.send(bytes(MUCH))
        assert tied.ear.calls == ["overflowed", "closed"]


@on_loop
async def test_an_aborted_peer_sees_the_end_though_main_has_a_duplicate() -> None:
    with line(sendq=10_000) as tied:
        sent = await tied.clog()
        tied.connection.send(bytes(20_000))
        tied.connection.send(b"nothing comes of this")
        assert tied.ear.calls == ["overflowed", "closed"]
        assert tied.connection.queued == 0
        assert sent.startswith(await tied.peer_reads_to_end())


# --- reading ------------------------------------------------------------------------------------------------


@on_loop
async def test_reading_starts_paused_and_pauses_again() -> None:
    with line() as tied:
        await tied.peer_sends(b"one")
        tied.wait_for(select.POLLIN)
        await turn()
        assert (tied.ear.data, tied.connection.reading) == (b"", False)
        tied.connection.resume_reading()
        await tied.ear.until(lambda: tied.ear.data == b"one")
        tied.connection.pause_reading()
        await tied.peer_sends(b"two")
        tied.wait_for(select.POLLIN)
        await turn()
        assert (tied.ear.data, tied.connection.reading) == (b"one", False)
        tied.connection.resume_reading()
        await tied.ear.until(lambda: tied.ear.data == b"onetwo")


@on_loop
async def test_input_without_room_stays_in_the_kernel() -> None:
    with line() as tied:

        def refuse() -> bool:
            tied.connection.pause_reading()
            return False

        tied.ear.on_room = refuse
        tied.connection.resume_reading()
        await tied.peer_sends(b"hello")
        tied.wait_for(select.POLLIN)
        await turn()
        assert not tied.connection.reading
        assert tied.ear.data == b""
        tied.ear.on_room = lambda: True
        tied.connection.resume_reading()
        await tied.ear.until(lambda: tied.ear.data == b"hello")


@on_loop
@pytest.mark.parametrize("broken", [True, False])
async def test_a_muted_peer_is_read_to_the_end_and_sent_nothing(broken: bool) -> None:
    with line() as tied:
        await tied.peer_sends(b"last words")
        tied.connection.mute(broken)
        tied.connection.send(b"in vain")
        assert tied.connection.queued == 0
        await tied.ear.until(lambda: tied.ear.data == b"last words")
        tied.peer.shutdown(socket.SHUT_WR)
        await tied.ear.until_told("reset" if broken else "ended")


@on_loop
async def test_a_receiver_that_pauses_gets_one_buffer_at_a_time() -> None:
    with line(buffer=10) as tied:
        tied.ear.on_received = tied.connection.pause_reading
        await tied.peer_sends(b"0123456789abcdefghij!")
        for expected in (b"0123456789", b"0123456789abcdefghij", b"0123456789abcdefghij!"):
            tied.connection.resume_reading()
            tied.wait_for(select.POLLIN)
            await turn()
            assert tied.ear.data == expected


@on_loop
async def test_a_peer_that_ended_its_side_still_gets_output() -> None:
    with line() as tied:
        tied.connection.resume_reading()
        await tied.peer_sends(b"bye")
        tied.peer.shutdown(socket.SHUT_WR)
        await tied.ear.until_told("ended")
        assert tied.ear.data == b"bye"
        tied.connection.resume_reading()
        await turn()
        assert tied.ear.calls == ["ended"]
        tied.connection.send(b"see you")
        tied.connection.finish()
        assert tied.ear.calls == ["ended", "closed"]
        assert await tied.peer_reads_to_end() == b"see you"


@on_loop
async def test_a_reset_is_reported_once_and_later_output_is_lost() -> None:
    with line() as tied:
        tied.connection.resume_reading()
        tied.reset()
        await tied.ear.until_told("reset")
        tied.connection.send(b"nobody there")
        tied.connection.resume_reading()
        assert (tied.connection.queued, tied.connection.reading, tied.ear.calls) == (0, False, ["reset"])
        tied.connection.finish()
        assert tied.ear.calls == ["reset", "closed"]


@on_loop
async def test_a_reset_drops_queued_output() -> None:
    with line() as tied:
        tied.connection.resume_reading()
        await tied.clog()
        tied.reset()
        await tied.ear.until_told("reset")
        assert tied.connection.queued == 0
        assert not tied.loop.remove_writer(tied.socket), "it would be called for ever"
        tied.connection.finish()
        assert tied.ear.calls == ["reset", "closed"]


@pytest.mark.parametrize("paused", [False, True])
@on_loop
async def test_input_before_a_reset_is_received_though_our_send_fails_first(paused: bool) -> None:
    """A peer that closes with output of ours unread resets the connection, while its last lines wait here."""
    with line() as tied:
        tied.connection.send(b"it never reads this")
        await tied.peer_sends(b"last words")
        tied.reset()
        if not paused:
            tied.connection.resume_reading()
        tied.connection.send(b"this one fails")
        await tied.ear.until_told("reset")
        assert tied.ear.data == b"last words"
        tied.connection.finish()
        assert tied.ear.calls == ["reset", "closed"]


@on_loop
async def test_a_failed_send_after_the_peers_end_is_no_broken_connection() -> None:
    """Its input is whole: what it sent last is not half a line, even without a line end."""
    with line() as tied:
        await tied.peer_sends(b"last words")
        tied.peer.close()
        tied.connection.send(b"this one is answered with a reset")
        tied.wait_for(0)
        tied.connection.send(b"this one fails")
        await tied.ear.until_told("ended")
        assert tied.ear.data == b"last words"


@on_loop
async def test_input_before_a_reset_is_received_though_the_send_queue_was_full() -> None:
    with line() as tied:
        await tied.clog()
        await tied.peer_sends(b"last words")
        tied.reset()
        await tied.ear.until_told("reset")
        assert (tied.ear.data, tied.connection.queued) == (b"last words", 0)


@on_loop
async def test_a_receiver_may_still_pause_when_nothing_can_be_sent_any_more() -> None:
    with line(buffer=10) as tied:
        tied.ear.on_received = tied.connection.pause_reading
        await tied.peer_sends(b"0123456789abcdefghij")
        tied.reset()
        tied.connection.send(b"this one fails")
        await tied.ear.until(lambda: tied.ear.data == b"0123456789")
        await turn()
        assert (tied.ear.data, tied.ear.calls) == (b"0123456789", [])
        tied.ear.on_received = lambda: None
        tied.connection.resume_reading()
        await tied.ear.until_told("reset")
        assert tied.ear.data == b"0123456789abcdefghij"


# --- the end ------------------------------------------------------------------------------------------------


@on_loop
async def test_finish_with_nothing_to_write() -> None:
    with line() as tied:
        tied.connection.send(b"bye")
        tied.connection.finish()
        tied.connection.send(b"too late")
        tied.connection.finish()
        assert tied.ear.calls == []
        assert await tied.peer_reads_to_end() == b"bye"
        tied.peer.close()
        await tied.ear.until_told("closed")


@on_loop
async def test_finish_writes_queued_output_before_the_end() -> None:
    with line() as tied:
        sent = await tied.clog()
        for block in numbered(1000, 1000):
            tied.connection.send(block)
            sent += block
        tied.connection.finish()
        tied.connection.send(b"too late")
        assert await tied.peer_reads_to_end() == sent
        tied.peer.close()
        await tied.ear.until_told("closed")


@pytest.mark.parametrize("clogged", [False, True])
@on_loop
async def test_unread_input_does_not_destroy_our_last_output(clogged: bool) -> None:
    """Who has sent much and reads late gets every byte, also when it must get rid of what it sends before it reads."""
    with line() as tied:
        sent = await tied.clog() if clogged else b""
        tied.connection.send(b"bye")
        sending = asyncio.create_task(tied.peer_sends(bytes(MUCH)))
        await turn()
        tied.wait_for(select.POLLIN)
        tied.connection.finish()
        await sending
        assert await tied.peer_reads_to_end() == sent + b"bye"
        assert tied.ear.data == b"", "what comes after the end is nobody's"
        tied.peer.close()
        await tied.ear.until_told("closed")


@on_loop
async def test_finish_when_the_peer_ended_while_output_waits() -> None:
    with line() as tied:
        sent = await tied.clog()
        tied.connection.finish()
        tied.peer.shutdown(socket.SHUT_WR)
        tied.wait_for(select.POLLIN)
        await turn()
        assert tied.ear.calls == []
        assert await tied.peer_reads_to_end() == sent
        await tied.ear.until_told("closed")


@pytest.mark.parametrize("clogged", [False, True])
@on_loop
async def test_a_reset_during_finish_closes_the_connection(clogged: bool) -> None:
    with line() as tied:
        if clogged:
            await tied.clog()
        tied.connection.finish()
        tied.reset()
        await tied.ear.until_told("closed")


@on_loop
async def test_a_reset_during_finish_closes_it_after_the_peers_end_too() -> None:
    with line() as tied:
        tied.connection.resume_reading()
        tied.peer.shutdown(socket.SHUT_WR)
        await tied.ear.until_told("ended")
        await tied.clog()
        tied.connection.finish()
        tied.reset()
        await tied.ear.until_told("ended", "closed")


@on_loop
async def test_finish_times_out_on_a_peer_that_never_ends_its_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER", 0.01)
    with line() as tied:
        tied.connection.send(b"bye")
        tied.connection.finish()
        await tied.peer_sends(b"but I am not done")
        await tied.ear.until_told("closed")


@on_loop
async def test_finish_times_out_on_a_peer_that_takes_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FINISH_WAIT", 0.01)
    with line() as tied:
        await tied.clog()
        tied.connection.finish()
        await tied.ear.until_told("closed")
        assert tied.connection.queued == 0


@on_loop
async def test_an_end_in_time_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER", 0.01)
    with line() as tied:
        tied.connection.finish()
        tied.peer.close()
        await tied.ear.until_told("closed")
        await asyncio.sleep(5 * connection.LINGER)
        assert tied.ear.calls == ["closed"]


@pytest.mark.parametrize("reading", [False, True])
@on_loop
async def test_abort_ends_the_connection_at_once(reading: bool) -> None:
    with line() as tied:
        if reading:
            tied.connection.resume_reading()
        await tied.peer_sends(b"unread")
        tied.connection.abort()
        assert tied.ear.calls == ["closed"]
        tied.connection.abort()
        tied.connection.finish()
        tied.connection.send(b"nothing")
        tied.connection.resume_reading()
        tied.connection.pause_reading()
        await turn()
        assert (tied.ear.calls, tied.ear.data) == (["closed"], b"")


OUR_STEPS = ["send", "send much", "finish", "abort", "pause", "resume", "turn"]
PEER_STEPS = ["peer sends", "peer sends", "peer reads", "peer ends", "peer resets"]


@given(st.lists(st.sampled_from([*OUR_STEPS, *PEER_STEPS]), max_size=12))
@settings(max_examples=60)
def test_received_bytes_are_a_prefix_and_the_end_is_reported_once(steps: list[str]) -> None:
    with asyncio.Runner() as runner:
        runner.run(walk(steps))


async def walk(steps: list[str]) -> None:
    with line(sendq=2 * MUCH) as tied:
        to_peer, from_peer, got = bytearray(), bytearray(), bytearray()
        for number, step in enumerate(steps):
            block = bytes([number + 1]) * (MUCH if step == "send much" else 100)
            match step:
                case "send" | "send much":
                    to_peer += block
                    tied.connection.send(block)
                case "finish":
                    tied.connection.finish()
                case "abort":
                    tied.connection.abort()
                case "pause":
                    tied.connection.pause_reading()
                case "resume":
                    tied.connection.resume_reading()
                case "turn":
                    await turn()
                case _ if tied.peer.fileno() >= 0:
                    act_as_peer(tied, step, block, from_peer, got)
        tied.connection.abort()
        assert tied.ear.calls[-1] == "closed"
        assert len(tied.ear.calls) <= 3
        assert len({*tied.ear.calls} & {"ended", "reset"}) <= 1
    assert from_peer.startswith(tied.ear.data)
    assert to_peer.startswith(got)


def act_as_peer(tied: Line, step: str, block: bytes, sent: bytearray, got: bytearray) -> None:
    try:
        match step:
            case "peer sends":
                sent += block[: tied.peer.send(block)]
            case "peer reads":
                got += tied.peer.recv(1 << 20)
            case "peer ends":
                tied.peer.shutdown(socket.SHUT_WR)
            case "peer resets":
                tied.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                tied.peer.close()
    except OSError:
        pass  # it would block, or the connection is over: the other steps are what matters
