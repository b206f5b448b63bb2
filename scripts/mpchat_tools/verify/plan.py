"""How much each client of a stress run says, under which name, and what all should receive. PURE."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mpchat_tools.common.placement import Placement


@dataclass(frozen=True, slots=True)
class Plan(Placement):
    """Clients are numbered from 0, and are there all the time. Times are in seconds.

    The run id keeps apart what an earlier run left in a room's history. `rate` is messages/s in all, 0 for as fast as
    they can be sent; `deadline` is on the monotonic clock, which all processes of a machine share.
    """

    clients: int
    messages: int
    rooms: int = 1
    processes: int = 2
    size: int = 70
    rate: float = 0.0
    seed: int = 0
    run: str = "0123abcd"
    host: str = "127.0.0.1"
    port: int = 0
    deadline: float = math.inf

    @property
    def observers(self) -> int:
        """One of each room, in each process that has members of it."""
        return sum(len(self.rooms_in(process)) for process in range(self.processes))

    @property
    def deliveries(self) -> int:
        """Lines that all clients and observers together must receive."""
        among = sum(len(self.members(room)) * (len(self.members(room)) - 1) for room in range(self.rooms))
        watched = sum(len(self.members(r)) for p in range(self.processes) for r in self.rooms_in(p))
        return (among + watched) * self.messages

    def name_of(self, client: int) -> bytes:
        return f"k{self.run}-{client}".encode()

    def observer_of(self, room: int, process: int) -> bytes:
        return f"k{self.run}-o{room}-{process}".encode()

    def room_name(self, room: int) -> bytes:
        """All are in the lobby if there is only one room."""
        return f"stress-{room}".encode() if self.rooms > 1 else b"lobby"
