"""Plain values come out of their bytes as they went in; what is not plain does not come out at all."""

import copyreg
import datetime
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.codec import dump_plain, dump_plain_alike, load_plain

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(), st.floats(allow_nan=False))
PLAIN = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple)), max_leaves=10)


@given(PLAIN)
def test_round_trip(value: object) -> None:
    assert load_plain(dump_plain(value)) == value


@given(PLAIN)
def test_round_trip_of_equal_bytes(value: object) -> None:
    assert load_plain(memoryview(dump_plain_alike(value))) == value


def test_equal_values_give_equal_bytes_whichever_objects_they_are() -> None:
    same = "".join(["same", "string"])
    other = "".join(["same", "string"])
    assert same is not other
    assert dump_plain_alike((same, same)) == dump_plain_alike((same, other))
    assert dump_plain((same, same)) != dump_plain((same, other))


class Vandal:
    """Unpickled the usual way, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_called(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps(Vandal(tmp_path / "made"), protocol)
    with pytest.raises(ValueError, match="not plain"):
        load_plain(data)
    assert not (tmp_path / "made").exists()
    pickle.loads(data)
    assert (tmp_path / "made").exists(), "or this test would prove nothing"


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n.",
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",  # STACK_GLOBAL
        b"\x80\x02\x82\x01.",  # EXT1: the registry of extensions
        b"Pname\n.",  # PERSID
        b"\x80\x05\x97.",  # NEXT_BUFFER
    ],
)
def test_nothing_is_looked_up(data: bytes) -> None:
    with pytest.raises(ValueError, match="not the bytes of a plain value"):
        load_plain(data)


def test_a_registered_extension_is_not_looked_up() -> None:
    copyreg.add_extension("os", "system", 200)
    try:
        with pytest.raises(ValueError, match=r"os\.system is not plain"):
            load_plain(b"\x80\x02\x82\xc8.")
    finally:
        copyreg.remove_extension("os", "system", 200)


@pytest.mark.parametrize("value", [datetime.date(2026, 1, 1), print, Path, object()])
def test_what_is_not_plain_is_not_read(value: object) -> None:
    with pytest.raises(ValueError, match="not plain"):
        load_plain(dump_plain(value))


@given(st.one_of(st.binary(max_size=60), st.tuples(PLAIN, st.integers(0, 200)).map(lambda x: dump_plain(x[0])[: x[1]])))
def test_any_other_bytes_give_a_plain_value_or_a_value_error(data: bytes) -> None:
    try:
        value = load_plain(data)
    except ValueError:
        return
    assert type(value).__module__ == "builtins"
