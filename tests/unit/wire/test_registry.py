"""The registry: every dialect in it keeps what the port promises, as far as that can be said of any dialect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.events import Failed, Message, Welcome
from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.requests import Request
from mpchat.chat.state.state import Session
from mpchat.config import Config
from mpchat.wire.dialect import Dialect
from mpchat.wire.registry import make_dialects

DIALECTS = make_dialects(Config(max_line=64, segment_timeout=0.2))
SESSIONS = [
    None,
    Session(b"1", "", since=0),
    Session(b"2", "", since=0, name="ann", key="ann", rooms={"a": None, "b": None}, current="a", timestamps=True),
]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_every_view_can_be_a_key_and_encodes(dialect: Dialect) -> None:
    for session in SESSIONS:
        for room in (None, "a", "b"):
            view = dialect.view(session, room)
            assert hash(view) == hash(dialect.view(session, room))
            for event in (Welcome(), Message("a", "bob", ("hi",)), Failed(Problem.NAME_FIRST)):
                assert dialect.encode(event, 0, view)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_every_problem_can_be_told_before_there_is_a_session(dialect: Dialect) -> None:
    for problem in Problem:
        assert dialect.refuse(Refusal(problem, "about", "more"))


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@given(chunks=st.lists(st.binary(max_size=80), max_size=5), cut=st.integers(0, 5))
def test_a_framing_carries_on_from_any_frame(dialect: Dialect, chunks: list[bytes], cut: int) -> None:
    """What a successor reads from the end of any frame on is what the first one would have read."""
    data = b"".join(chunks)
    first = dialect.framing()
    first.receive(data + b"\n", 0.0)  # in one chunk: where chunks end is not in the stream
    frames = first.take(1000)
    within, last = first.modes
    if not frames:
        return
    number = min(cut, len(frames) - 1)
    end, mode = frames[number][0], within if number < len(frames) - 1 else last
    second = dialect.framing(end, mode)
    second.receive((data + b"\n")[end:], 0.0)
    assert second.take(1000) == frames[number + 1 :]
    assert all(isinstance(request, Request) for _, request in dialect.read(frames))
