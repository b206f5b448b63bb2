"""Where lines are broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.client.screen.wrapping import next_character, wrap

LINK = "https://example.org/" + "x" * 30


def rows_of(text: str, width: int) -> list[str]:
    return [text[start:end] for start, end in wrap(text, width, measure)]


def measure(text: str) -> int:
    """Wide from U+1100 on, nothing for marks; near enough for tests."""
    return sum(0 if "\u0300" <= char < "\u0370" or char == "\u200d" else 1 + (char >= "\u1100") for char in text)


@pytest.mark.parametrize(
    ("text", "width", "rows"),
    [
        ("", 10, [""]),
        ("hello", 10, ["hello"]),
        ("hello world", 11, ["hello world"]),
        ("hello world", 10, ["hello", "world"]),
        ("hello  world", 8, ["hello", "world"]),
        (" abcdef", 6, ["abcdef"]),
        ("  indented text", 12, ["  indented", "text"]),
        ("a bb ccc dddd", 5, ["a bb", "ccc", "dddd"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("a bcdefgh i", 4, ["a bc", "defg", "h i"]),
        ("李雷李雷", 5, ["李雷", "李雷"]),
        ("e\u0301e\u0301e\u0301", 2, ["e\u0301e\u0301", "e\u0301"]),
        ("👩\u200d👩👩", 4, ["👩\u200d👩", "👩"]),
        (f"see {LINK} now", 20, ["see", LINK, "now"]),
        (f"{LINK}", 20, [LINK]),
        ("ab", 0, ["a", "b"]),
        ("李", 1, ["李"]),
        ("a   ", 10, ["a   "]),
        (": \u0301 :", 1, [":", "\u0301", ":"]),
    ],
)
def test_rows(text: str, width: int, rows: list[str]) -> None:
    assert rows_of(text, width) == rows


@given(st.text(st.sampled_from("ab  李é\u0301\u200d:/w."), max_size=60), st.integers(-2, 20))
def test_nothing_but_spaces_is_lost_and_each_row_fits(text: str, width: int) -> None:
    rows = rows_of(text, width)
    assert "".join("".join(rows).split()) == "".join(text.split())
    for row in rows:
        word = row.strip().lstrip("\u0301\u200d")  # what joins no character takes no column
        is_whole = "://" in word or "www." in word or not word or next_character(word, 0, len(word)) == len(word)
        assert measure(row.rstrip()) <= max(width, 1) or is_whole
