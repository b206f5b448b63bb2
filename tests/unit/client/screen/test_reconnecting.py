"""When a connection is tried again, and how one gets back."""

from itertools import islice

import pytest

from mpchat.chat.events import AwaySet, Event, IgnoreSet, QuietSet, RecallSet, TimestampsSet
from mpchat.client.screen.reading import read_shown
from mpchat.client.screen.reconnecting import Settings, describe_gap, pauses, rejoin
from mpchat.wire.line.words import Style, encode_event


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


def commands_after(*lines: str) -> list[str]:
    settings = Settings()
    for line in lines:
        settings.hear(read_shown(line))
    return settings.list_commands()


@pytest.mark.parametrize(
    ("set_so", "command", "set_back"),
    [
        (TimestampsSet(on=True), "/timestamp on", TimestampsSet(on=False)),
        (QuietSet(on=True), "/quiet on", QuietSet(on=False)),
        (RecallSet(on=False), "/history off", RecallSet(on=True)),
        (AwaySet("lunch (with bob). /back ends it"), "/away lunch (with bob). /back ends it", AwaySet(None)),
        (AwaySet(""), "/away", AwaySet(None)),
        (IgnoreSet("bob.", on=True), "/ignore bob.", IgnoreSet("bob.", on=False)),
    ],
)
@pytest.mark.parametrize("timestamps", [False, True])
def test_what_was_set_is_set_again_as_the_server_tells_it(
    set_so: Event, command: str, set_back: Event, timestamps: bool
) -> None:
    on, off = (encode_event(event, 0, Style(timestamps=timestamps)).decode().strip() for event in (set_so, set_back))
    assert commands_after(on) == commands_after(on, on) == commands_after(off, on) == [command]
    assert commands_after(on, off) == []


@pytest.mark.parametrize(
    ("lines", "commands"),
    [
        (["* You ignore nobody."], []),
        (["* You ignore bob.", "* bob is now called rob"], ["/ignore rob"]),
        (["* You ignore bob.", "* bob left the chat (bye)", "* bob joined #lobby"], []),
        (["* You ignore bob.", "* You ignore eve.", "* bob left #lobby"], ["/ignore bob", "/ignore eve"]),
        (["eve: * Timestamps are on.", "[eve] You ignore bob.", "** eve Notices are hidden."], []),
    ],
)
def test_whom_a_new_session_ignores(lines: list[str], commands: list[str]) -> None:
    assert commands_after(*lines) == commands
