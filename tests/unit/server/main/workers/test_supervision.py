"""The policy of the supervisor: what it says at which time, for stories told event by event and for any at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mpchat.server.main.workers.supervision import (
    Action,
    GiveUp,
    KeepStale,
    Kill,
    Policy,
    Retire,
    Start,
    Supervision,
)

POLICY = Policy(beat_timeout=4.0, boot_timeout=30.0, settled=5.0, pause_least=0.5, pause_most=3.0, boots=3)
LATE = "is not ready in time"
SILENT = "does not answer"


def serving(workers: int, now: float = 0.0) -> Supervision:
    """So many workers, all started and ready at `now`."""
    supervision = Supervision(workers, POLICY)
    assert supervision.plan(now) == [Start(number) for number in range(workers)]
    for number in range(workers):
        supervision.ready(number, now)
    return supervision


def fail_boot(supervision: Supervision, number: int, now: float) -> Action:
    """The worker of this slot ends; give what is planned when the longest pause is over."""
    supervision.ended(number, now)
    [action] = supervision.plan(now + POLICY.pause_most)
    return action


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


def test_who_is_not_ready_in_time_is_killed_whether_or_not_it_gives_signs_of_life() -> None:
    supervision = Supervision(1, POLICY)
    supervision.plan(10.0)
    supervision.beat(0, 30.0)
    assert supervision.deadline() == 40.0
    assert supervision.plan(39.9) == []
    assert supervision.plan(40.0) == [Kill(0, LATE)]


def test_who_is_ready_only_after_it_was_killed_does_not_serve() -> None:
    supervision = Supervision(1, POLICY)
    supervision.plan(0.0)
    supervision.plan(30.0)
    supervision.ready(0, 30.1)
    assert not supervision.all_serving
    supervision.ended(0, 30.2)
    assert supervision.plan(30.7) == [Start(0)]


# --- main itself stood still --------------------------------------------------------------------------------


def test_nobody_is_killed_for_silence_while_main_stood_still() -> None:
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


def test_who_is_silent_while_main_runs_is_killed() -> None:
    supervision = serving(1)
    for tick in range(5):
        assert supervision.plan(float(tick)) == [] if tick < 4 else [Kill(0, SILENT)]
        supervision.woke(float(tick))
        assert supervision.deadline() <= tick + POLICY.check_every


# --- signs of life ------------------------------------------------------------------------------------------


def test_who_gives_no_sign_of_life_is_killed_once_and_replaced_when_it_has_ended() -> None:
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


def test_a_beat_that_was_under_way_does_not_bring_back_who_was_killed() -> None:
    supervision = serving(1)
    assert supervision.plan(4.0) == [Kill(0, SILENT)]
    supervision.beat(0, 4.1)
    assert supervision.deadline() == math.inf
    assert supervision.plan(1000.0) == []


# --- pauses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("served", "pause"), [(5.0, 0.0), (4.9, 0.5), (0.0, 0.5)])
def test_who_served_for_a_while_is_replaced_at_once_and_who_did_not_after_a_pause(served: float, pause: float) -> None:
    supervision = serving(1)
    supervision.ended(0, served)
    assert supervision.deadline() == served + pause
    assert supervision.plan(served + pause) == [Start(0)]


def test_the_pause_doubles_up_to_the_most_and_is_forgotten_when_one_has_served() -> None:
    supervision = serving(1)
    now, pauses = 0.0, []
    for _ in range(5):
        supervision.ended(0, now)
        pauses.append(supervision.deadline() - now)
        now = supervision.deadline()
        supervision.plan(now)
        supervision.ready(0, now)
    assert pauses == [0.5, 1.0, 2.0, 3.0, 3.0]
    supervision.ended(0, now + 5.0)
    assert supervision.plan(now + 5.0) == [Start(0)]
    supervision.ended(0, now + 5.0)
    assert supervision.deadline() == now + 5.5


@pytest.mark.parametrize("served", [0.0, 4.9, 5.0])
def test_who_was_killed_by_others_is_replaced_after_the_least_pause_each_time(served: float) -> None:
    supervision = serving(1)
    now = 0.0
    for _ in range(5):
        now += served
        supervision.ended(0, now, killed=True)
        assert supervision.deadline() == now + POLICY.pause_least
        now = supervision.deadline()
        assert supervision.plan(now) == [Start(0)]
        supervision.ready(0, now)


def test_who_is_killed_by_others_again_and_again_before_it_is_ready_is_no_boot_loop() -> None:
    supervision = Supervision(1, POLICY)
    now = 0.0
    for _ in range(3 * POLICY.boots):
        assert supervision.plan(now) == [Start(0)]
        supervision.ended(0, now, killed=True)
        now += POLICY.pause_least


def test_who_had_to_be_killed_by_us_has_failed() -> None:
    supervision = Supervision(1, POLICY)
    now = 0.0
    for _ in range(POLICY.boots):
        assert supervision.plan(now) == [Start(0)]
        now += POLICY.boot_timeout
        assert supervision.plan(now) == [Kill(0, LATE)]
        supervision.ended(0, now, killed=True)
        now += POLICY.pause_most
    assert isinstance(supervision.plan(now)[0], GiveUp)


def test_the_pause_of_one_slot_is_not_that_of_another() -> None:
    supervision = serving(2)
    supervision.ended(0, 1.0)
    supervision.ended(1, 1.2)
    assert supervision.plan(1.5) == [Start(0)]
    assert supervision.plan(1.6) == []
    assert supervision.plan(1.7) == [Start(1)]


# --- the boot loop ------------------------------------------------------------------------------------------


def test_when_none_comes_up_in_so_many_rounds_it_gives_up() -> None:
    supervision = Supervision(2, POLICY)
    supervision.plan(0.0)
    for now, number in ((1.0, 0), (5.0, 0), (9.0, 1), (13.0, 1), (17.0, 0)):
        assert fail_boot(supervision, number, now) == Start(number)
    assert isinstance(fail_boot(supervision, 1, 21.0), GiveUp)
    assert [type(action) for action in supervision.plan(30.0)] == [GiveUp]


def test_one_that_comes_up_starts_the_count_anew() -> None:
    supervision = Supervision(1, POLICY)
    supervision.plan(0.0)
    for now in (1.0, 5.0):
        assert fail_boot(supervision, 0, now) == Start(0)
    supervision.ready(0, 9.0)
    # It ends after it was ready, which is no failed boot, though its successor has to wait.
    for now in (10.0, 14.0, 18.0):
        assert fail_boot(supervision, 0, now) == Start(0)
    assert isinstance(fail_boot(supervision, 0, 22.0), GiveUp)


def test_who_was_killed_for_not_being_ready_counts_as_failed() -> None:
    supervision = Supervision(1, POLICY)
    supervision.plan(0.0)
    for now in (100.0, 200.0):
        assert supervision.plan(now) == [Kill(0, LATE)]
        assert fail_boot(supervision, 0, now) == Start(0)
    assert supervision.plan(300.0) == [Kill(0, LATE)]
    assert isinstance(fail_boot(supervision, 0, 300.0), GiveUp)


def test_a_server_that_serves_never_gives_up() -> None:
    supervision = serving(1)
    supervision.keep_trying()
    for number in range(100):
        assert fail_boot(supervision, 0, 10.0 * number) == Start(0)


def test_no_worker_is_started_while_none_can_come_up() -> None:
    supervision = serving(2)
    supervision.ended(0, 1.0, killed=True)
    assert supervision.plan(2.0, may_start=False) == []
    # Nothing to wake up for but the other one's beat.
    assert supervision.deadline(may_start=False) == 4.0
    assert supervision.deadline() <= 2.0
    assert supervision.plan(2.0) == [Start(0)]


def test_fresh_workers_that_do_not_come_up_leave_the_stale_ones_in_place() -> None:
    supervision = serving(2)
    supervision.keep_trying()
    supervision.renew()
    assert supervision.plan(1.0) == [Start(2)]
    now = 1.0
    for _ in range(POLICY.boots - 1):
        supervision.beat(0, now)
        supervision.beat(1, now)
        assert fail_boot(supervision, 2, now) == Start(2)
        now += POLICY.pause_most
    supervision.beat(0, now)
    supervision.beat(1, now)
    kept = fail_boot(supervision, 2, now)
    assert isinstance(kept, KeepStale)
    assert not supervision.renewing
    assert supervision.all_serving
    # The next try starts to count anew.
    supervision.renew()
    assert supervision.plan(now) == [Start(2)]


def test_it_rests_when_some_serve_and_a_vacancy_cannot_be_filled() -> None:
    supervision = serving(2)
    assert supervision.resting
    supervision.ended(0, 1.0)
    assert supervision.resting and not supervision.all_serving
    assert supervision.plan(9.0)[0] == Start(0)
    assert not supervision.resting
    supervision.ended(0, 10.0)
    supervision.ended(1, 10.0)
    assert not supervision.resting


# --- more, fewer, fresh ones --------------------------------------------------------------------------------


def test_one_more_is_started_and_all_serve_when_it_is_ready() -> None:
    supervision = serving(2)
    supervision.want(3)
    assert not supervision.all_serving
    assert supervision.plan(1.0) == [Start(2)]
    supervision.ready(2, 1.5)
    assert supervision.all_serving


def test_the_newest_retires_when_fewer_are_wanted_and_leaves_no_vacancy() -> None:
    supervision = serving(3)
    supervision.want(1)
    assert supervision.plan(1.0) == [Retire(2), Retire(1)]
    for number in (1, 2):
        supervision.ended(number, 1.5)
    assert supervision.all_serving
    assert supervision.plan(2.0) == []


def test_there_is_always_one() -> None:
    supervision = serving(1)
    supervision.want(0)
    assert supervision.wanted == 1
    assert supervision.plan(1.0) == []


def test_there_are_never_more_than_there_is_room_for() -> None:
    supervision = Supervision(1, Policy(4.0, slots=6))
    supervision.want(100)
    assert supervision.wanted == 3
    assert len(supervision.plan(0.0)) == 3


def test_a_vacancy_is_the_first_to_go() -> None:
    supervision = serving(2)
    supervision.ended(0, 1.0)
    supervision.want(1)
    assert supervision.plan(1.0) == []
    assert supervision.all_serving


def test_nobody_retires_while_another_comes_up() -> None:
    supervision = serving(2)
    supervision.want(3)
    supervision.plan(1.0)
    supervision.want(2)
    assert supervision.plan(1.5) == []
    supervision.ready(2, 2.0)
    assert supervision.plan(2.0) == [Retire(2)]


def test_who_does_not_retire_in_time_is_killed() -> None:
    supervision = serving(2)
    supervision.want(1)
    assert supervision.plan(0.0) == [Retire(1)]
    for now in (3.0, 6.0, 9.0):
        supervision.beat(0, now)
        supervision.beat(1, now)
    assert supervision.plan(9.9) == []
    assert supervision.plan(10.0) == [Kill(1, "does not retire in time")]
    supervision.ended(1, 10.5, killed=True)
    assert supervision.plan(10.6) == []


def test_who_hangs_while_it_retires_is_killed_earlier() -> None:
    supervision = serving(2)
    supervision.want(1)
    supervision.plan(0.0)
    supervision.beat(0, 3.0)
    assert supervision.plan(4.0) == [Kill(1, "does not retire in time")]


def test_all_are_replaced_one_by_one_and_there_are_never_fewer() -> None:
    supervision = serving(2)
    supervision.renew()
    story = []
    now = 1.0
    while supervision.renewing:
        for action in supervision.plan(now):
            story.append(action)
            if isinstance(action, Start):
                supervision.ready(action.slot, now)
            elif isinstance(action, Retire):
                supervision.ended(action.slot, now)
        now += 0.1
    assert story == [Start(2), Retire(1), Start(1), Retire(0)]
    assert supervision.all_serving


def test_a_single_one_is_replaced_by_another_beside_it() -> None:
    supervision = serving(1)
    supervision.renew()
    assert supervision.plan(1.0) == [Start(1)]
    assert supervision.plan(1.1) == []
    supervision.ready(1, 1.2)
    assert supervision.plan(1.2) == [Retire(0)]
    supervision.ended(0, 1.3)
    assert not supervision.renewing
    assert supervision.all_serving


def test_who_dies_when_it_was_to_be_replaced_is_replaced_by_that() -> None:
    supervision = serving(1)
    supervision.renew()
    supervision.ended(0, 1.0, killed=True)
    assert supervision.plan(1.0 + POLICY.pause_least) == [Start(0)]
    supervision.ready(0, 2.0)
    assert not supervision.renewing
    assert supervision.all_serving
    assert supervision.plan(2.0) == []


def test_a_fresh_one_that_does_not_come_up_costs_no_old_one() -> None:
    supervision = serving(2)
    supervision.renew()
    assert supervision.plan(0.5) == [Start(2)]
    supervision.ended(2, 1.0)
    assert supervision.plan(1.1) == []
    assert supervision.plan(1.0 + POLICY.pause_least) == [Start(2)]


class Changes(RuleBasedStateMachine):
    """More, fewer and fresh workers are asked for, and workers come, go and die as they like; all comes right."""

    def __init__(self) -> None:
        super().__init__()
        self.supervision = Supervision(2, Policy(1e9, boots=1 << 30, pause_least=0.5, pause_most=2.0, slots=12))
        self.now = 0.0
        self.booting: set[int] = set()
        self.serving: set[int] = set()
        self.retiring: set[int] = set()

    @rule(span=st.sampled_from([0.0, 0.25, 0.5, 2.0]))
    def plan(self, span: float) -> None:
        self.now += span
        for action in self.supervision.plan(self.now):
            if isinstance(action, Start):
                assert action.slot not in self.booting | self.serving | self.retiring
                self.booting.add(action.slot)
            elif isinstance(action, Retire):
                # Who stays is enough, and serves.
                assert not self.booting
                self.serving.remove(action.slot)
                self.retiring.add(action.slot)
                assert len(self.serving) >= self.supervision.wanted
            else:
                assert isinstance(action, Kill)
                self.end(action.slot, killed=True)

    @rule(workers=st.integers(0, 8))
    def want(self, workers: int) -> None:
        self.supervision.want(workers)

    @rule()
    def renew(self) -> None:
        self.supervision.renew()

    @precondition(lambda self: self.booting)
    @rule()
    def be_ready(self) -> None:
        number = min(self.booting)
        self.booting.remove(number)
        self.serving.add(number)
        self.supervision.ready(number, self.now)

    @rule(number=st.integers(0, 11), killed=st.booleans())
    def die(self, number: int, killed: bool) -> None:
        if number in self.booting | self.serving | self.retiring:
            self.end(number, killed)

    def end(self, number: int, killed: bool) -> None:
        for having in (self.booting, self.serving, self.retiring):
            having.discard(number)
        self.supervision.ended(number, self.now, killed)

    @invariant()
    def there_are_not_many_more_than_wanted(self) -> None:
        assert len(self.booting | self.serving | self.retiring) <= 12

    def teardown(self) -> None:
        """From here on all goes well."""
        for _ in range(60):
            self.plan(2.0)
            for number in list(self.retiring):
                self.end(number, killed=False)
            while self.booting:
                self.be_ready()
        assert self.supervision.all_serving
        assert not self.supervision.renewing
        assert len(self.serving) == self.supervision.wanted


TestChanges = Changes.TestCase


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
