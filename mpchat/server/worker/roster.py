"""The roster: the clients that this worker has, and what they may ask of it.

Owns the table of clients, which of them wait for what, and their sign-on deadlines. Promises that a client which is
added is sent what is applied from then on, and that a removed client is not heard of again anywhere in the worker.
Never decides where a client comes from or goes to: `moves` does.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mpchat.chat.entries import SessionId
from mpchat.chat.rules.replica import Replica
from mpchat.config import Config
from mpchat.server.worker.deadlines import Deadlines
from mpchat.server.worker.inbound.client import Client
from mpchat.server.worker.inbound.publisher import Publisher
from mpchat.server.worker.mainlink import MainLink
from mpchat.server.worker.outbound.fanout import Fanout
from mpchat.server.worker.sweep import Sweep
from mpchat.wire.dialect import Dialect
from mpchat.wire.registry import make_dialects


class Roster:
    """A `client.Host`. `on_closed` is called when a client's connection has ended and the client is removed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        publisher: Publisher,
        replica: Replica,
        fanout: Fanout[Any],
        sweep: Sweep,
        main: MainLink,
        on_closed: Callable[[SessionId], None],
    ) -> None:
        self.loop = loop
        self.config = config
        self.dialects: Mapping[str, Dialect] = make_dialects(config)
        self.publisher = publisher
        self._replica = replica
        self._fanout = fanout
        self._sweep = sweep
        self._main = main
        self._on_closed = on_closed
        self.coming = 0
        """How many clients are being adopted: this worker will have them."""
        self._clients: dict[SessionId, Client] = {}
        self._unapplied: dict[Client, None] = {}
        self._uncongested: dict[Client, None] = {}
        self._nameless: Deadlines[Client] = Deadlines(loop, config.sign_on_timeout, self._expire_sign_on)

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def is_empty(self) -> bool:
        """Whether there is no client, and none is coming."""
        return not self._clients and not self.coming

    @property
    def clients(self) -> list[Client]:
        """All clients: a copy, since what is done to one may remove it."""
        return list(self._clients.values())

    def find(self, sids: Iterable[SessionId]) -> list[Client]:
        """Return those of these clients that this worker has."""
        return [self._clients[sid] for sid in sids if sid in self._clients]

    def expect(self, count: int) -> None:
        """Expect `count` clients, each of which will `arrive`."""
        self.coming += count

    def arrive(self, client: Client) -> Client:
        """Add a client that was expected."""
        self.coming -= 1
        return self.add(client)

    def add(self, client: Client) -> Client:
        """Add a client. It is sent the output of what is applied from here on."""
        self._clients[client.sid] = client
        self._fanout.attach(client.sid, client, client.dialect)
        return client

    def remove(self, client: Client) -> None:
        """Remove a client, which is with another process from here on or has ended."""
        self._fanout.detach(client.sid)
        del self._clients[client.sid]
        self._nameless.discard(client)
        self._unapplied.pop(client, None)
        self._uncongested.pop(client, None)
        self._sweep.discard(client)

    def drain_unapplied(self) -> None:
        """Let clients go on that waited until more of the log is applied."""
        unapplied, self._unapplied = self._unapplied, {}
        for client in unapplied:
            client.drain()

    def drain_uncongested(self) -> None:
        """Let clients go on that waited until the publisher is not congested."""
        uncongested, self._uncongested = self._uncongested, {}
        for client in uncongested:
            client.drain()

    # --- what clients call (client.Host)

    def applied_position(self, sid: SessionId) -> int:
        session = self._replica.session(sid)
        return 0 if session is None else session.position

    def drain_when_applied(self, client: Client) -> None:
        self._unapplied[client] = None

    def drain_when_uncongested(self, client: Client) -> None:
        self._uncongested[client] = None

    def expect_name(self, client: Client) -> None:
        self._nameless.add(client)

    def closed(self, client: Client) -> None:
        self.remove(client)
        self._on_closed(client.sid)

    def named(self, sid: SessionId, name: str) -> None:
        self._main.report_named(sid, name)

    def left(self, sid: SessionId, name: str, reason: str) -> None:
        self._main.report_left(sid, name, reason)

    # --- inside

    def _expire_sign_on(self, client: Client) -> None:
        session = self._replica.session(client.sid)
        if session is not None and not session.name:
            client.end_session(f"no name within {self.config.sign_on_timeout:g} s")
