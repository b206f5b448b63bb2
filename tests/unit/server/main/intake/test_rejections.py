"""Rejections: each address has a line now and then, however often it comes, and no rejection is left uncounted."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mpchat.server.main.intake.rejections import INTERVAL, MOST, OTHERS, Rejections


def test_the_first_rejection_is_logged_and_the_others_are_counted() -> None:
    rejections = Rejections()
    assert [rejections.add("192.0.2.1", now) for now in (0.0, 1.0, 2.0)] == [True, False, False]
    assert rejections.add("192.0.2.2", 3.0)
    assert list(rejections.take(INTERVAL - 0.1)) == []
    assert list(rejections.take(INTERVAL)) == [("192.0.2.1", 2)]
    assert rejections.add("192.0.2.1", INTERVAL)


def test_one_rejection_has_one_line() -> None:
    rejections = Rejections()
    rejections.add("192.0.2.1", 0.0)
    assert list(rejections.take(INTERVAL)) == []
    assert rejections.deadline() == float("inf")


def test_the_deadline_is_that_of_the_first() -> None:
    rejections = Rejections()
    assert rejections.deadline() == float("inf")
    rejections.add("192.0.2.1", 1.0)
    rejections.add("192.0.2.2", 2.0)
    rejections.add("192.0.2.1", 3.0)
    assert rejections.deadline() == 1.0 + INTERVAL


def test_one_ipv6_network_counts_as_one_address() -> None:
    rejections = Rejections()
    assert rejections.add("2001:db8::1", 0.0)
    assert not rejections.add("2001:db8::2", 0.0)
    assert list(rejections.take(INTERVAL)) == [("2001:db8::/64", 1)]


def test_many_addresses_do_not_fill_the_memory_or_the_log() -> None:
    rejections = Rejections()
    logged = [rejections.add(f"10.0.{number // 256}.{number % 256}", 0.0) for number in range(MOST + 500)]
    assert logged == [True] * MOST + [False] * 500
    assert list(rejections.take(INTERVAL)) == [(OTHERS, 500)]
    assert rejections.deadline() == float("inf")


@given(st.lists(st.tuples(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"]), st.floats(0, INTERVAL))))
def test_every_rejection_is_logged_or_counted_once(steps: list[tuple[str, float]]) -> None:
    rejections, now = Rejections(), 0.0
    came: Counter[str] = Counter()
    told: Counter[str] = Counter()

    def take() -> None:
        for key, count in rejections.take(now):
            told[key.replace("::/64", "::1")] += count

    for address, pause in steps:
        now += pause
        take()
        came[address] += 1
        told[address] += rejections.add(address, now)
    now += INTERVAL
    take()
    assert told == came
