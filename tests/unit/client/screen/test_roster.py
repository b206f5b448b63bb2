"""What the server's lines teach about people and rooms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat import events
from mpchat.client.screen.reading import read_shown
from mpchat.client.screen.roster import Roster
from mpchat.wire.line.words import encode_event

HELLO = "* Hello, bot. You are in #lobby with ann, bea and 3 more. /help lists the commands."


def hear(*lines: str) -> Roster:
    roster = Roster()
    for line in lines:
        roster.hear(read_shown(line))
    return roster


@pytest.mark.parametrize(
    ("lines", "described"),
    [
        ([], ""),
        ([HELLO], "#lobby, 6 members"),
        (["* Hello, bot. You are in #lobby, alone. /help lists the commands."], "#lobby, 1 member"),
        ([HELLO, "* cem joined #lobby"], "#lobby, 7 members"),
        ([HELLO, "* ann left #lobby (so long)"], "#lobby, 5 members"),
        ([HELLO, "* ann left the chat"], "#lobby, 5 members"),
        ([HELLO, "* cem joined #other"], "#lobby, 6 members"),
        ([HELLO, "* You are in #x with ann."], "#x, 2 members"),
        ([HELLO, "* You are in #x, alone.", "* You talk in #lobby now."], "#lobby, 6 members"),
        ([HELLO, "* You are in #x.y, alone.", "* You have left #x.y. You talk in #lobby now."], "#lobby, 6 members"),
        ([HELLO, "* 250 in #lobby: ann, @bea, cem (away)"], "#lobby, over 250 members"),
        ([HELLO, "ann: * You talk in #x now.", "** ann is now called x"], "#lobby, 6 members"),
    ],
)
def test_the_status(lines: list[str], described: str) -> None:
    assert hear(*lines).describe() == described


def test_what_the_server_says_is_understood() -> None:
    signed_on = events.SignedOn(name="bot", room="lobby", others=("ann", "bea"), more=3, topic="")
    line = encode_event(signed_on, 0).decode().removesuffix("\n")
    assert hear(line).describe() == "#lobby, 6 members"
    assert hear(line).me == "bot"


def test_who_spoke_last_comes_first() -> None:
    roster = hear(HELLO, "ann: 1", "cem: 2", "ann: 3", "bot: 4", "[dan] 5", "* cem is now called eve")
    assert roster.speakers == ["eve", "dan", "ann"]
    assert roster.others == ["bea"]
    roster.hear(read_shown("* dan left the chat (bye)"))
    assert roster.speakers == ["eve", "ann"]
    assert roster.gone == "dan"
    roster.hear(read_shown("ann: hi"))
    assert roster.gone == ""


def test_names_change() -> None:
    roster = hear(HELLO, "* You are now called me.", "* bea is now called zoe")
    assert roster.me == "me"
    assert roster.others == ["ann", "zoe"]


def test_rooms() -> None:
    roster = hear(HELLO, "* You are in #b, alone.", "* You are in #a with x.", "#c y: hi", "* #d: 3 members, a topic")
    assert list(roster.rooms) == ["lobby", "b", "a"]
    assert roster.current == "a"
    assert roster.known_rooms == ["lobby", "b", "a", "c", "d"]


@given(st.lists(st.text(max_size=40) | st.sampled_from([HELLO, "* ann left #lobby", "* You talk in #x now.", "a: b"])))
def test_no_line_upsets_it(lines: list[str]) -> None:
    roster = hear(*lines)
    assert all(room.count >= 1 for room in roster.rooms.values())
    assert isinstance(roster.describe(), str)
