"""The history keeps what a much simpler one keeps, within its bounds."""

import gc
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.state.history import History, Line

ROOMS = st.sampled_from(["lobby", "a", "b"])


class Addition(NamedTuple):
    """One call of `add`."""

    room: str
    time: int
    name: str
    texts: tuple[str, ...]
    action: bool


ADDITIONS = st.builds(
    Addition,
    ROOMS,
    st.integers(0, 99),
    st.sampled_from(["ann", "bob"]),
    st.lists(st.text("xyé", max_size=60), min_size=1, max_size=8).map(tuple),
    st.booleans(),
)
STEPS = st.lists(st.one_of(ADDITIONS, ADDITIONS, ADDITIONS, ROOMS), max_size=40)  # a room alone: it is forgotten
LIMITS = st.integers(1, 10)
BUDGETS = st.integers(300, 3000)


def lines_of(addition: Addition) -> list[Line]:
    return [Line(addition.time, addition.name, addition.action, text) for text in addition.texts]


def measure(addition: Addition) -> int:
    """What the history counts for one addition: found out by adding it to an empty one."""
    alone = History(len(addition.texts), 1 << 20)
    alone.add(*addition)
    return alone.size


class NaiveHistory:
    """The same promises by counting everything anew each time: one list of additions for all rooms."""

    def __init__(self, limit: int, budget: int) -> None:
        self.limit = limit
        self.budget = budget
        self.kept: list[Addition] = []

    def add(self, addition: Addition) -> None:
        self.kept.append(addition._replace(texts=addition.texts[-self.limit :]))
        while self._spare(addition.room) is not None:
            self.kept.remove(self._oldest(addition.room))
        while sum(map(measure, self.kept)) > self.budget:
            del self.kept[0]

    def forget(self, room: str) -> None:
        self.kept = [addition for addition in self.kept if addition.room != room]

    def last(self, room: str, count: int, most: int = 1 << 30) -> list[Line]:
        lines = [line for addition in self.kept if addition.room == room for line in lines_of(addition)]
        return lines[-min(count, self.limit) :]

    def _oldest(self, room: str) -> Addition:
        return next(addition for addition in self.kept if addition.room == room)

    def _spare(self, room: str) -> Addition | None:
        """The oldest addition of the room, if the others hold as many lines as it may have."""
        oldest = self._oldest(room)
        lines = sum(len(addition.texts) for addition in self.kept if addition.room == room)
        return oldest if lines - len(oldest.texts) >= self.limit else None


def play(history: History, step: Addition | str) -> None:
    if isinstance(step, str):
        history.forget(step)
    else:
        history.add(*step)


def assert_same(history: History, expected: Callable[[str, int], list[Line]]) -> None:
    for room in ("lobby", "a", "b", "nowhere"):
        for count in (1, 2, 5, 10, 1000):
            assert history.last(room, count, 1 << 30) == expected(room, count)


@given(LIMITS, BUDGETS, STEPS)
def test_keeps_what_the_naive_one_keeps(limit: int, budget: int, steps: list[Addition | str]) -> None:
    history, naive = History(limit, budget), NaiveHistory(limit, budget)
    for step in steps:
        play(history, step)
        if isinstance(step, str):
            naive.forget(step)
        else:
            naive.add(step)
        assert history.size == sum(map(measure, naive.kept)) <= budget
        assert_same(history, lambda room, count: naive.last(room, count, 1 << 30))


@given(LIMITS, BUDGETS, STEPS, STEPS)
def test_a_loaded_one_goes_on_alike(
    limit: int, budget: int, before: list[Addition | str], after: list[Addition | str]
) -> None:
    history, loaded = History(limit, budget), History(limit, budget)
    for step in before:
        play(history, step)
    for room, runs in history.copy_runs():
        loaded.restore(room, runs)
    loaded.finish_restoring(history.number)
    for step in after:
        play(history, step)
        play(loaded, step)
    assert list(loaded.copy_runs()) == list(history.copy_runs())
    assert loaded.number == history.number
    assert loaded.size == history.size
    assert_same(loaded, lambda room, count: history.last(room, count, 1 << 30))


@given(STEPS)
def test_without_a_limit_nothing_is_kept(steps: list[Addition | str]) -> None:
    history = History(0, 1 << 20)
    for step in steps:
        play(history, step)
    assert history.size == 0
    assert_same(history, lambda room, count: [])


def test_an_addition_over_the_budget_is_not_kept_and_harms_nothing() -> None:
    history = History(500, 1000)
    history.add("a", 1, "ann", ("small",))
    history.add("b", 2, "bob", ("x" * 2000,))
    assert history.last("b", 10, 1 << 30) == []
    history.add("a", 3, "ann", ("again",))
    assert [line.text for line in history.last("a", 10, 1 << 30)] == ["again"]


def test_short_lines_count_too() -> None:
    """The budget is about memory: a list of empty strings takes some, and so it must not pass for nothing."""
    history = History(10_000, 1 << 20)
    history.add("a", 1, "ann", ("",) * 1000)
    assert history.size > 50_000


def test_what_is_known_of_the_order_does_not_pile_up_behind_a_silent_room() -> None:
    history = History(1, 1 << 20)
    history.add("silent", 0, "ann", ("the oldest of all",))
    for time in range(10_000):
        history.add("loud", time, "bob", ("hi",))
        history.add(f"short {time}", time, "bob", ("hi",))
        history.forget(f"short {time}")
    assert len(history._oldest) < 100
    assert [line.text for line in history.last("silent", 1, 1 << 30)] == ["the oldest of all"]


def test_the_garbage_collector_has_no_work_with_what_is_kept() -> None:
    """Each of its full collections is a stall: of 0.15 s, if it had to look at each run of a full history."""
    history, loaded = History(100, 1 << 20), History(100, 1 << 20)
    for time in range(100):
        history.add("a", time, "ann", ("hi", str(time)))
    loaded.restore("a", next(history.copy_runs())[1])
    gc.collect()
    gc.collect()
    assert not any(map(gc.is_tracked, [*history._rooms["a"].runs, *loaded._rooms["a"].runs]))


def test_what_is_shown_is_bounded_in_bytes_and_is_the_newest() -> None:
    history = History(limit=100, budget=1 << 30)
    for number in range(10):
        history.add("a", number, "é" * 10, (f"{number}" * 64,))
    # Each line: 64 of text, 20 of name, 24 beside.
    assert [line.time for line in history.last("a", 10, 324)] == [7, 8, 9]
    assert history.last("a", 10, 107) == []
