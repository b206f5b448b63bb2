"""The supervision of workers: who has come up, who is silent, and that every story ends well."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from supervised import LATE, POLICY, SILENT, serving

from mpchat.server.main.workers.supervision import (
    Action,
    GiveUp,
    KeepStale,
    Kill,
    Policy,
    Start,
    Supervision,
)

# --- coming up ----------------------------------------------------------------------------------------------


def test_all_workers_are_started_at_once_and_only_once() -> None:
    supervision = Supervision(3, POLICY)
    assert supervision.plan(0.0) == [Start(0), Start(1), Start(2)]
    assert supervision.plan(0.0) == []


def test_all_serve_when_the_last_is_ready() -> None:
    supervision = Supervision(2, POLICY)
    supervision.plan(0.0)
    assert not supervision.all_serving
    supervision.ready(1, 1.0)
    assert not supervision.all_serving
    supervision.ready(0, 2.0)
    assert supervision.all_serving
    supervision.ended(1, 3.0)
    assert not supervision.all_serving


def test_a_worker_that_is_not_ready_in_time_is_killed_even_if_it_beats() -> None:
    supervision = Supervision(1, POLICY)
    supervision.plan(10.0)
    supervision.beat(0, 30.0)
    assert supervision.deadline() == 40.0
    assert supervision.plan(39.9) == []
    assert supervision.plan(40.0) == [Kill(0, LATE)]


def test_a_worker_that_is_ready_after_it_was_killed_does_not_serve() -> None:
    supervision = Supervision(1, POLICY)
    supervision.plan(0.0)
    supervision.plan(30.0)
    supervision.ready(0, 30.1)
    assert not supervision.all_serving
    supervision.ended(0, 30.2)
    assert supervision.plan(30.7) == [Start(0)]


# --- main itself stood still --------------------------------------------------------------------------------


def test_no_worker_is_killed_for_silence_while_main_stood_still() -> None:
    supervision = serving(2)
    supervision.woke(1.0)
    supervision.woke(60.0)
    assert supervision.plan(60.0) == []
    assert supervision.plan(63.9) == []


def test_a_worker_may_be_silent_for_as_long_as_it_was_told_at_its_start() -> None:
    supervision = serving(1)
    supervision.change(replace(POLICY, beat_timeout=1.0))
    assert supervision.plan(3.9) == []
    assert supervision.plan(4.0) == [Kill(0, SILENT)]
    supervision.ended(0, 4.1)
    supervision.plan(7.0)
    supervision.ready(0, 8.0)
    supervision.change(replace(POLICY, beat_timeout=2.0))
    assert supervision.plan(9.9) == []
    assert supervision.plan(10.0) == [Kill(0, SILENT)]


def test_a_worker_that_is_silent_while_main_runs_is_killed() -> None:
    supervision = serving(1)
    for tick in range(5):
        assert supervision.plan(float(tick)) == [] if tick < 4 else [Kill(0, SILENT)]
        supervision.woke(float(tick))
        assert supervision.deadline() <= tick + POLICY.check_every


# --- signs of life ------------------------------------------------------------------------------------------


def test_a_silent_worker_is_killed_once_and_replaced_when_it_has_ended() -> None:
    supervision = serving(2)
    supervision.beat(0, 3.0)
    supervision.beat(1, 1.0)
    assert supervision.deadline() == 5.0
    assert supervision.plan(4.9) == []
    assert supervision.plan(5.0) == [Kill(1, SILENT)]
    assert supervision.deadline() == 7.0
    assert supervision.plan(6.0) == []
    supervision.ended(1, 6.5)
    assert supervision.plan(6.5) == [Start(1)]


def test_being_ready_is_a_sign_of_life() -> None:
    supervision = Supervision(1, POLICY)
    supervision.plan(0.0)
    supervision.ready(0, 20.0)
    assert supervision.deadline() == 24.0


def test_a_late_beat_does_not_revive_a_killed_worker() -> None:
    supervision = serving(1)
    assert supervision.plan(4.0) == [Kill(0, SILENT)]
    supervision.beat(0, 4.1)
    assert supervision.deadline() == math.inf
    assert supervision.plan(1000.0) == []


# --- whatever happens ---------------------------------------------------------------------------------------


@dataclass
class Process:
    """A worker as the system knows it."""

    started: float
    beat: float | None = None  # None: it never was ready
    served: float | None = None
    killed: bool = False

    def due(self) -> float:
        """When it has to be killed."""
        if self.killed:
            return math.inf
        return self.started + POLICY.boot_timeout if self.beat is None else self.beat + POLICY.beat_timeout


@dataclass
class Slot:
    """What there is in one slot, and how long it may have to stay empty."""

    process: Process | None = None
    pauses: list[float] = field(default_factory=lambda: [0.0])
    free_from: float = -math.inf


SLOTS = st.integers(0, 2)
# Such as can be added up without rounding, and reach each limit exactly now and then.
SPANS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.75, 4.0, 30.0])


class Stories(RuleBasedStateMachine):
    """Workers come up, live and die as they like; the plan is held against what is needed then."""

    def __init__(self) -> None:
        super().__init__()
        # Without a bound on failed boots, which would end each story soon.
        policy = Policy(4.0, 30.0, POLICY.settled, POLICY.pause_least, POLICY.pause_most, boots=1 << 30)
        self.supervision = Supervision(3, policy)
        self.slots = [Slot() for _ in range(3)]
        self.now = 100.0

    @rule(span=SPANS)
    def plan(self, span: float) -> None:
        self.now += span
        self.follow()

    @precondition(lambda self: math.isfinite(self.supervision.deadline()))
    @rule()
    def plan_at_the_deadline(self) -> None:
        self.now = max(self.now, self.supervision.deadline())
        assert self.follow()

    @precondition(lambda self: self.now < self.supervision.deadline() < math.inf)
    @rule()
    def plan_before_the_deadline(self) -> None:
        self.now = math.nextafter(self.supervision.deadline(), 0.0)
        assert not self.follow()
        self.now = self.supervision.deadline()

    @rule(number=SLOTS)
    def be_ready(self, number: int) -> None:
        process = self.slots[number].process
        if process is not None and process.beat is None:
            self.supervision.ready(number, self.now)
            if not process.killed:
                process.beat = process.served = self.now

    @rule(number=SLOTS)
    def beat(self, number: int) -> None:
        process = self.slots[number].process
        if process is not None and process.beat is not None:
            self.supervision.beat(number, self.now)
            process.beat = self.now

    @rule(number=SLOTS, by_others=st.booleans())
    def end(self, number: int, by_others: bool = False) -> None:
        slot = self.slots[number]
        if slot.process is None:
            return
        self.supervision.ended(number, self.now, killed=by_others or slot.process.killed)
        by_others = by_others and not slot.process.killed
        settled = slot.process.served is not None and self.now - slot.process.served >= POLICY.settled
        pause = 0.0 if settled else min(POLICY.pause_most, max(POLICY.pause_least, 2 * slot.pauses[-1]))
        if by_others:
            pause = POLICY.pause_least
        slot.pauses.append(pause)
        slot.process, slot.free_from = None, self.now + pause

    @invariant()
    def the_deadline_is_that_of_what_is_due_first(self) -> None:
        due = [slot.free_from if slot.process is None else slot.process.due() for slot in self.slots]
        assert self.supervision.deadline() == min(due)

    @invariant()
    def all_serve_when_all_are_ready_and_none_is_killed(self) -> None:
        processes = [slot.process for slot in self.slots]
        expected = all(each is not None and each.beat is not None and not each.killed for each in processes)
        assert self.supervision.all_serving == expected

    def teardown(self) -> None:
        """From here on all goes well; so it ends well."""
        for _ in range(20):
            self.plan(POLICY.pause_most)
            for number, slot in enumerate(self.slots):
                if slot.process is not None and slot.process.killed:
                    self.end(number)
                self.be_ready(number)
                self.beat(number)
        assert self.supervision.all_serving

    def follow(self) -> list[Action]:
        """Do what is planned, and see that it is what is needed: no more, and nothing twice."""
        actions = self.supervision.plan(self.now)
        for number, slot in enumerate(self.slots):
            mine = [each for each in actions if not isinstance(each, GiveUp | KeepStale) and each.slot == number]
            if slot.process is None and self.now >= slot.free_from:
                assert mine == [Start(number)]
                slot.process = Process(self.now)
            elif slot.process is not None and self.now >= slot.process.due():
                assert mine == [Kill(number, LATE if slot.process.beat is None else SILENT)]
                slot.process.killed = True
            else:
                assert mine == []
        return actions


TestStories = Stories.TestCase
