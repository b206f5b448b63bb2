"""The acceptor: from connections that wait at the listeners to clients that are placed.

Owns the count of clients (`admission`) and the free pages of the ledger. Promises that an admitted client has a page
until `forget`, and that a rejected one is told why. Accepts many waiting connections at once. Never reads a byte from
a client.
"""

import logging
import secrets
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

from mpchat.chat.entries import SessionId
from mpchat.chat.problems import Refusal
from mpchat.config import Config
from mpchat.server.ledger import FreePages, Ledger
from mpchat.server.main.accesslog import WITHHELD
from mpchat.server.main.connection import Held, refuse
from mpchat.server.main.intake.admission import Admission
from mpchat.server.main.intake.listener import Arrival, Listener, Shortage
from mpchat.server.main.intake.rejections import INTERVAL, Rejections
from mpchat.server.main.waitloop import WaitLoop
from mpchat.wire.registry import make_dialects

log = logging.getLogger(__name__)

SHORTAGE_PAUSE = 1.0
"""Seconds without accepting after the system had no descriptor for another connection."""


class Taker(Protocol):
    """Takes the clients that are admitted."""

    def place(self, sid: SessionId, held: Held) -> None:
        """Take this client."""

    def hand_off(self) -> None:
        """Pass on the clients that were taken. For the moment there are no others."""


class Acceptor:
    """Accepts and admits clients while there is a taker. The ledger has a page for each of `max_clients`."""

    def __init__(self, loop: WaitLoop, listeners: Sequence[Listener], ledger: Ledger, config: Config) -> None:
        self._loop = loop
        self._listeners = listeners
        self._ledger = ledger
        self._dialects = make_dialects(config)
        self._free_pages = FreePages(ledger.shape.pages)
        self._admission = Admission(config.max_clients, config.max_per_address, config.exempt)
        self._rejections = Rejections()
        self._with_addresses = config.log_addresses
        self._taker: Taker | None = None
        self._not_before: float | None = None

    @property
    def clients(self) -> int:
        """How many clients are admitted."""
        return self._admission.clients

    def change(self, config: Config) -> None:
        """Change the limits. Clients that are admitted stay."""
        self._with_addresses = config.log_addresses
        self._admission.change(config.max_clients, config.max_per_address, config.exempt)

    def watch(self, taker: Taker | None, now: float) -> None:
        """Accept clients for this taker; without one, accept none. To be called again at `deadline`."""
        self._taker = taker
        self._report_rejections(now)
        if self._not_before is not None and now >= self._not_before:
            self._not_before = None
        for listener in self._listeners:
            if taker is not None and self._not_before is None:
                self._loop.watch(listener, partial(self._accept, listener))
            else:
                self._loop.unwatch(listener)

    def deadline(self) -> float:
        """When `watch` may have something to do though nothing has happened."""
        if self._taker is None:
            return float("inf")
        return min(self._rejections.deadline(), float("inf") if self._not_before is None else self._not_before)

    def stop(self) -> None:
        """Stop accepting clients for good. The system refuses new connections from here on."""
        self._taker = None
        self._report_rejections(float("inf"))
        for listener in self._listeners:
            self._loop.unwatch(listener)
            listener.close()

    def restore(self, helds: Iterable[Held]) -> None:
        """Count these clients as admitted: the previous program has admitted them."""
        taken = set()
        for held in helds:
            held.set_patience()
            self._admission.restore(held.address)
            taken.add(held.page)
        self._free_pages = FreePages(self._ledger.shape.pages, taken)

    def forget(self, held: Held) -> None:
        """Free the place and the page of a client that has gone."""
        self._admission.leave(held.address)
        self._ledger.page(held.page).clear(0)
        self._free_pages.leave(held.page)

    def _accept(self, listener: Listener, events: int) -> None:
        # An event of another listener in the same round may have found the shortage.
        if self._not_before is not None:
            return
        try:
            arrivals = listener.accept()
        except Shortage as error:
            log.warning("accepting paused seconds=%g reason=%s", SHORTAGE_PAUSE, error)
            self._not_before = time.monotonic() + SHORTAGE_PAUSE
            return
        assert self._taker is not None
        for arrival in arrivals:
            self._admit(arrival, self._taker)
        self._taker.hand_off()

    def _admit(self, arrival: Arrival, taker: Taker) -> None:
        try:
            self._admission.admit(arrival.address)
        except Refusal as refusal:
            if self._rejections.add(arrival.address, time.monotonic()):
                address, reason = self._show(arrival.address), refusal.problem.name.lower()
                log.warning("client rejected address=%s reason=%s", address, reason)
            refuse(arrival.socket, self._dialects[arrival.dialect], refusal)
            return
        # 128 random bits: unique without asking any other process, and never used again.
        held = Held(arrival.socket.detach(), arrival.address, self._free_pages.take(), arrival.dialect)
        taker.place(secrets.token_bytes(16), held)

    def _report_rejections(self, now: float) -> None:
        for address, count in self._rejections.take(now):
            shown = self._show(address)
            log.warning("more clients rejected address=%s count=%d seconds=%g", shown, count, INTERVAL)

    def _show(self, address: str) -> str:
        return address if self._with_addresses else WITHHELD
