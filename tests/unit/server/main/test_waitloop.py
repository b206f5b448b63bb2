"""Main's wait loop, with real pipes: which callbacks are called, and which no longer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mpchat.server.main.waitloop import READ, WRITE, WaitLoop


@pytest.fixture
def loop() -> Iterator[WaitLoop]:
    loop = WaitLoop()
    yield loop
    loop.close()


@contextmanager
def readable(count: int) -> Iterator[list[int]]:
    """So many descriptors that are ready to be read."""
    pipes = [os.pipe() for _ in range(count)]
    try:
        for _, writer in pipes:
            os.write(writer, b"x")
        yield [reader for reader, _ in pipes]
    finally:
        for pipe in pipes:
            for end in pipe:
                os.close(end)


def nothing() -> None: ...


def test_a_descriptor_that_is_ready_is_reported_after_the_waking(loop: WaitLoop) -> None:
    happened: list[object] = []
    with readable(1) as [reader]:
        loop.watch(reader, happened.append)
        loop.wait(float("inf"), lambda: happened.append("woken"))
        assert happened == ["woken", READ]
        loop.unwatch(reader)


def test_a_wait_without_events_ends_in_time(loop: WaitLoop) -> None:
    woken: list[bool] = []
    loop.wait(0.0, lambda: woken.append(True))
    loop.wait(-1.0, lambda: woken.append(True))
    assert woken == [True, True]


def test_the_watched_events_can_change(loop: WaitLoop) -> None:
    happened: list[object] = []
    reader, writer = os.pipe()
    callback = happened.append
    loop.watch(writer, callback, READ)
    loop.wait(0.0, nothing)
    assert happened == []
    loop.watch(writer, callback, WRITE)
    loop.wait(0.0, nothing)
    assert happened == [WRITE]
    loop.unwatch(writer)
    os.close(reader)
    os.close(writer)


def test_unwatch_stops_the_reports_and_may_be_repeated(loop: WaitLoop) -> None:
    happened: list[object] = []
    with readable(1) as [reader]:
        loop.watch(reader, happened.append)
        assert loop.watches(reader)
        loop.unwatch(reader)
        loop.unwatch(reader)
        assert not loop.watches(reader)
        loop.wait(0.0, nothing)
    assert happened == []


def test_an_earlier_callback_of_the_round_may_unwatch_a_later_one(loop: WaitLoop) -> None:
    called: list[int] = []
    with readable(2) as [first, second]:

        def unwatch_other(mine: int, other: int) -> None:
            called.append(mine)
            loop.unwatch(other)

        loop.watch(first, lambda events: unwatch_other(first, second))
        loop.watch(second, lambda events: unwatch_other(second, first))
        loop.wait(0.0, nothing)
        assert len(called) == 1
        loop.unwatch(called[0])


def test_an_event_of_an_old_descriptor_is_not_given_to_a_new_one_with_its_number(loop: WaitLoop) -> None:
    """The waking closes a descriptor, and its number is that of another one by the time the callbacks are called."""
    called: list[str] = []
    with readable(1) as [reader]:
        loop.watch(reader, lambda events: called.append("old"))

        def replace() -> None:
            loop.unwatch(reader)
            loop.watch(reader, lambda events: called.append("new"))

        loop.wait(0.0, replace)
        assert called == []
        loop.wait(0.0, nothing)
        assert called == ["new"]
        loop.unwatch(reader)
