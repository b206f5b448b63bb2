"""What the input line shows of pictures that are made of several characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.client.screen.glyphs import list_visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("hello 李 e\u0301", "hello 李 e\u0301"),
        ("❤\ufe0f", "❤"),
        ("👩\u200d👩\u200d👧", "👩👩👧"),
        ("👍🏽", "👍"),
        ("🇩🇪", "🇩🇪"),
        ("\u200dx", "\u200dx"),
    ],
)
def test_parts(text: str, shown: str) -> None:
    assert "".join(text[at] for at in list_visible(text)) == shown


@given(st.text(st.sampled_from("a👩\u200d\ufe0f🏽"), max_size=20))
def test_the_positions_are_in_order_and_begin_with_the_first(text: str) -> None:
    visible = list_visible(text)
    assert visible == sorted(set(visible))
    assert visible[:1] == [0] * bool(text)
