"""Plain values: what comes back is what went in, equal values are equal bytes, and nothing is ever called."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.plain import decode_plain, encode_plain

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(), st.just("\ud800")),
    lambda values: st.lists(values, max_size=5).map(tuple),
)


@given(VALUES)
def test_what_is_decoded_is_what_was_encoded(value: object) -> None:
    assert decode_plain(encode_plain(value)) == value


def test_equal_values_give_equal_bytes_whichever_objects_they_are() -> None:
    same = "".join(["same", "string"])
    other = "".join(["same", "string"])
    assert same is not other
    assert encode_plain((same, same)) == encode_plain((same, other))
    assert pickle.dumps((same, same)) != pickle.dumps((same, other))


class Called:
    """Calls something when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("value", [Called(os.abort), Called(getattr, 1, "real"), Called, Called(Called, os.abort)])
def test_nothing_is_imported_or_called(value: object) -> None:
    with pytest.raises(ValueError, match="it asks for"):
        decode_plain(pickle.dumps(value))


@pytest.mark.parametrize("data", [b"", b"x", b"\x80\x05", encode_plain((1, 2))[:-1], b"\x80\x05b."])
def test_what_is_no_pickle_is_said(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no plain value|pickle"):
        decode_plain(data)


@given(st.binary(max_size=40))
def test_whatever_comes_is_a_value_or_no_value(data: bytes) -> None:
    try:
        decode_plain(b"\x80\x05" + data)
    except ValueError:
        pass
