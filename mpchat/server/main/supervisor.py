"""The main process: acceptor and supervisor, with one wait loop.

Owns the phases of the server's life, and connects its parts: the intake of clients (`intake`), the workers and their
clients (`workers`), the sequencer (`sequencing`), the signals, and the upgrade of the whole program (`upgrade`).
Promises to leave nothing behind. It reads no byte from a client and never waits for a client, a worker or the
sequencer, so none of them can hold it up. Once the server has served, it goes on for as long as main runs: when the
system refuses a process, a descriptor or a sequencer, main tries again. `supervision` decides, without I/O, which
worker is started, retired or killed.

    STARTING --all ready--> SERVING --TERM--> QUIESCING --all quiesced--> STOPPING --all workers ended--> over
                             |   ^           (clients' input is published)  (clients are told)
             USR2, trial passed  failure
                             v   |
                            UPGRADING --all have stopped at one record and ended--> the next program
"""

import enum
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpchat import __version__
from mpchat.config import Config
from mpchat.errors import BootError, MpchatError, ServeError, blame_system
from mpchat.log.local.journal import Journal
from mpchat.log.port import LogAddress, Snapshot
from mpchat.logs import reopen_log, report_lost_lines, set_log_level
from mpchat.server.ledger import Ledger
from mpchat.server.main import signals
from mpchat.server.main.data.archiving import Archiving
from mpchat.server.main.intake.acceptor import Acceptor
from mpchat.server.main.intake.capacity import SLOTS
from mpchat.server.main.intake.listener import Listener
from mpchat.server.main.orphans import is_first_process, reap_orphans
from mpchat.server.main.reload import reread
from mpchat.server.main.sequencing import Sequencing
from mpchat.server.main.status import Part, describe_processes
from mpchat.server.main.terminal import Terminal
from mpchat.server.main.upgrade.handover import Handover
from mpchat.server.main.upgrade.program import Program
from mpchat.server.main.upgrade.upgrade import Upgrade
from mpchat.server.main.waitloop import WaitLoop
from mpchat.server.main.workers.placement import Mode
from mpchat.server.main.workers.supervision import GiveUp, KeepStale, Kill, Policy, Retire, Start, Supervision
from mpchat.server.main.workers.workforce import Workforce
from mpchat.sharedmemory import find_substitute

if TYPE_CHECKING:
    from mpchat.server.main.data.store import Store

log = logging.getLogger(__name__)


FAREWELL = 1.0
"""Seconds for clients to be told that the server stops, after INT. Milliseconds are enough, but for a hung process."""


class _Phase(enum.Enum):
    STARTING = enum.auto()
    SERVING = enum.auto()
    UPGRADING = enum.auto()
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
    notes: Sequence[str] = ()
    """What the log is to warn of at the start."""
    trial: bool = False
    """Whether to end as soon as every worker is ready."""


class Supervisor:
    """The running server. `inherited`: what the previous program has left. `store`: the data directory, if it has one.
    """

    def __init__(
        self,
        config: Config,
        launch: Launch,
        listeners: Sequence[Listener],
        ledger: Ledger,
        journal: Journal,
        inherited: Handover | None,
        store: "Store | None" = None,
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
        self._inherited = inherited
        self._sequencing = Sequencing(
            self._loop,
            journal,
            config.beat_timeout,
            may_give_up=inherited is None,
            on_started=self._sequencer_started,
            on_ended=self._sequencer_ended,
            keep=() if store is None else (store.folder.descriptor,),
        )
        self._store = store
        self._archiving = Archiving(self._loop, config, store, insist=inherited is None)
        self._upgrade = Upgrade(
            self._loop,
            launch.program,
            self._workforce,
            self._supervision,
            self._sequencing,
            self._archiving,
            concluded=self._hand_over,
            given_up=self._resume,
        )
        self._is_first = is_first_process()
        self._phase = _Phase.STARTING
        self._stop_wanted = False  # TERM came while the program was being replaced
        self._stop_by = float("inf")  # when the phase of stopping times out
        self._at_once = False  # whether to end now, without telling anybody
        self._handover: Handover | None = None

    def run(self) -> Handover | None:
        """Serve until told to stop, and return None; or until the next program is to take over, and return what it
        needs. Raises BootError, ServeError."""
        with blame_system(self._failure, "serve"):
            return self._run()

    def _run(self) -> Handover | None:
        caught = signals.Signals(self._loop, self._react, {signal.SIGCHLD} if self._is_first else ())
        self._terminal = Terminal(self._loop, caught.hup_was_ignored, self._outlive_terminal)
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
            self._terminal.close()
            self._clean_up()
            caught.restore(ending=self._handover is None)
        return self._handover

    def _failure(self, why: str) -> MpchatError:
        """The error to raise when the system refuses something that the server cannot do without."""
        return BootError(why) if self._phase is _Phase.STARTING and not self._replacing else ServeError(why)

    # --- the wait loop

    def _wait(self) -> None:
        """Wait for events, or until something is due, and handle the events."""
        deadlines = [self._stop_by, self._acceptor.deadline(), self._sequencing.deadline(), self._upgrade.deadline()]
        deadlines.append(self._archiving.deadline())
        if self._phase in (_Phase.STARTING, _Phase.SERVING):
            deadlines.append(self._supervision.deadline(self._sequencing.is_up))
        elif self._phase is _Phase.UPGRADING:
            deadlines.append(self._supervision.deadline(may_start=False))
        self._loop.wait(min(deadlines) - time.monotonic(), self._wake)

    def _wake(self) -> None:
        report_lost_lines()
        now = time.monotonic()
        self._supervision.woke(now)
        self._sequencing.woke(now)
        self._archiving.woke(now)

    def _reconcile(self) -> None:
        """Do what is due, and take the next steps of the phase."""
        now = time.monotonic()
        self._upgrade.check(now)
        self._sequencing.check(now)
        self._archiving.check(now)
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
                if self._upgrade.waiting and self._workforce.settled:
                    self._begin_upgrade(now)
            case _Phase.UPGRADING:
                self._upgrade.advance(now)
            case _Phase.QUIESCING:
                if now >= self._stop_by or self._workforce.all_quiesced:
                    self._publish_stop()
            case _Phase.STOPPING:
                if now >= self._stop_by:
                    self._time_out()

    def _list_children(self) -> set[int]:
        """The processes that main has started and will wait for by itself."""
        workers = (worker.pid for worker in self._workforce.workers.values())
        return {*workers, self._sequencing.pid, self._archiving.pid, self._upgrade.trial_pid}

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
        first, *others = [listener.address for listener in self._listeners]
        line = f"mpchat ready on {first}, {_count(len(self._workforce.workers), 'worker')}"
        for address in others:
            log.info("also listening address=%s", address)
        if self._inherited is not None:
            _log_replaced(self._inherited)
            log.info("%s", line)
        else:
            self._launch.announce(line)
        self._at_once = self._launch.trial
        if self._stop_wanted:
            self._quiesce()

    def _is_over(self) -> bool:
        stopped = self._phase is _Phase.STOPPING and not self._workforce.workers and self._archiving.done
        return self._at_once or stopped or self._handover is not None

    def _sequencer_started(self, address: LogAddress) -> None:
        """A sequencer has come up, the first one or a replacement."""
        self._workforce.connect(address)
        self._archiving.connect(address)
        if self._phase is _Phase.UPGRADING:
            self._upgrade.give_up("the sequencer has ended")

    def _sequencer_ended(self) -> None:
        self._workforce.disconnect()
        self._archiving.disconnect()

    # --- signals

    def _react(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGCHLD:
                pass  # the loop has woken up, and reaps orphans each time it does
            case signal.SIGUSR1:
                self._log_status()
            case signal.SIGHUP if self._terminal.is_closing():
                self._outlive_terminal()
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
            case signal.SIGINT if self._phase is _Phase.SERVING:
                self._stop_now()
            case _:
                log.info("ending at once signal=%s", number.name)
                self._at_once = True

    def _outlive_terminal(self) -> None:
        """Answer a HUP that says that the terminal is closed: stop in good order, unless the server was to stay."""
        if self._terminal.stays:
            log.info("terminal closed: the server goes on, since it was started with HUP ignored")
        elif self._replacing:
            log.info("terminal closed: stopping after the upgrade")
            self._stop_wanted = True
        elif self._phase in (_Phase.STARTING, _Phase.SERVING):
            log.info("terminal closed")
            self._quiesce()

    @property
    def _replacing(self) -> bool:
        """Whether the clients are between the old program and the new one."""
        inheriting = self._inherited is not None and self._phase is _Phase.STARTING
        return inheriting or self._phase is _Phase.UPGRADING

    def _log_status(self) -> None:
        """Answer USR1: log what each process uses."""
        parts = [Part("main", os.getpid(), self._acceptor.clients), Part("sequencer", self._sequencing.pid)]
        if self._store is not None:
            parts.append(Part("archive", self._archiving.pid))
        parts += [Part(worker.name, worker.pid, worker.load) for worker in self._workforce.workers.values()]
        for line in describe_processes(parts):
            log.info("%s", line)

    def _renew(self) -> None:
        """Answer HUP: apply the new configuration, except for what is fixed, and replace the workers one by one."""
        reopen_log()
        if not self._is_serving("reload"):
            return
        config = reread(self._launch.reread, self._config, self._ledger.shape)
        if config is None:
            return
        if config.workers == self._config.workers != self._supervision.wanted:
            log.warning("workers stay as TTIN and TTOU have set them count=%d", self._supervision.wanted)
        if not self._supervision.renewing:
            self._config_before = self._config
        self._configure(config)
        self._archiving.change(config)
        self._supervision.renew()
        log.info("reloaded: every worker will be replaced workers=%d", self._supervision.wanted)

    def _configure(self, config: Config) -> None:
        """Apply a configuration to main, and to the workers that are started from now on."""
        if config.workers != self._config.workers:
            self._supervision.want(config.workers)
        self._config = self._workforce.config = config
        set_log_level(config.log_level)
        self._acceptor.change(config)
        self._workforce.access.change(config.log_addresses)
        self._supervision.change(_make_policy(config))
        self._sequencing.change(config.beat_timeout)

    def _scale(self, by: int) -> None:
        if self._is_serving("scale"):
            self._supervision.want(self._supervision.wanted + by)
            log.info("workers from now on count=%d", self._supervision.wanted)

    def _is_serving(self, what: str) -> bool:
        serving = self._phase is _Phase.SERVING and not self._upgrade.waiting
        if not serving:
            log.warning("%s rejected reason=the server starts, stops or is upgraded", what)
        return serving

    # --- the next program

    def _try_upgrade(self) -> None:
        """Answer USR2: start the trial of the version that is installed now."""
        if self._upgrade.may_try and self._is_serving("upgrade"):
            self._upgrade.try_program()

    def _begin_upgrade(self, now: float) -> None:
        """Stop accepting and reading. From here on, new connections and clients' input wait in the kernel."""
        self._phase = _Phase.UPGRADING
        self._acceptor.watch(None, now)
        self._placement.change(Mode.HOLDING)
        self._upgrade.begin(now + self._config.drain_timeout)

    def _resume(self) -> None:
        """Serve again: the upgrade is given up."""
        self._phase = _Phase.SERVING
        self._placement.change(Mode.OPEN)
        if self._stop_wanted:
            self._quiesce()

    def _hand_over(self, snapshot: Snapshot) -> None:
        """Make the handover: all workers have stopped at one record and ended, and so has the sequencer."""
        # From here on, signals wait for the next program.
        signals.block()
        if self._stop_wanted:
            os.kill(os.getpid(), signal.SIGTERM)
        self._handover = Handover(
            listeners=tuple((listener.fileno(), listener.dialect) for listener in self._listeners),
            shape=self._ledger.shape,
            ledger=self._ledger.descriptors,
            snapshot=snapshot,
            clients=self._workforce.access.note(self._placement.surrender()),
            workers=self._supervision.wanted,
            workers_configured=self._config.workers,
            address={"host": list(self._config.host), "port": self._config.port},
            data=None if self._store is None else self._store.handover,
            version=__version__,
            tried=self._upgrade.tried,
        )

    def _inherit(self, handover: Handover) -> None:
        """Take over the clients of the previous program."""
        self._supervision.keep_trying()
        if self._config.workers == handover.workers_configured:
            self._supervision.want(handover.workers)
        self._acceptor.restore(handover.clients.values())
        self._workforce.access.restore(handover.clients)
        self._placement.inherit(handover.clients)

    # --- the end

    def _quiesce(self) -> None:
        """Stop accepting, and have everything published that clients have sent."""
        self._acceptor.stop()
        log.info("stopping")
        self._phase = _Phase.QUIESCING
        self._stop_by = time.monotonic() + self._config.drain_timeout
        self._placement.change(Mode.CLOSING)
        self._workforce.quiesce()

    def _stop_now(self) -> None:
        """Have all clients told that the server stops, as after TERM, but wait for no input and no slow client."""
        log.info("stopping without waiting signal=SIGINT")
        self._acceptor.stop()
        self._stop_by = time.monotonic() + FAREWELL
        self._publish_stop()

    def _publish_stop(self) -> None:
        """Have all clients told that the server stops. Their workers then end."""
        self._phase = _Phase.STOPPING
        self._placement.change(Mode.CLOSED)
        if not self._workforce.workers:
            # Nobody says in the log that the server ends.
            self._archiving.abandon()
        self._workforce.stop("")

    def _time_out(self) -> None:
        """Stopping takes too long."""
        self._at_once = True
        if self._workforce.workers:
            log.warning("stopping timed out: ending at once workers=%d", len(self._workforce.workers))
        else:
            log.warning("archive is late: what it has not written is in the journal until the machine is restarted")

    def _clean_up(self) -> None:
        """End all processes, however the server came to its end."""
        self._upgrade.close()
        self._workforce.clean_up()
        self._archiving.stop()
        if self._handover is None:
            self._workforce.access.end("server stopped")
        self._sequencing.stop()
        self._loop.close()


def _log_replaced(handover: Handover) -> None:
    """Log which version runs now, and which one ran before."""
    if not handover.tried:
        log.info("the program is not replaced: it goes on version=%s", __version__)
        return
    log.info("the program is replaced old=%s new=%s", handover.version, __version__)
    if handover.tried != __version__:
        log.error("the new program is not the one that passed the trial new=%s tried=%s", __version__, handover.tried)


def _count(number: int, noun: str) -> str:
    """Return the number with the noun, which takes an s in the plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _make_policy(config: Config) -> Policy:
    return Policy(config.beat_timeout, retire_timeout=config.drain_timeout, slots=SLOTS)
