"""Main: acceptor and supervisor in one process, with one wait loop.

Owns the phases of the server's life, and ties its parts together: who comes in (`acceptor`), the workers and their
clients (`workforce`), the sequencer (`sequencing`), the signals, and the replacement of the whole program (`upgrade`).
Promises: nothing is left behind. It reads no client byte and waits for nobody, so that no client, no worker and no
sequencer can hold it up. Once it has served, it goes on for as long as main runs: what cannot be had now (a process, a
descriptor, a sequencer) is tried again. Which worker is started, retired or killed when is decided without I/O, in
`supervision`.

    STARTING --all ready--> SERVING --TERM--> QUIESCING --all workers have--> STOPPING --all workers ended--> over
                             |   ^           (what clients sent is said)     (everybody is told)
      USR2, and the trial is passed  any trouble
                             v   |
                            PAUSING --all workers have--> CONCLUDING --all have ended--> the next program
                     (what clients sent is said)    (all give back at one entry, then the sequencer is ended)
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
from mpchat.bus.contract import LogError, Snapshot
from mpchat.bus.journal import Journal
from mpchat.bus.manager import LogAddress
from mpchat.bus.memory import journal_size
from mpchat.config import FIXED, Config
from mpchat.errors import BootError, ConfigError, MpchatError, ServeError, blame_system
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
    """What the command line has to do with the server that it launches."""

    announce: Callable[[str], None]
    """Gets one line when every worker is ready."""
    reread: Callable[[], Config]
    """Gives the configuration anew, at HUP. Raises ConfigError."""
    program: Program | None = None
    """What takes over at USR2; None: nothing does."""
    trial: bool = False
    """It is enough to come up."""


def run_server(config: Config, launch: Launch, inherited: Handover | None = None) -> None:
    """Serve until told to stop. Raises an MpchatError.

    `inherited` is what the program before this one in the same process has left.
    """
    # Who has clients does not go for want of a log file.
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
            # Still here: go on as we are.
            inherited = replace(handover, tried="")
    finally:
        ledger.close()
        for listener in listeners:
            listener.close()


def _serve(
    config: Config, launch: Launch, listeners: Sequence[Listener], ledger: Ledger, inherited: Handover | None
) -> Handover | None:
    """One life of the server; what is left to the next one, if there is to be one."""
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
    """The running server. `inherited`: what the program before this one has left."""

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
        self._config_before = config  # of the workers that a reload is to replace
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
            on_started=self._see_sequencer,
            on_ended=self._workforce.disconnect,
        )
        self._is_first = is_first_process()
        self._phase = _Phase.STARTING
        self._trial: Trial | None = None
        self._tried = ""  # the version that was on trial last, if it has passed
        self._upgrading = False  # the trial is passed: hand over as soon as nobody is on its way
        self._stop_wanted = False  # TERM came while the program was being replaced
        self._phase_by = float("inf")
        self._concluded_at = 0
        self._released = False  # the sequencer, for the handover
        self._at_once = False
        self._handover: Handover | None = None

    def run(self) -> Handover | None:
        """Serve until told to stop, and give nothing; or until the next program is to take over, and give what it
        needs. Raises BootError, ServeError."""
        with blame_system(self._failure, "serve"):
            return self._run()

    def _run(self) -> Handover | None:
        caught = signals.Signals(self._loop, self._react, {signal.SIGCHLD} if self._is_first else ())
        try:
            if self._inherited is not None:
                self._inherit(self._inherited)
            else:
                log.info("mpchat %s starts, pid %d", __version__, os.getpid())
            self._reconcile()
            while not self._is_over():
                self._wait()
                # Also after the last event: it may be this that finds all to be over.
                self._reconcile()
        finally:
            self._clean_up()
            caught.restore(ending=self._handover is None)
        return self._handover

    def _failure(self, why: str) -> MpchatError:
        """What it is that the system does not let us go on."""
        return BootError(why) if self._phase is _Phase.STARTING and not self._replacing else ServeError(why)

    # --- the wait loop

    def _wait(self) -> None:
        """Wait for something to happen, and see to it."""
        deadlines = [self._phase_by, self._acceptor.deadline(), self._sequencing.deadline()]
        if self._phase in (_Phase.STARTING, _Phase.SERVING):
            deadlines.append(self._supervision.deadline(self._sequencing.is_up))
        elif self._phase in (_Phase.PAUSING, _Phase.CONCLUDING):
            deadlines.append(self._supervision.deadline(may_start=False))
        if self._trial is not None:
            deadlines.append(self._trial.deadline)
        self._loop.wait(min(deadlines) - time.monotonic(), self._look)

    def _look(self) -> None:
        report_lost_lines()
        now = time.monotonic()
        self._supervision.looked(now)
        self._sequencing.looked(now)

    def _reconcile(self) -> None:
        """Bring what there is nearer to what there should be."""
        now = time.monotonic()
        if self._trial is not None:
            self._trial.look(now)
        self._sequencing.look(now)
        if self._is_first:
            reap_orphans(self._list_children())
        match self._phase:
            case _Phase.STARTING:
                self._follow_plan(now)
                # Clients that wait are served by those that have come up, if others do not.
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
                    self._say_stop()
            case _Phase.STOPPING:
                if now >= self._phase_by:
                    log.warning("stopping takes too long: ending %d workers", len(self._workforce.workers))
                    self._at_once = True

    def _list_children(self) -> set[int]:
        """The processes that we have started, and are to wait for."""
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
                    log.error("reload given up, the workers and the configuration stay as they were: %s", why)
                    self._configure(self._config_before)
                case GiveUp(why):
                    raise BootError(f"the workers do not come up: {why}")

    def _open(self) -> None:
        """All workers are there."""
        self._phase = _Phase.SERVING
        self._supervision.serve_on()
        self._sequencing.serve_on()
        self._placement.change(Mode.OPEN)
        addresses = ", ".join(listener.address for listener in self._listeners)
        line = f"mpchat ready on {addresses}, {len(self._workforce.workers)} workers"
        if self._inherited is not None:
            _log_replaced(self._inherited, line)
        else:
            self._launch.announce(line)
        self._at_once = self._launch.trial
        if self._stop_wanted:
            self._quiesce()

    def _is_over(self) -> bool:
        stopped = self._phase is _Phase.STOPPING and not self._workforce.workers
        return self._at_once or stopped or self._handover is not None

    def _see_sequencer(self, address: LogAddress) -> None:
        """There is a sequencer, the first or another."""
        self._workforce.connect(address)
        if self._phase in (_Phase.PAUSING, _Phase.CONCLUDING):
            self._resume("the sequencer has ended")

    # --- signals

    def _react(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGCHLD:
                pass  # the loop has woken up, and looks after orphans each time
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
                log.info("stopping, as soon as the program is replaced")
                self._stop_wanted = True
            case signal.SIGTERM if self._phase in (_Phase.STARTING, _Phase.SERVING):
                self._quiesce()
            case _:
                log.info("%s: ending at once", number.name)
                self._at_once = True

    @property
    def _replacing(self) -> bool:
        """Whether all clients are between the old program and the new."""
        inheriting = self._inherited is not None and self._phase is _Phase.STARTING
        return inheriting or self._phase in (_Phase.PAUSING, _Phase.CONCLUDING)

    def _log_status(self) -> None:
        """The answer to USR1: what each process takes, for whoever is on call."""
        parts = [Part("main", os.getpid(), f"{self._acceptor.clients} clients")]
        parts += [Part("sequencer", self._sequencing.pid, "the log")]
        parts += [
            Part(worker.name, worker.pid, f"{worker.load} clients")
            for worker in self._workforce.workers.values()
        ]
        for line in describe_processes(parts):
            log.info("%s", line)

    def _renew(self) -> None:
        """HUP: another configuration, as far as it can be changed, and fresh workers, one after the other."""
        reopen_log()
        if not self._is_serving("reload"):
            return
        try:
            config = self._launch.reread()
        except ConfigError as error:
            log.error("nothing is changed: %s", error)
            return
        config = fit(_keep(config, {name: getattr(self._config, name) for name in FIXED}), self._ledger.shape)
        if config.workers == self._config.workers != self._supervision.wanted:
            log.warning("workers stay at %d, as TTIN and TTOU have it", self._supervision.wanted)
        if not self._supervision.renewing:
            self._config_before = self._config
        self._configure(config)
        self._supervision.renew()
        log.info("reloaded: every worker is replaced by a fresh one")

    def _configure(self, config: Config) -> None:
        """This is how it is to be from now on; workers that have started stay as they are."""
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
            log.info("%d workers from now on", self._supervision.wanted)

    def _is_serving(self, what: str) -> bool:
        serving = self._phase is _Phase.SERVING and not self._upgrading
        if not serving:
            log.warning("cannot %s now", what)
        return serving

    # --- the next program

    def _try_upgrade(self) -> None:
        """USR2: try the version that is installed now."""
        program = self._launch.program
        if self._trial is not None or program is None or not self._is_serving("upgrade"):
            return
        log.info("trying the version that is installed now, to replace mpchat %s", __version__)
        try:
            self._trial = Trial(self._loop, program, self._end_trial)
        except OSError as error:
            log.error("no upgrade: %s", error)

    def _end_trial(self, trouble: str) -> None:
        assert self._trial is not None
        self._tried, self._trial = self._trial.version, None
        if trouble:
            log.error("no upgrade: the version that is installed now does not come up: %s", trouble)
        else:
            log.info("mpchat %s comes up: it takes over from mpchat %s", self._tried, __version__)
            self._upgrading = True

    def _pause(self) -> None:
        """Who connects waits in the kernel from here on, who is connected in its own and in ours."""
        self._phase = _Phase.PAUSING
        self._phase_by = time.monotonic() + self._config.drain_timeout
        self._acceptor.watch(None, time.monotonic())
        self._placement.change(Mode.HOLDING)
        self._workforce.pause()

    def _prepare_handover(self, now: float) -> None:
        """Go on towards the handover; in trouble, back."""
        seq = self._workforce.paused_at
        if now >= self._phase_by:
            self._resume("the workers take too long")
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
        """No upgrade: fresh workers carry on where those that paused are killed."""
        log.error("no upgrade: %s", why)
        self._phase, self._phase_by, self._upgrading = _Phase.SERVING, float("inf"), False
        self._released = False
        self._sequencing.resume()
        self._workforce.kill_all()
        self._placement.change(Mode.OPEN)
        if self._stop_wanted:
            self._quiesce()

    def _hand_over(self) -> None:
        """All workers have ended at one entry, and the sequencer too: leave all there is to the next program."""
        try:
            # Of a log in which nobody has said anything yet nobody makes one.
            snapshot = self._journal.read_snapshot() if self._concluded_at else Snapshot(0, b"")
        except LogError as error:
            self._resume(str(error))
            return
        if snapshot.seq != self._concluded_at:
            self._resume("there is no snapshot of what the workers have come to")
            return
        # From here on signals wait for the next program.
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
        self._supervision.serve_on()
        if self._config.workers == handover.workers_configured:
            self._supervision.want(handover.workers)
        self._acceptor.restore(handover.clients.values())
        self._placement.inherit(handover.clients)

    # --- the end

    def _quiesce(self) -> None:
        """Take nobody in any more, and have said what clients have sent."""
        log.info("stopping")
        self._phase = _Phase.QUIESCING
        self._phase_by = time.monotonic() + self._config.drain_timeout
        self._acceptor.stop()
        self._placement.change(Mode.CLOSING)
        self._workforce.quiesce()

    def _say_stop(self) -> None:
        self._phase = _Phase.STOPPING
        self._placement.change(Mode.CLOSED)
        self._workforce.stop("")

    def _clean_up(self) -> None:
        """Leave nothing behind, whatever brought us here."""
        if self._trial is not None:
            self._trial.close()
        self._workforce.clean_up()
        self._sequencing.stop()
        self._loop.close()


def _keep(config: Config, fixed: Mapping[str, Any]) -> Config:
    """`config`, with these values that cannot be changed any more."""
    changed = [name for name, value in fixed.items() if getattr(config, name) != value]
    if changed:
        log.warning("cannot be changed while the server runs: %s", ", ".join(changed))
    return replace(config, **fixed)


def _log_replaced(handover: Handover, ready: str) -> None:
    """Say who we are now, and who we were."""
    if not handover.tried:
        log.info("the program is not replaced, mpchat %s goes on: %s", __version__, ready)
        return
    log.info("the program is replaced: %s by %s: %s", handover.version, __version__, ready)
    if handover.tried != __version__:
        log.error("what runs now is not what was tried: %s, not %s", __version__, handover.tried)


def _make_policy(config: Config) -> Policy:
    return Policy(config.beat_timeout, retire_timeout=config.drain_timeout, slots=SLOTS)
