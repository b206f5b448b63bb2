"""Main: acceptor and supervisor in one process, with one wait loop.

Owns the listening socket, the sequencer, the workers, the signals. Promises: every client that is admitted belongs to
exactly one worker, or is disconnected; a worker that ends is replaced and the log told of its sessions; nothing is left
behind. It reads no client byte and waits for nobody, so that no client and no worker can hold it up. What is decided
without I/O is elsewhere: who may come in (`admission`), which worker is started or killed when (`supervision`).

    SERVING --TERM--> QUIESCING --all workers have--> STOPPING --all workers ended--> over
                      (what clients sent is said)     (everybody is told)
"""

import enum
import logging
import multiprocessing
import os
import resource
import secrets
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from typing import NoReturn

from mpchat.bus.contract import LogLost
from mpchat.bus.journal import Journal
from mpchat.bus.manager import LogLink, LogProxy, Sequencer
from mpchat.bus.memory import journal_size
from mpchat.chat.entries import SessionId
from mpchat.chat.problems import Problem, Refusal
from mpchat.config import Config
from mpchat.errors import BootError, ServeError
from mpchat.server import kernel
from mpchat.server.admission import Admission
from mpchat.server.control import Beat, ChannelClosed, Closed, Quiesce, Quiesced, Ready, Received, Stop
from mpchat.server.ledger import Ledger, ring_size
from mpchat.server.listener import Arrival, Listener, Shortage
from mpchat.server.logs import start_logging
from mpchat.server.status import Part, describe_processes
from mpchat.server.supervision import GiveUp, Kill, Policy, Pulse, Start, Supervision
from mpchat.server.workerprocess import Held, WorkerProcess
from mpchat.wire.line import encode_problem

log = logging.getLogger(__name__)

SPARE_DESCRIPTORS = 128
"""Descriptors that main needs beside those of clients: pipes and sentinels of workers, old and new ones at a time."""

SHORTAGE_PAUSE = 1.0
"""Seconds without accepting after the system had no descriptor for another connection."""

PRELOAD = ["mpchat.server.worker", "mpchat.bus.manager"]
"""What the fork server imports once, so that a worker that is started has nothing to import."""


class _Phase(enum.Enum):
    STARTING = enum.auto()
    SERVING = enum.auto()
    QUIESCING = enum.auto()
    STOPPING = enum.auto()


def run_server(config: Config, announce: Callable[[str], None]) -> None:
    """Serve until told to stop. `announce` gets one line when every worker is ready. Raises an MpchatError."""
    start_logging("main", config.log_level)
    clients = _raise_descriptor_limit(config)
    listener = Listener(config.host, config.port)
    try:
        ledger = Ledger(clients, config.workers, ring_size(config.max_line))
        journal = Journal.make(journal_size())
        try:
            admission = Admission(clients, config.max_per_address, config.exempt)
            Supervisor(config, listener, admission, ledger, journal, announce).run()
        finally:
            journal.close()
            ledger.close()
    finally:
        listener.close()


class Supervisor:
    """The running server."""

    def __init__(
        self,
        config: Config,
        listener: Listener,
        admission: Admission,
        ledger: Ledger,
        journal: Journal,
        announce: Callable[[str], None],
    ) -> None:
        self._config = config
        self._listener = listener
        self._admission = admission
        self._ledger = ledger
        self._free_pages = deque(range(ledger.pages))
        self._announce = announce
        self._context = multiprocessing.get_context("forkserver")
        self._sequencer = Sequencer(self._context, journal)
        self._pulse_link: LogLink | None = None
        self._pulse = Pulse(config.beat_timeout)  # the sequencer's
        self._supervision = Supervision(config.workers, Policy(config.beat_timeout))
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, WorkerProcess] = {}
        self._orphans: dict[SessionId, None] = {}  # sessions of dead workers that the log does not know to be over
        self._unplaced: dict[SessionId, Held] = {}  # clients that were with a worker that died before it took them
        self._phase = _Phase.STARTING
        self._accepting = False
        self._accept_at = 0.0
        self._stop_by = float("inf")
        self._at_once = False

    def run(self) -> None:
        """Serve until told to stop. Raises BootError, ServeError."""
        restore_signals = self._catch_signals()
        try:
            proxy = self._start_sequencer()
            self._reconcile(proxy)
            while not self._is_over():
                self._wait()
                # Also after the last event: it may be this that finds all to be over.
                self._reconcile(proxy)
        finally:
            self._clean_up()
            restore_signals()

    # --- the wait loop

    def _wait(self) -> None:
        """Wait for something to happen, and see to it."""
        deadlines = [self._stop_by]
        if self._phase in (_Phase.STARTING, _Phase.SERVING):
            deadlines += [self._supervision.deadline()]
            if not self._accepting and self._accept_at:
                deadlines += [self._accept_at]
        timeout = max(0.0, min(deadlines) - time.monotonic())
        happened = self._selector.select(None if timeout == float("inf") else timeout)
        now = time.monotonic()
        self._supervision.looked(now)
        self._pulse.looked(now)
        for key, events in happened:
            # An earlier event of this round may have ended what this one is about.
            if self._selector.get_map().get(key.fd) is key:
                key.data(events)

    def _reconcile(self, proxy: LogProxy) -> None:
        """Bring what there is nearer to what there should be."""
        now = time.monotonic()
        if self._phase in (_Phase.STARTING, _Phase.SERVING):
            self._follow_plan(proxy, now)
        if self._phase is _Phase.STARTING and self._supervision.all_serving:
            self._phase = _Phase.SERVING
            self._announce(f"mpchat ready on {self._listener.address}, {len(self._workers)} workers")
        self._feel_pulse(now)
        if self._phase is _Phase.SERVING:
            self._bury_orphans()
            self._watch_listener(now)
        if self._phase is _Phase.QUIESCING and (now >= self._stop_by or self._all_quiesced()):
            self._say_stop()
        if self._phase is _Phase.STOPPING and now >= self._stop_by:
            log.warning("stopping takes too long: ending %d workers", len(self._workers))
            self._at_once = True

    def _follow_plan(self, proxy: LogProxy, now: float) -> None:
        for action in self._supervision.plan(now):
            match action:
                case Start(slot):
                    self._start_worker(slot, proxy)
                case Kill(slot, why):
                    log.error("worker-%d %s: killed", slot, why)
                    self._workers[slot].kill()
                case GiveUp(why):
                    raise BootError(f"the workers do not come up: {why}")

    def _is_over(self) -> bool:
        return self._at_once or (self._phase is _Phase.STOPPING and not self._workers)

    # --- clients

    def _watch_listener(self, now: float) -> None:
        """Accept while there is a worker to give clients to."""
        wanted = now >= self._accept_at and any(worker.serving for worker in self._workers.values())
        if wanted and not self._accepting:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        elif self._accepting and not wanted:
            self._selector.unregister(self._listener)
        self._accepting = wanted

    def _accept(self, events: int) -> None:
        """Take in who waits, and hand all of them over together."""
        try:
            arrivals = self._listener.accept()
        except Shortage as error:
            log.warning("cannot accept: %s", error)
            self._accept_at = time.monotonic() + SHORTAGE_PAUSE
            return
        for arrival in arrivals:
            self._admit(arrival)
        self._hand_off()

    def _admit(self, arrival: Arrival) -> None:
        try:
            self._admission.admit(arrival.address)
        except Refusal as refusal:
            log.warning("%s refused: %s", arrival.address, refusal.problem.name.lower())
            _turn_away(arrival.socket, refusal)
            return
        # 128 random bits: unique without asking anybody, and no name that is ever used again.
        held = Held(arrival.socket.detach(), arrival.address, self._free_pages.popleft())
        self._place(secrets.token_bytes(16), held)

    def _place(self, sid: SessionId, held: Held) -> None:
        """Give the client to the worker with the fewest; let it wait while there is none."""
        serving = [worker for worker in self._workers.values() if worker.serving]
        if self._phase is not _Phase.SERVING:
            self._forget(held)
            if held.epoch:
                held.disconnect()
            else:
                _turn_away(socket.socket(fileno=held.descriptor), Refusal(Problem.SERVER_STOPPING))
        elif serving:
            worker = min(serving, key=lambda worker: worker.load)
            if not held.epoch:
                self._ledger.page(held.page).clear(self._ledger.sweep_mark(worker.slot))
            worker.give(sid, held)
        else:
            self._unplaced[sid] = held

    def _forget(self, held: Held) -> None:
        """This client is no more."""
        self._admission.leave(held.address)
        self._free_pages.append(held.page)

    def _place_unplaced(self) -> None:
        """Workers are there again, or none will be: see to the clients that wait for one."""
        unplaced, self._unplaced = self._unplaced, {}
        for sid, held in unplaced.items():
            self._place(sid, held)
        self._hand_off()

    def _hand_off(self) -> None:
        for worker in list(self._workers.values()):
            if worker.serving:
                self._tell(worker, worker.hand_off)

    # --- workers

    def _start_worker(self, slot: int, proxy: LogProxy) -> None:
        worker = self._workers[slot] = WorkerProcess(self._context, self._config, slot, proxy, self._ledger)
        log.info("%s started, pid %d", worker.name, worker.process.pid)
        self._selector.register(worker.channel, selectors.EVENT_READ, lambda events: self._hear(worker, events))
        self._selector.register(worker.process.sentinel, selectors.EVENT_READ, lambda events: self._bereave(worker))

    def _hear(self, worker: WorkerProcess, events: int) -> None:
        """A worker's channel can be read, or written again."""
        self._tell(worker, worker.channel.pump)
        if not events & selectors.EVENT_READ:
            return
        try:
            message, _ = worker.channel.receive()
        except ChannelClosed:
            # Its process has ended, or is ending: the sentinel says when it has.
            self._selector.unregister(worker.channel)
            worker.serving = False
            return
        match message:
            case Beat():
                self._supervision.beat(worker.slot, time.monotonic())
            case Received():
                self._tell(worker, worker.received)
            case Closed(sids):
                self._close(worker, sids)
            case Ready():
                worker.serving = True
                self._supervision.ready(worker.slot, time.monotonic())
                self._place_unplaced()
            case Quiesced():
                worker.quiesced = True

    def _tell(self, worker: WorkerProcess, step: Callable[[], None]) -> None:
        """Do something that may write to the worker's channel, and watch for room when it did not all fit."""
        # A channel that is closed is left to _hear and _bereave.
        with suppress(ChannelClosed):
            step()
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.channel.backlog else 0)
            key = self._selector.get_map().get(worker.channel.fileno())
            if key is not None and key.events != events:
                self._selector.modify(worker.channel, events, key.data)

    def _close(self, worker: WorkerProcess, sids: Iterable[SessionId]) -> None:
        for held in worker.closed(sids):
            self._forget(held)
            held.release()

    def _bereave(self, worker: WorkerProcess) -> None:
        """A worker's process has ended: others carry on with its clients."""
        self._selector.unregister(worker.process.sentinel)
        if self._selector.get_map().get(worker.channel.fileno()) is not None:
            self._selector.unregister(worker.channel)
        del self._workers[worker.slot]
        self._close(worker, worker.last_closed())
        code = worker.reap()
        self._supervision.ended(worker.slot, time.monotonic(), killed=code == -signal.SIGKILL)
        survivors = kernel.AVAILABLE and self._phase in (_Phase.STARTING, _Phase.SERVING)
        if self._phase is not _Phase.STOPPING or code:
            fate = "carried on" if survivors else "disconnected"
            log.error("%s ended with %s; %d clients are %s", worker.name, code, len(worker.clients), fate)
        if survivors:
            self._bequeath(worker)
        else:
            self._disconnect_clients(worker)
        self._orphans.update(worker.burying)
        for sid, held in worker.take_waiting().items():
            self._place(sid, held)
        self._hand_off()

    def _bequeath(self, worker: WorkerProcess) -> None:
        """Give the dead worker's clients to others."""
        swept = self._ledger.sweep_mark(worker.slot)
        for sid, held in worker.clients.items():
            self._ledger.page(held.page).settle(swept)
            self._place(sid, held._replace(epoch=held.epoch + 1))

    def _disconnect_clients(self, worker: WorkerProcess) -> None:
        """Where nobody can carry on with them: see that the log learns that they are gone."""
        for held in worker.clients.values():
            self._forget(held)
            held.disconnect()
        self._orphans.update(dict.fromkeys(worker.clients))

    def _bury_orphans(self) -> None:
        """Have a worker say in the log that the sessions of dead workers are over; should it die too, ask another."""
        serving = [worker for worker in self._workers.values() if worker.serving]
        if not self._orphans or not serving:
            return
        gravedigger = min(serving, key=lambda worker: worker.load)
        orphans, self._orphans = self._orphans, {}
        self._tell(gravedigger, lambda: gravedigger.bury(orphans, "connection lost"))

    # --- the sequencer

    def _start_sequencer(self) -> LogProxy:
        self._start_fork_server()
        try:
            proxy = self._sequencer.start()
        except LogLost as error:
            raise BootError(str(error)) from error
        log.info("sequencer started, pid %d", self._sequencer.pid)
        self._selector.register(self._sequencer.sentinel, selectors.EVENT_READ, self._lose_sequencer)
        self._pulse_link = proxy.open_link("main feels the pulse")
        self._selector.register(self._pulse_link, selectors.EVENT_READ, self._hear_pulse)
        return proxy

    def _start_fork_server(self) -> None:
        """Start the parent of all our processes, deaf to TERM.

        A service manager sends TERM to every process of ours (systemd.kill(5), KillMode=control-group). The fork server
        would die of it, and all others with it: a blocked signal stays blocked across fork and exec (signal(7)).
        """
        self._context.set_forkserver_preload(PRELOAD)
        # First, and not as a part of the next: starting it ends with unblocking TERM.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _feel_pulse(self, now: float) -> None:
        """See that the sequencer answers: when it hangs, nobody hears anything any more."""
        if self._pulse.is_missed(now):
            silence = self._config.beat_timeout
            raise ServeError(f"the sequencer has not answered for {silence:g} s; the chat cannot go on")
        if self._pulse_link is not None and self._pulse.is_due(now):
            try:
                self._pulse_link.call("ping")
            except LogLost:
                self._lose_sequencer(0)
            self._pulse.asked(now)

    def _hear_pulse(self, events: int) -> None:
        assert self._pulse_link is not None
        try:
            self._pulse_link.receive()
        except LogLost:
            self._lose_sequencer(events)
        self._pulse.answered(time.monotonic())

    def _lose_sequencer(self, events: int) -> NoReturn:
        # The fork server tells us of the end of its children, also by its own.
        raise ServeError("the sequencer has ended, or the fork server; the chat cannot go on")

    # --- signals

    def _catch_signals(self) -> Callable[[], None]:
        """Let signals wake the wait loop; give what undoes it."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        # The handlers do nothing: what the interpreter writes to the descriptor says it all.
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        before_descriptor = signal.set_wakeup_fd(writer.fileno())
        self._selector.register(reader, selectors.EVENT_READ, lambda events: self._read_signals(reader))

        def restore() -> None:
            signal.set_wakeup_fd(before_descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            reader.close()
            writer.close()

        return restore

    def _read_signals(self, reader: socket.socket) -> None:
        for number in reader.recv(64):
            if number == signal.SIGUSR1:
                self._log_status()
            elif number == signal.SIGINT or self._phase in (_Phase.QUIESCING, _Phase.STOPPING):
                log.info("%s: ending at once", signal.Signals(number).name)
                self._at_once = True
            else:
                self._quiesce()

    def _log_status(self) -> None:
        """The answer to SIGUSR1: what each process takes, for whoever is on call."""
        parts = [Part("main", os.getpid(), f"{self._admission.clients} clients")]
        parts += [Part("sequencer", self._sequencer.pid, "the log")]
        parts += [
            Part(worker.name, worker.process.pid or 0, f"{worker.load} clients") for worker in self._workers.values()
        ]
        for line in describe_processes(parts):
            log.info("%s", line)

    # --- the end

    def _quiesce(self) -> None:
        """Take nobody in any more, and have said what clients have sent."""
        log.info("stopping")
        self._phase = _Phase.QUIESCING
        self._stop_by = time.monotonic() + self._config.drain_timeout
        if self._accepting:
            self._selector.unregister(self._listener)
        self._listener.close()
        self._place_unplaced()
        for worker in list(self._workers.values()):
            if worker.serving:
                self._tell(worker, lambda worker=worker: worker.channel.post(Quiesce()))  # type: ignore[misc]
            else:
                worker.kill()

    def _all_quiesced(self) -> bool:
        return all(worker.quiesced for worker in self._workers.values())

    def _say_stop(self) -> None:
        """Have everybody told. Each worker says it, in case that one of them ends: the log counts the first."""
        self._phase = _Phase.STOPPING
        for worker in list(self._workers.values()):
            self._tell(worker, lambda worker=worker: worker.channel.post(Stop("")))  # type: ignore[misc]

    def _clean_up(self) -> None:
        """Leave nothing behind, whatever brought us here."""
        for worker in self._workers.values():
            worker.kill()
        for worker in self._workers.values():
            worker.reap()
            for held in (*worker.clients.values(), *worker.take_waiting().values()):
                held.disconnect()
        for held in self._unplaced.values():
            held.disconnect()
        self._workers.clear()
        self._selector.close()
        if self._pulse_link is not None:
            self._pulse_link.close()
        self._sequencer.stop()


def _turn_away(client: socket.socket, refusal: Refusal) -> None:
    """Say why to somebody who cannot come in, as far as that needs no waiting."""
    with client, suppress(OSError):
        client.setblocking(False)
        client.send(encode_problem(refusal.problem, refusal.about, refusal.more))
        client.shutdown(socket.SHUT_RDWR)


def _raise_descriptor_limit(config: Config) -> int:
    """Allow ourselves as many open files as the system lets us; give how many clients that is enough for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.warning("the limit on open files stays at %d: %s", soft, error)
    if soft == resource.RLIM_INFINITY:
        return config.max_clients
    enough = max(1, soft - SPARE_DESCRIPTORS - 4 * config.workers)
    if enough < config.max_clients:
        log.warning(
            "the system allows %d open files: that is enough for %d clients, not for %d",
            soft,
            enough,
            config.max_clients,
        )
    return min(enough, config.max_clients)
