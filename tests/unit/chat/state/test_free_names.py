"""Names that many want: each gets one of its own, and finding it takes few tries."""

from __future__ import annotations

import hashlib

import pytest

from mpchat.chat.state.state import NUMBERS_IN_ORDER, Limits, State


def sign_on(state: State, number: int, wanted: str) -> str:
    sid = hashlib.blake2b(str(number).encode(), digest_size=16).digest()
    session = state.open(sid, "", 0, "", 0)
    assert session is not None
    name = state.free_name(wanted, sid)
    state.rename(session, name)
    return name


def test_a_thousand_who_want_one_name_get_a_thousand_names_in_few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(Limits())
    tries = 0
    is_free = State.is_free

    def count(self: State, *arguments: object) -> bool:
        nonlocal tries
        tries += 1
        return is_free(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(State, "is_free", count)
    names = []
    for number in range(1000):
        before = tries
        names.append(sign_on(state, number, "bob"))
        assert tries - before <= NUMBERS_IN_ORDER + 10
    assert len(set(names)) == 1000
    assert names[:3] == ["bob", "bob-2", "bob-3"]


def test_two_replicas_give_the_same_names() -> None:
    one, two = State(Limits()), State(Limits())
    names = [[sign_on(state, number, "x" * 32) for number in range(300)] for state in (one, two)]
    assert names[0] == names[1]
    assert all(len(name) <= 32 for name in names[0])
