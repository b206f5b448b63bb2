"""The access log: a line for each client that signs on, takes another name, and leaves.

Owns who is known to be here, under which name and since when. Workers tell main what they see in the log of the chat,
and tell it again for each client that they take over; main outlives them, so main decides what is new. Promises that a
client which signs on or leaves causes one line, whatever becomes of its workers, and that the program after an upgrade
knows whom the one before has logged. Logs no text of a client: the reason of /quit is not in it.

A line can be missing in two cases: when a worker is killed before it has told main, and the client leaves before
another worker has it; and when the server is told to end at once in the moment in which a client signs on. A client
that leaves without a name is logged at the level "debug" only, since most of them are probes.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from mpchat.chat.entries import SessionId
from mpchat.server.control import Presence
from mpchat.server.main.connection import Held

log = logging.getLogger(__name__)

WITHHELD = "withheld"
"""What the log says in the place of an address, if it is not to name any."""


@dataclass(slots=True)
class _Visit:
    name: str
    address: str
    since: int
    left: bool = False


class AccessLog:
    """The visits of all clients. `with_addresses`: whether the lines name addresses."""

    def __init__(self, with_addresses: bool) -> None:
        self._with_addresses = with_addresses
        self._visits: dict[SessionId, _Visit] = {}

    def change(self, with_addresses: bool) -> None:
        """Name addresses from now on, or do not."""
        self._with_addresses = with_addresses

    def hear(self, message: Presence, clients: Mapping[SessionId, Held]) -> None:
        """Log what is new in a worker's message. `clients` are those that the worker has."""
        for sid, name in message.named:
            if sid in clients:
                self._name(sid, name, clients[sid].address)
        for sid, name, reason in message.left:
            if sid in clients:
                self._name(sid, name, clients[sid].address)
                self._leave(self._visits[sid], reason)

    def forget(self, sid: SessionId) -> None:
        """The client is no more. If no worker has said why, its connection was lost."""
        visit = self._visits.pop(sid, None)
        if visit is not None:
            self._leave(visit, "connection lost")

    def end(self, reason: str) -> None:
        """All clients that are here leave for this reason."""
        for visit in self._visits.values():
            self._leave(visit, reason)
        self._visits.clear()

    def note(self, clients: Mapping[SessionId, Held]) -> dict[SessionId, Held]:
        """Return these clients with their names in the access log, for the next program."""
        return {sid: self._note(held, self._visits.get(sid)) for sid, held in clients.items()}

    def restore(self, clients: Mapping[SessionId, Held]) -> None:
        """Take these clients for logged under their names, by the program before."""
        for sid, held in clients.items():
            if held.name:
                self._visits[sid] = _Visit(held.name, held.address, held.since)

    @staticmethod
    def _note(held: Held, visit: _Visit | None) -> Held:
        # A client that has left is only being closed: it needs no second line, whatever the next program hears.
        return held if visit is None or visit.left else held._replace(name=visit.name, since=visit.since)

    def _name(self, sid: SessionId, name: str, address: str) -> None:
        visit = self._visits.get(sid)
        if visit is None:
            self._visits[sid] = _Visit(name, address, int(time.monotonic()))
            if name:
                log.info("client signed on name=%s address=%s", name, self._show(address))
        elif visit.name != name and not visit.left:
            log.info("client renamed name=%s new=%s address=%s", visit.name, name, self._show(address))
            visit.name = name

    def _leave(self, visit: _Visit, reason: str) -> None:
        if visit.left:
            return
        visit.left = True
        seconds, address = int(time.monotonic()) - visit.since, self._show(visit.address)
        if visit.name:
            log.info("client left name=%s address=%s seconds=%d reason=%s", visit.name, address, seconds, reason)
        else:
            log.debug("client left without a name address=%s reason=%s", address, reason)

    def _show(self, address: str) -> str:
        return address if self._with_addresses else WITHHELD
