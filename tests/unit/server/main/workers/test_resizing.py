"""More, fewer and fresh workers: which ones start and which ones retire, in which order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from supervised import POLICY, serving

from mpchat.server.main.workers.supervision import (
    Kill,
    Policy,
    Retire,
    Start,
    Supervision,
)

# --- more, fewer, fresh ones --------------------------------------------------------------------------------


def test_one_worker_more_is_started() -> None:
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


def test_there_is_always_one_worker() -> None:
    supervision = serving(1)
    supervision.want(0)
    assert supervision.wanted == 1
    assert supervision.plan(1.0) == []


def test_there_are_never_more_workers_than_slots() -> None:
    supervision = Supervision(1, Policy(4.0, slots=6))
    supervision.want(100)
    assert supervision.wanted == 3
    assert len(supervision.plan(0.0)) == 3


def test_a_vacant_slot_is_removed_first() -> None:
    supervision = serving(2)
    supervision.ended(0, 1.0)
    supervision.want(1)
    assert supervision.plan(1.0) == []
    assert supervision.all_serving


def test_no_worker_retires_while_another_comes_up() -> None:
    supervision = serving(2)
    supervision.want(3)
    supervision.plan(1.0)
    supervision.want(2)
    assert supervision.plan(1.5) == []
    supervision.ready(2, 2.0)
    assert supervision.plan(2.0) == [Retire(2)]


def test_a_worker_that_does_not_retire_in_time_is_killed() -> None:
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


def test_a_worker_that_hangs_while_it_retires_is_killed_earlier() -> None:
    supervision = serving(2)
    supervision.want(1)
    supervision.plan(0.0)
    supervision.beat(0, 3.0)
    assert supervision.plan(4.0) == [Kill(1, "does not retire in time")]


def test_workers_are_replaced_one_by_one_and_are_never_fewer() -> None:
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


def test_a_single_worker_is_replaced_after_its_successor_is_ready() -> None:
    supervision = serving(1)
    supervision.renew()
    assert supervision.plan(1.0) == [Start(1)]
    assert supervision.plan(1.1) == []
    supervision.ready(1, 1.2)
    assert supervision.plan(1.2) == [Retire(0)]
    supervision.ended(0, 1.3)
    assert not supervision.renewing
    assert supervision.all_serving


def test_the_death_of_a_stale_worker_counts_as_its_replacement() -> None:
    supervision = serving(1)
    supervision.renew()
    supervision.ended(0, 1.0, killed=True)
    assert supervision.plan(1.0 + POLICY.pause_least) == [Start(0)]
    supervision.ready(0, 2.0)
    assert not supervision.renewing
    assert supervision.all_serving
    assert supervision.plan(2.0) == []


def test_a_fresh_worker_that_does_not_come_up_retires_no_stale_one() -> None:
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
