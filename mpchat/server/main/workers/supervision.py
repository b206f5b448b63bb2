"""Supervision: the policy that decides which worker is started, retired or killed, and when. Pure: events and the time
in, actions out.

It does not react to each death. It reconciles: `plan(now)` compares the workers there are with the workers there should
be, and says what to do.

    VACANT --Start--> BOOTING --ready--> SERVING --Retire--> RETIRING --ended--> (no slot)
       ^                 |                  |
       +---- ended ------+------ ended -----+      Kill: not ready within `boot_timeout`, no beat for `beat_timeout`,
                                                         not retired within `retire_timeout`

A worker that served for `settled` seconds before it ended is replaced at once. Otherwise it is replaced after a pause
that doubles each time; if it was killed from outside, after the shortest pause. A start that the system refuses counts
as a worker that ended before it was ready. If all workers have failed to become ready `boots` times, that is a boot
loop, and a server that has had no clients yet gives up. After `keep_trying` it never gives up.

`renew` makes all workers *stale*. One worker more than wanted is started, and when it is ready, a stale one retires,
until no stale one is left. So there are never fewer workers than wanted, and each client moves once. When fresh workers
fail `boots` times in a row, the renewal is cancelled, and the stale workers stay.
"""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in seconds. `slots`: the most workers at a time, including those that retire."""

    beat_timeout: float
    boot_timeout: float = 30.0
    settled: float = 5.0
    pause_least: float = 0.02
    pause_most: float = 5.0
    boots: int = 5
    retire_timeout: float = 10.0
    slots: int = 512

    @property
    def check_every(self) -> float:
        """How often main has to run. If it did not for twice as long, it was stopped and could not hear the workers."""
        return self.beat_timeout / 4


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker in this slot."""

    slot: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the worker in this slot. `why` is for the log."""

    slot: int
    why: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Have the worker in this slot give its clients back and end."""

    slot: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the server: the workers do not come up."""

    why: str


@dataclass(frozen=True, slots=True)
class KeepStale:
    """Cancel the renewal: fresh workers do not come up, and the stale ones stay."""

    why: str


Action = Start | Kill | Retire | GiveUp | KeepStale


class _Stage(enum.Enum):
    VACANT = enum.auto()
    BOOTING = enum.auto()
    SERVING = enum.auto()
    RETIRING = enum.auto()
    KILLED = enum.auto()  # it was told to end, and has not ended yet


@dataclass(slots=True)
class _Slot:
    stage: _Stage = _Stage.VACANT
    started: float = 0.0
    patience: float = 0.0  # how long it may be silent: it beats as often as was configured at its start
    served: float | None = None  # since when it has served; None: it has not
    beat: float = 0.0
    pause: float = 0.0
    not_before: float = float("-inf")
    retire_by: float = float("inf")
    retiring: bool = False  # its end leaves no vacancy
    stale: bool = False  # a fresh worker is to take its place


class Supervision:
    """The state of the policy. `now` is always of a clock that never goes back, in seconds."""

    def __init__(self, workers: int, policy: Policy) -> None:
        self._policy = policy
        self._wanted = workers
        self._slots: dict[int, _Slot] = {}
        self._failed_boots = 0
        self._may_give_up = True
        self._woke_at = float("inf")
        self._fill()

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._wanted

    @property
    def all_serving(self) -> bool:
        """Whether as many workers serve as are wanted, and no other worker boots or retires."""
        stages = [slot.stage for slot in self._slots.values()]
        return len(stages) == self._wanted and all(stage is _Stage.SERVING for stage in stages)

    @property
    def resting(self) -> bool:
        """Whether some workers serve and no other worker boots or retires. There may be vacancies."""
        stages = {slot.stage for slot in self._slots.values()}
        return _Stage.SERVING in stages and stages <= {_Stage.SERVING, _Stage.VACANT}

    def keep_trying(self) -> None:
        """Never give up from here on: there are clients now, or there may be."""
        self._may_give_up = False

    @property
    def renewing(self) -> bool:
        """Whether stale workers are being replaced."""
        return any(slot.stale for slot in self._slots.values())

    def want(self, workers: int) -> None:
        """Set how many workers there should be. There is always one, and room for the fresh ones of a renewal."""
        self._wanted = max(1, min(workers, self._policy.slots // 2))

    def change(self, policy: Policy) -> None:
        """Change the times."""
        self._policy = policy

    def renew(self) -> None:
        """Have every worker replaced by a fresh one, one after the other."""
        self._failed_boots = 0
        for slot in self._slots.values():
            slot.stale = slot.stage is not _Stage.VACANT and not slot.retiring

    def ready(self, number: int, now: float) -> None:
        """Note that the worker has come up."""
        slot = self._slots[number]
        if slot.stage is _Stage.BOOTING:
            slot.stage, slot.served, slot.beat = _Stage.SERVING, now, now
            self._failed_boots = 0

    def beat(self, number: int, now: float) -> None:
        """Note a sign of life."""
        self._slots[number].beat = now

    def woke(self, now: float) -> None:
        """Note that main runs. If it did not for long (Ctrl-Z, a frozen container), it could not hear the workers."""
        woke_at, self._woke_at = self._woke_at, now
        if now - woke_at > 2 * self._policy.check_every:
            for slot in self._slots.values():
                slot.beat = slot.started = now

    def ended(self, number: int, now: float, killed: bool = False) -> None:
        """Note that the worker's process has ended. `killed`: by SIGKILL; from outside, that is no failure."""
        slot, policy = self._slots[number], self._policy
        if slot.retiring:
            del self._slots[number]
            return
        from_outside = killed and slot.stage is not _Stage.KILLED
        if slot.served is None and not from_outside:
            self._failed_boots += 1
        if from_outside:
            slot.pause = policy.pause_least
        elif slot.served is not None and now - slot.served >= policy.settled:
            slot.pause = 0.0
        else:
            slot.pause = min(policy.pause_most, max(policy.pause_least, 2 * slot.pause))
        slot.stage, slot.served, slot.stale, slot.not_before = _Stage.VACANT, None, False, now + slot.pause

    def plan(self, now: float, may_start: bool = True) -> list[Action]:
        """Return what to do now; the caller must do it.

        `may_start`: whether there is a sequencer, since no worker comes up without one.
        """
        failed = f"{self._failed_boots} workers in a row ended before they were ready"
        actions: list[Action] = []
        if self._may_give_up and self._failed_boots >= self._policy.boots * self._wanted:
            return [GiveUp(failed)]
        if self.renewing and self._failed_boots >= self._policy.boots:
            for slot in self._slots.values():
                slot.stale = False
            actions.append(KeepStale(failed))
        self._fill()
        self._drop_vacancies()
        for number, slot in self._slots.items():
            if now < self._due(slot):
                continue
            if slot.stage is _Stage.VACANT:
                if not may_start:
                    continue
                slot.stage, slot.started = _Stage.BOOTING, now
                slot.patience = self._policy.beat_timeout
                actions.append(Start(number))
            else:
                actions.append(Kill(number, _REASONS[slot.stage]))
                slot.stage = _Stage.KILLED
        return actions + self._retire(now)

    def deadline(self, may_start: bool = True) -> float:
        """When `plan` may have something to do though nothing has happened."""
        slots = (slot for slot in self._slots.values() if may_start or slot.stage is not _Stage.VACANT)
        return min(self._woke_at + self._policy.check_every, *map(self._due, slots), float("inf"))

    def is_silent(self, now: float) -> bool:
        """Whether a worker that serves has missed its beats. For the phases in which `plan` is not called."""
        return any(slot.stage is _Stage.SERVING and now >= self._due(slot) for slot in self._slots.values())

    def _staying(self) -> dict[int, _Slot]:
        return {number: slot for number, slot in self._slots.items() if not slot.retiring}

    def _fill(self) -> None:
        """Make a slot for each worker that is wanted, and one more for the fresh worker of a renewal."""
        staying = self._staying()
        leaving = len(staying) < len(self._slots)
        missing = self._wanted + (self.renewing and not leaving) - len(staying)
        free = (number for number in range(self._policy.slots) if number not in self._slots)
        for _, number in zip(range(missing), free, strict=False):
            self._slots[number] = _Slot()

    def _drop_vacancies(self) -> None:
        """Drop slots that have no worker while there are more slots than wanted workers."""
        staying = self._staying()
        surplus = len(staying) - self._wanted
        vacant = [number for number, slot in staying.items() if slot.stage is _Stage.VACANT]
        for number in vacant[:surplus] if surplus > 0 and not self.renewing else []:
            del self._slots[number]

    def _retire(self, now: float) -> list[Action]:
        """Retire the workers beyond those wanted, first the stale, then the newest; but none while another boots."""
        staying = self._staying()
        surplus = len(staying) - self._wanted
        if surplus <= 0 or any(slot.stage is not _Stage.SERVING for slot in staying.values()):
            return []
        retired = sorted(staying, key=lambda number: (not staying[number].stale, -number))[:surplus]
        for number in retired:
            slot = staying[number]
            slot.stage, slot.retiring, slot.stale = _Stage.RETIRING, True, False
            slot.retire_by = now + self._policy.retire_timeout
        return [Retire(number) for number in retired]

    def _due(self, slot: _Slot) -> float:
        if slot.stage is _Stage.VACANT:
            return slot.not_before
        if slot.stage is _Stage.BOOTING:
            return slot.started + self._policy.boot_timeout
        if slot.stage is _Stage.SERVING:
            return slot.beat + max(slot.patience, self._policy.beat_timeout)
        if slot.stage is _Stage.RETIRING:
            return min(slot.retire_by, slot.beat + max(slot.patience, self._policy.beat_timeout))
        return float("inf")


_REASONS = {
    _Stage.BOOTING: "is not ready in time",
    _Stage.SERVING: "does not answer",
    _Stage.RETIRING: "does not retire in time",
}
