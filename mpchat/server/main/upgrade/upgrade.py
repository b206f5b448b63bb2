"""Upgrade in place: in the same process, the version that is installed now replaces this program.

Owns the steps that lead to the handover. The trial comes first: unless the new version reports that it came up, nothing
else happens. Then all workers stop at the same record of the log, and one of them makes a snapshot of exactly that
state. They give all clients back and end, the archive writes everything up to that record and ends, and then the
sequencer ends. An archive that takes too long is not waited for: what it has not written is a gap in the database.

    IDLE --try_program--> TRYING --passed--> WAITING --begin--> PAUSING --all paused--> CONCLUDING --all ended-->
     ^                      |                                      |                       |
     +------- failed -------+------------ give_up -----------------+-----------------------+
                                      RELEASING --the sequencer has ended--> concluded, the next program can take over

Promises to call either `concluded` or `given_up` once for each `begin`. When an upgrade is given up, the paused workers
are killed, and fresh ones carry on with their clients, as after any death. Never executes a program: `handover` does.
"""

import enum
import logging
from collections.abc import Callable

from mpchat import __version__
from mpchat.errors import in_words
from mpchat.log.port import LogError, Snapshot
from mpchat.server.main.data.archiving import Archiving
from mpchat.server.main.sequencing import Sequencing
from mpchat.server.main.upgrade.program import Program
from mpchat.server.main.upgrade.trial import Trial
from mpchat.server.main.waitloop import WaitLoop
from mpchat.server.main.workers.supervision import Supervision
from mpchat.server.main.workers.workforce import Workforce

log = logging.getLogger(__name__)


class _Stage(enum.Enum):
    IDLE = enum.auto()
    TRYING = enum.auto()
    WAITING = enum.auto()  # the trial is passed: for `begin`
    PAUSING = enum.auto()
    CONCLUDING = enum.auto()
    RELEASING = enum.auto()


class Upgrade:
    """The upgrades of one server. `program` is the command that starts the next version; without one there is none.

    `concluded` is called with the snapshot that the next program starts from, `given_up` when this program goes on.
    """

    def __init__(
        self,
        loop: WaitLoop,
        program: Program | None,
        workforce: Workforce,
        supervision: Supervision,
        sequencing: Sequencing,
        archiving: Archiving,
        concluded: Callable[[Snapshot], None],
        given_up: Callable[[], None],
    ) -> None:
        self.tried = ""
        """The version that has passed the last trial."""
        self._loop = loop
        self._program = program
        self._workforce = workforce
        self._supervision = supervision
        self._sequencing = sequencing
        self._archiving = archiving
        self._concluded = concluded
        self._given_up = given_up
        self._stage = _Stage.IDLE
        self._trial: Trial | None = None
        self._by = float("inf")  # when it times out
        self._archive_by = float("inf")  # until when the archive is waited for
        self._seq = 0  # the record at which the workers were told to stop

    @property
    def may_try(self) -> bool:
        """Whether there is a program to try, and no trial under way."""
        return self._program is not None and self._trial is None

    @property
    def waiting(self) -> bool:
        """Whether the trial is passed, and the upgrade waits for `begin`."""
        return self._stage is _Stage.WAITING

    @property
    def trial_pid(self) -> int:
        """The process id of the version on trial; 0 while there is none."""
        return 0 if self._trial is None else self._trial.pid

    def try_program(self) -> None:
        """Start the trial of the version that is installed now."""
        assert self._program is not None
        log.info("trying the version that is installed now running=%s", __version__)
        try:
            self._trial = Trial(self._loop, self._program, self._end_trial)
            self._stage = _Stage.TRYING
        except OSError as error:
            log.error("no upgrade reason=%s", in_words(error))

    def begin(self, by: float) -> None:
        """Have all workers pause. No worker and no client may be on the way. If it takes until `by`, give up."""
        self._stage = _Stage.PAUSING
        self._by = by
        self._workforce.pause()

    def check(self, now: float) -> None:
        """Judge the trial when it has ended."""
        if self._trial is not None:
            self._trial.check(now)

    def advance(self, now: float) -> None:
        """After `begin`: take the next step towards the handover, or give the upgrade up."""
        seq = self._workforce.paused_at
        if now >= self._by:
            self.give_up("the workers have timed out")
        elif self._workforce.worker_lost:
            self.give_up("a worker has ended")
        elif self._workforce.workers and self._supervision.is_silent(now):
            self.give_up("a worker does not answer")
        elif self._stage is _Stage.PAUSING and seq is not None:
            self._stage, self._seq = _Stage.CONCLUDING, seq
            self._workforce.conclude(seq)
            self._archiving.conclude(seq)
            self._archive_by = now + (self._by - now) / 2
        elif self._stage is _Stage.CONCLUDING and not self._workforce.workers:
            self._release(now)

    def _release(self, now: float) -> None:
        """End the sequencer, when the archive has written everything or takes too long."""
        if not self._archiving.done:
            if now < self._archive_by:
                return
            log.error("archive is late: what it has not written by now will be missing in the database")
        self._stage = _Stage.RELEASING
        self._sequencing.release(self._hand_over)

    def deadline(self) -> float:
        """When `check` or `advance` may have something to do though nothing has happened."""
        by = self._by
        if self._stage is _Stage.CONCLUDING and not self._workforce.workers:
            by = min(by, self._archive_by)
        return by if self._trial is None else min(by, self._trial.deadline)

    def give_up(self, why: str) -> None:
        """Kill the workers, which pause, and have fresh ones carry on with their clients."""
        log.error("no upgrade reason=%s", why)
        self._stage, self._by = _Stage.IDLE, float("inf")
        self._sequencing.resume()
        self._archiving.resume()
        self._workforce.kill_all()
        self._given_up()

    def close(self) -> None:
        """End the version on trial."""
        if self._trial is not None:
            self._trial.close()

    def _end_trial(self, trouble: str) -> None:
        assert self._trial is not None
        self.tried, self._trial = self._trial.version, None
        if trouble:
            log.error("no upgrade reason=the version that is installed now fails its trial: %s", trouble)
            self._stage = _Stage.IDLE
        else:
            log.info("trial passed: upgrading old=%s new=%s", __version__, self.tried)
            self._stage = _Stage.WAITING

    def _hand_over(self) -> None:
        """The sequencer has ended, too. Read the snapshot of the record at which all workers stopped."""
        try:
            # No snapshot is made of an empty log.
            snapshot = self._sequencing.read_snapshot() if self._seq else Snapshot(0, b"")
        except LogError as error:
            self.give_up(str(error))
            return
        if snapshot.seq != self._seq:
            self.give_up("there is no snapshot of the record at which the workers stopped")
            return
        self._concluded(snapshot)
