"""A worker's calls of the log, on its loop.

Owns one link each. Promises that nothing here waits, whatever the sequencer does in the middle of a message: what it
does not take waits for room, and an answer is received when all of it is there. Publishing and reading have a caller
each; all other calls share one (`Errands`), since they take long and may not be in the way.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from mpchat.log.port import LogFull, LogLink, LogLost, LogTrimmed


class Caller:
    """One link, watched. `on_answer` is told when `receive` has all of the answer; or when none will come, and then
    `receive` raises LogLost."""

    def __init__(self, loop: asyncio.AbstractEventLoop, link: LogLink, on_answer: Callable[[], None]) -> None:
        self.link = link
        self._loop = loop
        self._on_answer = on_answer
        self._waits_for_room = False
        self._loop.add_reader(link.fileno(), self._readable)

    def call(self, method: str, *arguments: object) -> None:
        """Send a call; its answer must be received before the next one. Raises LogLost."""
        self.link.call(method, *arguments)
        if self.link.backlog:
            self._waits_for_room = True
            self._loop.add_writer(self.link.fileno(), self._writable)

    def receive(self) -> Any:
        """The answer. Raises what the method raised (LogTrimmed, LogFull), or LogLost."""
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
    """Calls of which each is answered before the next one is sent. `fail` is told what makes it impossible to go on
    (LogLost: until `connect`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fail: Callable[[Exception], None]) -> None:
        self._loop = loop
        self._fail = fail
        self._caller: Caller | None = None
        self._waiting: deque[tuple[Callable[[Any], None], str, tuple[object, ...]]] = deque()
        self._under_way: Callable[[Any], None] | None = None

    def connect(self, link: LogLink) -> None:
        """Call over `link` from here on, first what has been asked since `disconnect`."""
        self._close()
        self._caller = Caller(self._loop, link, self._answered)
        self._send()

    def disconnect(self) -> None:
        """The link is of no use any more. What was asked is forgotten: nobody will be told an answer."""
        self._close()
        self._under_way = None
        self._waiting.clear()

    def ask(self, then: Callable[[Any], None], method: str, *arguments: object) -> None:
        """Call `then` with what the method gives, or with the LogTrimmed or LogFull that it raises."""
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
        except Exception as error:  # noqa: BLE001 - a fault of the sequencer; main replaces the worker
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
