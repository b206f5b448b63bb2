"""The worker's link to main: messages in both directions, on the worker's loop.

Owns the worker's end of the channel. Promises that a message is never waited for: what the channel does not take goes
when there is room, in order. Sessions that end in one turn of the loop are reported together, and so are names; main
hears of a session's name before it hears that the session is over or given back. The channel stays open
until the process ends, since main takes its end for the worker's. Never decides what a message means.
"""

import asyncio
from collections.abc import Callable, Iterable

from mpchat.chat.entries import SessionId
from mpchat.server.control import (
    PRESENCE_MOST,
    Beat,
    Channel,
    ChannelClosed,
    Closed,
    Presence,
    Released,
    ToMain,
    ToWorker,
    in_chunks,
)


class MainLink:
    """`on_idle` is called when main has been told all that waited; `fail` with ChannelClosed, when main is gone."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: Channel,
        on_idle: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._on_idle = on_idle
        self._fail = fail
        self._closed: list[SessionId] = []
        self._named: list[tuple[SessionId, str]] = []
        self._left: list[tuple[SessionId, str, str]] = []

    @property
    def busy(self) -> bool:
        """Whether main is still to be told something."""
        return bool(self._closed or self._named or self._left or self._channel.backlog)

    def listen(self, on_message: Callable[[ToWorker, list[int]], None]) -> None:
        """Call `on_message` with each message of main and its descriptors, which then belong to the callee."""
        self._loop.add_reader(self._channel.fileno(), lambda: on_message(*self._channel.receive()))

    def post(self, message: ToMain) -> None:
        """Tell main, behind all that it was told before, and behind the names that are to be reported."""
        self._post_presence()
        self._send(message)

    def _send(self, message: ToMain) -> None:
        try:
            self._channel.post(message)
        except ChannelClosed as error:
            self._fail(error)
            return
        if self._channel.backlog:
            self._loop.add_writer(self._channel.fileno(), self._pump)

    def beat(self) -> None:
        """Tell main that the loop runs. A beat that waits behind unread messages would add nothing to them."""
        if not self._channel.backlog:
            self.post(Beat())

    def report_closed(self, sids: Iterable[SessionId]) -> None:
        """Tell main that these sessions are over. `on_idle` follows."""
        if not self._closed:
            self._loop.call_soon(self._post_closed)
        self._closed.extend(sids)

    def report_named(self, sid: SessionId, name: str) -> None:
        """Tell main under which name a session is here."""
        self._plan_presence()
        self._named.append((sid, name))

    def report_left(self, sid: SessionId, name: str, reason: str) -> None:
        """Tell main why a session is over; its connection may still be there."""
        self._plan_presence()
        self._left.append((sid, name, reason))

    def report_released(self, sids: list[SessionId], last: bool) -> None:
        """Tell main that these clients are given back, in as many messages as it takes. `last`: see Released."""
        chunks = list(in_chunks(sids)) or [()]
        for number, chunk in enumerate(chunks, 1):
            self.post(Released(chunk, last and number == len(chunks)))

    def _plan_presence(self) -> None:
        if not self._named and not self._left:
            self._loop.call_soon(self._post_planned_presence)

    def _post_planned_presence(self) -> None:
        self._post_presence()
        self._on_idle()

    def _post_presence(self) -> None:
        (named, self._named), (left, self._left) = (self._named, []), (self._left, [])
        # A session may be named and left in one turn: first all names.
        for start in range(0, len(named), PRESENCE_MOST):
            self._send(Presence(tuple(named[start : start + PRESENCE_MOST]), ()))
        for start in range(0, len(left), PRESENCE_MOST):
            self._send(Presence((), tuple(left[start : start + PRESENCE_MOST])))

    def _post_closed(self) -> None:
        closed, self._closed = self._closed, []
        for sids in in_chunks(closed):
            self.post(Closed(sids))
        self._on_idle()

    def _pump(self) -> None:
        self._channel.pump()
        if not self._channel.backlog:
            self._loop.remove_writer(self._channel.fileno())
            self._on_idle()
