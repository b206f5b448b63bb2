"""The terminal that main was started in, and the SIGHUP that comes when it is closed.

Owns a descriptor of the controlling terminal, if there is one. HUP has two meanings. From an administrator it means
"read the configuration again". When a terminal is closed, the shell or the kernel sends it to what runs there (bash,
"Signals"; setpgid(2)), and then it means "end". A process cannot see who has sent a signal that a handler of Python
catches, so main asks the terminal: a HUP that comes within CLOSING seconds of its end belongs to that end.

The order may be the other way round: if a shell is killed, the kernel sends HUP at once, and the window closes when it
notices. So a terminal that ends within NOTICING seconds after a HUP is the reason for that HUP too (`on_closed`).

So a server in the foreground, or in the background of a shell that sends HUP to its jobs, ends with its terminal. One
that is left running when its shell exits without HUP stays, and later HUPs reload it. A server that was started with
HUP ignored (nohup(1)) stays in any case. A server without a controlling terminal (a service, a container) takes each
HUP for a reload. Never reads from the terminal and never writes to it.
"""

import math
import os
import select
import sys
import time
from collections.abc import Callable

from mpchat.server.main.waitloop import WaitLoop

CLOSING = 5.0
"""Seconds after the end of the terminal in which a HUP belongs to it. A shell sends it at once."""

NOTICING = 2.0
"""Seconds after a HUP in which the end of the terminal explains it. Few: an administrator may reload and then leave."""

_PATH = "/dev/tty"
"""Leads to the controlling terminal of the process that opens it (tty(4))."""


class Terminal:
    """The controlling terminal, as it was when this was made. `stays`: whether the server outlives it.

    `on_closed` is called when the terminal ends just after a HUP that `is_closing` has denied to belong to its end.
    """

    def __init__(self, loop: WaitLoop, stays: bool, on_closed: Callable[[], None]) -> None:
        self.stays = stays
        self._loop = loop
        self._on_closed = on_closed
        self._closed_at = -math.inf
        self._denied_at = -math.inf
        self._watch: _Watch | None = None
        try:
            self._watch = _Watch()
        except OSError:
            return  # there is no terminal, or nothing to watch it with
        if self._watch.epoll is not None:
            loop.watch(self._watch.epoll, lambda events: self._see_end())

    def is_closing(self) -> bool:
        """Whether a HUP that has just come belongs to the end of the terminal."""
        if self._watch is not None and self._watch.has_ended():
            self._note_end()
        now = time.monotonic()
        if now < self._closed_at + CLOSING:
            return True
        self._denied_at = now
        return False

    def close(self) -> None:
        """Let go of the terminal."""
        if self._watch is not None:
            if self._watch.epoll is not None:
                self._loop.unwatch(self._watch.epoll)
            self._watch.close()
            self._watch = None

    def _see_end(self) -> None:
        """The loop says that the terminal has ended."""
        self._note_end()
        if self._closed_at < self._denied_at + NOTICING:
            self._on_closed()

    def _note_end(self) -> None:
        self._closed_at = time.monotonic()
        self.close()


class _Watch:
    """A descriptor of the terminal, and on Linux an epoll of it, which the wait loop can watch for nothing but the end.
    Elsewhere the end is noticed when HUP comes. Raises OSError."""

    def __init__(self) -> None:
        self._descriptor = os.open(_PATH, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.epoll: select.epoll | None = None
        try:
            if sys.platform == "linux":
                self.epoll = select.epoll()
                self.epoll.register(self._descriptor, 0)  # EPOLLHUP always counts (epoll_ctl(2))
        except OSError:
            self.close()
            raise

    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def close(self) -> None:
        if self.epoll is not None:
            self.epoll.close()
        os.close(self._descriptor)
