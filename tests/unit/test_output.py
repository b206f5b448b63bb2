"""An outlet never waits for a reader, and writes every line whole or not at all."""

from __future__ import annotations

import fcntl
import os
import pty
import socket
import termios
from collections.abc import Iterator

import pytest

from mpchat.output import PIECE, Outlet


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The two sides of a terminal: of who looks at it, and of who runs on it."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


def fill(outlet: Outlet, line: bytes = b"x" * 99 + b"\n") -> int:
    """Write until there is no room; give how many lines went."""
    for count in range(1 << 20):
        try:
            outlet.write(line)
        except BlockingIOError:
            return count
    raise AssertionError("it takes whatever comes")


def test_a_full_pipe_is_not_waited_for_and_no_line_in_it_is_torn(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    count = fill(Outlet(writer))
    assert count > PIECE // 100
    assert os.read(reader, 1 << 20) == (b"x" * 99 + b"\n") * count
    assert os.get_blocking(writer), "others share it"


def test_a_pipe_of_others_is_not_waited_for_where_the_kernel_cannot_be_told(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
    reader, writer = pipe
    count = fill(Outlet(writer))
    assert os.read(reader, 1 << 20) == (b"x" * 99 + b"\n") * count


def test_a_full_socket_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        count = fill(Outlet(ours.fileno()))
        assert theirs.recv(1 << 20, socket.MSG_WAITALL | socket.MSG_DONTWAIT) == (b"x" * 99 + b"\n") * count
        assert os.get_blocking(ours.fileno()), "others share it"


def test_a_stopped_terminal_is_not_waited_for(terminal: tuple[int, int]) -> None:
    _, slave = terminal
    outlet = Outlet(slave)
    outlet.write(b"before\n")
    termios.tcflow(slave, termios.TCOOFF)  # what Ctrl-S does
    with pytest.raises(BlockingIOError):
        outlet.write(b"stopped\n")
    termios.tcflow(slave, termios.TCOON)
    outlet.write(b"after\n")


def test_more_than_a_pipe_takes_at_once_is_cut_between_lines(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    line = b"x" * 999 + b"\n"
    Outlet(writer).write(line * 30)
    assert os.read(reader, 1 << 20) == line * 30
    room = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) if hasattr(fcntl, "F_GETPIPE_SZ") else 1 << 16
    with pytest.raises(BlockingIOError):
        Outlet(writer).write(line * (room // len(line) + 10))
    kept = os.read(reader, 1 << 20)
    assert kept == line * (len(kept) // len(line))


def test_a_line_that_was_torn_does_not_spoil_the_next(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    outlet = Outlet(writer)
    os.set_blocking(writer, False)
    torn = Outlet(writer)
    fill(outlet)
    os.read(reader, PIECE)
    with pytest.raises(BlockingIOError):
        torn.write(b"y" * 3 * PIECE + b"\n")
    os.read(reader, 1 << 20)
    torn.write(b"next\n")
    torn.write(b"one more\n")
    assert os.read(reader, 1 << 20) == b"\nnext\none more\n"


def test_a_descriptor_that_is_closed_raises_when_it_is_written(pipe: tuple[int, int]) -> None:
    closed = os.dup(pipe[1])
    os.close(closed)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Outlet(closed).write(b"x\n")
