"""This process's own input and output: lines in, text out, whatever they are (terminal, pipe, file, closed).

Promises: the event loop never blocks on them and no thread does, so that a connection that is lost is told at once
and nothing is waited for at exit. Needs a loop whose selector knows all kinds of files (see `new_loop`). Terminal
modes and the descriptors' flags are left as they are: both are shared with the shell. UTF-8 both ways.
"""

import asyncio
import errno
import os
import select
import selectors
from collections import deque

from mpchat.client.errors import OutputClosed, TerminalFailed

CHUNK = 64 * 1024
"""Bytes taken from the input at once, and held of the output before write() waits."""

MAX_INPUT_LINE = 1024 * 1024
"""Bytes held while waiting for a line end. No chat takes a line like that."""

CANONICAL_MOST = 4095
"""Bytes of a line for which a terminal that edits lines has room; it drops what is typed behind them (termios(3))."""

WINDOW = select.PIPE_BUF
"""What a descriptor that is ready takes without blocking (Python's documentation of select.PIPE_BUF)."""


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop that can wait for any descriptor.

    epoll refuses regular files, and kqueue had trouble with terminals; select(2) takes all, and our few descriptors
    are far below its limit of 1024.
    """
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


class LineInput:
    """Reads lines from a descriptor; None is an input that is closed, and ends at once."""

    def __init__(self, descriptor: int | None) -> None:
        self.is_terminal = descriptor is not None and os.isatty(descriptor)
        self._descriptor = descriptor
        self._held = bytearray()
        self._split: deque[str] = deque()
        self._searched = 0
        self._has_ended = descriptor is None
        self.was_cut = False
        """Whether the terminal may have dropped the end of the last line."""

    @property
    def holds(self) -> bool:
        """Whether something was read that is in no line yet."""
        return bool(self._held or self._split)

    async def read_line(self) -> str | None:
        """The next line without its end, a last one without end included; None after the last.

        A carriage return ends a line, too, as it does for the server.

        Raises TerminalFailed when the input cannot be read or a line is over MAX_INPUT_LINE bytes.
        """
        if self._split:
            return self._split.popleft()
        self.was_cut = False
        while (end := self._held.find(b"\n", self._searched)) < 0 and not self._has_ended:
            self._searched = len(self._held)
            if self._searched > MAX_INPUT_LINE:
                raise TerminalFailed(f"A line of the input is over {MAX_INPUT_LINE} bytes.")
            self._held += await self._read_chunk()
        if end < 0:
            if not self._held:
                return None
            end = len(self._held)
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        self._searched = 0
        self.was_cut = self.is_terminal and end >= CANONICAL_MOST
        first, *others = line.removesuffix(b"\r").decode(errors="replace").split("\r")
        self._split.extend(others)
        return first

    async def _read_chunk(self) -> bytes:
        assert self._descriptor is not None
        data = b""
        try:
            await wait_readable(self._descriptor)
            data = os.read(self._descriptor, CHUNK)
        except BlockingIOError:  # another reader of the same terminal or pipe was faster
            return b""
        except OSError as error:
            # EIO: the terminal is gone (hung up), or is not ours any more. That is an end like any other.
            if error.errno != errno.EIO:
                raise TerminalFailed(f"Cannot read the input: {error.strerror}.") from error
        self._has_ended = not data
        return data


class Output:
    """Writes text to a descriptor, in order, as fast as it takes it; None swallows everything."""

    def __init__(self, descriptor: int | None) -> None:
        self.is_terminal = descriptor is not None and os.isatty(descriptor)
        self._descriptor = reopen_terminal(descriptor) if descriptor is not None and self.is_terminal else descriptor
        self._held = bytearray()
        self._turn = asyncio.Lock()

    def get_size(self) -> os.terminal_size:
        """Columns and lines of the terminal; 80 and 24 where it does not say."""
        try:
            size = os.get_terminal_size(-1 if self._descriptor is None else self._descriptor)
        except OSError:
            size = os.terminal_size((0, 0))
        return os.terminal_size((size.columns or 80, size.lines or 24))

    async def write(self, text: str) -> None:
        """Hold for the next flush(); flush now when that is over CHUNK bytes. Raises OutputClosed, TerminalFailed."""
        self.hold(text)
        if len(self._held) > CHUNK:
            await self.flush()

    def hold(self, text: str) -> None:
        """Hold for the next flush()."""
        if self._descriptor is not None:
            self._held += text.encode(errors="replace")

    async def flush(self) -> None:
        """Wait until everything is written, which takes as long as the reader pleases. Raises as write()."""
        async with self._turn:
            while self._held and self._descriptor is not None:
                await wait_writable(self._descriptor)
                self._write_some(self._descriptor)

    def _write_some(self, descriptor: int) -> None:
        try:
            del self._held[: os.write(descriptor, self._held[:WINDOW])]
        except BlockingIOError:  # another writer to the same terminal or pipe was faster
            return
        except OSError as error:
            self._held.clear()
            if error.errno in (errno.EPIPE, errno.EIO):
                raise OutputClosed("Nobody reads the output.") from error
            raise TerminalFailed(f"Cannot write the output: {error.strerror}.") from error


def reopen_terminal(descriptor: int) -> int:
    """The same terminal, opened again so that writes never block; `descriptor` itself where that is impossible.

    A terminal is ready when it has room for one byte (n_tty_poll()), and the write of more would block. O_NONBLOCK on
    the descriptor that we were given would hold for the shell, too. The new one is open as long as the process runs.
    """
    try:
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return descriptor


async def wait_readable(descriptor: int) -> None:
    """Wait until a read does not block."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def wait_writable(descriptor: int) -> None:
    """Wait until a write of WINDOW bytes does not block."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(descriptor)
