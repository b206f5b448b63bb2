"""Moments: what people write, and what the archive counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.admin.moments import read_moment, write_moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01", 0),
        ("1970-01-02 00:00", 86_400_000),
        ("1970-01-01T00:00:01.500Z", 1500),
        ("1970-01-01 01:00+01:00", 0),
        (" 2026-11-25 18:00 ", 1_795_629_600_000),
    ],
)
def test_a_moment_is_read(text: str, moment: int) -> None:
    assert read_moment(text) == moment


@pytest.mark.parametrize("text", ["", "today", "2026-13-01", "18:00", "25.11.2026"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_moment(text)


@given(st.integers(0, 4_000_000_000))
def test_what_is_written_is_read_again(seconds: int) -> None:
    assert read_moment(write_moment(seconds * 1000)) == seconds * 1000
