"""The sequencer as main keeps it: started, asked for signs of life, and started again when it ends or hangs.

Owns the sequencer's process. The log itself is in the journal, which is main's: the next sequencer goes on where the
last one was killed. Promises that users of the log are told each time where it is (`on_started`); that main never waits
for it; and that it is started again for as long as the server runs, after growing pauses when it fails by itself. Only
one that never comes up at the start of the server ends that (BootError).

    PAUSED --its time has come--> BOOTING --first answer--> UP
      ^                             |                       |     no answer in time: killed
      +----------- ended -----------+------- ended ---------+     released: its end is told, and that is all
"""

import logging
import signal
import time
from collections.abc import Callable

from mpchat.bus.contract import LogError
from mpchat.bus.journal import Journal
from mpchat.bus.manager import LogAddress, Sequencer
from mpchat.errors import BootError, ForkError
from mpchat.server.main.recovery import Pulse, Restarts
from mpchat.server.main.waitloop import WaitLoop

log = logging.getLogger(__name__)

BOOT_SECONDS = 30.0
"""How long it may take to come up: it looks through all of the journal first."""


class Sequencing:
    """Keeps one sequencer running. `on_started` is given the address of each one that has come up, `on_ended` is called
    when it has ended.

    `patience`: seconds that an answer may take. `may_give_up`: at the start of a server nobody loses anything by it.
    """

    def __init__(
        self,
        loop: WaitLoop,
        journal: Journal,
        patience: float,
        may_give_up: bool,
        on_started: Callable[[LogAddress], None],
        on_ended: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._journal = journal
        self._patience = patience
        self._may_give_up = may_give_up
        self._on_started = on_started
        self._on_ended = on_ended
        self._pulse = Pulse(patience)
        self._restarts = Restarts()
        self._sequencer: Sequencer | None = None
        self._boot_by: float | None = None  # while it boots
        self._on_released: Callable[[], None] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 while there is none."""
        return 0 if self._sequencer is None else self._sequencer.pid

    @property
    def is_up(self) -> bool:
        """Whether there is one, as far as main knows."""
        return self._sequencer is not None and self._boot_by is None

    def change(self, patience: float) -> None:
        """Another patience from now on."""
        self._patience = patience
        self._pulse.change(patience)

    def looked(self, now: float) -> None:
        """Main runs. If it did not for long, the silence of others says nothing."""
        self._pulse.looked(now)

    def look(self, now: float) -> None:
        """Start what is missing and kill what hangs. Raises BootError."""
        if self._sequencer is None:
            if self._on_released is None and now >= self._restarts.not_before:
                self._launch(now)
        elif self._boot_by is not None:
            if now >= self._boot_by:
                log.error("sequencer is not up within %g s: killed", BOOT_SECONDS)
                self._boot_by = float("inf")
                self._sequencer.kill()
        elif self._pulse.is_missed(now):
            log.error("sequencer has not answered for %g s: killed", self._patience)
            self._sequencer.kill()
            self._pulse.answered(now)
        elif self._pulse.is_due(now):
            self._ask(now)

    def deadline(self) -> float:
        """When `look` may have something to do though nothing has happened."""
        if self._sequencer is None:
            return self._restarts.not_before if self._on_released is None else float("inf")
        return self._pulse.deadline() if self._boot_by is None else self._boot_by

    def serve_on(self) -> None:
        """Somebody is served now: never give up from here on."""
        self._may_give_up = False

    def release(self, on_released: Callable[[], None]) -> None:
        """End it for good, and call `on_released` when it has ended: the journal is the caller's from then on."""
        self._on_released = on_released
        if self._sequencer is None:
            on_released()
        else:
            self._sequencer.kill()

    def resume(self) -> None:
        """It is needed after all; harmless when it was not released."""
        self._on_released = None

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        if self._sequencer is not None:
            self._unwatch(self._sequencer)
            self._sequencer.stop()
            self._sequencer = None

    def _launch(self, now: float) -> None:
        """Start one; it says itself when it is up, or ends."""
        sequencer = Sequencer(self._journal)
        try:
            sequencer.launch()
        except ForkError as error:
            self._count_failure(str(error), now)
            return
        self._sequencer = sequencer
        self._boot_by = now + BOOT_SECONDS
        self._loop.watch(sequencer.sentinel, lambda events: self._see_end(sequencer))
        self._loop.watch(sequencer.link, lambda events: self._hear(sequencer))
        self._ask(now)

    def _ask(self, now: float) -> None:
        """Ask for a sign of life. The link has room for the few bytes: no other question is under way."""
        assert self._sequencer is not None
        try:
            self._sequencer.link.call("ping")
            self._pulse.asked(now)
        except LogError:
            self._loop.unwatch(self._sequencer.link)  # it has ended: the sentinel says so too

    def _hear(self, sequencer: Sequencer) -> None:
        """The answer is there, whole: it is some bytes, and was one write (unix(7))."""
        try:
            sequencer.link.receive()
        except LogError as error:
            self._loop.unwatch(sequencer.link)
            log.error("sequencer: %s", error)
            sequencer.kill()
            return
        now = time.monotonic()
        self._pulse.answered(now)
        if self._boot_by is not None:
            self._boot_by = None
            self._restarts.came_up(now)
            log.info("sequencer started, pid %d", sequencer.pid)
            self._on_started(sequencer.address)

    def _see_end(self, sequencer: Sequencer) -> None:
        """It has ended: another one goes on, on the same journal."""
        self._unwatch(sequencer)
        was_up, self._boot_by, self._sequencer = self._boot_by is None, None, None
        code = sequencer.stop()
        self._on_ended()
        now = time.monotonic()
        self._pulse = Pulse(self._patience)
        if self._on_released is not None:
            self._on_released()
        elif was_up and code == -signal.SIGKILL:
            log.error("sequencer ended with %s: another one goes on", code)
            self._restarts.was_killed()
        else:
            self._count_failure(f"it ended with {code}", now)

    def _count_failure(self, why: str, now: float) -> None:
        """It ended by itself, or did not come up. Raises BootError when the server may not go on trying."""
        self._restarts.failed(now)
        if self._may_give_up and self._restarts.hopeless:
            raise BootError(f"the sequencer does not come up: {why}")
        log.error("sequencer: %s; another try in %.2g s", why, max(0.0, self._restarts.not_before - now))

    def _unwatch(self, sequencer: Sequencer) -> None:
        self._loop.unwatch(sequencer.sentinel)
        self._loop.unwatch(sequencer.link)
