"""Sequencing: main starts the sequencer, pings it, and replaces it when it ends or hangs.

Owns the sequencer's process. The log itself is in the journal, which is main's memory, so the next sequencer goes on
where the last one was killed. Promises to report the address of each sequencer that comes up (`on_started`); never to
wait for one; and to start the next one for as long as the server runs, after growing pauses if it fails by itself. If
the first sequencer of a server does not come up after several tries, that ends the server (BootError).

    PAUSED --pause over--> BOOTING --first answer--> UP      no answer in time: killed
      ^                       |                       |
      +-------- ended --------+--------- ended -------+       after `release`: none is started
"""

import logging
import signal
import time
from collections.abc import Callable, Sequence

from mpchat.errors import BootError, ForkError
from mpchat.log.local.journal import Journal
from mpchat.log.local.process import Sequencer
from mpchat.log.port import LogAddress, LogError, Snapshot
from mpchat.server.main.recovery import Pulse, Restarts
from mpchat.server.main.waitloop import WaitLoop

log = logging.getLogger(__name__)

BOOT_SECONDS = 30.0
"""How long it may take to come up. It first reads all of the journal."""


class Sequencing:
    """Keeps one sequencer running. `on_started` is called with the address of each one that has come up, `on_ended`
    when one has ended.

    `patience`: seconds that an answer may take. `may_give_up`: raise BootError after several failures in a row, since
    there are no clients yet.
    `keep`: descriptors that it is to have open.
    """

    def __init__(
        self,
        loop: WaitLoop,
        journal: Journal,
        patience: float,
        may_give_up: bool,
        on_started: Callable[[LogAddress], None],
        on_ended: Callable[[], None],
        keep: Sequence[int] = (),
    ) -> None:
        self._loop = loop
        self._journal = journal
        self._patience = patience
        self._may_give_up = may_give_up
        self._on_started = on_started
        self._on_ended = on_ended
        self._keep = keep
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
        """Whether there is one that has come up and, as far as main knows, has not ended."""
        return self._sequencer is not None and self._boot_by is None

    def change(self, patience: float) -> None:
        """Change the patience."""
        self._patience = patience
        self._pulse.change(patience)

    def woke(self, now: float) -> None:
        """Note that main runs. If it did not run for long, it could not have heard an answer."""
        self._pulse.woke(now)

    def check(self, now: float) -> None:
        """Start the sequencer if it is missing, ping it if it is up, and kill it if it hangs. Raises BootError."""
        if self._sequencer is None:
            if self._on_released is None and now >= self._restarts.not_before:
                self._launch(now)
        elif self._boot_by is not None:
            if now >= self._boot_by:
                log.error("sequencer killed reason=not up within %g s", BOOT_SECONDS)
                self._boot_by = float("inf")
                self._sequencer.kill()
        elif self._pulse.is_missed(now):
            log.error("sequencer killed reason=no answer for %g s", self._patience)
            self._sequencer.kill()
            self._pulse.answered(now)
        elif self._pulse.is_due(now):
            self._ask(now)

    def deadline(self) -> float:
        """When `check` may have something to do though nothing has happened."""
        if self._sequencer is None:
            return self._restarts.not_before if self._on_released is None else float("inf")
        return self._pulse.deadline() if self._boot_by is None else self._boot_by

    def keep_trying(self) -> None:
        """Never give up from here on: there are clients now, or there may be."""
        self._may_give_up = False

    def release(self, on_released: Callable[[], None]) -> None:
        """End it, start no other one, and call `on_released` when it has ended."""
        self._on_released = on_released
        if self._sequencer is None:
            on_released()
        else:
            self._sequencer.kill()

    def read_snapshot(self) -> Snapshot:
        """Return the latest snapshot in the journal. Only after `release`. Raises LogError when there is none."""
        return self._journal.read_snapshot()

    def resume(self) -> None:
        """Keep a sequencer running after all. Harmless when it was not released."""
        self._on_released = None

    def stop(self) -> None:
        """Kill it, and wait until it has ended."""
        if self._sequencer is not None:
            self._unwatch(self._sequencer)
            self._sequencer.stop()
            self._sequencer = None

    def _launch(self, now: float) -> None:
        """Start one. Its first answer says that it is up."""
        sequencer = Sequencer(self._journal, self._keep)
        try:
            sequencer.launch()
        except ForkError as error:
            self._count_failure(str(error), now)
            return
        self._sequencer = sequencer
        self._boot_by = now + BOOT_SECONDS
        self._loop.watch(sequencer.sentinel, lambda events: self._ended(sequencer))
        self._loop.watch(sequencer.link, lambda events: self._hear(sequencer))
        self._ask(now)

    def _ask(self, now: float) -> None:
        """Ping it. The link has room for the few bytes, since no other question is under way."""
        assert self._sequencer is not None
        try:
            self._sequencer.link.call("ping")
            self._pulse.asked(now)
        except LogError:
            self._loop.unwatch(self._sequencer.link)  # it has ended: the sentinel will say so

    def _hear(self, sequencer: Sequencer) -> None:
        """Read its answer, which is there as a whole: it is some bytes, sent by one write (unix(7))."""
        try:
            sequencer.link.receive()
        except LogError as error:
            self._loop.unwatch(sequencer.link)
            log.error("sequencer killed reason=%s", error)
            sequencer.kill()
            return
        now = time.monotonic()
        self._pulse.answered(now)
        if self._boot_by is not None:
            self._boot_by = None
            self._restarts.came_up(now)
            log.info("sequencer started, pid %d", sequencer.pid)
            self._on_started(sequencer.address)

    def _ended(self, sequencer: Sequencer) -> None:
        """It has ended: plan the start of the next one, on the same journal."""
        self._unwatch(sequencer)
        was_up, self._boot_by, self._sequencer = self._boot_by is None, None, None
        code = sequencer.stop()
        self._on_ended()
        now = time.monotonic()
        self._pulse = Pulse(self._patience)
        if self._on_released is not None:
            self._on_released()
        elif was_up and code == -signal.SIGKILL:
            log.error("sequencer ended code=%s", code)
            self._restarts.was_killed()
        else:
            self._count_failure(f"ended with exit code {code}", now)

    def _count_failure(self, why: str, now: float) -> None:
        """It ended by itself or did not come up: try again after a pause. Raises BootError after too many tries."""
        self._restarts.failed(now)
        if self._may_give_up and self._restarts.hopeless:
            raise BootError(f"the sequencer does not come up: {why}")
        pause = max(0.0, self._restarts.not_before - now)
        log.error("sequencer failed retry_s=%.2g reason=%s", pause, why)

    def _unwatch(self, sequencer: Sequencer) -> None:
        self._loop.unwatch(sequencer.sentinel)
        self._loop.unwatch(sequencer.link)
