"""Admission: who may come in, with how many others, from where."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.problems import Problem, Refusal
from mpchat.config import LOOPBACK
from mpchat.server.main.intake.admission import Admission


def refused(admission: Admission, address: str) -> tuple[Problem, str] | None:
    """Why somebody from there may not come in; None when they are in."""
    try:
        admission.admit(address)
    except Refusal as refusal:
        return refusal.problem, refusal.about
    return None


def test_a_full_server_tells_its_limit_and_admits_one_when_one_has_left() -> None:
    admission = Admission(2, 0, LOOPBACK)
    admission.admit("192.0.2.1")
    admission.admit("127.0.0.1")
    assert refused(admission, "192.0.2.2") == (Problem.SERVER_FULL, "2")
    assert admission.clients == 2
    admission.leave("192.0.2.1")
    assert admission.clients == 1
    assert refused(admission, "192.0.2.2") is None


def test_the_limit_of_one_address_does_not_affect_another() -> None:
    admission = Admission(100, 2, LOOPBACK)
    admission.admit("192.0.2.1")
    admission.admit("192.0.2.1")
    assert refused(admission, "192.0.2.1") == (Problem.ADDRESS_FULL, "2")
    assert admission.clients == 2
    assert refused(admission, "192.0.2.2") is None
    admission.leave("192.0.2.1")
    assert refused(admission, "192.0.2.1") is None
    assert refused(admission, "192.0.2.1") == (Problem.ADDRESS_FULL, "2")


def test_a_refusal_by_the_servers_limit_does_not_count_for_the_address() -> None:
    admission = Admission(1, 1, ())
    admission.admit("192.0.2.1")
    assert refused(admission, "192.0.2.2") == (Problem.SERVER_FULL, "1")
    admission.leave("192.0.2.1")
    assert refused(admission, "192.0.2.2") is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2001:db8::1", "2001:db8::ffff:1"),  # one /64: one household
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("fe80::1%eth0", "fe80::2%eth0"),
    ],
)
def test_addresses_that_count_as_one(first: str, second: str) -> None:
    admission = Admission(100, 1, LOOPBACK)
    admission.admit(first)
    assert refused(admission, second) == (Problem.ADDRESS_FULL, "1")
    admission.leave(second)
    assert refused(admission, first) is None


@pytest.mark.parametrize(
    ("first", "second"), [("2001:db8::1", "2001:db8:0:1::1"), ("192.0.2.1", "::ffff:192.0.2.2"), ("::1", "2001:db8::1")]
)
def test_addresses_that_count_separately(first: str, second: str) -> None:
    admission = Admission(100, 1, ())
    admission.admit(first)
    assert refused(admission, second) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_exempt_by_default(address: str) -> None:
    exempt, counted = Admission(100, 1, LOOPBACK), Admission(100, 1, ())
    for admission in (exempt, counted):
        admission.admit(address)
    assert refused(exempt, address) is None
    assert refused(counted, address) == (Problem.ADDRESS_FULL, "1")


def test_a_network_can_be_exempt() -> None:
    admission = Admission(100, 1, ("192.0.2.0/24", "2001:db8::/32"))
    for address in ("192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::1", "198.51.100.1"):
        admission.admit(address)
    assert refused(admission, "198.51.100.1") == (Problem.ADDRESS_FULL, "1")


def test_there_may_be_no_limit_on_addresses() -> None:
    admission = Admission(100, 0, ())
    for _ in range(100):
        admission.admit("192.0.2.1")
    assert refused(admission, "192.0.2.1") == (Problem.SERVER_FULL, "100")


ADDRESSES = st.sampled_from(["127.0.0.1", "192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2"])
HOUSEHOLDS = {"::ffff:192.0.2.1": "192.0.2.1", "2001:db8::2": "2001:db8::1"}


@given(st.lists(st.one_of(ADDRESSES, st.integers(0, 20)), max_size=60))
def test_the_limits_hold_at_every_moment(moves: list[str | int]) -> None:
    """An address comes; a number says which of those who are in leaves."""
    admission = Admission(6, 2, LOOPBACK)
    present: list[str] = []
    for move in moves:
        if isinstance(move, int):
            if present:
                admission.leave(present.pop(move % len(present)))
        else:
            counts = Counter(HOUSEHOLDS.get(address, address) for address in present)
            refusal = refused(admission, move)
            if len(present) == 6:
                assert refusal == (Problem.SERVER_FULL, "6")
            elif move != "127.0.0.1" and counts[HOUSEHOLDS.get(move, move)] == 2:
                assert refusal == (Problem.ADDRESS_FULL, "2")
            else:
                assert refusal is None
                present.append(move)
        assert admission.clients == len(present)
