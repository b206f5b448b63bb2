"""The sequencer as main keeps it: started, felt the pulse of, and started again when it ends or hangs.

Owns the sequencer's process. The log itself is in the journal, which is main's: the next sequencer goes on where the
last one was killed. Promises that whoever uses the log is told each time where it is now (`on_started`), and that one
that ends by itself again and again ends the server (ServeError).
"""

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext

from mpchat.bus.contract import LogError, LogLost
from mpchat.bus.journal import Journal
from mpchat.bus.manager import LogAddress, LogLink, LogProxy, Sequencer
from mpchat.errors import BootError, ServeError
from mpchat.server.main import signals
from mpchat.server.main.supervision import Pulse, Restarts
from mpchat.server.main.waitloop import WaitLoop

log = logging.getLogger(__name__)

PRELOAD = ["mpchat.server.worker.worker", "mpchat.bus.manager"]
"""What the fork server imports once, so that a process that is started has nothing to import."""


def make_context() -> BaseContext:
    """How all our processes are started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


class Sequencing:
    """`on_started` is given the address of each sequencer that was started."""

    def __init__(
        self,
        loop: WaitLoop,
        context: BaseContext,
        journal: Journal,
        patience: float,
        on_started: Callable[[LogAddress], None],
    ) -> None:
        self._loop = loop
        self._context = context
        self._journal = journal
        self._patience = patience
        self._on_started = on_started
        self._pulse = Pulse(patience)
        self._restarts = Restarts()
        self._sequencer = Sequencer(context, journal)
        self._proxy: LogProxy | None = None
        self._pulse_link: LogLink | None = None

    @property
    def pid(self) -> int:
        return self._sequencer.pid

    @property
    def log(self) -> LogProxy:
        """The log, for who can wait for its answers."""
        assert self._proxy is not None
        return self._proxy

    def start(self) -> None:
        """Start the first one. Raises BootError."""
        try:
            self._start()
        except (LogError, ServeError) as error:
            raise BootError(str(error)) from error

    def looked(self, now: float) -> None:
        """Main runs."""
        self._pulse.looked(now)

    def feel(self, now: float) -> None:
        """See that it answers: when it hangs, nobody hears anything any more."""
        if self._pulse.is_missed(now):
            log.error("the sequencer has not answered for %g s: killed", self._patience)
            self._sequencer.kill()
            self._pulse.answered(now)
        elif self._pulse_link is not None and self._pulse.is_due(now):
            try:
                self._pulse_link.call("ping")
                self._pulse.asked(now)
            except LogLost:
                self._unlink()

    def stop(self) -> None:
        """End it."""
        self._unlink()
        self._sequencer.stop()

    def _start(self) -> None:
        """Start one, and if that does not come up, the next. Raises ServeError when none does."""
        while True:
            start_fork_server()
            self._sequencer = Sequencer(self._context, self._journal)
            try:
                self._proxy = self._sequencer.start()
                self._pulse_link = self._proxy.open_link("main feels the pulse")
                break
            except LogLost as error:
                log.error("%s", error)
                self._sequencer.stop()
                self._count_end(killed=False)
        self._restarts.started(time.monotonic())
        log.info("sequencer started, pid %d", self._sequencer.pid)
        self._loop.watch(self._sequencer.sentinel, lambda events: self._replace())
        self._pulse = Pulse(self._patience)
        self._loop.watch(self._pulse_link, lambda events: self._hear_pulse())
        self._on_started(self._proxy.address)

    def _replace(self) -> None:
        """It has ended: start another, on the same journal. Raises ServeError."""
        self._unlink()
        self._loop.unwatch(self._sequencer.sentinel)
        code = self._sequencer.stop()
        log.error("the sequencer has ended with %s: another one goes on", code)
        self._count_end(killed=code == -signal.SIGKILL)
        self._start()

    def _count_end(self, killed: bool) -> None:
        if not self._restarts.ended(time.monotonic(), killed):
            raise ServeError("the sequencer ends again and again; the chat cannot go on")

    def _hear_pulse(self) -> None:
        assert self._pulse_link is not None
        try:
            self._pulse_link.receive()
        except LogLost:
            self._unlink()
        self._pulse.answered(time.monotonic())

    def _unlink(self) -> None:
        """The link is of no use any more; if the sequencer has ended, its sentinel says so too."""
        if self._pulse_link is not None:
            self._loop.unwatch(self._pulse_link)
            self._pulse_link.close()
            self._pulse_link = None


def start_fork_server() -> None:
    """Have the parent of all our processes, deaf to signals; another one if it is gone.

    A service manager sends TERM to every process of ours (systemd.kill(5), KillMode=control-group). The fork server
    would die of it: a blocked signal stays blocked across fork and exec (signal(7)).
    """
    signals.block()
    # First, and not as a part of the next: starting it ends with unblocking INT and TERM, which it ignores.
    resource_tracker.ensure_running()
    signals.block()
    try:
        forkserver.ensure_running()
    finally:
        signals.unblock()
