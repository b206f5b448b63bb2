"""Entries come out of their bytes as they went in."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.entries import (
    VERSION,
    Commanded,
    Ended,
    Entry,
    Misread,
    Opened,
    Said,
    Skipped,
    Stopped,
    decode_entries,
    encode_entries,
)

SIDS = st.binary(min_size=16, max_size=16)
ENDS = st.integers(0, 2**63)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
EPOCHS = st.integers(0, 2**31)

ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Opened, SIDS, TEXTS, EPOCHS),
    st.builds(Said, SIDS, ENDS, st.lists(TEXTS).map(tuple), EPOCHS, TEXTS),
    st.builds(Commanded, SIDS, ENDS, TEXTS, TEXTS, EPOCHS, TEXTS),
    st.builds(Misread, SIDS, ENDS, TEXTS, TEXTS, TEXTS, EPOCHS, TEXTS),
    st.builds(Skipped, SIDS, ENDS, EPOCHS, TEXTS),
    st.builds(Ended, SIDS, TEXTS, EPOCHS),
    st.builds(Stopped, TEXTS),
)


@given(st.lists(ENTRIES))
def test_round_trip(entries: list[Entry]) -> None:
    decoded = decode_entries(encode_entries(entries))
    assert decoded == entries
    # Tuples of equal fields are equal: the kind has to be looked at.
    assert [type(entry) for entry in decoded] == [type(entry) for entry in entries]


def test_another_version_is_refused() -> None:
    version, plain = pickle.loads(encode_entries([Stopped("")]))
    assert version == VERSION
    with pytest.raises(ValueError, match=f"version {VERSION + 1}"):
        decode_entries(pickle.dumps((VERSION + 1, plain)))


def test_nothing_is_imported_when_they_are_read() -> None:
    """The bytes name no class: old ones can be read after classes have moved, and reading them runs no code."""
    payload = encode_entries([Opened(b"s" * 16, "::1"), Said(b"s" * 16, 3, ("hi",))])
    assert b"mpchat" not in payload
