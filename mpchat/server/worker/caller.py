"""Calls of the log on a worker's loop.

Owns the links, one for each caller. Promises that nothing here waits for the sequencer, even in the middle of a
message: what it does not take is sent when there is room, and an answer is received when all of it has come. Publishing
and reading have a caller each. All other calls share one (`Errands`), since they take long and may not delay those two.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from mpchat.log.port import LogFull, LogLink, LogLost, LogTrimmed


class Caller:
    """A link that is watched. `on_answer` is called when `receive` has all of the answer, or when the log is lost and
    `receive` raises LogLost."""

    def __init__(self, loop: asyncio.AbstractEventLoop, link: LogLink, on_answer: Callable[[], None]) -> None:
        self.link = link
        self._loop = loop
        self._on_answer = on_answer
        self._waits_for_room = False
        self._loop.add_reader(link.fileno(), self._readable)

    def call(self, method: str, *arguments: object) -> None:
        """Send a call. Its answer must be received before the next call. Raises LogLost."""
        self.link.call(method, *arguments)
        if self.link.backlog:
            self._waits_for_room = True
            self._loop.add_writer(self.link.fileno(), self._writable)

    def receive(self) -> Any:
        """Return the answer, or raise what the method raised (LogTrimmed, LogFull). Raises LogLost."""
        return self.link.receive()

    def close(self) -> None:
        self._loop.remove_reader(self.link.fileno())
        if self._waits_for_room:
            self._loop.remove_writer(self.link.fileno())
        self.link.close()

    def _readable(self) -> None:
        if self.link.take():
            self._on_answer()

    def _writable(self) -> None:
        self.link.pump()
        if not self.link.backlog:
            self._waits_for_room = False
            self._loop.remove_writer(self.link.fileno())


class Errands:
    """Calls that are sent one after the other, each when the one before is answered.

    `fail` is called with the error that makes it impossible to go on; after LogLost, `connect` helps.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, fail: Callable[[Exception], None]) -> None:
        self._loop = loop
        self._fail = fail
        self._caller: Caller | None = None
        self._waiting: deque[tuple[Callable[[Any], None], str, tuple[object, ...]]] = deque()
        self._under_way: Callable[[Any], None] | None = None

    def connect(self, link: LogLink) -> None:
        """Send calls over `link` from here on. Those that were asked for since `disconnect` come first."""
        self._close()
        self._caller = Caller(self._loop, link, self._answered)
        self._send()

    def disconnect(self) -> None:
        """Close the link, and forget all calls: none of them is answered any more."""
        self._close()
        self._under_way = None
        self._waiting.clear()

    def ask(self, then: Callable[[Any], None], method: str, *arguments: object) -> None:
        """Call a method of the log, then `then` with what it returns, or the LogTrimmed or LogFull that it raises."""
        self._waiting.append((then, method, arguments))
        self._send()

    def _close(self) -> None:
        if self._caller is not None:
            self._caller.close()
            self._caller = None

    def _send(self) -> None:
        if self._caller is None or self._under_way is not None or not self._waiting:
            return
        self._under_way, method, arguments = self._waiting.popleft()
        try:
            self._caller.call(method, *arguments)
        except LogLost as error:
            self._lose(error)

    def _answered(self) -> None:
        assert self._caller is not None
        try:
            answer = self._caller.receive()
        except (LogTrimmed, LogFull) as error:
            answer = error
        except LogLost as error:
            self._lose(error)
            return
        except Exception as error:  # noqa: BLE001 - a bug of the sequencer; main replaces the worker
            self._fail(error)
            return
        then, self._under_way = self._under_way, None
        try:
            if then is not None:
                then(answer)
        except Exception as error:  # noqa: BLE001 - a replica in doubt must not go on; main replaces the worker
            self._fail(error)
            return
        self._send()

    def _lose(self, error: LogLost) -> None:
        self.disconnect()
        self._fail(error)
