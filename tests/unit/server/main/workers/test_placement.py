"""Placement: whatever workers and clients do, each client has one place, and each lost session is ended by a worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mpchat.chat.entries import SessionId
from mpchat.config import Config
from mpchat.log.port import LogAddress
from mpchat.server import kernel
from mpchat.server.control import Closed, EndSessions, HandOff, Release, Released, ToWorker
from mpchat.server.ledger import Ledger, Shape
from mpchat.server.main.connection import Held
from mpchat.server.main.workers.placement import EVEN_ENOUGH, Mode, Placement
from mpchat.server.main.workers.workerprocess import Reactions, WorkerProcess
from mpchat.wire.registry import make_dialects

SLOTS = 4
PAGES = 64
DIALECTS = make_dialects(Config())


class Voiceless(WorkerProcess):
    """A worker without a process: the test speaks for it, and reads what it is told."""

    def __init__(self, slot: int, ledger: Ledger) -> None:
        self.told: list[ToWorker] = []
        reactions = Reactions(lambda worker, message: None, lambda worker: None)
        super().__init__(None, Config(), slot, None, ledger, reactions)  # type: ignore[arg-type]
        self.ready = self.serving = True

    def _start(self, config: Config, address: LogAddress, ledger: Ledger) -> None:
        pass

    def post(self, message: ToWorker, descriptors: Iterable[int] = ()) -> None:
        self.told.append(message)


class Stories(RuleBasedStateMachine):
    """Clients come and go, workers join, fail, retire and even out, in any order. No worker of this test ends sessions
    without being told to, and none forgets a client."""

    @initialize()
    def begin(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ledger = Ledger(Shape(PAGES, SLOTS, 1 << 12))
        self.workers: dict[int, WorkerProcess] = {}
        self.forgotten: list[int] = []
        self.placement = Placement(self.workers, self.ledger, DIALECTS, self._forget)
        self.placement.change(Mode.OPEN)
        self.sids: dict[SessionId, int] = {}  # of all clients that came, with their pages
        self.lost: set[SessionId] = set()  # their workers died in a way that nothing could carry on with
        self.over: set[SessionId] = set()

    def _forget(self, sid: SessionId, held: Held) -> None:
        assert self.sids[sid] == held.page
        self.forgotten.append(held.page)

    def teardown(self) -> None:
        if hasattr(self, "ours"):
            for worker in self.workers.values():
                for held in (*worker.clients.values(), *worker.take_waiting().values()):
                    held.release()
            for held in self.placement.surrender().values():
                held.release()
            self.ledger.close()
            self.ours.close()
            self.theirs.close()

    def any_worker(self, data: st.DataObject) -> Voiceless:
        worker = self.workers[data.draw(st.sampled_from(sorted(self.workers)))]
        assert isinstance(worker, Voiceless)
        return worker

    def some_clients(self, data: st.DataObject, worker: WorkerProcess) -> tuple[SessionId, ...]:
        if not worker.clients:
            return ()
        return tuple(data.draw(st.lists(st.sampled_from(sorted(worker.clients)), unique=True)))

    # --- what happens

    @precondition(lambda self: len(self.sids) < PAGES)
    @rule()
    def come(self) -> None:
        page = len(self.sids)
        sid = page.to_bytes(16, "big")
        self.sids[sid] = page
        self.placement.place(sid, Held(os.dup(self.ours.fileno()), "192.0.2.1", page, "line"))
        self.placement.hand_off()

    @precondition(lambda self: len(self.workers) < SLOTS)
    @rule()
    def join(self) -> None:
        slot = min(set(range(SLOTS)) - set(self.workers))
        self.workers[slot] = Voiceless(slot, self.ledger)
        self.placement.welcome()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def receive(self, data: st.DataObject) -> None:
        worker = self.any_worker(data)
        if worker.handing_off:
            worker.received()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        worker = self.any_worker(data)
        sids = self.some_clients(data, worker)
        self.over.update(sids)
        self.placement.hear(worker, Closed(sids))

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), last=st.booleans())
    def give_back(self, data: st.DataObject, last: bool) -> None:
        worker = self.any_worker(data)
        if worker.releasing or worker.retiring:
            self.placement.hear(worker, Released(self.some_clients(data, worker), last))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        self.placement.retire(self.any_worker(data))

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), code=st.sampled_from([0, 1, -9, None]))
    def end(self, data: st.DataObject, code: int | None) -> None:
        """A worker ends, perhaps with a last message that nothing has read."""
        worker = self.any_worker(data)
        closed = self.some_clients(data, worker)
        del self.workers[worker.slot]
        self.over.update(closed)
        before = len(worker.clients) - len(closed)
        if not self.placement.can_carry_on:
            gone = set(worker.clients) - set(closed)
            self.over.update(gone)
            self.lost.update(gone)
        assert self.placement.take_over(worker, [Closed(closed)], code) == before

    @rule()
    def end_lost_sessions(self) -> None:
        serving = any(worker.serving for worker in self.workers.values())
        self.placement.end_lost_sessions()
        if serving:
            assert self.lost == {sid for worker in self.workers.values() for sid in worker.ending_sessions}

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def sessions_ended(self, data: st.DataObject) -> None:
        """A worker says that it has ended sessions which it was told to end, each with an epoch of its own."""
        worker = self.any_worker(data)
        told = {sid for message in worker.told if isinstance(message, EndSessions) for sid, _ in message.sessions}
        assert set(worker.ending_sessions) <= told
        self.lost -= set(worker.ending_sessions)
        forgotten = len(self.forgotten)
        self.placement.hear(worker, Closed(tuple(worker.ending_sessions)))
        assert not worker.ending_sessions
        assert len(self.forgotten) == forgotten, "the client was forgotten when its worker died"

    @rule()
    def even_out(self) -> None:
        self.placement.even_out()

    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        self.placement.change(Mode.HOLDING if held else Mode.OPEN)

    # --- what holds

    @invariant()
    def every_client_has_one_place(self) -> None:
        if not hasattr(self, "ours"):
            return
        places = [*self.placement._waiting]
        for worker in self.workers.values():
            places += [*worker.clients, *worker._to_hand_off]
        assert sorted(places) == sorted(set(self.sids) - self.over)
        assert sorted(self.forgotten) == sorted(self.sids[sid] for sid in self.over)

    @invariant()
    def no_client_waits_in_vain(self) -> None:
        if hasattr(self, "ours") and self.placement.mode is Mode.OPEN and self.placement.has_workers:
            assert not self.placement._waiting

    @invariant()
    def one_hand_off_is_under_way_at_a_time(self) -> None:
        for worker in getattr(self, "workers", {}).values():
            assert isinstance(worker, Voiceless)
            assert worker.handing_off or not worker._to_hand_off or not worker.serving
            handed = sum(len(message.clients) for message in worker.told if isinstance(message, HandOff))
            assert handed >= len(worker.clients)


class WithoutKernel(Stories):
    """The same where the kernel does not count the bytes of a connection (macOS)."""

    @initialize()
    def forget_the_kernel(self) -> None:
        self.available, kernel.AVAILABLE = kernel.AVAILABLE, False

    def teardown(self) -> None:
        if hasattr(self, "available"):
            kernel.AVAILABLE = self.available
        super().teardown()


TestStories = Stories.TestCase
TestWithoutKernel = WithoutKernel.TestCase


def test_the_fullest_worker_gives_clients_to_the_emptiest() -> None:
    with socket.socket() as any_socket:
        ledger = Ledger(Shape(PAGES, SLOTS, 1 << 12))
        workers: dict[int, WorkerProcess] = {0: Voiceless(0, ledger)}
        placement = Placement(workers, ledger, DIALECTS, lambda sid, held: None)
        placement.change(Mode.OPEN)
        for page in range(40):
            placement.place(page.to_bytes(16, "big"), Held(os.dup(any_socket.fileno()), "192.0.2.1", page, "line"))
        placement.hand_off()
        workers[0].received()
        workers[1] = Voiceless(1, ledger)
        placement.welcome()
        moves = 0
        while not placement.settled:
            placement.even_out()
            for worker in workers.values():
                assert isinstance(worker, Voiceless)
                if worker.releasing:
                    (release,) = [message for message in worker.told if isinstance(message, Release)][-1:]
                    placement.hear(worker, Released(release.sids, last=True))
                    moves += len(release.sids)
                if worker.handing_off:
                    worker.received()
        assert moves == 20, "no client moves twice"
        assert max(worker.load for worker in workers.values()) <= 40 / 2 * (1 + 2 / EVEN_ENOUGH)
        for worker in workers.values():
            for held in worker.clients.values():
                held.release()
        ledger.close()


def test_a_stopping_server_turns_new_clients_away_and_gives_old_ones_a_worker() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ledger = Ledger(Shape(2, SLOTS, 1 << 12))
        workers: dict[int, WorkerProcess] = {0: Voiceless(0, ledger)}
        forgotten: list[int] = []
        placement = Placement(workers, ledger, DIALECTS, lambda sid, held: forgotten.append(held.page))
        placement.inherit({b"o" * 16: Held(os.dup(ours.fileno()), "192.0.2.1", 0, "line")})
        placement.change(Mode.CLOSING)
        assert list(workers[0].clients) == [b"o" * 16]
        placement.place(b"n" * 16, Held(os.dup(ours.fileno()), "192.0.2.1", 1, "line"))
        assert forgotten == [1]
        assert theirs.recv(1000) == b"! The server is stopping.\n"
        workers[0].clients[b"o" * 16].release()
        ledger.close()
