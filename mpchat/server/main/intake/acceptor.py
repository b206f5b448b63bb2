"""The acceptor: from connections that wait at the listening socket to clients that have a place.

Owns who is in: the counts of `admission`, and which pages of the ledger are free. Promises: whoever is admitted has a
page until `forget`; whoever is not is told why. Many waiting connections are taken in together. Never reads a byte.
"""

import logging
import secrets
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from mpchat.chat.entries import SessionId
from mpchat.chat.problems import Refusal
from mpchat.config import Config
from mpchat.server.ledger import FreePages, Ledger
from mpchat.server.main.intake.admission import Admission
from mpchat.server.main.intake.listener import Arrival, Listener, Shortage
from mpchat.server.main.intake.rejections import INTERVAL, Rejections
from mpchat.server.main.waitloop import WaitLoop
from mpchat.server.main.workers.workerprocess import Held
from mpchat.wire.dialect import Dialect
from mpchat.wire.registry import make_dialects

log = logging.getLogger(__name__)

SHORTAGE_PAUSE = 1.0
"""Seconds without accepting after the system had no descriptor for another connection."""


class Taker(Protocol):
    """Whom clients are given to."""

    def place(self, sid: SessionId, held: Held) -> None:
        """This client was admitted."""

    def hand_off(self) -> None:
        """All that waited have been placed."""


class Acceptor:
    """Takes in whoever is admitted, as long as there is a taker. The ledger has a page for each of `max_clients`."""

    def __init__(self, loop: WaitLoop, listener: Listener, ledger: Ledger, config: Config) -> None:
        self._loop = loop
        self._listener = listener
        self._ledger = ledger
        self._dialects = make_dialects(config)
        self._free_pages = FreePages(ledger.shape.pages)
        self._admission = Admission(config.max_clients, config.max_per_address, config.exempt)
        self._rejections = Rejections()
        self._taker: Taker | None = None
        self._not_before: float | None = None

    @property
    def clients(self) -> int:
        """How many are in."""
        return self._admission.clients

    def change(self, config: Config) -> None:
        """Other limits, for whoever comes from now on."""
        self._admission.change(config.max_clients, config.max_per_address, config.exempt)

    def watch(self, taker: Taker | None, now: float) -> None:
        """Accept, for this taker; or do not."""
        self._taker = taker
        self._report_rejections(now)
        if self._not_before is not None and now >= self._not_before:
            self._not_before = None
        if taker is not None and self._not_before is None:
            self._loop.watch(self._listener, self._accept)
        else:
            self._loop.unwatch(self._listener)

    def deadline(self) -> float:
        """When `watch` may have to be called again though nothing has happened."""
        if self._taker is None:
            return float("inf")
        return min(self._rejections.deadline(), float("inf") if self._not_before is None else self._not_before)

    def stop(self) -> None:
        """Take nobody in any more: who comes is refused by the system."""
        self._taker = None
        self._report_rejections(float("inf"))
        self._loop.unwatch(self._listener)
        self._listener.close()

    def restore(self, helds: Iterable[Held]) -> None:
        """These clients were in before."""
        taken = set()
        for held in helds:
            self._admission.restore(held.address)
            taken.add(held.page)
        self._free_pages = FreePages(self._ledger.shape.pages, taken)

    def forget(self, held: Held) -> None:
        """This client is no more."""
        self._admission.leave(held.address)
        self._ledger.page(held.page).clear(0)
        self._free_pages.leave(held.page)

    def _accept(self, events: int) -> None:
        try:
            arrivals = self._listener.accept()
        except Shortage as error:
            log.warning("cannot accept: %s", error)
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
                log.warning("%s refused: %s", arrival.address, refusal.problem.name.lower())
            turn_away(arrival.socket, self._dialects[arrival.dialect], refusal)
            return
        # 128 random bits: unique without asking anybody, and no name that is ever used again.
        held = Held(arrival.socket.detach(), arrival.address, self._free_pages.take(), arrival.dialect)
        taker.place(secrets.token_bytes(16), held)

    def _report_rejections(self, now: float) -> None:
        for address, count in self._rejections.take(now):
            log.warning("%s refused: %d times more within %g s", address, count, INTERVAL)


def turn_away(client: socket.socket, dialect: Dialect, refusal: Refusal) -> None:
    """Say why to somebody who cannot come in, as far as that needs no waiting."""
    with client, suppress(OSError):
        client.setblocking(False)
        client.send(dialect.refuse(refusal))
        client.shutdown(socket.SHUT_RDWR)
