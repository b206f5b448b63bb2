"""Which client is in which room, and which process has it. PURE.

Promises that all processes of a run agree on it without talking, since it is a function of three numbers alone.
"""

from __future__ import annotations


class Placement:
    """Clients and rooms are numbered from 0. The numbers are those of who inherits."""

    __slots__ = ()

    clients: int
    rooms: int
    processes: int

    def room_of(self, client: int) -> int:
        return client % self.rooms

    def process_of(self, client: int) -> int:
        """A room stays in one process if there are enough rooms: then its order is known there."""
        return self.room_of(client) % self.processes if self.rooms >= self.processes else client % self.processes

    def members(self, room: int) -> range:
        return range(room, self.clients, self.rooms)

    def clients_in(self, process: int) -> list[int]:
        return [client for client in range(self.clients) if self.process_of(client) == process]

    def rooms_in(self, process: int) -> list[int]:
        return sorted({self.room_of(client) for client in self.clients_in(process)})
