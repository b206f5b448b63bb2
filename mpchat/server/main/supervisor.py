"""The main process: acceptor and supervisor, with one wait loop.

Owns the phases of the server's life, and connects its parts: the way in (`intake`), the workers and their clients
(`workers`), the sequencer (`sequencing`), the signals, and the upgrade of the whole program (`upgrade`). Promises to
leave nothing behind. It reads no byte from a client and never waits for a client, a worker or the sequencer, so none of
them can hold it up. Once the server has served, it goes on for as long as main runs: when the system refuses a process,
a descriptor or a sequencer, main tries again. `supervision` decides, without I/O, which worker is started, retired or
killed.

    STARTING --all ready--> SERVING --TERM--> QUIESCING --all quiesced--> STOPPING --all workers ended--> over
                             |   ^           (clients' input is published)  (clients are told)
             USR2, trial passed  failure
                             v   |
                            PAUSING --all paused--> CONCLUDING --all ended, sequencer too--> the next program
                            (clients' input is published)  (all stop at one record and give their clients back)
"""

import enum
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mpchat import __version__
from mpchat.config import FIXED, Config
from mpchat.errors import BootError, ConfigError, MpchatError, ServeError, blame_system
from mpchat.log.local.journal import Journal
from mpchat.log.local.memory import journal_size
from mpchat.log.port import LogAddress, LogError, Snapshot
from mpchat.logs import reopen_log, report_lost_lines, set_log_level, start_logging
from mpchat.server.ledger import Ledger
from mpchat.server.main import signals
from mpchat.server.main.intake.acceptor import Acceptor
from mpchat.server.main.intake.capacity import SLOTS, fit, plan_shape
from mpchat.server.main.intake.listener import Listener
from mpchat.server.main.orphans import is_first_process, reap_orphans
from mpchat.server.main.program import Program
from mpchat.server.main.sequencing import Sequencing
from mpchat.server.main.status import Part, describe_processes
from mpchat.server.main.upgrade import Handover, Trial, execute
from mpchat.server.main.waitloop import WaitLoop
from mpchat.server.main.workers.placement import Mode
from mpchat.server.main.workers.supervision import GiveUp, KeepStale, Kill, Policy, Retire, Start, Supervision
from mpchat.server.main.workers.workforce import Workforce
from mpchat.sharedmemory import find_substitute
from mpchat.wire.registry import LINE

log = logging.getLogger(__name__)


class _Phase(enum.Enum):
    STARTING = enum.auto()
    SERVING = enum.auto()
    PAUSING = enum.auto()
    CONCLUDING = enum.auto()
    QUIESCING = enum.auto()
    STOPPING = enum.auto()


@dataclass(frozen=True, slots=True)
class Launch:
    """What the command line gives to the server that it launches."""

    announce: Callable[[str], None]
    """Called with one line when every worker is ready."""
    reread: Callable[[], Config]
    """Reads the configuration again, at HUP. Raises ConfigError."""
    program: Program | None = None
    """The program that takes over at USR2. Without one, USR2 does nothing."""
    trial: bool = False
    """Whether to end as soon as every worker is ready."""


def run_server(config: Config, launch: Launch, inherited: Handover | None = None) -> None:
    """Serve until told to stop. Raises an MpchatError.

    `inherited` is what the previous program in this process has left.
    """
    # A server that has clients does not end because its log file cannot be opened.
    start_logging("main", config.log_level, config.log_file, insist=inherited is None)
    signals.reset_inherited()
    if inherited is None:
        listeners = [Listener(config.host, config.port, LINE)]
        with blame_system(BootError, "get the memory for clients"):
            ledger = Ledger(plan_shape(config))
    else:
        listeners = [Listener.inherit(*listener) for listener in inherited.listeners]
        ledger = Ledger(inherited.shape, inherited.ledger)
        config = _keep(config, inherited.address)
    config = fit(config, ledger.shape)
    try:
        while True:
            handover = _serve(config, launch, listeners, ledger, inherited)
            if handover is None or launch.program is None:
                return
            execute(handover, launch.program)
            # The new program could not be executed: this one goes on.
            inherited = replace(handover, tried="")
    finally:
        ledger.close()
        for listener in listeners:
            listener.close()


def _serve(
    config: Config, launch: Launch, listeners: Sequence[Listener], ledger: Ledger, inherited: Handover | None
) -> Handover | None:
    """Serve until the server stops, or until the next program is to take over: then return what it needs."""
    kind = BootError if inherited is None else ServeError
    with blame_system(kind, "get the memory for the log"):
        journal = Journal.make(journal_size())
    try:
        with blame_system(kind, "start"):
            if inherited is not None:
                journal.seed(inherited.snapshot, time.time_ns() // 1_000_000)
            supervisor = Supervisor(config, launch, listeners, ledger, journal, inherited)
        return supervisor.run()
    finally:
        journal.close()


class Supervisor:
    """The running server. `inherited`: what the previous program has left."""

    def __init__(
        self,
        config: Config,
        launch: Launch,
        listeners: Sequence[Listener],
        ledger: Ledger,
        journal: Journal,
        inherited: Handover | None,
    ) -> None:
        self._config = config
        self._config_before = config  # that of the workers which the reload is to replace
        self._launch = launch
        self._listeners = listeners
        self._ledger = ledger
        self._loop = WaitLoop()
        self._supervision = Supervision(config.workers, _make_policy(config))
        self._acceptor = Acceptor(self._loop, listeners, ledger, config)
        self._workforce = Workforce(self._loop, config, ledger, self._supervision, self._acceptor.forget)
        self._placement = self._workforce.placement
        self._journal = journal
        self._inherited = inherited
        self._sequencing = Sequencing(
            self._loop,
            journal,
            config.beat_timeout,
            may_give_up=inherited is None,
            on_started=self._sequencer_started,
            on_ended=self._workforce.disconnect,
        )
        self._is_first = is_first_process()
        self._phase = _Phase.STARTING
        self._trial: Trial | None = None
        self._tried = ""  # the version that has passed the last trial
        self._upgrading = False  # the trial is passed: hand over as soon as no client or worker is moving
        self._stop_wanted = False  # TERM came while the program was being replaced
        self._phase_by = float("inf")  # when the phase times out
        self._concluded_at = 0  # the record at which the workers were told to stop
        self._released = False  # whether the sequencer was told to end for the handover
        self._at_once = False  # whether to end now, without telling anybody
        self._handover: Handover | None = None

    def run(self) -> Handover | None:
        """Serve until told to stop, and return None; or until the next program is to take over, and return what it
        needs. Raises BootError, ServeError."""
        with blame_system(self._failure, "serve"):
            return self._run()

    def _run(self) -> Handover | None:
        caught = signals.Signals(self._loop, self._react, {signal.SIGCHLD} if self._is_first else ())
        try:
            if self._inherited is not None:
                self._inherit(self._inherited)
            else:
                log.info("mpchat starts version=%s pid=%d", __version__, os.getpid())
            if substitute := find_substitute():
                log.warning("memfd_create refused substitute=%s: it holds what must outlive a process", substitute)
            self._reconcile()
            while not self._is_over():
                self._wait()
                # Also after the last event: only this finds out that the server is over.
                self._reconcile()
        finally:
            self._clean_up()
            caught.restore(ending=self._handover is None)
        return self._handover

    def _failure(self, why: str) -> MpchatError:
        """The error to raise when the system refuses something that the server cannot do without."""
        return BootError(why) if self._phase is _Phase.STARTING and not self._replacing else ServeError(why)

    # --- the wait loop

    def _wait(self) -> None:
        """Wait for events, or until something is due, and handle the events."""
        deadlines = [self._phase_by, self._acceptor.deadline(), self._sequencing.deadline()]
        if self._phase in (_Phase.STARTING, _Phase.SERVING):
            deadlines.append(self._supervision.deadline(self._sequencing.is_up))
        elif self._phase in (_Phase.PAUSING, _Phase.CONCLUDING):
            deadlines.append(self._supervision.deadline(may_start=False))
        if self._trial is not None:
            deadlines.append(self._trial.deadline)
        self._loop.wait(min(deadlines) - time.monotonic(), self._wake)

    def _wake(self) -> None:
        report_lost_lines()
        now = time.monotonic()
        self._supervision.woke(now)
        self._sequencing.woke(now)

    def _reconcile(self) -> None:
        """Do what is due, and take the next steps of the phase."""
        now = time.monotonic()
        if self._trial is not None:
            self._trial.check(now)
        self._sequencing.check(now)
        if self._is_first:
            reap_orphans(self._list_children())
        match self._phase:
            case _Phase.STARTING:
                self._follow_plan(now)
                # Clients of the previous program wait. If some workers do not come up, the others serve them.
                if self._supervision.all_serving or (self._inherited is not None and self._supervision.resting):
                    self._open()
            case _Phase.SERVING:
                self._follow_plan(now)
                self._placement.end_lost_sessions()
                if self._supervision.all_serving:
                    self._placement.even_out()
                self._acceptor.watch(self._placement if self._placement.has_workers else None, now)
                if self._upgrading and self._workforce.settled:
                    self._pause()
            case _Phase.PAUSING | _Phase.CONCLUDING:
                self._prepare_handover(now)
            case _Phase.QUIESCING:
                if now >= self._phase_by or self._workforce.all_quiesced:
                    self._publish_stop()
            case _Phase.STOPPING:
                if now >= self._phase_by:
                    log.warning("stopping timed out: ending at once workers=%d", len(self._workforce.workers))
                    self._at_once = True

    def _list_children(self) -> set[int]:
        """The processes that main has started and will wait for by itself."""
        children = {worker.pid for worker in self._workforce.workers.values()} | {self._sequencing.pid}
        return children if self._trial is None else children | {self._trial.pid}

    def _follow_plan(self, now: float) -> None:
        for action in self._supervision.plan(now, self._sequencing.is_up):
            match action:
                case Start(slot):
                    self._workforce.start(slot)
                case Kill(slot, why):
                    self._workforce.kill(slot, why)
                case Retire(slot):
                    self._workforce.retire(slot)
                case KeepStale(why):
                    log.error("reload cancelled: workers and configuration stay as they were reason=%s", why)
                    self._configure(self._config_before)
                case GiveUp(why):
                    raise BootError(f"the workers do not come up: {why}")

    def _open(self) -> None:
        """Serve: the workers are ready."""
        self._phase = _Phase.SERVING
        self._supervision.keep_trying()
        self._sequencing.keep_trying()
        self._placement.change(Mode.OPEN)
        addresses = ", ".join(listener.address for listener in self._listeners)
        line = f"mpchat ready on {addresses}, {len(self._workforce.workers)} workers"
        if self._inherited is not None:
            _log_replaced(self._inherited)
            log.info("%s", line)
        else:
            self._launch.announce(line)
        self._at_once = self._launch.trial
        if self._stop_wanted:
            self._quiesce()

    def _is_over(self) -> bool:
        stopped = self._phase is _Phase.STOPPING and not self._workforce.workers
        return self._at_once or stopped or self._handover is not None

    def _sequencer_started(self, address: LogAddress) -> None:
        """A sequencer has come up, the first one or a replacement."""
        self._workforce.connect(address)
        if self._phase in (_Phase.PAUSING, _Phase.CONCLUDING):
            self._resume("the sequencer has ended")

    # --- signals

    def _react(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGCHLD:
                pass  # the loop has woken up, and reaps orphans each time it does
            case signal.SIGUSR1:
                self._log_status()
            case signal.SIGHUP:
                self._renew()
            case signal.SIGTTIN:
                self._scale(+1)
            case signal.SIGTTOU:
                self._scale(-1)
            case signal.SIGUSR2:
                self._try_upgrade()
            case signal.SIGTERM if self._replacing:
                log.info("stopping after the upgrade")
                self._stop_wanted = True
            case signal.SIGTERM if self._phase in (_Phase.STARTING, _Phase.SERVING):
                self._quiesce()
            case _:
                log.info("ending at once signal=%s", number.name)
                self._at_once = True

    @property
    def _replacing(self) -> bool:
        """Whether the clients are between the old program and the new one."""
        inheriting = self._inherited is not None and self._phase is _Phase.STARTING
        return inheriting or self._phase in (_Phase.PAUSING, _Phase.CONCLUDING)

    def _log_status(self) -> None:
        """Answer USR1: log what each process uses."""
        parts = [Part("main", os.getpid(), self._acceptor.clients), Part("sequencer", self._sequencing.pid)]
        parts += [Part(worker.name, worker.pid, worker.load) for worker in self._workforce.workers.values()]
        for line in describe_processes(parts):
            log.info("%s", line)

    def _renew(self) -> None:
        """Answer HUP: apply the new configuration, except for what is fixed, and replace the workers one by one."""
        reopen_log()
        if not self._is_serving("reload"):
            return
        try:
            config = self._launch.reread()
        except ConfigError as error:
            log.error("reload rejected: nothing is changed reason=%s", error)
            return
        config = fit(_keep(config, {name: getattr(self._config, name) for name in FIXED}), self._ledger.shape)
        if config.workers == self._config.workers != self._supervision.wanted:
            log.warning("workers stay as TTIN and TTOU have set them count=%d", self._supervision.wanted)
        if not self._supervision.renewing:
            self._config_before = self._config
        self._configure(config)
        self._supervision.renew()
        log.info("reloaded: every worker will be replaced workers=%d", self._supervision.wanted)

    def _configure(self, config: Config) -> None:
        """Apply a configuration to main, and to the workers that are started from now on."""
        if config.workers != self._config.workers:
            self._supervision.want(config.workers)
        self._config = self._workforce.config = config
        set_log_level(config.log_level)
        self._acceptor.change(config)
        self._supervision.change(_make_policy(config))
        self._sequencing.change(config.beat_timeout)

    def _scale(self, by: int) -> None:
        if self._is_serving("scale"):
            self._supervision.want(self._supervision.wanted + by)
            log.info("workers from now on count=%d", self._supervision.wanted)

    def _is_serving(self, what: str) -> bool:
        serving = self._phase is _Phase.SERVING and not self._upgrading
        if not serving:
            log.warning("%s rejected reason=the server starts, stops or is upgraded", what)
        return serving

    # --- the next program

    def _try_upgrade(self) -> None:
        """Answer USR2: start the trial of the version that is installed now."""
        program = self._launch.program
        if self._trial is not None or program is None or not self._is_serving("upgrade"):
            return
        log.info("trying the version that is installed now running=%s", __version__)
        try:
            self._trial = Trial(self._loop, program, self._end_trial)
        except OSError as error:
            log.error("no upgrade reason=%s", error)

    def _end_trial(self, trouble: str) -> None:
        """Go on with the upgrade, unless there was trouble with the trial."""
        assert self._trial is not None
        self._tried, self._trial = self._trial.version, None
        if trouble:
            log.error("no upgrade reason=the version that is installed now fails its trial: %s", trouble)
        else:
            log.info("trial passed: upgrading old=%s new=%s", __version__, self._tried)
            self._upgrading = True

    def _pause(self) -> None:
        """Stop accepting and reading. From here on, new connections and clients' input wait in the kernel."""
        self._phase = _Phase.PAUSING
        self._phase_by = time.monotonic() + self._config.drain_timeout
        self._acceptor.watch(None, time.monotonic())
        self._placement.change(Mode.HOLDING)
        self._workforce.pause()

    def _prepare_handover(self, now: float) -> None:
        """Take the next step towards the handover, or give the upgrade up."""
        seq = self._workforce.paused_at
        if now >= self._phase_by:
            self._resume("the workers have timed out")
        elif self._workforce.worker_lost:
            self._resume("a worker has ended")
        elif self._workforce.workers and self._supervision.is_silent(now):
            self._resume("a worker does not answer")
        elif self._phase is _Phase.PAUSING and seq is not None:
            self._phase = _Phase.CONCLUDING
            self._concluded_at = seq
            self._workforce.conclude(seq)
        elif self._phase is _Phase.CONCLUDING and not self._workforce.workers and not self._released:
            self._released = True
            self._sequencing.release(self._hand_over)

    def _resume(self, why: str) -> None:
        """Give the upgrade up: kill the workers, which pause, and have fresh ones take their clients over."""
        log.error("no upgrade reason=%s", why)
        self._phase, self._phase_by, self._upgrading = _Phase.SERVING, float("inf"), False
        self._released = False
        self._sequencing.resume()
        self._workforce.kill_all()
        self._placement.change(Mode.OPEN)
        if self._stop_wanted:
            self._quiesce()

    def _hand_over(self) -> None:
        """Make the handover: all workers have stopped at one record and ended, and so has the sequencer."""
        try:
            # No snapshot is made of an empty log.
            snapshot = self._journal.read_snapshot() if self._concluded_at else Snapshot(0, b"")
        except LogError as error:
            self._resume(str(error))
            return
        if snapshot.seq != self._concluded_at:
            self._resume("there is no snapshot of the record at which the workers stopped")
            return
        # From here on, signals wait for the next program.
        signals.block()
        if self._stop_wanted:
            os.kill(os.getpid(), signal.SIGTERM)
        self._handover = Handover(
            listeners=tuple((listener.fileno(), listener.dialect) for listener in self._listeners),
            shape=self._ledger.shape,
            ledger=self._ledger.descriptors,
            snapshot=snapshot,
            clients=self._placement.surrender(),
            workers=self._supervision.wanted,
            workers_configured=self._config.workers,
            address={"host": self._config.host, "port": self._config.port},
            version=__version__,
            tried=self._tried,
        )

    def _inherit(self, handover: Handover) -> None:
        """Take over the clients of the previous program."""
        self._supervision.keep_trying()
        if self._config.workers == handover.workers_configured:
            self._supervision.want(handover.workers)
        self._acceptor.restore(handover.clients.values())
        self._placement.inherit(handover.clients)

    # --- the end

    def _quiesce(self) -> None:
        """Stop accepting, and have everything published that clients have sent."""
        log.info("stopping")
        self._phase = _Phase.QUIESCING
        self._phase_by = time.monotonic() + self._config.drain_timeout
        self._acceptor.stop()
        self._placement.change(Mode.CLOSING)
        self._workforce.quiesce()

    def _publish_stop(self) -> None:
        """Have all clients told that the server stops. Their workers then end."""
        self._phase = _Phase.STOPPING
        self._placement.change(Mode.CLOSED)
        self._workforce.stop("")

    def _clean_up(self) -> None:
        """End all processes, however the server came to its end."""
        if self._trial is not None:
            self._trial.close()
        self._workforce.clean_up()
        self._sequencing.stop()
        self._loop.close()


def _keep(config: Config, fixed: Mapping[str, Any]) -> Config:
    """Return `config` with the values in `fixed`, which cannot change any more."""
    changed = [name for name, value in fixed.items() if getattr(config, name) != value]
    if changed:
        log.warning("cannot be changed while the server runs options=%s", ",".join(changed))
    return replace(config, **fixed)


def _log_replaced(handover: Handover) -> None:
    """Log which version runs now, and which one ran before."""
    if not handover.tried:
        log.info("the program is not replaced: it goes on version=%s", __version__)
        return
    log.info("the program is replaced old=%s new=%s", handover.version, __version__)
    if handover.tried != __version__:
        log.error("the new program is not the one that passed the trial new=%s tried=%s", __version__, handover.tried)


def _make_policy(config: Config) -> Policy:
    return Policy(config.beat_timeout, retire_timeout=config.drain_timeout, slots=SLOTS)
