"""One worker as main holds it: its process, its channel, and the clients it has.

Owns the channel, and the duplicates of the descriptors of the worker's clients until the worker says that a session is
over or until the worker is dead. Promises that talking to the worker never waits and never raises: what the channel has
no room for waits in its outbox, one hand-off is under way at a time, and the clients placed meanwhile go together in
the next. Never reads a byte from a client.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from multiprocessing import Pipe
from typing import NamedTuple

from mpchat.chat.entries import SessionId
from mpchat.child import start_child
from mpchat.config import Config
from mpchat.errors import ForkError, in_words
from mpchat.log.port import LogAddress
from mpchat.server.control import (
    HANDOFF_MOST,
    SIDS_MOST,
    Channel,
    ChannelClosed,
    Closed,
    Conclude,
    EndSessions,
    Handed,
    HandOff,
    Presence,
    Release,
    Released,
    Retire,
    ToMain,
    ToWorker,
    in_chunks,
)
from mpchat.server.ledger import Ledger
from mpchat.server.main.connection import Held
from mpchat.server.main.waitloop import READ, WRITE, WaitLoop
from mpchat.server.worker.worker import run_worker

log = logging.getLogger(__name__)


class Reactions(NamedTuple):
    """What main does when a worker says something, and when its process has ended."""

    heard: Callable[["WorkerProcess", ToMain], None]
    ended: Callable[["WorkerProcess"], None]


class WorkerProcess:
    """A worker's process, started and watched when this is made. Raises ForkError, and then leaves nothing behind."""

    def __init__(
        self, loop: WaitLoop, config: Config, slot: int, address: LogAddress, ledger: Ledger, reactions: Reactions
    ) -> None:
        self.slot = slot
        self.name = f"worker-{slot}"
        self.ready = False
        """Whether it has come up."""
        self.serving = False
        """Whether it can be given clients."""
        self.quiesced = False
        self.paused: int | None = None
        """The record up to which it has applied the log, once it pauses."""
        self.concluded_at = 0
        """The record at which main told it to give everything back and end; 0 if main did not."""
        self.releasing = False
        """Whether it has yet to give back clients that main asked for."""
        self.retiring = False
        self.clients: dict[SessionId, Held] = {}
        self.ending_sessions: dict[SessionId, int] = {}
        """Sessions of dead workers, with their epochs, that it has yet to end in the log."""
        self.handing_off = False
        """Whether a hand-off is under way."""
        self._to_hand_off: dict[SessionId, Held] = {}
        self._loop = loop
        self._reactions = reactions
        try:
            self._start(config, address, ledger)
        except OSError as error:
            raise ForkError(f"no process can be started: {in_words(error)}") from error

    def _start(self, config: Config, address: LogAddress, ledger: Ledger) -> None:
        ours, theirs = Pipe(duplex=True)
        # The worker's end is closed here once the worker has it: main would never see the end of the stream otherwise.
        with theirs:
            try:
                self._channel = Channel(ours)
            except OSError:
                ours.close()
                raise
            try:
                run = partial(run_worker, config, self.slot, theirs, address, ledger)
                self._child = start_child(run, [theirs.fileno(), *ledger.descriptors], self.name)
            except ForkError:
                self._channel.close()
                raise
        try:
            self._loop.watch(self._channel, self._hear)
            self._loop.watch(self._child.sentinel, lambda events: self._reactions.ended(self))
        except OSError:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def load(self) -> int:
        """How many clients it has, or is about to get."""
        return len(self.clients) + len(self._to_hand_off)

    # --- what main tells it

    def post(self, message: ToWorker, descriptors: Iterable[int] = ()) -> None:
        """Send `message` as soon as there is room. Nothing happens when the worker has ended: its sentinel says so."""
        try:
            self._channel.post(message, list(descriptors))
        except ChannelClosed:
            return
        self._watch_channel()

    def give(self, sid: SessionId, held: Held) -> None:
        """Make this client the worker's. `hand_off` sends it."""
        self._to_hand_off[sid] = held

    def hand_off(self) -> None:
        """Send the clients that wait, unless a hand-off is under way: they go when that one is received."""
        if self.handing_off or not self._to_hand_off:
            return
        batch = [(sid, self._to_hand_off.pop(sid)) for sid in list(self._to_hand_off)[:HANDOFF_MOST]]
        self.clients.update(batch)
        self.handing_off = True
        clients = tuple(Handed(sid, held.address, held.page, held.dialect, held.epoch) for sid, held in batch)
        self.post(HandOff(clients, more=bool(self._to_hand_off)), [held.descriptor for _, held in batch])

    def end_sessions(self, sessions: Mapping[SessionId, int], reason: str) -> None:
        """Have the worker end these sessions in the log, each with the epoch that it now has."""
        self.ending_sessions.update(sessions)
        for chunk in in_chunks(list(sessions.items())):
            self.post(EndSessions(chunk, reason))

    def release(self, count: int) -> None:
        """Have the worker give back `count` clients, or SIDS_MOST if those are fewer; the newest first."""
        self.releasing = True
        self.post(Release(tuple(islice(reversed(self.clients), min(count, SIDS_MOST)))))

    def retire(self) -> None:
        """Have the worker give back all clients, and end."""
        self.serving = False
        self.retiring = True
        self.post(Retire())

    def conclude(self, seq: int, snapshot: bool) -> None:
        """Have the worker stop at record `seq`, put a snapshot of it if asked to, give back all clients, and end."""
        self.retiring = True
        self.concluded_at = seq
        self.post(Conclude(seq, snapshot))

    # --- what it tells main

    def received(self) -> None:
        """Note that the worker has taken the last hand-off, and send the next."""
        self.handing_off = False
        self.hand_off()

    def released(self, sids: Iterable[SessionId]) -> dict[SessionId, Held]:
        """Take these clients from the worker, which has given them back."""
        return {sid: self.clients.pop(sid) for sid in sids}

    def closed(self, sids: Iterable[SessionId]) -> list[tuple[SessionId, Held]]:
        """Note that these sessions are over. Return the connections of those that the worker served itself."""
        held = []
        for sid in sids:
            if sid in self.ending_sessions:
                del self.ending_sessions[sid]
            else:
                held.append((sid, self.clients.pop(sid)))
        return held

    def take_waiting(self) -> dict[SessionId, Held]:
        """Take back the clients that were not handed off yet. The worker has not heard of them."""
        waiting, self._to_hand_off = self._to_hand_off, {}
        return waiting

    def _hear(self, events: int) -> None:
        """The channel is readable, or has room again."""
        try:
            self._channel.pump()
        except ChannelClosed:
            pass  # the worker has ended, but what it said before can still be read
        else:
            self._watch_channel()
        if not events & READ:
            return
        try:
            message, _ = self._channel.receive()
        except ChannelClosed:
            # The process has ended, or is about to: the sentinel says when it has.
            self._loop.unwatch(self._channel)
            self.serving = False
            return
        self._reactions.heard(self, message)

    def _watch_channel(self) -> None:
        """Wait for room, too, as long as messages wait for it."""
        if self._loop.watches(self._channel):
            self._loop.watch(self._channel, self._hear, READ | (WRITE if self._channel.backlog else 0))

    # --- its end

    def kill(self) -> None:
        """End the process, whatever it is doing. The sentinel says when it has ended."""
        self._child.kill()

    def reap(self) -> tuple[int | None, list[Closed | Released | Presence]]:
        """Reap the process, which has ended, and close the channel.

        Return its exit code (negative: the signal that killed it; None: unknown), and what it still said about clients.
        """
        self._unwatch()
        messages = list(self._drain())
        code = self._child.reap()
        self._channel.close()
        return code, messages

    def end(self) -> None:
        """Kill the process, wait until it has ended, and close the channel."""
        self._unwatch()
        self._child.end()
        self._channel.close()

    def _drain(self) -> Iterable[Closed | Released | Presence]:
        """Read what the worker sent before it ended, and give what of it is about clients."""
        try:
            while self._channel.readable():
                message, _ = self._channel.receive()
                if isinstance(message, Closed | Released | Presence):
                    yield message
        except ChannelClosed:
            pass  # that was all

    def _unwatch(self) -> None:
        self._loop.unwatch(self._child.sentinel)
        self._loop.unwatch(self._channel)
