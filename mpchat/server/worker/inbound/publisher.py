"""The publishing end of a worker: it publishes the entries of the worker's sessions, in order and in batches.

Owns the entries that wait to be published, and the one publication under way. Promises that entries reach the log in
the order of `add`, that all entries which wait go into the next publication, and that `add` never waits. The first
entry after quiet is published at once. Under load, publications are PUBLISH_EVERY apart, since each costs the sequencer
and every reader about the same, however much it carries. The callers bound what waits: while the publisher is
`congested`, they stop reading their clients, and `on_relief` is called when they may go on. If the sequencer is lost, a
publication without an answer is published again over the next link; entries are idempotent.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from mpchat.chat.entries import Asked, Entry, Said, encode_entries
from mpchat.chat.requests import list_values
from mpchat.log.port import LogFull, LogLink
from mpchat.server.worker.caller import Caller

PUBLISH_MOST = 1 << 20
"""The most bytes of one publication, roughly."""

PUBLISH_EVERY = 0.001
"""The least seconds between two publications, unless PUBLISH_SOON bytes wait."""

PUBLISH_SOON = 64 << 10

CONGESTED = 4 << 20
RELIEVED = 1 << 20
"""Clients are not read while more than CONGESTED bytes wait, and read again when fewer than RELIEVED do."""

RETRY = 0.05
"""Seconds until a publication that a full log has refused is tried again. Only a snapshot makes room."""

_ENTRY_OVERHEAD = 100
"""Bytes of an entry beside what its client typed, roughly: session id, position, frame of the pickle."""


class Publisher:
    """The publishing end of one worker. `on_full` is called when the log refuses a publication because it is full.

    `fail` is called with the error that makes it impossible to go on; after LogLost, `connect` helps.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_relief: Callable[[], None],
        on_full: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._caller: Caller | None = None
        self._on_relief = on_relief
        self._on_full = on_full
        self._fail = fail
        self._waiting: deque[tuple[Entry, int]] = deque()
        self._size = 0
        self._under_way: bytes | None = None
        self._under_way_entries = 0
        self._scheduled = False
        self._was_congested = False
        self._retry: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._sent_at = float("-inf")
        self._added = 0  # entries
        self._published = 0  # entries
        self._last_seq = 0  # the record of the last of them
        self._applied = 0
        self._barriers: deque[tuple[int, Callable[[], None]]] = deque()
        self._due: deque[tuple[int, Callable[[], None]]] = deque()

    def connect(self, link: LogLink) -> None:
        """Publish over `link` from here on. What was sent over the last link and not answered comes first, again."""
        self.disconnect()
        self._caller = Caller(self._loop, link, self._answered)
        if self._under_way is not None:
            self._send()
        else:
            self._plan()

    def disconnect(self) -> None:
        """Close the link. What is to be published waits for the next one."""
        for timer in (self._retry, self._pause):
            if timer is not None:
                timer.cancel()
        self._retry = self._pause = None
        if self._caller is not None:
            self._caller.close()
            self._caller = None

    @property
    def congested(self) -> bool:
        """Whether so much waits that no client should be read."""
        return self._was_congested

    def add(self, entries: Sequence[Entry]) -> None:
        """Publish `entries` behind all that were added before."""
        for entry in entries:
            size = _size(entry)
            self._waiting.append((entry, size))
            self._size += size
        self._added += len(entries)
        if self._size > CONGESTED:
            self._was_congested = True
        self._plan()

    def call_when_applied(self, callback: Callable[[], None]) -> None:
        """Call `callback` when all that was added so far has come back from the log and been applied here."""
        self._barriers.append((self._added, callback))
        self._pass_barriers()

    def applied(self, seq: int) -> None:
        """This worker has applied the log up to record `seq`."""
        self._applied = seq
        self._pass_barriers()

    def _plan(self) -> None:
        """See that what waits is published in time."""
        if self._scheduled or not self._waiting or self._under_way is not None or self._caller is None:
            return
        wait = self._sent_at + PUBLISH_EVERY - self._loop.time()
        if wait <= 0 or self._size >= PUBLISH_SOON:
            # Not at once: input of other clients in this turn of the loop goes into the same publication.
            self._scheduled = True
            self._loop.call_soon(self._publish)
        elif self._pause is None:
            self._pause = self._loop.call_later(wait, self._publish)

    def _publish(self) -> None:
        self._scheduled = False
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if not self._waiting or self._under_way is not None or self._caller is None:
            return
        batch: list[Entry] = []
        size = 0
        while self._waiting and (not batch or size + self._waiting[0][1] <= PUBLISH_MOST):
            entry, entry_size = self._waiting.popleft()
            batch.append(entry)
            size += entry_size
        self._size -= size
        self._under_way, self._under_way_entries = encode_entries(batch), len(batch)
        self._send()
        if self._was_congested and self._size < RELIEVED:
            self._was_congested = False
            self._on_relief()

    def _send(self) -> None:
        if self._caller is None:
            return
        assert self._under_way is not None
        self._sent_at = self._loop.time()
        try:
            self._caller.call("publish", self._under_way)
        except Exception as error:  # noqa: BLE001 - see _answered()
            self._give_up(error)

    def _answered(self) -> None:
        assert self._caller is not None
        try:
            seq = self._caller.receive()
        except LogFull:
            self._retry = self._loop.call_later(RETRY, self._send)
            self._on_full()
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing can be published over this link any more
            self._give_up(error)
            return
        self._under_way = None
        self._published += self._under_way_entries
        self._last_seq = seq
        self._pass_barriers()
        self._plan()

    def _give_up(self, error: Exception) -> None:
        self.disconnect()
        self._fail(error)

    def _pass_barriers(self) -> None:
        while self._barriers and self._barriers[0][0] <= self._published:
            self._due.append((self._last_seq, self._barriers.popleft()[1]))
        # The log's answer and the record come over two connections, in either order.
        while self._due and self._due[0][0] <= self._applied:
            self._due.popleft()[1]()


def _size(entry: Entry) -> int:
    """Return about how many bytes the entry takes in a publication."""
    match entry:
        case Said():
            typed = sum(map(len, entry.texts))
        case Asked():
            typed = sum(len(value) for value in list_values(entry.request) if isinstance(value, str))
        case _:
            typed = 0
    return _ENTRY_OVERHEAD + typed
