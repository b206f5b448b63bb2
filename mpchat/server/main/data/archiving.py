"""Archiving: main starts the archive process, hears its beats, and replaces it when it ends or hangs.

Owns the process and main's end of the channel to it. Promises that the archive never holds anything up or ends the
server: when it fails, the next one is started after a pause that grows, for as long as the server runs, since what it
has to write stays in the log. The one exception: if the database turns out to be damaged before the first archive has
come up, the server does not start (ArchiveError). An archive is started while there is a sequencer only.

    WAITING --sequencer is up, pause over--> BOOTING --first beat--> UP     no beat in time: killed
      ^                                         |                     |
      +------------------ ended ----------------+------- ended -------+     after `conclude` or the server's end: done
"""

import logging
import signal
import time
from functools import partial
from multiprocessing import Pipe
from typing import TYPE_CHECKING, NamedTuple

from mpchat.child import Child, start_child
from mpchat.config import Config
from mpchat.errors import ArchiveError, ForkError, in_words
from mpchat.log.port import LogAddress
from mpchat.server.control import DAMAGED, NO_LOG, Channel, ChannelClosed, Conclude
from mpchat.server.main.recovery import Restarts
from mpchat.server.main.waitloop import WaitLoop

if TYPE_CHECKING:
    from mpchat.server.main.data.store import Store

log = logging.getLogger(__name__)

PATIENCE = 6
"""Silences of `beat_timeout` after which the archive counts as hung. Nobody waits for it, and a disk may be slow."""

PAUSE_MOST = 30.0
"""Seconds between two starts at most."""


class _Archive(NamedTuple):
    """A running archive process."""

    child: Child
    channel: Channel


class Archiving:
    """Keeps one archive running; none without a `store`, and then it is done from the start.

    `insist`: raise ArchiveError when the first one finds the database damaged.
    """

    def __init__(self, loop: WaitLoop, config: Config, store: "Store | None", insist: bool) -> None:
        self.done = store is None
        """Whether everything up to the end of the server, or up to what `conclude` said, is written."""
        self._loop = loop
        self._config = config
        self._store = store
        self._insist = insist
        self._address: LogAddress | None = None
        self._archive: _Archive | None = None
        self._is_up = False
        self._restarts = Restarts(least=0.1, most=PAUSE_MOST)
        self._heard_at = 0.0
        self._looked_at = float("inf")
        self._conclude_at: int | None = None
        self._replacing = False  # main has killed it on purpose

    @property
    def pid(self) -> int:
        """The process id; 0 while there is none."""
        return 0 if self._archive is None else self._archive.child.pid

    def connect(self, address: LogAddress) -> None:
        """There is a sequencer."""
        self._address = address

    def disconnect(self) -> None:
        """There is no sequencer. The archive ends by itself."""
        self._address = None

    def change(self, config: Config) -> None:
        """Replace the archive by one with this configuration."""
        self._config = config
        if self._archive is not None:
            self._replacing = True
            self._archive.child.kill()

    def conclude(self, seq: int) -> None:
        """Have the archive write everything up to record `seq`, and end: then `done`."""
        self._conclude_at = seq
        self._tell_conclusion()

    def resume(self) -> None:
        """Keep an archive running after all."""
        self._conclude_at, self.done = None, self._store is None
        self.change(self._config)

    def abandon(self) -> None:
        """Do not wait for it any more. What it has not written is in the journal."""
        self.done = True

    def woke(self, now: float) -> None:
        """Note that main runs. If it did not run for long, it could not have heard a beat."""
        looked_at, self._looked_at = self._looked_at, now
        if now - looked_at > self._patience / 2:
            self._heard_at = now

    def check(self, now: float) -> None:
        """Start the archive if it is missing, and kill it if it hangs. Raises ArchiveError."""
        if self._archive is not None:
            if now >= self._heard_at + self._patience:
                log.error("archive killed reason=silent for %g s", self._patience)
                self._heard_at = now
                self._archive.child.kill()
        elif not self.done and self._address is not None and now >= self._restarts.not_before:
            assert self._store is not None
            self._start(self._store, self._address, now)

    def deadline(self) -> float:
        """When `check` may have something to do though nothing has happened."""
        if self._archive is not None:
            return self._heard_at + self._patience
        waits = self.done or self._address is None
        return float("inf") if waits else self._restarts.not_before

    def stop(self) -> None:
        """Kill it, and wait until it has ended. What it has not written is in the journal."""
        if self._archive is not None:
            archive = self._let_go(self._archive)
            archive.child.end()

    @property
    def _patience(self) -> float:
        return PATIENCE * self._config.beat_timeout

    def _start(self, store: "Store", address: LogAddress, now: float) -> None:
        try:
            self._archive = archive = self._launch(store, address)
        except (ForkError, OSError) as error:
            self._count_failure(f"no process can be started: {in_words(error)}", now)
            return
        self._heard_at = now
        self._loop.watch(archive.channel, lambda events: self._hear(archive))
        self._loop.watch(archive.child.sentinel, lambda events: self._ended(archive))
        self._tell_conclusion()

    def _launch(self, store: "Store", address: LogAddress) -> _Archive:
        # A server without a data directory needs no database library. This one has loaded it.
        from mpchat.server.archive.archiver import run_archive

        ours, theirs = Pipe(duplex=True)
        with theirs:
            try:
                channel = Channel(ours)
            except OSError:
                ours.close()
                raise
            try:
                run = partial(run_archive, self._config, theirs, address, store.folder.path, store.log_id)
                # With the lock: while an archive lives that main has left behind, no other server may write.
                return _Archive(start_child(run, [theirs.fileno(), store.folder.descriptor], "archive"), channel)
            except BaseException:
                channel.close()
                raise

    def _tell_conclusion(self) -> None:
        if self._archive is None or self._conclude_at is None:
            return
        # It is the only message that there is ever, so there is room for it.
        try:
            self._archive.channel.post(Conclude(self._conclude_at, snapshot=False))
        except ChannelClosed:
            pass  # it has ended: the sentinel will say so

    def _hear(self, archive: _Archive) -> None:
        """Take a beat."""
        try:
            archive.channel.receive()
        except ChannelClosed:
            self._loop.unwatch(archive.channel)  # it has ended: the sentinel will say so
            return
        now = self._heard_at = time.monotonic()
        if not self._is_up:
            self._is_up = True
            self._insist = False
            self._restarts.came_up(now)
            log.info("archive started, pid %d", archive.child.pid)

    def _ended(self, archive: _Archive) -> None:
        """It has ended: it is done, or the next one is to be started."""
        was_up, replacing = self._is_up, self._replacing
        code = self._let_go(archive).child.reap()
        now = time.monotonic()
        if code == 0:
            self.done = True
        elif code == DAMAGED and self._insist:
            raise ArchiveError(f"the database in {self._config.data} cannot be used; the log says why")
        elif replacing or (was_up and code == -signal.SIGKILL):
            if not replacing:
                log.error("archive ended code=%s", code)
            self._restarts.was_killed()
        elif code == NO_LOG:
            log.debug("archive ends without a sequencer")
        else:
            self._count_failure(f"ended with exit code {code}", now)

    def _let_go(self, archive: _Archive) -> _Archive:
        self._loop.unwatch(archive.channel)
        self._loop.unwatch(archive.child.sentinel)
        archive.channel.close()
        self._archive, self._is_up, self._replacing = None, False, False
        return archive

    def _count_failure(self, why: str, now: float) -> None:
        self._restarts.failed(now)
        pause = max(0.0, self._restarts.not_before - now)
        log.error("archive failed retry_s=%.2g reason=%s", pause, why)
