"""The workers as main has them: who is with whom, who is given whom, and who carries on with whom.

Owns the worker processes and the clients that wait for one. Promises: every client that was placed belongs to exactly
one worker, or waits for one, until it is over; the clients of a worker that ends go to others. Hears and tells the
workers without ever waiting for one. Which worker is started or ended when is `supervision`'s to say.
"""

import enum
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial

from mpchat.bus.manager import LogAddress
from mpchat.chat.entries import SessionId
from mpchat.chat.problems import Problem, Refusal
from mpchat.config import Config
from mpchat.errors import ForkError
from mpchat.server import kernel
from mpchat.server.control import (
    NO_LOG,
    Beat,
    ChannelClosed,
    Closed,
    Conclude,
    Pause,
    Paused,
    Quiesce,
    Quiesced,
    Ready,
    Received,
    Reconnect,
    Released,
    Stop,
    Unlinked,
)
from mpchat.server.ledger import Ledger
from mpchat.server.main.intake.acceptor import turn_away
from mpchat.server.main.waitloop import READ, WRITE, WaitLoop
from mpchat.server.main.workers.supervision import Supervision
from mpchat.server.main.workers.workerprocess import Held, WorkerProcess
from mpchat.wire.registry import make_dialects

log = logging.getLogger(__name__)

EVEN_ENOUGH = 8
"""What the fullest would give to the emptiest must be more than this part (one in so many) of what it has, or it keeps
it: they may differ by twice that, a quarter, or by one client."""


class Mode(enum.Enum):
    """What becomes of clients that need a worker."""

    HOLDING = enum.auto()  # they wait
    OPEN = enum.auto()  # they are given one
    CLOSING = enum.auto()  # those who had one before are given one, so that they are told what everybody is told
    CLOSED = enum.auto()  # they are disconnected


class Workforce:
    """All workers. `forget` is told of each client that is no more."""

    def __init__(
        self,
        loop: WaitLoop,
        config: Config,
        ledger: Ledger,
        supervision: Supervision,
        forget: Callable[[Held], None],
    ) -> None:
        self.config = config
        """For the workers that are started from now on."""
        self.workers: dict[int, WorkerProcess] = {}
        self.mode = Mode.HOLDING
        self.bereaved = False
        """Whether a worker has ended that was not to, since the last `pause`."""
        self._loop = loop
        self._ledger = ledger
        self._supervision = supervision
        self._forget = forget
        self._dialects = make_dialects(config)
        self._address: LogAddress | None = None
        self._unplaced: dict[SessionId, Held] = {}
        self._orphans: dict[SessionId, int] = {}  # of dead workers, with their epochs; the log has yet to bury them
        self._uneven = False

    # --- what there is

    @property
    def serving(self) -> list[WorkerProcess]:
        """Those that can be given clients."""
        return [worker for worker in self.workers.values() if worker.serving]

    @property
    def settled(self) -> bool:
        """Whether nobody is on its way from anywhere to anywhere."""
        busy = any(worker.releasing or worker.handing_off for worker in self.workers.values())
        return not (busy or self._unplaced or self._uneven or self._orphans) and self._supervision.resting

    @property
    def all_quiesced(self) -> bool:
        return all(worker.quiesced for worker in self.workers.values())

    @property
    def paused_at(self) -> int | None:
        """The entry up to which the furthest worker has applied the log, when all of them pause."""
        positions = [worker.paused for worker in self.workers.values()]
        known = [position for position in positions if position is not None]
        return max(known) if known and len(known) == len(positions) else None

    # --- workers come and go

    def start(self, slot: int) -> None:
        assert self._address is not None
        try:
            worker = WorkerProcess(self.config, slot, self._address, self._ledger)
            self.workers[slot] = worker
            self._loop.watch(worker.channel, partial(self._hear, worker))
            self._loop.watch(worker.sentinel, lambda events: self._bereave(worker))
        except (ForkError, OSError) as error:
            # It was not there long enough to have anything. The system may be out of something for a while.
            log.error("worker-%d cannot be started: %s", slot, error)
            if (started := self.workers.pop(slot, None)) is not None:
                self._loop.unwatch(started.channel)
                started.end()
            self._supervision.ended(slot, time.monotonic())
            return
        log.info("%s started, pid %d", worker.name, worker.pid)

    def kill(self, slot: int) -> None:
        self.workers[slot].kill()

    def retire(self, slot: int) -> None:
        worker = self.workers[slot]
        log.info("%s retires; %d clients move", worker.name, worker.load)
        self._place_all(worker.take_waiting())
        self._tell(worker, worker.retire)

    def disconnect(self) -> None:
        """There is no sequencer now."""
        self._address = None

    def connect(self, address: LogAddress) -> None:
        """The sequencer is here from now on. A worker that has not come up with the last one is started again."""
        self._address = address
        for worker in list(self.workers.values()):
            if worker.ready:
                self._tell(worker, partial(worker.channel.post, Reconnect(address)))
            else:
                worker.kill()

    def _hear(self, worker: WorkerProcess, events: int) -> None:
        """A worker's channel can be read, or written again."""
        self._tell(worker, worker.channel.pump)
        if not events & READ:
            return
        try:
            message, _ = worker.channel.receive()
        except ChannelClosed:
            # Its process has ended, or is ending: the sentinel says when it has.
            self._loop.unwatch(worker.channel)
            worker.serving = False
            return
        match message:
            case Beat():
                self._supervision.beat(worker.slot, time.monotonic())
            case Received():
                self._tell(worker, worker.received)
            case Closed() | Released():
                self._part_with(worker, message)
            case Ready():
                self._welcome(worker)
            case Quiesced():
                worker.quiesced = True
            case Paused(seq):
                worker.paused = seq
            case Unlinked():
                # If there is no sequencer, the worker hears of the next one as all others do.
                if self._address is not None:
                    self._tell(worker, partial(worker.channel.post, Reconnect(self._address)))

    def _tell(self, worker: WorkerProcess, step: Callable[[], None]) -> None:
        """Do something that may write to the worker's channel, and watch for room when it did not all fit."""
        # A channel that is closed is left to _hear and _bereave.
        with suppress(ChannelClosed):
            step()
            if self._loop.watches(worker.channel):
                events = READ | (WRITE if worker.channel.backlog else 0)
                self._loop.watch(worker.channel, partial(self._hear, worker), events)

    def _welcome(self, worker: WorkerProcess) -> None:
        worker.ready = worker.serving = True
        self._uneven = True
        self._supervision.ready(worker.slot, time.monotonic())
        self._place_all({})

    def _bereave(self, worker: WorkerProcess) -> None:
        """A worker's process has ended: others carry on with its clients."""
        self._loop.unwatch(worker.sentinel)
        self._loop.unwatch(worker.channel)
        del self.workers[worker.slot]
        for message in worker.last_words():
            self._part_with(worker, message)
        code = worker.reap()
        self._supervision.ended(worker.slot, time.monotonic(), killed=code in (-signal.SIGKILL, NO_LOG))
        carried_on = kernel.AVAILABLE and self.mode is not Mode.CLOSED
        self.bereaved |= not worker.retiring or bool(code)
        if worker.retiring and not code:
            log.info("%s has retired", worker.name)
        elif self.mode is not Mode.CLOSED or code:
            fate = "carried on" if carried_on else "disconnected"
            log.error("%s ended with %s; %d clients are %s", worker.name, code, len(worker.clients), fate)
        if carried_on:
            self._bequeath(worker, concluded=worker.concluded_at > 0 and not code)
        else:
            self._disconnect(worker)
        for sid, epoch in worker.burying.items():
            self._orphans[sid] = epoch
        self._place_all(worker.take_waiting())

    # --- clients

    def place(self, sid: SessionId, held: Held) -> None:
        """Give the client to the worker with the fewest; let it wait while there is none. `hand_off` sends it."""
        serving = self.serving
        returning = held.epoch > 0
        if self.mode is Mode.CLOSED or (self.mode is Mode.CLOSING and not (returning and serving)):
            self._turn_away(held)
        elif serving and self.mode is not Mode.HOLDING:
            worker = min(serving, key=lambda worker: worker.load)
            if not returning:
                self._ledger.page(held.page).clear(self._ledger.sweep_mark(worker.slot))
            worker.give(sid, held)
        else:
            self._unplaced[sid] = held

    def hand_off(self) -> None:
        """Send who was placed, as far as the workers take them."""
        for worker in self.serving:
            self._tell(worker, worker.hand_off)

    def open(self, mode: Mode) -> None:
        """From now on this becomes of clients that need a worker; those that wait are seen to."""
        self.mode = mode
        self._place_all({})

    def inherit(self, clients: Mapping[SessionId, Held]) -> None:
        """These clients were with the workers of the program before this one."""
        self._unplaced.update({sid: held.next() for sid, held in clients.items()})

    def bury_orphans(self) -> None:
        """Have a worker say in the log that sessions of dead workers are over; should it die too, ask another."""
        serving = self.serving
        if not self._orphans or not serving:
            return
        gravedigger = min(serving, key=lambda worker: worker.load)
        orphans, self._orphans = self._orphans, {}
        self._tell(gravedigger, lambda: gravedigger.bury(orphans, "connection lost"))

    def even_out(self) -> None:
        """After a worker has joined: have the fullest give clients back, a few at a time, until all have about as
        many. They go to the emptiest."""
        if not self._uneven or not self._supervision.all_serving:
            return
        if any(worker.releasing or worker.handing_off for worker in self.workers.values()):
            return
        serving = sorted(self.serving, key=lambda worker: worker.load)
        least, most = serving[0], serving[-1]
        surplus = (most.load - least.load) // 2
        if surplus <= most.load // EVEN_ENOUGH:
            self._uneven = False
        else:
            log.debug("%s gives %d clients to others", most.name, surplus)
            self._tell(most, lambda: most.release(surplus))

    def _place_all(self, clients: Mapping[SessionId, Held]) -> None:
        """See to these clients, and to those that wait for a worker."""
        unplaced, self._unplaced = {**self._unplaced, **clients}, {}
        for sid, held in unplaced.items():
            self.place(sid, held)
        self.hand_off()

    def _turn_away(self, held: Held) -> None:
        self._forget(held)
        if held.epoch:
            held.disconnect()
        else:
            client, dialect = socket.socket(fileno=held.descriptor), self._dialects[held.dialect]
            turn_away(client, dialect, Refusal(Problem.SERVER_STOPPING))

    def _part_with(self, worker: WorkerProcess, message: Closed | Released) -> None:
        """A worker does not have these clients any more."""
        match message:
            case Closed(sids):
                self._close(worker, sids)
            case Released(sids, last):
                self._take_back(worker, sids, last)

    def _close(self, worker: WorkerProcess, sids: Iterable[SessionId]) -> None:
        for held in worker.closed(sids):
            self._forget(held)
            held.release()

    def _take_back(self, worker: WorkerProcess, sids: Iterable[SessionId], last: bool) -> None:
        """A worker has given clients back: others carry on with them."""
        if last:
            worker.releasing = False
        self._place_all({sid: held.next() for sid, held in worker.released(sids).items()})

    def _bequeath(self, worker: WorkerProcess, concluded: bool) -> None:
        """Give the clients of a worker that has ended to others; it has `concluded`: ended as it was told to."""
        swept = self._ledger.sweep_mark(worker.slot)
        for sid, held in worker.clients.items():
            page = self._ledger.page(held.page)
            page.settle(swept)
            if concluded:
                # It was not given back: so it was closed just then, and there is nothing more to send to it.
                page.release(worker.concluded_at, page.read_mark().position, b"")
            self._unplaced[sid] = held.next()

    def _disconnect(self, worker: WorkerProcess) -> None:
        """Where nobody can carry on with them: see that the log learns that they are gone."""
        for sid, held in worker.clients.items():
            self._forget(held)
            held.disconnect()
            self._orphans[sid] = held.epoch + 1

    # --- the ends

    def quiesce(self) -> None:
        """Have all clients' last words said. Who has not come up yet has none."""
        for worker in list(self.workers.values()):
            if worker.ready:
                self._tell(worker, partial(worker.channel.post, Quiesce()))
            else:
                worker.kill()

    def pause(self) -> None:
        """Have all workers come to rest, clients and log."""
        self.bereaved = False
        for worker in self.workers.values():
            worker.serving = False
            self._tell(worker, partial(worker.channel.post, Pause()))

    def conclude(self, seq: int) -> None:
        """All workers stop exactly at entry `seq`, give their clients back, and end."""
        for number, worker in enumerate(self.workers.values()):
            worker.retiring = True
            worker.concluded_at = seq
            self._tell(worker, partial(worker.channel.post, Conclude(seq, snapshot=not number)))

    def stop(self, reason: str) -> None:
        """Have everybody told. Each worker says it, in case that one of them ends: the log counts the first."""
        for worker in self.workers.values():
            self._tell(worker, partial(worker.channel.post, Stop(reason)))

    def kill_all(self) -> None:
        """Others will carry on with their clients."""
        for worker in self.workers.values():
            worker.kill()

    def surrender(self) -> dict[SessionId, Held]:
        """The clients, which nobody has now: somebody else sees to them from here on."""
        clients, self._unplaced = self._unplaced, {}
        return clients

    def clean_up(self) -> None:
        """Leave nothing behind."""
        for worker in self.workers.values():
            worker.kill()
        for worker in self.workers.values():
            worker.end()
            for held in (*worker.clients.values(), *worker.take_waiting().values()):
                held.disconnect()
        for held in self._unplaced.values():
            held.disconnect()
        self.workers.clear()
