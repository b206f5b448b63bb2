"""The workforce: the workers' processes, and what main and they say to each other.

Owns the workers. Promises that a worker's message and a worker's end each come in at one place (`_heard`, `_ended`),
and that main never waits for a worker. `supervision` decides which worker is started or ended when, `placement` which
client goes to which.
"""

import logging
import signal
import time
from collections.abc import Callable

from mpchat.chat.entries import SessionId
from mpchat.config import Config
from mpchat.errors import ForkError
from mpchat.log.port import LogAddress
from mpchat.server.control import (
    NO_LOG,
    Beat,
    Closed,
    Pause,
    Paused,
    Presence,
    Quiesce,
    Quiesced,
    Ready,
    Received,
    Reconnect,
    Released,
    Stop,
    ToMain,
    Unlinked,
)
from mpchat.server.ledger import Ledger
from mpchat.server.main.accesslog import AccessLog
from mpchat.server.main.connection import Held
from mpchat.server.main.waitloop import WaitLoop
from mpchat.server.main.workers.placement import Mode, Placement
from mpchat.server.main.workers.supervision import Supervision
from mpchat.server.main.workers.workerprocess import Reactions, WorkerProcess
from mpchat.wire.registry import make_dialects

log = logging.getLogger(__name__)


class Workforce:
    """All workers. `forget` is called with each client that has gone."""

    def __init__(
        self,
        loop: WaitLoop,
        config: Config,
        ledger: Ledger,
        supervision: Supervision,
        forget: Callable[[Held], None],
    ) -> None:
        self.config = config
        """The configuration of the workers that are started from now on."""
        self.workers: dict[int, WorkerProcess] = {}
        self.placement = Placement(self.workers, ledger, make_dialects(config), self._forget)
        self.access = AccessLog(config.log_addresses)
        self._free = forget
        self.worker_lost = False
        """Whether a worker has ended without being told to, or in failure, since the last `pause`."""
        self._loop = loop
        self._ledger = ledger
        self._supervision = supervision
        self._reactions = Reactions(self._heard, self._ended)
        self._address: LogAddress | None = None  # of the sequencer, while there is one

    @property
    def settled(self) -> bool:
        """Whether no worker comes or goes, and no client moves."""
        return self.placement.settled and self._supervision.resting

    @property
    def all_quiesced(self) -> bool:
        return all(worker.quiesced for worker in self.workers.values())

    @property
    def paused_at(self) -> int | None:
        """The record up to which the furthest worker has applied the log, once all of them pause."""
        positions = [worker.paused for worker in self.workers.values()]
        known = [position for position in positions if position is not None]
        return max(known) if known and len(known) == len(positions) else None

    # --- what main asks of them

    def start(self, slot: int) -> None:
        """Start a worker. If that fails, it counts as one that has ended."""
        assert self._address is not None
        try:
            worker = WorkerProcess(self._loop, self.config, slot, self._address, self._ledger, self._reactions)
        except ForkError as error:
            # The system is out of something, perhaps for a while.
            log.error("worker-%d cannot be started reason=%s", slot, error)
            self._supervision.ended(slot, time.monotonic())
            return
        self.workers[slot] = worker
        log.info("%s started, pid %d", worker.name, worker.pid)

    def kill(self, slot: int, why: str) -> None:
        """Kill a worker. Its clients go to others when it has ended."""
        worker = self.workers[slot]
        log.error("%s killed reason=%s", worker.name, why)
        worker.kill()

    def kill_all(self) -> None:
        """Kill all workers. Their clients go to others as they end."""
        for worker in self.workers.values():
            worker.kill()

    def retire(self, slot: int) -> None:
        """Have a worker give its clients back and end."""
        worker = self.workers[slot]
        log.info("%s retires clients=%d", worker.name, worker.load)
        self.placement.retire(worker)

    def disconnect(self) -> None:
        """The sequencer has ended."""
        self._address = None

    def connect(self, address: LogAddress) -> None:
        """There is a sequencer, at `address`: have the workers connect to it, and kill those that are not up yet.

        A worker that comes up with a sequencer that has ended fails anyway.
        """
        self._address = address
        for worker in self.workers.values():
            if worker.ready:
                worker.post(Reconnect(address))
            else:
                worker.kill()

    def quiesce(self) -> None:
        """Have all input of clients published and applied. A worker that is not up yet has no clients: kill it."""
        for worker in self.workers.values():
            if worker.ready:
                worker.post(Quiesce())
            else:
                worker.kill()

    def pause(self) -> None:
        """Have all workers quiesce, and then apply no more of the log."""
        self.worker_lost = False
        for worker in self.workers.values():
            worker.serving = False
            worker.post(Pause())

    def conclude(self, seq: int) -> None:
        """Have all workers stop exactly at record `seq`, give their clients back, and end. One puts a snapshot."""
        for number, worker in enumerate(self.workers.values()):
            worker.conclude(seq, snapshot=not number)

    def stop(self, reason: str) -> None:
        """Have every client told that the server stops. Each worker publishes that, since any may die; one counts."""
        for worker in self.workers.values():
            worker.post(Stop(reason))

    def clean_up(self) -> None:
        """End all workers, and disconnect all clients."""
        self.kill_all()
        for worker in self.workers.values():
            worker.end()
        self.placement.disconnect_all()
        self.workers.clear()

    def _forget(self, sid: SessionId, held: Held) -> None:
        self.access.forget(sid)
        self._free(held)

    # --- what happens to them

    def _heard(self, worker: WorkerProcess, message: ToMain) -> None:
        """A worker has said something."""
        match message:
            case Beat():
                self._supervision.beat(worker.slot, time.monotonic())
            case Received():
                worker.received()
            case Closed() | Released():
                self.placement.hear(worker, message)
            case Presence():
                self.access.hear(message, worker.clients)
            case Ready():
                worker.ready = worker.serving = True
                self._supervision.ready(worker.slot, time.monotonic())
                self.placement.welcome()
            case Quiesced():
                worker.quiesced = True
            case Paused(seq):
                worker.paused = seq
            case Unlinked():
                # While there is no sequencer, the worker is told of the next one with all others.
                if self._address is not None:
                    worker.post(Reconnect(self._address))

    def _ended(self, worker: WorkerProcess) -> None:
        """A worker's process has ended."""
        del self.workers[worker.slot]
        code, messages = worker.reap()
        failed = bool(code) or not worker.retiring
        self.worker_lost |= failed
        self._supervision.ended(worker.slot, time.monotonic(), killed=code in (-signal.SIGKILL, NO_LOG))
        fate = "moved" if self.placement.can_carry_on else "disconnected"
        moves: list[Closed | Released] = []
        for message in messages:
            if isinstance(message, Presence):
                self.access.hear(message, worker.clients)
            else:
                moves.append(message)
        clients = self.placement.take_over(worker, moves, code)
        if not failed:
            log.info("%s retired", worker.name)
        elif code or self.placement.mode is not Mode.CLOSED:
            log.error("%s ended code=%s clients=%d fate=%s", worker.name, code, clients, fate)
