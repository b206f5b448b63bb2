"""A worker's reader, and the test in the place of the sequencer, which answers each call when the test likes."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from typing import Any

from onloop import DEADLINE, turn
from party import picture

from mpchat.chat.entries import Entry, Opened, Said, decode_entries, encode_entries
from mpchat.chat.rules.replica import Replica
from mpchat.log.local.link import ManagerLink
from mpchat.log.local.memory import MemoryLog
from mpchat.server.worker.outbound.fanout import Fanout
from mpchat.server.worker.outbound.reader import Reader

SID = bytes(16)


class ReaderDesk:
    """A reader, and the test in the place of the sequencer."""

    def __init__(self) -> None:
        self.log = MemoryLog(wall_clock=lambda: 0)
        self.replica = Replica()
        self.slices = 0
        self.on_slice: Callable[[], None] = lambda: None  # what is done behind the next one
        self.rest = 0.0
        self.failures: list[type[Exception]] = []
        self.reader = Reader(
            asyncio.get_running_loop(),
            self.replica,
            0,
            Fanout(self.replica),
            self._see_applied,
            self._fail,
        )
        self._end = 0
        self.connect()

    def connect(self) -> None:
        """There is a sequencer."""
        ours, self._theirs = multiprocessing.Pipe()
        self.reader.connect(ManagerLink(ours, "log"))

    def hang_up(self) -> None:
        self._theirs.close()

    def publish(self, *texts: str) -> int:
        """One record; return its number."""
        entries: list[Entry] = [] if self._end else [Opened(SID, "127.0.0.1")]
        for text in texts:
            self._end += len(text) + 1
            entries.append(Said(SID, self._end, (text,)))
        return self.log.publish(encode_entries(entries))

    async def take_call(self) -> tuple[str, tuple[Any, ...]]:
        """What the reader asks of the sequencer, as soon as it does."""
        heard = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._theirs.fileno(), heard.set)
        async with asyncio.timeout(DEADLINE):
            await heard.wait()
        loop.remove_reader(self._theirs.fileno())
        _, method, arguments, _ = self._theirs.recv()
        return method, arguments

    @property
    def asked(self) -> bool:
        return self._theirs.poll()

    def answer(self, kind: str, result: object) -> None:
        self._theirs.send((kind, result))

    async def read(self) -> None:
        """Let the reader have what there is."""
        method, (after, _) = await self.take_call()
        assert method == "read"
        self.answer("#RETURN", [tuple(record) for record in self.log.read(after, 0)])
        await turn()

    def expected(self, seq: int) -> Replica:
        """A replica that has applied the log up to `seq`."""
        replica = Replica()
        for record in self.log.read(0, 0):
            for entry in decode_entries(record.payload) if record.seq <= seq else []:
                replica.apply(entry, record.time)
        return replica

    def is_at(self, seq: int) -> bool:
        return self.reader.position == seq and picture(self.replica) == picture(self.expected(seq))

    def _see_applied(self) -> float:
        self.slices += 1
        on_slice, self.on_slice = self.on_slice, lambda: None
        on_slice()
        return self.rest

    def _fail(self, error: Exception) -> None:
        self.failures.append(type(error))
