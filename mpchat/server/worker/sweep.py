"""The sweep: it notes in the ledger how far each client's output has come.

Owns the list of clients that were sent something since their last mark. Every SWEEP_SECONDS, while there is something
new, it writes a mark for each of these clients, and one mark for all other clients of this worker. A successor replays
the log from there, so the sweep bounds how much it replays. Promises to write marks between two records only, where
"up to this record" is exact. A client whose send queue is not empty keeps its older mark, and stays on the list.

The notice of an outage goes through here as well, since it is tied to a mark in the client's page (see `ledger`).
"""

import asyncio
from collections.abc import Iterable

from mpchat.server.ledger import Ledger
from mpchat.server.worker.inbound.client import Client
from mpchat.server.worker.outbound.reader import Reader

SWEEP_SECONDS = 0.2
"""Seconds between two sweeps."""


class Sweep:
    """The marks of the clients of one worker, which has this `slot` of the ledger."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reader: Reader, ledger: Ledger, slot: int) -> None:
        self._loop = loop
        self._reader = reader
        self._ledger = ledger
        self._slot = slot
        self._unmarked: dict[Client, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def note_sent(self, clients: Iterable[Client]) -> None:
        """Note that these clients are being sent something. Call `plan` when all of a slice is sent."""
        self._unmarked.update(dict.fromkeys(clients))

    def mark(self, client: Client) -> None:
        """Write a mark for this client now, or at a later sweep if its output is not written yet. To be called between
        two records."""
        if not client.mark(self._reader.position):
            self._unmarked[client] = None

    def notify(self, clients: Iterable[Client]) -> None:
        """Send these clients the notice of an outage. To be called between two records."""
        position = self._reader.position
        self.note_sent([client for client in clients if not client.notify(position)])
        self.plan()

    def discard(self, client: Client) -> None:
        """Forget a client that this worker does not have any more."""
        self._unmarked.pop(client, None)

    def plan(self) -> None:
        """See that the next sweep comes."""
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def set_mark_for_all(self) -> None:
        """Note how far the output of all clients has come that wait for no mark of their own."""
        self._ledger.set_sweep_mark(self._slot, self._reader.position)

    def _sweep(self) -> None:
        self._timer = None
        position = self._reader.position
        if self._reader.between_records:
            self._unmarked = {client: None for client in self._unmarked if not client.mark(position)}
            self.set_mark_for_all()
        if self._unmarked:
            self.plan()
