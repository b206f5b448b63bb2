"""The help, as somebody sees who asks for it."""

import pytest
from party import Party

from mpchat.wire.line.commands import COMMANDS


@pytest.mark.parametrize("line", ["/help", "/?", "/HELP"])
def test_help_fits_in_24_lines_of_80(line: str) -> None:
    [alice] = Party().enter("alice")
    alice.types(line)
    assert len(alice.shown) <= 24
    assert max(map(len, alice.shown)) <= 80
    for command in COMMANDS:
        assert any(shown.startswith(f"* /{command.name} ") for shown in alice.shown)


@pytest.mark.parametrize("name", ["join", "/join", "J", "/j"])
def test_help_explains_one(name: str) -> None:
    [alice] = Party().enter("alice")
    alice.types(f"/help {name}")
    heading, details = alice.shown
    assert heading == "* /join ROOM (short: /j)"
    assert details.startswith("* Enter a room and make it current. The room is made when")


def test_help_for_what_is_no_command() -> None:
    [alice] = Party().enter("alice")
    alice.types("/help joim")
    alice.sees("! There is no command /joim. Did you mean /join?")
