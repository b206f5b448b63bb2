"""Entries come out of their bytes as they went in, and nothing else comes out of any bytes."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import REQUESTS

from mpchat.chat.entries import (
    VERSION,
    Answered,
    Asked,
    Ended,
    Entry,
    Forgot,
    Noted,
    Opened,
    Restarted,
    Said,
    Skipped,
    Stopped,
    decode_entries,
    encode_entries,
    make_input,
)
from mpchat.chat.requests import Join, Negotiate, Say

SIDS = st.binary(min_size=16, max_size=16)
ENDS = st.integers(0, 2**63)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
EPOCHS = st.integers(0, 2**31)

LINES = st.tuples(TEXTS, ENDS, TEXTS, st.booleans(), TEXTS)

ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Opened, SIDS, TEXTS, EPOCHS),
    st.builds(Said, SIDS, ENDS, st.lists(TEXTS).map(tuple), EPOCHS, TEXTS),
    st.builds(Asked, SIDS, ENDS, REQUESTS, EPOCHS, TEXTS),
    st.builds(Skipped, SIDS, ENDS, EPOCHS, TEXTS),
    st.builds(Noted, SIDS, ENDS, st.builds(Negotiate, TEXTS, TEXTS), EPOCHS),
    st.builds(Ended, SIDS, TEXTS, EPOCHS),
    st.builds(Stopped, TEXTS),
    st.builds(Restarted),
    st.builds(Forgot, TEXTS, TEXTS),
    st.builds(Answered, SIDS, ENDS, st.lists(LINES).map(tuple), st.booleans()),
)


@given(st.lists(ENTRIES))
def test_round_trip(entries: list[Entry]) -> None:
    decoded = decode_entries(encode_entries(entries))
    assert decoded == entries
    # Tuples of equal fields are equal: the kind has to be looked at.
    assert [type(entry) for entry in decoded] == [type(entry) for entry in entries]


def test_a_request_becomes_the_entry_it_travels_as() -> None:
    assert make_input(b"s", 3, Say(("hi",)), 2, "line") == Said(b"s", 3, ("hi",), 2, "line")
    assert make_input(b"s", 3, Join("a"), 2, "line") == Asked(b"s", 3, Join("a"), 2, "line")


def test_another_version_is_refused() -> None:
    version, plain = pickle.loads(encode_entries([Stopped("")]))
    assert version == VERSION
    with pytest.raises(ValueError, match=f"version {VERSION + 1}"):
        decode_entries(pickle.dumps((VERSION + 1, plain)))


@pytest.mark.parametrize(
    "plain",
    [
        (),
        None,
        7,
        (VERSION,),
        (VERSION, None),
        (VERSION, [7]),
        (VERSION, [(0, (b"s",))]),  # too few fields
        (VERSION, [(1, (b"s", 1, (), 0, "", 0))]),  # too many
        (VERSION, [(6, ("",))]),  # no such kind
        (VERSION, [(-1, ("",))]),
        (VERSION, [("Stopped", ("",))]),
        (VERSION, [([], ("",))]),
        (VERSION, [(2, (b"s", 1, (999, ()), 0, ""))]),  # no such request
        (VERSION, [(2, (b"s", 1, None, 0, ""))]),
        (VERSION, [(2, (b"s", 1))]),
    ],
)
def test_what_is_no_run_of_entries_is_refused(plain: object) -> None:
    with pytest.raises(ValueError, match="entries"):
        decode_entries(pickle.dumps(plain))


def test_the_bytes_name_no_class() -> None:
    """So old ones can be read after classes have moved, and reading them runs no code."""
    entries: list[Entry] = [Opened(b"s" * 16, "::1"), Said(b"s" * 16, 3, ("hi",)), Asked(b"s" * 16, 9, Join("a"))]
    assert b"mpchat" not in encode_entries(entries)
