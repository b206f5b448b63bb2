"""How lines look."""

import pytest

from mpchat.client.screen.colors import ALARM, QUIET, color_of
from mpchat.client.screen.painting import ME, Piece, lay_out, paint, tell

ANN = f"bold {color_of('ann')}"


def show(line: str, width: int = 80, *, time: str = "12:04", has_margin: bool = True) -> list[list[Piece]]:
    return lay_out(paint(line, "bot", time, has_margin=has_margin), width, len)


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        ("ann: hello", [(ANN, "ann"), ("", ": hello")]),
        ("#x ann: hello", [("", "#x "), (ANN, "ann"), ("", ": hello")]),
        ("bot: hello bot", [("bold", "bot"), ("", ": hello bot")]),
        ("ann: bot, look", [(ANN, "ann"), ("", ": "), (ME, "bot"), ("", ", look")]),
        ("[ann] psst", [("", "["), (ANN, "ann"), ("", "] psst")]),
        ("[to ann] psst", [("", "[to "), (ANN, "ann"), ("", "] psst")]),
        ("** ann waves at bot", [("", "** "), (ANN, "ann"), ("", " waves at "), (ME, "bot")]),
        ("* ann joined #x", [(QUIET, "* ann joined #x")]),
        ("! No.", [(ALARM, "! No.")]),
        ("10:00 ann: x", [(QUIET, "10:00 "), (ANN, "ann"), ("", ": x")]),
        ("#ann ann: x", [("", "#ann "), (ANN, "ann"), ("", ": x")]),
        ("something else", [("", "something else")]),
        ("", []),
    ],
)
def test_pieces(line: str, pieces: list[Piece]) -> None:
    assert show(line, has_margin=False) == [pieces]
    assert show(line) == [[(QUIET, "12:04 "), *pieces]]


def test_later_rows_begin_below_the_text() -> None:
    assert show("ann: hello world and bot", 21) == [
        [(QUIET, "12:04 "), (ANN, "ann"), ("", ": hello")],
        [(QUIET, "      "), ("", "world and "), (ME, "bot")],
    ]


def test_a_line_without_a_time_keeps_the_margin() -> None:
    assert show("hello", time="") == [[(QUIET, "      "), ("", "hello")]]


def test_a_narrow_terminal_has_no_room_for_the_time() -> None:
    assert show("hello", 10) == [[("", "hello")]]


def test_our_own_lines() -> None:
    assert tell("Gone.", "12:04", is_error=True).text == "! Gone."
    assert tell("Gone.", "12:04").text == "* Gone."
