"""The worker's link to main: messages in both directions, on the worker's loop.

Owns the worker's end of the channel. Promises that a message is never waited for: what the channel does not take goes
when there is room, in order. Sessions that end in one turn of the loop are reported together. The channel stays open
until the process ends, since main takes its end for the worker's. Never decides what a message means.
"""

import asyncio
from collections.abc import Callable, Iterable

from mpchat.chat.entries import SessionId
from mpchat.server.control import Beat, Channel, ChannelClosed, Closed, Released, ToMain, ToWorker, in_chunks


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

    @property
    def busy(self) -> bool:
        """Whether main is still to be told something."""
        return bool(self._closed or self._channel.backlog)

    def listen(self, on_message: Callable[[ToWorker, list[int]], None]) -> None:
        """Call `on_message` with each message of main and its descriptors, which then belong to the callee."""
        self._loop.add_reader(self._channel.fileno(), lambda: on_message(*self._channel.receive()))

    def post(self, message: ToMain) -> None:
        """Tell main, behind all that it was told before."""
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

    def report_released(self, sids: list[SessionId], last: bool) -> None:
        """Tell main that these clients are given back, in as many messages as it takes. `last`: see Released."""
        chunks = list(in_chunks(sids)) or [()]
        for number, chunk in enumerate(chunks, 1):
            self.post(Released(chunk, last and number == len(chunks)))

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
