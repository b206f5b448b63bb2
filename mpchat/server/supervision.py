"""The policy of the supervisor: which worker is started, or killed, when. Pure: events and the time in, actions out.

Instead of reacting to each death it reconciles: `plan(now)` says what is missing between the workers there are and the
workers there should be.

    VACANT --Start--> BOOTING --ready--> SERVING
       ^                 |                  |
       +---- ended ------+------ ended -----+      Kill: not ready within `boot_timeout`, or no beat for `beat_timeout`

A worker that served for `settled` seconds before it ended is replaced at once; one that did not is replaced after a
pause that doubles each time; one that others killed, after the least pause. When no worker becomes ready in `boots`
rounds of starting all of them, that is a boot loop, and the server gives up.
"""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in seconds."""

    beat_timeout: float
    boot_timeout: float = 30.0
    settled: float = 5.0
    pause_least: float = 0.1
    pause_most: float = 5.0
    boots: int = 5

    @property
    def look_every(self) -> float:
        """How often main has to look: if it did not for twice as long, it was stopped itself, and heard nobody."""
        return self.beat_timeout / 4


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker in this slot."""

    slot: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the worker in this slot; `why` is for the log."""

    slot: int
    why: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Workers do not come up; end the server."""

    why: str


Action = Start | Kill | GiveUp


class _Stage(enum.Enum):
    VACANT = enum.auto()
    BOOTING = enum.auto()
    SERVING = enum.auto()
    KILLED = enum.auto()  # its end is awaited


@dataclass(slots=True)
class _Slot:
    stage: _Stage = _Stage.VACANT
    started: float = 0.0
    served: float | None = None  # since when; None: it never came so far
    beat: float = 0.0
    pause: float = 0.0
    not_before: float = float("-inf")


class Supervision:
    """The state of the policy. `now` is of a clock that never goes back, in seconds."""

    def __init__(self, workers: int, policy: Policy) -> None:
        self._policy = policy
        self._slots = [_Slot() for _ in range(workers)]
        self._failed_boots = 0
        self._looked_at = float("inf")

    @property
    def all_serving(self) -> bool:
        return all(slot.stage is _Stage.SERVING for slot in self._slots)

    def ready(self, number: int, now: float) -> None:
        """The worker has come up."""
        slot = self._slots[number]
        if slot.stage is _Stage.BOOTING:
            slot.stage, slot.served, slot.beat = _Stage.SERVING, now, now
            self._failed_boots = 0

    def beat(self, number: int, now: float) -> None:
        """The worker gave a sign of life."""
        self._slots[number].beat = now

    def looked(self, now: float) -> None:
        """Main runs. If it did not for long (Ctrl-Z, a frozen container), the workers' silence says nothing."""
        looked_at, self._looked_at = self._looked_at, now
        if now - looked_at > 2 * self._policy.look_every:
            for slot in self._slots:
                slot.beat = slot.started = now

    def ended(self, number: int, now: float, killed: bool = False) -> None:
        """The worker's process is gone; `killed` with SIGKILL, which says nothing of what the worker could do."""
        slot, policy = self._slots[number], self._policy
        by_others = killed and slot.stage is not _Stage.KILLED
        if slot.served is None and not by_others:
            self._failed_boots += 1
        if by_others:
            slot.pause = policy.pause_least
        elif slot.served is not None and now - slot.served >= policy.settled:
            slot.pause = 0.0
        else:
            slot.pause = min(policy.pause_most, max(policy.pause_least, 2 * slot.pause))
        slot.stage, slot.served, slot.not_before = _Stage.VACANT, None, now + slot.pause

    def plan(self, now: float) -> list[Action]:
        """What is to be done now. A Start or a Kill that was given is taken for done."""
        if self._failed_boots >= self._policy.boots * len(self._slots):
            return [GiveUp(f"{self._failed_boots} workers in a row ended before they were ready")]
        actions: list[Action] = []
        for number, slot in enumerate(self._slots):
            if now < self._due(slot):
                continue
            if slot.stage is _Stage.VACANT:
                slot.stage, slot.started = _Stage.BOOTING, now
                actions.append(Start(number))
            else:
                why = "is not ready in time" if slot.stage is _Stage.BOOTING else "does not answer"
                slot.stage = _Stage.KILLED
                actions.append(Kill(number, why))
        return actions

    def deadline(self) -> float:
        """When `plan` may have something new to say; infinity when only an event can change that."""
        return min(self._looked_at + self._policy.look_every, *map(self._due, self._slots))

    def _due(self, slot: _Slot) -> float:
        if slot.stage is _Stage.VACANT:
            return slot.not_before
        if slot.stage is _Stage.BOOTING:
            return slot.started + self._policy.boot_timeout
        if slot.stage is _Stage.SERVING:
            return slot.beat + self._policy.beat_timeout
        return float("inf")


class Pulse:
    """Whether somebody who answers a question at a time still does. `patience`: seconds that an answer may take."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._asked_at: float | None = None
        self._answered_at = float("-inf")
        self._looked_at = float("inf")

    def looked(self, now: float) -> None:
        """We run. If we did not for long, the silence of others says nothing."""
        looked_at, self._looked_at = self._looked_at, now
        if self._asked_at is not None and now - looked_at > self._patience / 2:
            self._asked_at = now

    def asked(self, now: float) -> None:
        self._asked_at = now

    def answered(self, now: float) -> None:
        self._asked_at = None
        self._answered_at = now

    def is_due(self, now: float) -> bool:
        """Whether to ask again now."""
        return self._asked_at is None and now - self._answered_at >= self._patience / 4

    def is_missed(self, now: float) -> bool:
        """Whether the answer has not come in time."""
        return self._asked_at is not None and now - self._asked_at >= self._patience
