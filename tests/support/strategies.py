"""What hypothesis makes entries of: requests of every kind, with fields that have a meaning now and then."""

from dataclasses import fields
from typing import Any, get_type_hints

from hypothesis import strategies as st

from mpchat.chat.problems import Problem
from mpchat.chat.requests import KINDS, Request

WORDS = st.sampled_from(["ann", "ANN", "bob", "ann-2", "#a", "a", "b", "lobby", "ß", "ſs", "2", "0", "on", "off", ""])
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TEXTS = st.one_of(WORDS, WORDS, ANY_TEXT)

_BY_HINT: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    str | None: st.one_of(st.none(), TEXTS),
    int: st.integers(-2, 4),
    int | None: st.one_of(st.none(), st.integers(-2, 4)),
    bool: st.booleans(),
    bool | None: st.one_of(st.none(), st.booleans()),
    tuple[str, ...]: st.lists(TEXTS, max_size=3).map(tuple),
    Problem: st.sampled_from(Problem),
}


def build_request(kind: type[Request]) -> st.SearchStrategy[Request]:
    """Requests of one kind."""
    hints = get_type_hints(kind)
    return st.builds(kind, *(_BY_HINT[hints[field.name]] for field in fields(kind)))


REQUESTS: st.SearchStrategy[Request] = st.one_of(*map(build_request, KINDS))
"""Requests of all kinds but Say, which travels as an entry of its own."""
