"""Takeover: from a hand-off of main to clients that this worker serves.

Owns the clients that are on their way into this worker. A new client is simply opened. A client that another worker had
before is *adopted*, in these steps:

    take                        HandOff of main: look at what the last worker has left (adoption.receive_adoptee)
    _claim                      publish Opened with the next epoch: a fence behind the entries of the last worker
    _claimed                    Opened came back, so the log's next entries for the client are ours to send
    _plan, _advance, _ask       one Adoption replays the log up to where this worker has come, in slices; what it has
                                to know of the log comes over the worker's errands
    _carry_on_some, _carry_on   send what is missing, parse the input that was not applied: a client like any other

The clients of one hand-off are adopted together. Those that come while an adoption is under way go together into the
next one.

Promises that a client which cannot be carried on is disconnected with a reason and never sent a gap, and that an
adoption survives the sequencer. Never makes output itself: `adoption` does.
"""

import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mpchat.chat.entries import Opened
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import Limits
from mpchat.server.control import HandOff
from mpchat.server.ledger import Ledger
from mpchat.server.worker.caller import Errands
from mpchat.server.worker.inbound.client import Client, Start
from mpchat.server.worker.moves.adoption import SLICE, Adoptee, Adoption, receive_adoptee
from mpchat.server.worker.moves.departure import Departure
from mpchat.server.worker.outbound.reader import Reader
from mpchat.server.worker.roster import Roster
from mpchat.server.worker.snapshots import Snapshots
from mpchat.server.worker.sweep import Sweep

log = logging.getLogger(__name__)


class Takeover:
    """The way into one worker. `limits`: those of its replica, which the replay needs as well."""

    def __init__(
        self,
        limits: Limits,
        replica: Replica,
        ledger: Ledger,
        reader: Reader,
        errands: Errands,
        snapshots: Snapshots,
        roster: Roster,
        sweep: Sweep,
        departure: Departure,
    ) -> None:
        self._limits = limits
        self._replica = replica
        self._ledger = ledger
        self._reader = reader
        self._errands = errands
        self._snapshots = snapshots
        self._roster = roster
        self._sweep = sweep
        self._departure = departure
        self._arriving: list[Adoptee] = []  # of a hand-off in several messages
        self._waiting: list[Adoptee] = []  # for the next adoption
        self._adoption: Adoption | None = None  # under way
        self._scheduled = False  # a slice of it is
        self._asking = False  # the log is being asked for what it needs

    def take(self, handoff: HandOff, descriptors: Sequence[int]) -> list[Client]:
        """Take the clients of a hand-off, whose descriptors are ours from here on. Return the new clients, which are
        open; the others follow when they are adopted."""
        new, adoptees = [], []
        for handed, descriptor in zip(handoff.clients, descriptors, strict=True):
            client_socket = socket.socket(fileno=descriptor)
            client_socket.setblocking(False)
            page = self._ledger.page(handed.page)
            if handed.epoch:
                adoptees.append(receive_adoptee(handed, client_socket, page, self._roster.dialects[handed.dialect]))
            else:
                client = self._roster.add(Client(self._roster, handed, client_socket, page, Start()))
                client.open()
                self._departure.settle_in(client)
                new.append(client)
        if adoptees or self._arriving:
            self._claim(adoptees, handoff.more)
        return new

    def disconnect(self) -> None:
        """The sequencer is gone. What the adoption under way was asking is asked again over the next link."""
        self._asking = False
        self._plan()

    # --- a claim on the clients

    def _claim(self, adoptees: list[Adoptee], more: bool) -> None:
        self._roster.expect(len(adoptees))
        self._arriving += adoptees
        handed = [adoptee.handed for adoptee in adoptees]
        self._roster.publisher.add([Opened(each.sid, each.address, each.epoch, each.dialect) for each in handed])
        if not more:
            arrived, self._arriving = self._arriving, []
            self._roster.publisher.call_when_applied(partial(self._claimed, arrived))

    def _claimed(self, adoptees: list[Adoptee]) -> None:
        self._waiting += adoptees
        self._plan()

    # --- the adoption

    def _plan(self) -> None:
        """See that the adoption goes on: with an answer of the log if it needs one, else with a slice of work."""
        call = None if self._adoption is None else self._adoption.call
        if call is not None:
            if not self._asking:
                self._asking = True
                method, arguments = call
                self._errands.ask(self._tell, method, *arguments)
        elif not self._scheduled and (self._adoption is not None or self._waiting):
            self._scheduled = True
            self._roster.loop.call_soon(self._advance)

    def _tell(self, answer: Any) -> None:
        assert self._adoption is not None
        self._asking = False
        self._adoption.tell(answer)
        self._plan()

    def _advance(self) -> None:
        """Work on the adoption for a slice. If there is none, begin one with all clients that have come meanwhile."""
        self._scheduled = False
        if self._adoption is None:
            self._adoption = Adoption(self._limits, self._waiting)
            self._waiting = []
        if self._reader.between_records and self._adoption.advance(self._reader.position):
            self._carry_on_some(self._adoption)
        self._plan()

    def _carry_on_some(self, adoption: Adoption) -> None:
        """The replay has come to where this worker is: carry on as many clients as a slice has time for.

        The others follow when the replay has come to this worker's position again.
        """
        if not adoption.carried_on:
            self._begin_to_carry_on(adoption)
        until = time.monotonic() + SLICE
        while adoption.adoptees:
            self._carry_on(adoption.let_go())
            if time.monotonic() >= until:
                break
        if not adoption.adoptees:
            self._adoption = None
            self._departure.see_adopted()

    def _begin_to_carry_on(self, adoption: Adoption) -> None:
        log.info("clients carried on clients=%d replayed_entries=%d", len(adoption.adoptees), adoption.applied)
        # If this worker dies next, its successor need not replay the same entries: the marks of these clients will be
        # at this position or later. The clients do not wait for the snapshot.
        self._snapshots.want_if_worth(adoption.applied, self._departure.end_when_empty)
        for adoptee in adoption.lost:
            self._lose(adoptee, "too far behind to be carried on")

    def _carry_on(self, adoptee: Adoptee) -> None:
        """Make a client of an adoptee for whom the replay has come to this worker's position."""
        output = adoptee.output
        if output is None and adoptee.progress.writable:
            self._lose(adoptee, "internal error")
            return
        session = self._replica.session(adoptee.handed.sid)
        applied = adoptee.consumed if session is None else session.position
        start = Start(applied, adoptee.output_position)
        if session is not None:
            start = replace(
                start, mode=session.mode, noted=session.noted, manner=session.manner, pace=session.pace
            )
        client = self._arrive(adoptee, start)
        client.carry_on(output or b"", adoptee.page.content(applied, adoptee.consumed))
        if not adoptee.progress.writable:
            client.mute(adoptee.progress.reset)
        if session is None:
            if adoptee.tape.parting is not None:
                client.left(*adoptee.tape.parting)
            client.finish()
        self._departure.settle_in(client)
        self._sweep.mark(client)

    def _lose(self, adoptee: Adoptee, reason: str) -> None:
        sid = adoptee.handed.sid
        details = (sid.hex(), adoptee.mark, adoptee.progress, reason)
        log.error("client not carried on session=%s mark=%s progress=%s reason=%s", *details)
        self._arrive(adoptee, Start()).lose(reason)

    def _arrive(self, adoptee: Adoptee, start: Start) -> Client:
        return self._roster.arrive(Client(self._roster, adoptee.handed, adoptee.socket, adoptee.page, start))
