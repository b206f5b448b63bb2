"""Placement: which worker has which client.

Owns the clients that wait for a worker, and the sessions of dead workers that no worker has ended yet. Promises that
every client which was placed is with exactly one worker, or waits for one, until its session is over; that the clients
of a worker that ends go to others; and that no client waits while a worker could have it, but in Mode.HOLDING. Never
starts or ends a process, and never waits for one.

The states of a client:

    place ----------> worker.give, hand_off --> with the worker --Closed--> over
                ^                                 |    |    |
                +-------- next epoch -- Released -+    |    |
                +-------- next epoch -- take_over -----+    |
                                                            +-- take_over, if no worker can carry on: disconnected,
                                                                and end_lost_sessions has its session ended in the log
"""

import enum
import logging
from collections.abc import Callable, Iterable, Mapping

from mpchat.chat.entries import SessionId
from mpchat.chat.problems import Problem, Refusal
from mpchat.server import kernel
from mpchat.server.control import Closed, Released
from mpchat.server.ledger import Ledger
from mpchat.server.main.connection import Held
from mpchat.server.main.workers.workerprocess import WorkerProcess
from mpchat.wire.dialect import Dialect

log = logging.getLogger(__name__)

EVEN_ENOUGH = 8
"""A worker gives clients to another if it would give more than one in EVEN_ENOUGH of those it has. So two workers may
differ by a quarter, or by one client."""


class Mode(enum.Enum):
    """How to treat clients that need a worker."""

    HOLDING = enum.auto()  # they wait
    OPEN = enum.auto()  # they are given one
    CLOSING = enum.auto()  # clients that had a worker get one, which tells them that the server stops
    CLOSED = enum.auto()  # they are disconnected


class Placement:
    """`workers`: all there are, by slot, kept by the caller. `dialects`: by id. `forget` is called with each client
    that has gone."""

    def __init__(
        self,
        workers: Mapping[int, WorkerProcess],
        ledger: Ledger,
        dialects: Mapping[str, Dialect],
        forget: Callable[[SessionId, Held], None],
    ) -> None:
        self._workers = workers
        self._dialects = dialects
        self._ledger = ledger
        self._forget = forget
        self._mode = Mode.HOLDING
        self._waiting: dict[SessionId, Held] = {}
        self._lost: dict[SessionId, int] = {}  # sessions of dead workers, with the epoch of their end in the log
        self._uneven = False

    @property
    def settled(self) -> bool:
        """Whether every client is with a worker and stays there, and no session is to be ended for a dead worker."""
        return not (self._waiting or self._lost or self._uneven or self._is_moving())

    @property
    def has_workers(self) -> bool:
        """Whether there is a worker that can be given clients."""
        return bool(self._serving())

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def can_carry_on(self) -> bool:
        """Whether another worker can serve the clients of one that has ended."""
        return kernel.AVAILABLE and self._mode is not Mode.CLOSED

    # --- clients come

    def place(self, sid: SessionId, held: Held) -> None:
        """Give the client to the worker with the fewest, or have it wait while there is none. `hand_off` sends it."""
        serving = self._serving()
        returning = held.epoch > 0
        if self._mode is Mode.CLOSED or (self._mode is Mode.CLOSING and not (returning and serving)):
            self._forget(sid, held)
            held.turn_away(self._dialects[held.dialect], Refusal(Problem.SERVER_STOPPING))
        elif serving and self._mode is not Mode.HOLDING:
            worker = min(serving, key=_load)
            if not returning:
                self._ledger.page(held.page).clear(self._ledger.sweep_mark(worker.slot))
            worker.give(sid, held)
        else:
            self._waiting[sid] = held

    def hand_off(self) -> None:
        """Send the clients that were placed, as far as the workers have room."""
        for worker in self._serving():
            worker.hand_off()

    def change(self, mode: Mode) -> None:
        """Change how to treat clients that need a worker, and apply it to those that wait."""
        self._mode = mode
        self._place_all({})

    def inherit(self, clients: Mapping[SessionId, Held]) -> None:
        """Have the clients of the previous program wait for a worker."""
        self._waiting.update({sid: held.next() for sid, held in clients.items()})

    def surrender(self) -> dict[SessionId, Held]:
        """Return the clients that wait. They belong to the caller from here on."""
        clients, self._waiting = self._waiting, {}
        return clients

    def disconnect_all(self) -> None:
        """Disconnect all clients, wherever they are. The workers have ended."""
        for worker in self._workers.values():
            for held in (*worker.clients.values(), *worker.take_waiting().values()):
                held.disconnect()
        for held in self._waiting.values():
            held.disconnect()

    # --- workers come and go

    def welcome(self) -> None:
        """A worker has joined: give it the clients that wait, and later some of the others' (`even_out`)."""
        self._uneven = True
        self._place_all({})

    def hear(self, worker: WorkerProcess, message: Closed | Released) -> None:
        """Note that a worker no longer has these clients."""
        match message:
            case Closed(sids):
                for sid, held in worker.closed(sids):
                    self._forget(sid, held)
                    held.release()
            case Released(sids, last):
                if last:
                    worker.releasing = False
                self._place_all({sid: held.next() for sid, held in worker.released(sids).items()})

    def retire(self, worker: WorkerProcess) -> None:
        """Have a worker give all its clients back and end."""
        waiting = worker.take_waiting()
        worker.retire()
        self._place_all(waiting)

    def take_over(self, worker: WorkerProcess, messages: Iterable[Closed | Released], code: int | None) -> int:
        """A worker has ended, with exit code `code` and after these messages: give its clients to others.

        Return how many clients it had. The worker must not be among `workers` any more.
        """
        for message in messages:
            self.hear(worker, message)
        count = len(worker.clients)
        if self.can_carry_on:
            self._pass_on_clients(worker, concluded=worker.concluded_at > 0 and not code)
        else:
            self._disconnect_clients(worker)
        self._lost.update(worker.ending_sessions)
        self._place_all(worker.take_waiting())
        return count

    # --- what is left to do

    def end_lost_sessions(self) -> None:
        """Have a worker end the sessions of dead workers in the log. If it dies first, the next call asks another."""
        serving = self._serving()
        if self._lost and serving:
            lost, self._lost = self._lost, {}
            min(serving, key=_load).end_sessions(lost, "connection lost")

    def even_out(self) -> None:
        """After a worker has joined: have the fullest give clients back, some at a time, for the emptiest.

        To be called while as many workers serve as are wanted, again and again.
        """
        if not self._uneven or self._is_moving():
            return
        serving = sorted(self._serving(), key=_load)
        if not serving:
            return
        fullest, surplus = serving[-1], (serving[-1].load - serving[0].load) // 2
        if surplus <= fullest.load // EVEN_ENOUGH:
            self._uneven = False
        else:
            log.debug("%s gives clients to others clients=%d", fullest.name, surplus)
            fullest.release(surplus)

    def _serving(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers.values() if worker.serving]

    def _is_moving(self) -> bool:
        """Whether clients are on their way to a worker, or from one."""
        return any(worker.releasing or worker.handing_off for worker in self._workers.values())

    def _place_all(self, clients: Mapping[SessionId, Held]) -> None:
        """Place the clients that wait, and these."""
        waiting, self._waiting = {**self._waiting, **clients}, {}
        for sid, held in waiting.items():
            self.place(sid, held)
        self.hand_off()

    def _pass_on_clients(self, worker: WorkerProcess, concluded: bool) -> None:
        """Have the clients of a worker that has ended wait for another. `concluded`: it ended where it was told to."""
        swept = self._ledger.sweep_mark(worker.slot)
        for sid, held in worker.clients.items():
            page = self._ledger.page(held.page)
            page.settle(swept)
            if concluded:
                # The worker has not given the client back, so it was just closing it. There is nothing more to send.
                page.release(worker.concluded_at, page.read_mark().position, b"")
            self._waiting[sid] = held.next()

    def _disconnect_clients(self, worker: WorkerProcess) -> None:
        """Disconnect the clients of a worker that has ended, and have their sessions ended in the log."""
        for sid, held in worker.clients.items():
            self._forget(sid, held)
            held.disconnect()
            self._lost[sid] = held.epoch + 1


def _load(worker: WorkerProcess) -> int:
    return worker.load
