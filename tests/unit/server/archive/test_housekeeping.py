"""What is deleted, when, and that a clock that jumps deletes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.archive.database import EXPIRE_LINES, Database, Line, Place, Wish, open_database
from mpchat.chat.entries import Entry, Forgot, decode_entries
from mpchat.log.local.memory import MemoryLog
from mpchat.server.archive.housekeeping import DAY, EXPIRE_EVERY, GRACE, LOOK_EVERY, Horizon, Housekeeping

KEEP = 10 * DAY
TODAY = 20_000 * DAY


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(tmp_path)) as database:
        yield database


def lines(count: int, time: int, name: str = "Alice", room: str = "lobby") -> list[Line]:
    return [Line(room, time, name, name.casefold(), f"{number}") for number in range(count)]


def published(log: MemoryLog) -> list[Entry]:
    return [entry for record in log.read(0, 0) for entry in decode_entries(record.payload)]


def run(housekeeping: Housekeeping, now: float, wall: int = TODAY, position: int = 1 << 30) -> int:
    """Take the steps that are due until there are none; return how many."""
    steps = 0
    while housekeeping.deadline <= now:
        housekeeping.advance(now, wall, position)
        steps += 1
    return steps


# --- wishes


def test_a_wish_is_granted_when_memory_has_forgotten_and_then_the_database(database: Database) -> None:
    log = MemoryLog()
    database.write(Place("log", 1, TODAY), lines(EXPIRE_LINES + 1, TODAY) + lines(1, TODAY, "Bob"))
    housekeeping = Housekeeping(log, database, 0)
    wish = Wish("name", "alice")
    database.wish(wish)
    run(housekeeping, 0.0, position=0)
    assert published(log) == [Forgot("name", "alice")]
    # The archive has not read that far.
    run(housekeeping, LOOK_EVERY, position=0)
    assert (database.count().lines, database.list_wishes()) == (EXPIRE_LINES + 2, [wish])
    steps = run(housekeeping, 2 * LOOK_EVERY, position=1)
    assert steps >= 3, "in small transactions"
    assert ([line.name for line in database.read_lines()], database.list_wishes()) == (["Bob"], [])
    assert len(published(log)) == 1


def test_a_wish_that_was_half_granted_is_granted_by_the_next_archive(database: Database) -> None:
    log = MemoryLog()
    database.write(Place("log", 1, TODAY), lines(EXPIRE_LINES + 1, TODAY, room="a"))
    database.wish(Wish("room", "a"))
    before = Housekeeping(log, database, 0)
    before.advance(0.0, TODAY, 0)
    before.advance(1.0, TODAY, 1)
    assert database.count().lines == 1
    after = Housekeeping(log, database, 0)
    run(after, 0.0)
    run(after, LOOK_EVERY)
    assert (database.count().lines, database.count().rooms, database.list_wishes()) == (0, 0, [])
    assert published(log) == 2 * [Forgot("room", "a")]


def test_wishes_are_granted_one_after_the_other(database: Database) -> None:
    log = MemoryLog()
    for key in ("a", "b"):
        database.wish(Wish("name", key))
    housekeeping = Housekeeping(log, database, 0)
    for now in range(6):
        run(housekeeping, float(now))
    assert (published(log), database.list_wishes()) == ([Forgot("name", "a"), Forgot("name", "b")], [])


# --- lines that are too old


def test_lines_that_are_too_old_are_deleted_in_small_transactions_and_from_memory(database: Database) -> None:
    log = MemoryLog()
    database.write(
        Place("log", 1, TODAY), lines(2 * EXPIRE_LINES + 1, TODAY - KEEP - 1) + lines(1, TODAY - KEEP) + lines(1, TODAY)
    )
    housekeeping = Housekeeping(log, database, KEEP)
    assert run(housekeeping, 0.0) >= 4
    assert [line.time for line in database.read_lines()] == [TODAY - KEEP, TODAY]
    assert published(log) == [Forgot("before", str(TODAY - KEEP))]
    run(housekeeping, EXPIRE_EVERY + LOOK_EVERY)
    assert len(published(log)) == 1, "nothing is published when there is nothing to delete"


def test_without_that_all_lines_stay(database: Database) -> None:
    log = MemoryLog()
    database.write(Place("log", 1, TODAY), lines(1, 1))
    housekeeping = Housekeeping(log, database, 0)
    for now in range(0, 10_000, 100):
        run(housekeeping, float(now))
    assert (database.count().lines, published(log)) == (1, [])


def test_after_trouble_it_tries_again_later(database: Database) -> None:
    housekeeping = Housekeeping(MemoryLog(), database, 0)
    housekeeping.postpone(5.0)
    assert housekeeping.deadline == 5.0 + EXPIRE_EVERY


# --- the horizon


def test_a_clock_that_jumps_forward_and_is_set_right_in_time_deletes_nothing() -> None:
    horizon = Horizon(KEEP, known=TODAY)
    jumped = TODAY + 3650 * DAY
    for now in range(0, int(GRACE), 60):
        assert horizon.move(float(now), jumped + now * 1000, jumped + now * 1000) <= TODAY - KEEP
    assert horizon.move(GRACE, TODAY + 3_600_000, jumped) <= TODAY + 3_600_000 - KEEP


def test_a_server_in_which_nobody_talks_keeps_its_last_lines() -> None:
    horizon = Horizon(KEEP, known=TODAY)
    for hour in range(24 * 30):
        assert horizon.move(hour * 3600.0, TODAY + hour * 3_600_000, TODAY) == TODAY - KEEP


def test_it_follows_the_clock_two_hours_late_at_most() -> None:
    horizon = Horizon(KEEP, known=0)
    for minute in range(24 * 60):
        now, wall = minute * 60.0, TODAY + minute * 60_000
        moment = horizon.move(now, wall, wall)
        if now >= 2 * GRACE:
            assert wall - KEEP - 2 * GRACE * 1000 <= moment <= wall - KEEP - GRACE * 1000


@given(
    st.lists(st.tuples(st.floats(0, 2 * GRACE), st.integers(0, 2 * TODAY), st.integers(0, 2 * TODAY)), max_size=30),
    st.integers(0, TODAY),
)
def test_it_is_never_later_than_any_clock_less_what_is_kept(steps: list[tuple[float, int, int]], known: int) -> None:
    horizon, now = Horizon(KEEP, known), 0.0
    for pause, wall, newest in steps:
        now += pause
        assert horizon.move(now, wall, newest) <= min(wall, newest) - KEEP
