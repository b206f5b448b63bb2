"""What the kernel reports about a connection, checked against real TCP over loopback."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpchat.server import kernel
from mpchat.server.kernel import Progress, read_progress

pytestmark = pytest.mark.skipif(not kernel.AVAILABLE, reason="this system does not count the bytes of connections")

DEADLINE = 10.0
SMALL = 1 << 12
"""What the kernel's buffers are set to, so that little is enough to fill them."""


@contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end, which does not block, and the peer's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        peer = socket.create_connection(server.getsockname(), DEADLINE)
        ours, _ = server.accept()
    with ours, peer:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        yield ours, peer


def wait_for(ours: socket.socket, events: int) -> None:
    poll = select.poll()
    poll.register(ours, events)
    assert poll.poll(DEADLINE * 1000)


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def fill(ours: socket.socket) -> int:
    """Send until the kernel takes no more; give how much that was."""
    written = 0
    with suppress(BlockingIOError):
        while True:
            written += ours.send(bytes(1000))
    return written


def receive(ours: socket.socket, size: int) -> int:
    wait_for(ours, select.POLLIN)
    return len(ours.recv(size))


def test_a_new_connection_has_counted_nothing() -> None:
    with tcp_pair() as (ours, _):
        assert read_progress(ours) == Progress(0, 0, True)


def test_input_waiting_in_the_kernel_is_not_counted() -> None:
    with tcp_pair() as (ours, peer):
        peer.sendall(b"hello")
        wait_for(ours, select.POLLIN)
        assert read_progress(ours) == Progress(0, 0, True)
        assert ours.recv(2) == b"he"
        assert read_progress(ours) == Progress(2, 0, True)
        assert ours.recv(100) == b"llo"
        assert read_progress(ours) == Progress(5, 0, True)


def test_output_that_the_peer_has_not_taken_is_counted() -> None:
    with tcp_pair() as (ours, peer):
        written = fill(ours)
        assert written > SMALL
        assert read_progress(ours).written == written
        peer.recv(written // 2)
        assert read_progress(ours).written == written


@pytest.mark.parametrize("read", [False, True])
def test_the_end_of_the_peers_stream_is_not_counted(read: bool) -> None:
    with tcp_pair() as (ours, peer):
        peer.sendall(b"bye")
        peer.shutdown(socket.SHUT_WR)
        wait_for(ours, select.POLLRDHUP)
        assert read_progress(ours) == Progress(0, 0, True)
        assert ours.recv(2) == b"by"
        assert read_progress(ours) == Progress(2, 0, True)
        assert ours.recv(2) == b"e"
        if read:
            assert ours.recv(2) == b""
        ours.send(b"answer")
        assert read_progress(ours) == Progress(3, 6, True)


def test_the_end_of_our_stream_is_not_counted() -> None:
    with tcp_pair() as (ours, peer):
        ours.send(b"hello")
        ours.shutdown(socket.SHUT_WR)
        assert peer.recv(5, socket.MSG_WAITALL) == b"hello"
        assert not read_progress(ours).writable


def test_a_reset_is_reported() -> None:
    with tcp_pair() as (ours, peer):
        peer.sendall(b"hello")
        assert receive(ours, 2) == 2
        reset(peer)
        wait_for(ours, select.POLLHUP)
        assert read_progress(ours) == Progress(2, 0, writable=False, reset=True)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_reset_behind_the_end_of_the_peers_stream_is_told_apart(at_once: bool) -> None:
    with tcp_pair() as (ours, peer):
        peer.sendall(b"hello")
        assert receive(ours, 2) == 2
        peer.shutdown(socket.SHUT_WR)
        wait_for(ours, select.POLLRDHUP)
        if at_once:
            reset(peer)
        else:
            peer.close()
            ours.send(b"x")  # what the peer's kernel answers with a reset, since nobody will take it
        wait_for(ours, select.POLLHUP)
        progress = read_progress(ours)
        assert (progress.consumed, progress.writable, progress.reset) == (2, False, False)
        assert ours.recv(10) == b"llo"
        assert ours.recv(10) == b""


def test_a_duplicate_has_the_same_counters() -> None:
    """Main's, after the worker is dead."""
    with tcp_pair() as (ours, peer):
        duplicate = ours.dup()
        with duplicate:
            peer.sendall(b"hello")
            assert receive(ours, 3) == 3
            ours.send(b"abc")
            ours.close()
            assert read_progress(duplicate) == Progress(3, 3, True)


def test_a_socket_without_counters_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(OSError, match=r".+"):
        read_progress(ours)


def test_counters_that_keep_changing_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter(range(10 * kernel.READS))
    monkeypatch.setattr(kernel, "_read_counters", lambda _: (1, next(counts), 0))
    with tcp_pair() as (ours, _), pytest.raises(OSError, match="stop changing"):
        read_progress(ours)


def test_counters_are_read_again_until_they_are_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    """An acknowledgement comes between the two reads: what it acknowledges must not be counted twice, or not at all."""
    real: Callable[[socket.socket], tuple[int, int, int]] = kernel._read_counters
    reads: list[int] = []
    with tcp_pair() as (ours, _):

        def disturbed(connection: socket.socket) -> tuple[int, int, int]:
            state, acked, received = real(connection)
            reads.append(acked)
            return state, acked + 1000 if len(reads) == 1 else acked, received

        monkeypatch.setattr(kernel, "_read_counters", disturbed)
        ours.send(b"hello")
        assert read_progress(ours).written == 5
        assert len(reads) >= 4


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["receive", "send", "fill", "peer sends", "peer reads", "peer ends"]), st.integers(1, 3000)
    ),
    max_size=30,
)


@given(steps=STEPS)
@settings(max_examples=60)
def test_the_counters_match_what_was_done(steps: list[tuple[str, int]]) -> None:
    consumed = written = 0
    with tcp_pair() as (ours, peer):
        peer.setblocking(False)
        ended = False
        for step, size in steps:
            with suppress(BlockingIOError):
                if step == "receive":
                    consumed += len(ours.recv(size))
                elif step == "send":
                    written += ours.send(bytes(size))
                elif step == "fill":
                    written += fill(ours)
                elif step == "peer reads":
                    peer.recv(size)
                elif step == "peer sends" and not ended:
                    peer.send(bytes(size))
                elif step == "peer ends":
                    peer.shutdown(socket.SHUT_WR)
                    ended = True
            assert read_progress(ours) == Progress(consumed, written, True)
