"""One worker as main holds it: its process, its channel, and the clients it has.

Owns the duplicates of its clients' descriptors, until the worker says that a session is over or until the worker is
dead. Promises that handing over never waits: one hand-off is under way at a time, what comes meanwhile waits here and
goes together in the next. Never reads a client byte.
"""

import logging
import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from multiprocessing import Pipe
from typing import NamedTuple

from mpchat.bus.manager import LogAddress
from mpchat.chat.entries import SessionId
from mpchat.child import start_child
from mpchat.config import Config
from mpchat.errors import ForkError
from mpchat.server.control import (
    HANDOFF_MOST,
    SIDS_MOST,
    Bury,
    Channel,
    ChannelClosed,
    Closed,
    Handed,
    HandOff,
    Release,
    Released,
    Retire,
    in_chunks,
)
from mpchat.server.ledger import Ledger
from mpchat.server.worker.worker import run_worker

log = logging.getLogger(__name__)


class Held(NamedTuple):
    """A client's connection: our duplicate of its descriptor, where it comes from, its page of the ledger, and the id
    of its dialect.

    `epoch` counts the workers that have had it before this one.
    """

    descriptor: int
    address: str
    page: int
    dialect: str
    epoch: int = 0

    def next(self) -> "Held":
        """The same, for the next worker."""
        return self._replace(epoch=self.epoch + 1)

    def disconnect(self) -> None:
        """End the connection for everybody who has it, and close our duplicate."""
        with socket.socket(fileno=self.descriptor) as client, suppress(OSError):
            # Not connected any more is as good.
            client.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Close our duplicate; the worker has ended the connection."""
        os.close(self.descriptor)


class WorkerProcess:
    """A worker's process, started when this is made. Raises ForkError."""

    def __init__(self, config: Config, slot: int, address: LogAddress, ledger: Ledger) -> None:
        self.slot = slot
        self.name = f"worker-{slot}"
        self.ready = False
        """Whether it has come up."""
        self.serving = False
        """Whether it can be given clients."""
        self.quiesced = False
        self.paused: int | None = None
        """The entry up to which it has applied the log, once it pauses."""
        self.concluded_at = 0
        """The entry at which it was to give everything back and end, if it was."""
        self.releasing = False
        self.retiring = False
        self.clients: dict[SessionId, Held] = {}
        self.burying: dict[SessionId, int] = {}
        self.handing_off = False
        """Whether a hand-off is under way."""
        self._to_hand_off: dict[SessionId, Held] = {}
        try:
            ours, theirs = Pipe(duplex=True)
        except OSError as error:
            raise ForkError(f"no process can be started: {error}") from error
        # When it has started, its end is closed here, or we would never see the end of the stream when it dies.
        with theirs:
            try:
                self.channel = Channel(ours)
            except OSError as error:
                ours.close()
                raise ForkError(f"no process can be started: {error}") from error
            try:
                run = partial(run_worker, config, slot, theirs, address, ledger)
                self._child = start_child(run, [theirs.fileno(), *ledger.descriptors])
            except ForkError:
                self.channel.close()
                raise

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def sentinel(self) -> int:
        """The descriptor that is readable when the process has ended."""
        return self._child.sentinel

    @property
    def load(self) -> int:
        """How many clients it has, or is about to get."""
        return len(self.clients) + len(self._to_hand_off)

    def give(self, sid: SessionId, held: Held) -> None:
        """This client is the worker's from here on; `hand_off` sends it."""
        self._to_hand_off[sid] = held

    def hand_off(self) -> None:
        """Send what waits, if the last hand-off has been received. Raises ChannelClosed."""
        if self.handing_off or not self._to_hand_off:
            return
        batch = [(sid, self._to_hand_off.pop(sid)) for sid in list(self._to_hand_off)[:HANDOFF_MOST]]
        self.clients.update(batch)
        self.handing_off = True
        clients = tuple(Handed(sid, held.address, held.page, held.dialect, held.epoch) for sid, held in batch)
        self.channel.post(HandOff(clients, more=bool(self._to_hand_off)), [held.descriptor for _, held in batch])

    def received(self) -> None:
        """The worker has taken the last hand-off. Raises ChannelClosed."""
        self.handing_off = False
        self.hand_off()

    def bury(self, sessions: Mapping[SessionId, int], reason: str) -> None:
        """Have the worker say in the log that these sessions, each with the epoch it now has, ended. Raises
        ChannelClosed."""
        self.burying.update(sessions)
        for chunk in in_chunks(list(sessions.items())):
            self.channel.post(Bury(chunk, reason))

    def release(self, count: int) -> None:
        """Have the worker give back so many clients, or about as many. Raises ChannelClosed."""
        # Those that came last: who has been here for long is in no hurry to move.
        sids = tuple(islice(reversed(self.clients), min(count, SIDS_MOST)))
        self.releasing = True
        self.channel.post(Release(sids))

    def retire(self) -> None:
        """Have the worker give back all clients, and end. Raises ChannelClosed."""
        self.serving = False
        self.retiring = True
        self.channel.post(Retire())

    def released(self, sids: Iterable[SessionId]) -> dict[SessionId, Held]:
        """The worker has let go of these clients; they can go to another."""
        return {sid: self.clients.pop(sid) for sid in sids}

    def closed(self, sids: Iterable[SessionId]) -> list[Held]:
        """The worker says that these sessions are over; give the connections among them that were its own."""
        held = []
        for sid in sids:
            if sid in self.burying:
                del self.burying[sid]
            else:
                held.append(self.clients.pop(sid))
        return held

    def last_words(self) -> list[Closed | Released]:
        """What the worker said of clients that it has no more, and nobody has heard, before it ended."""
        words: list[Closed | Released] = []
        try:
            while self.channel.readable():
                message, _ = self.channel.receive()
                if isinstance(message, Closed | Released):
                    words.append(message)
        except ChannelClosed:
            pass  # there is no more
        return words

    def take_waiting(self) -> dict[SessionId, Held]:
        """The clients that were not handed over yet: they can go to another worker as if nothing had happened."""
        waiting, self._to_hand_off = self._to_hand_off, {}
        return waiting

    def kill(self) -> None:
        """End the process, whatever it is doing; its sentinel says when it has ended."""
        self._child.kill()

    def reap(self) -> int | None:
        """Take leave of the process, whose sentinel has said that it has ended; give its exit code (negative: the
        signal that killed it)."""
        code = self._child.reap()
        self.channel.close()
        return code

    def end(self) -> None:
        """Kill the process and wait until it has ended."""
        self._child.end()
        self.channel.close()
