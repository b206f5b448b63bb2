"""What a line of the server is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat import events
from mpchat.client.screen.reading import Kind, Reading, find_name, read_shown, speaks_to
from mpchat.wire.line.words import Style, encode_event

LINES = {
    "alice: hello": Reading(Kind.MESSAGE, "hello", 7, "alice"),
    "alice: bob: hi": Reading(Kind.MESSAGE, "bob: hi", 7, "alice"),
    "#python alice: hello": Reading(Kind.MESSAGE, "hello", 15, "alice", "python"),
    "12:30 alice: hello": Reading(Kind.MESSAGE, "hello", 13, "alice", stamp="12:30 "),
    "2026-11-25 12:30 #a b: c": Reading(Kind.MESSAGE, "c", 23, "b", "a", "2026-11-25 12:30 "),
    "** alice waves": Reading(Kind.ACTION, "waves", 9, "alice"),
    "* alice joined #lobby": Reading(Kind.NOTICE, "alice joined #lobby", 2),
    "! There is no room #x.": Reading(Kind.ERROR, "There is no room #x.", 2),
    "[alice] hello": Reading(Kind.PRIVATE, "hello", 8, "alice"),
    "[to bob] hello": Reading(Kind.OWN_PRIVATE, "hello", 9, "bob"),
    "[x]: hello": Reading(Kind.MESSAGE, "hello", 5, "[x]"),
    "李雷: 你好": Reading(Kind.MESSAGE, "你好", 4, "李雷"),
    "alice: ": Reading(Kind.MESSAGE, "", 7, "alice"),
    "": Reading(Kind.OTHER, ""),
    "hello": Reading(Kind.OTHER, "hello"),
    "a b: c": Reading(Kind.OTHER, "a b: c"),
}


@pytest.mark.parametrize(("line", "reading"), LINES.items())
def test_lines(line: str, reading: Reading) -> None:
    assert read_shown(line) == reading


@given(st.text(st.sampled_from("*![]#: a0-") | st.characters(), max_size=30))
def test_every_line_can_be_read(line: str) -> None:
    reading = read_shown(line)
    assert line.endswith(reading.text)
    if reading.kind is not Kind.OTHER:
        assert line[reading.at :] == reading.text


NAMES = st.text(st.sampled_from("ab1_-.[]{}|^é李"), min_size=1, max_size=8)


@given(NAMES, NAMES, st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))), st.booleans(), st.booleans())
def test_what_the_server_says_is_understood(name: str, room: str, text: str, elsewhere: bool, stamps: bool) -> None:
    message = events.Message(room=room, name=name, texts=(text,), action=False)
    line = encode_event(message, 0, Style(elsewhere, stamps)).decode().removesuffix("\n")
    reading = read_shown(line)
    assert (reading.kind, reading.name, reading.text) == (Kind.MESSAGE, name, text)
    assert reading.room == (room if elsewhere else "")


@pytest.mark.parametrize(
    ("line", "is_mine"),
    [
        ("[ann] psst", True),
        ("ann: hello bot", True),
        ("ann: BOT, look", True),
        ("** ann slaps bot", True),
        ("#x ann: @bot!", True),
        ("ann: robot", False),
        ("ann: bot-2 is here", False),
        ("ann: bots", False),
        ("bot: I am bot", False),
        ("* bot joined #x", False),
        ("! No bot.", False),
        ("[to ann] bot", False),
        ("bot", False),
    ],
)
def test_what_is_said_to_me(line: str, is_mine: bool) -> None:
    assert speaks_to(read_shown(line), "bot") == is_mine


def test_nobody_is_found_without_a_name() -> None:
    assert find_name("hello", "") == []
    assert not speaks_to(read_shown("ann: hello"), "")
