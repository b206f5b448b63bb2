"""When a connection is tried again, and how one gets back."""

from itertools import islice

import pytest

from mpchat.client.screen.reconnecting import describe_gap, pauses, rejoin


def test_pauses_grow_and_stay() -> None:
    assert list(islice(pauses(), 8)) == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(
    ("rooms", "current", "commands"),
    [
        ([], "", []),
        (["lobby"], "lobby", []),
        (["lobby", "a"], "a", ["/join #a"]),
        (["lobby", "a", "b"], "a", ["/join #b", "/join #a"]),
        (["lobby", "a", "b"], "lobby", ["/join #a", "/join #b", "/join #lobby"]),
        (["a"], "a", ["/join #a", "/leave #lobby"]),
        (["a", "b"], "b", ["/join #a", "/join #b", "/leave #lobby"]),
    ],
)
def test_the_way_back(rooms: list[str], current: str, commands: list[str]) -> None:
    assert rejoin(rooms, current, "lobby") == commands


def test_the_gap() -> None:
    assert describe_gap("10:00", "10:05").startswith("---- 10:00 to 10:05: ")
