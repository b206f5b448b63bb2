"""The ledger: rings and marks against what was really written to them, and torn writes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.server.ledger import SMALL, FreePages, Ledger, Mark, Page, Shape, ring_size

DEADLINE = 10.0
RING = 64
WORDS = st.integers(0, 2**64 - 1)
MARKS = st.builds(Mark, WORDS, WORDS, st.just(0))


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    ledger = Ledger(Shape(4, 2, RING))
    yield ledger
    ledger.close()


def receive(page: Page, start: int, end: int, data: bytes) -> int:
    """What `recv_into` does with the room there is; give how much was taken."""
    room = page.room(start, end)
    taken = data[: len(room)]
    room[: len(taken)] = taken
    return len(taken)


# --- the ring -----------------------------------------------------------------------------------------------


@given(
    origin=st.sampled_from([0, 1, RING - 1, 2**40 + 3]),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["receive", "apply", "rebase", "rebase small"]),
            st.one_of(st.integers(0, RING + 5), st.integers(SMALL - 5, SMALL + RING + 5)),
        ),
        max_size=60,
    ),
)
def test_the_ring_holds_input_that_is_not_applied(ledger: Ledger, origin: int, steps: list[tuple[str, int]]) -> None:
    page = ledger.page(0)
    page.clear(0)
    page.rebase(origin)
    stream = bytearray()  # the whole input since `origin`
    applied = 0
    ring_from = 0  # where the ring begins
    for step, size in steps:
        if step == "receive":
            data = bytes((len(stream) + number) % 251 for number in range(size))
            taken = receive(page, origin + applied, origin + len(stream), data)
            assert taken > 0 or not size or len(stream) - max(applied, ring_from) == RING
            stream += data[:taken]
        elif step == "apply":
            applied = min(len(stream), applied + size)
        elif applied == len(stream):
            small = step == "rebase small"
            page.rebase(origin + applied, small)
            ring_from = applied + small * SMALL
        assert page.content(origin + applied, origin + len(stream)) == stream[applied:]


def test_the_room_is_the_free_part_up_to_the_end(ledger: Ledger) -> None:
    page = ledger.page(0)
    page.clear(0)
    assert len(page.room(0, 0)) == RING
    assert len(page.room(0, 10)) == RING - 10
    assert len(page.room(10, 20)) == RING - 20
    assert len(page.room(10, RING + 5)) == 5
    assert len(page.room(10, RING + 10)) == 0
    page.rebase(20)
    assert len(page.room(20, 20)) == RING


def test_a_full_ring_has_no_room(ledger: Ledger) -> None:
    """As for a session that is over, whose input nobody has applied up to any position."""
    page = ledger.page(0)
    for base in range(1, RING):
        for small in (False, True):
            page.rebase(base, small)
            first = base + small * SMALL
            assert [len(page.room(0, end)) for end in range(first + RING, first + 4 * RING)] == [0] * (3 * RING)


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_a_client_that_sends_little_takes_little_memory() -> None:
    ledger = Ledger(Shape(1000, 2, 1 << 14))
    try:
        for number in range(1000):
            page = ledger.page(number)
            page.rebase(0, small=True)
            page.room(0, 0)[:] = b"x" * SMALL
        assert os.fstat(ledger.descriptors[0]).st_blocks * 512 <= 1000 * 512 + 2 * 4096
    finally:
        ledger.close()


def test_pages_do_not_touch_each_other(ledger: Ledger) -> None:
    pages = [ledger.page(number) for number in range(ledger.shape.pages)]
    for number, page in enumerate(pages):
        page.clear(number)
        page.rebase(number)
        page.room(number, number)[:] = bytes([number]) * RING
        page.write_mark(Mark(number, number + 1))
    ledger.set_sweep_mark(0, 2**64 - 1)
    ledger.set_sweep_mark(1, 77)
    for number, page in enumerate(pages):
        assert page.content(number, number + RING) == bytes([number]) * RING
        assert page.read_mark() == Mark(number, number + 1)
        assert page.behind
    assert [ledger.sweep_mark(worker) for worker in (0, 1)] == [2**64 - 1, 77]


def test_room_for_many_clients_takes_no_memory() -> None:
    ledger = Ledger(Shape(1 << 16, 512, 1 << 14))
    try:
        free = FreePages(1 << 16)
        for number in (free.take(), free.take()):
            ledger.page(number).clear(0)
        assert sum(os.fstat(each).st_blocks * 512 for each in ledger.descriptors) <= 2 * 4096
    finally:
        ledger.close()


@given(st.data())
def test_freed_pages_are_used_first(data: st.DataObject) -> None:
    """Each page has one owner at a time, and those in use are among the first."""
    count = data.draw(st.integers(1, 8))
    taken = data.draw(st.sets(st.integers(0, count - 1)))
    free = FreePages(count, taken)
    most = max(taken, default=-1) + 1
    for takes in data.draw(st.lists(st.booleans())):
        if not takes and taken:
            free.leave(taken.pop())
        elif len(taken) == count:
            with pytest.raises(IndexError):
                free.take()
        else:
            number = free.take()
            assert number not in taken
            taken.add(number)
            most = max(most, len(taken))
            assert number < most


@pytest.mark.parametrize("max_line", [1, 512, 4096, 5000, 1 << 20])
def test_the_ring_is_a_power_of_two_with_room_for_the_longest_wait(max_line: int) -> None:
    size = ring_size(max_line)
    assert size & (size - 1) == 0
    # What waits for the end of a line is up to twice the longest, and a quarter may wait to be told.
    assert size - size // 4 > 2 * max_line


# --- marks --------------------------------------------------------------------------------------------------


class Recorder:
    """A header that remembers how it looked after each store of a word."""

    def __init__(self) -> None:
        self.words = [0] * 10
        self.states: list[list[int]] = []

    def __getitem__(self, number: int) -> int:
        return self.words[number]

    def __setitem__(self, number: int, value: int) -> None:
        self.words[number] = value
        self.states.append(list(self.words))


class NoCarry:
    """For pages of which nothing is carried."""

    def free(self, half: int, size: int) -> None:
        pass

    def write(self, half: int, data: bytes) -> None:
        pass


@given(marks=st.lists(MARKS, min_size=2, max_size=5))
def test_a_mark_is_the_old_or_the_new_one_when_its_writer_dies(marks: list[Mark]) -> None:
    recorder, carry = cast(Any, Recorder()), cast(Any, NoCarry())
    page = Page(recorder, memoryview(b""), memoryview(bytearray(RING)), carry)
    page.write_mark(marks[0])
    for before, after in pairwise(marks):
        recorder.states.clear()
        page.write_mark(after)
        assert len(recorder.states) == 4  # three words, and the one that makes them valid
        empty = memoryview(b"")
        found = [Page(cast(Any, state), empty, empty, carry).read_mark() for state in recorder.states]
        assert found == [before] * 3 + [after]


@given(marks=st.lists(MARKS, min_size=1))
def test_the_last_mark_holds(ledger: Ledger, marks: list[Mark]) -> None:
    page = ledger.page(1)
    for mark in marks:
        page.write_mark(mark)
        assert page.read_mark() == mark
        assert ledger.page(1).read_mark() == mark


def test_a_cleared_page_holds_nothing_of_its_last_client(ledger: Ledger) -> None:
    page = ledger.page(0)
    page.rebase(1000)
    page.write_mark(Mark(5, 500))
    page.behind = False
    page.clear(9)
    assert page.read_mark() == Mark(9, 0)
    assert page.behind
    assert len(page.room(0, 0)) == RING


@pytest.mark.parametrize(
    ("behind", "swept", "settled"),
    [
        (False, 30, Mark(30, 100)),  # the mark for all says more than its own
        (False, 10, Mark(20, 100)),  # its own is newer: the worker died in the middle of a sweep
        (False, 20, Mark(20, 100)),
        (True, 30, Mark(20, 100)),  # the mark for all does not speak of it
        (True, 10, Mark(20, 100)),
    ],
)
def test_a_page_tells_the_state_of_a_dead_workers_client(
    ledger: Ledger, behind: bool, swept: int, settled: Mark
) -> None:
    page = ledger.page(0)
    page.clear(0)
    page.write_mark(Mark(20, 100))
    page.behind = behind
    page.settle(swept)
    assert page.read_mark() == settled
    assert page.behind
    # The next worker's mark for all says nothing of it before that worker has marked it itself.
    page.settle(1000)
    assert page.read_mark() == settled


def test_a_settled_page_keeps_its_carry(ledger: Ledger) -> None:
    """The worker that it was handed to died before it could carry on."""
    page = ledger.page(0)
    page.clear(0)
    page.release(20, 100, b"unsent")
    page.settle(30)
    assert page.read_mark() == Mark(20, 100, 6)
    assert page.carried() == b"unsent"
    page.clear(0)


# --- the notice ---------------------------------------------------------------------------------------------


def test_a_notice_holds_until_there_is_a_mark_behind_it(ledger: Ledger) -> None:
    page = ledger.page(0)
    page.clear(0)
    assert page.read_notice() is None
    page.write_notice(0)
    assert page.read_notice() == 0, "who has been told nothing else can be told this"
    page.write_mark(Mark(1, 30))
    assert page.read_notice() is None
    page.write_notice(30)
    page.write_mark(Mark(2, 30))
    assert page.read_notice() == 30, "a mark that ends where the notice begins does not speak of it"
    page.behind = True
    assert page.read_notice() == 30
    page.write_mark(Mark(2, 60))
    page.behind = False
    assert page.read_notice() is None
    assert not page.behind


def test_the_workers_common_mark_does_not_count_for_a_client_with_a_notice(ledger: Ledger) -> None:
    page = ledger.page(0)
    page.clear(0)
    page.write_mark(Mark(20, 100))
    page.behind = False
    page.write_notice(100)
    assert page.behind
    page.settle(30)
    assert page.read_mark() == Mark(20, 100)
    assert page.read_notice() == 100
    # One that has died as well, before it could carry on.
    page.settle(40)
    assert page.read_mark() == Mark(20, 100)
    assert page.read_notice() == 100


def test_a_page_that_is_given_back_has_its_notice_in_the_carry(ledger: Ledger) -> None:
    page = ledger.page(0)
    page.clear(0)
    page.write_mark(Mark(20, 100))
    page.write_notice(100)
    page.release(20, 107, b"notice\n")
    assert page.read_notice() is None
    assert page.carried() == b"notice\n"
    page.clear(0)
    assert page.read_notice() is None


@given(
    position=st.integers(0, 2**63),
    behind=st.booleans(),
    step=st.sampled_from(["written", "half written", "marked", "given back", "settled"]),
)
def test_a_page_with_a_notice_is_consistent_when_its_writer_dies(position: int, behind: bool, step: str) -> None:
    """At each store: there is a notice that ends behind the mark, or a mark behind the notice; and as long as there is
    no such mark, the mark for all is not for this client."""
    recorder, carry = cast(Any, Recorder()), cast(Any, NoCarry())
    empty = memoryview(b"")
    page = Page(recorder, empty, empty, carry)
    page.write_mark(Mark(7, position))
    page.behind = behind
    recorder.states.clear()
    page.write_notice(position)
    assert len(recorder.states) == 1
    end = Mark(7, position + 10)
    match step:
        case "half written":
            page.behind = True
        case "marked":
            page.write_mark(end)
            page.behind = False
        case "given back":
            page.release(7, position + 10, b"")
        case "settled":
            page.settle(9)
    for state in recorder.states:
        found = Page(cast(Any, state), empty, empty, carry)
        notice, mark = found.read_notice(), found.read_mark()
        assert (notice, mark) in [(position, Mark(7, position)), (None, end)]
        assert found.behind or mark == end


# --- the carry ----------------------------------------------------------------------------------------------


def taken(ledger: Ledger) -> int:
    """Bytes of memory that the carry takes."""
    return os.fstat(ledger.descriptors[1]).st_blocks * 512


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=10_000)), min_size=1, max_size=8))
def test_the_carry_holds_until_the_next_mark(ledger: Ledger, steps: list[tuple[int, bytes]]) -> None:
    pages = [ledger.page(number) for number in range(4)]
    for page in pages:
        page.clear(0)
    left = dict.fromkeys(range(4), b"")
    for seq, (number, unsent) in enumerate(steps, 1):
        pages[number].release(seq, 50_000 + seq, unsent)
        left[number] = unsent
        assert pages[number].read_mark() == Mark(seq, 50_000 + seq, len(unsent))
        assert [page.carried() for page in pages] == list(left.values())
    for number, page in enumerate(pages):
        if number % 2:
            page.write_mark(Mark(100, 60_000))
        else:
            page.clear(100)
        assert page.carried() == b""
    assert sys.platform != "linux" or not taken(ledger)


def test_the_old_carry_holds_until_the_new_mark_is_complete(ledger: Ledger) -> None:
    """The worker dies after it has written what it leaves, and before it has said so."""
    page = ledger.page(0)
    page.clear(0)
    page.release(5, 100, b"the old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Page, "write_mark", lambda self, mark: None)
        page.release(6, 200, b"another one")
    assert page.read_mark() == Mark(5, 100, 7)
    assert page.carried() == b"the old"
    page.clear(0)


# --- memory --------------------------------------------------------------------------------------------------


def test_a_page_that_is_still_held_outlives_the_close() -> None:
    ledger = Ledger(Shape(1, 1, RING))
    page = ledger.page(0)
    ledger.close()
    page.write_mark(Mark(1, 2))
    assert page.read_mark() == Mark(1, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_memory_is_taken_only_where_it_is_written_to() -> None:
    ledger = Ledger(Shape(1000, 1, 1 << 20))
    try:
        ledger.page(500).room(0, 0)[:10] = b"0123456789"
        assert os.fstat(ledger.descriptors[0]).st_blocks * 512 <= 1 << 20
        assert os.fstat(ledger.descriptors[0]).st_size > 1000 << 20
    finally:
        ledger.close()
