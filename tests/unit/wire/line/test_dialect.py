"""The line dialect as the server uses it: frames to requests, and who shares a view."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.events import Message
from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.requests import Act, Back, Join, Misread, Quit, Request, Say
from mpchat.chat.state.state import Session
from mpchat.config import Config
from mpchat.wire.line.dialect import RUN_MOST, LineDialect
from mpchat.wire.line.framing import Frame, Mode

DIALECT = LineDialect(Config(max_line=100, segment_timeout=0))


def frame(texts: Iterable[str | None]) -> list[Frame]:
    return list(enumerate(texts, 1))


# --- frames to requests -------------------------------------------------------------------------------------


def test_a_run_of_messages_is_one_request_that_reaches_to_the_last() -> None:
    assert DIALECT.read([(6, "hello"), (12, "again")]) == [(12, Say(("hello", "again")))]


def test_a_command_parts_the_messages_around_it() -> None:
    assert DIALECT.read(frame(["one", "/me waves", "two", "", "three", "/back"])) == [
        (1, Say(("one",))),
        (2, Act("waves")),
        (5, Say(("two", "three"))),
        (6, Back()),
    ]


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("hello", Say(("hello",))),
        ("  hello", Say(("  hello",))),
        (" /join a", Join("a")),
        ("//join a", Say(("/join a",))),
        ("///", Say(("//",))),
        ("quit it", Say(("quit it",))),
        ("Quite", Say(("Quite",))),
        ("quit", Quit("")),
        ("\tQuIt ", Quit("")),
        ("/quit so long", Quit("so long")),
        ("/j #a", Join("a")),
        ("/joim a", Misread(Problem.UNKNOWN_COMMAND, "join", "joim")),
        (None, Misread(Problem.LINE_LONG, "100")),
    ],
)
def test_what_one_line_asks_for(text: str | None, request_: Request) -> None:
    assert DIALECT.read([(1, text)]) == [(1, request_)]


@pytest.mark.parametrize("text", ["", " ", "\t \t"])
def test_a_blank_line_asks_for_nothing(text: str) -> None:
    assert DIALECT.read([(1, text)]) == []


TYPED = st.one_of(
    st.none(),
    st.sampled_from(["hello", "", " ", "/", "//", "/me", "/back now", "quit", "Quit ", "q", "/nonsense"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
)


def flatten(read: Iterable[tuple[int, Request]]) -> list[Request | str]:
    """The requests, messages one by one: how they are grouped does not matter."""
    flat: list[Request | str] = []
    for _, request in read:
        flat += request.texts if isinstance(request, Say) else [request]
    return flat


@given(st.lists(TYPED, max_size=12), st.integers(0, 12))
def test_the_same_in_every_grouping(texts: list[str | None], cut: int) -> None:
    frames = frame(texts)
    whole = DIALECT.read(frames)
    assert flatten(DIALECT.read(frames[:cut]) + DIALECT.read(frames[cut:])) == flatten(whole)
    assert flatten(read for each in frames for read in DIALECT.read([each])) == flatten(whole)
    ends = [end for end, _ in whole]
    assert ends == sorted(set(ends))


@given(st.binary(max_size=200))
def test_whatever_bytes_come_they_can_be_read(data: bytes) -> None:
    framing = DIALECT.framing()
    framing.receive(data, 0.0)
    framing.receive_eof()
    assert all(0 < end <= len(data) for end, _ in DIALECT.read(framing.take(1000)))


@given(st.integers(0, 3 * RUN_MOST))
def test_a_run_of_messages_is_cut_so_that_one_entry_is_never_more_than_a_send_queue(count: int) -> None:
    texts = [f"line {number}" for number in range(1, count + 1)]
    read = DIALECT.read(frame(texts))
    assert all(isinstance(request, Say) and len(request.texts) <= RUN_MOST for _, request in read)
    assert flatten(read) == texts
    assert [end for end, _ in read] == sorted({end for end, _ in read})


# --- the rest of the port -----------------------------------------------------------------------------------


def test_a_framing_carries_on_as_the_last_one_says() -> None:
    framing = DIALECT.framing()
    framing.receive(b"hello\n" + b"x" * 200, 0.0)
    first, refused = framing.take(10)
    assert refused[1] is None
    assert framing.modes == ("line", "skip")
    within = DIALECT.framing(first[0], framing.modes[0])
    assert (within.position, within.mode) == (6, Mode.LINE)
    behind = DIALECT.framing(refused[0], framing.modes[1])
    behind.receive(b"xxx\nagain\n", 0.0)
    assert [text for _, text in behind.take(10)] == ["again"]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="whatever"):
        DIALECT.framing(0, "whatever")


def test_who_sees_the_same_shares_a_view() -> None:
    here = Session(b"1", "", since=0, name="ann", current="a")
    also_here = Session(b"2", "", since=5, name="bob", current="a")
    elsewhere = Session(b"3", "", since=0, name="cy", current="b")
    timed = Session(b"4", "", since=0, name="dan", current="a", timestamps=True)
    sessions = [here, also_here, elsewhere, timed]
    views = [DIALECT.view(session, "a") for session in sessions]
    message = Message("a", "eve", ("hi",))
    assert [DIALECT.encode(message, 0, view) for view in views] == [
        b"eve: hi\n",
        b"eve: hi\n",
        b"#a eve: hi\n",
        b"00:00 eve: hi\n",
    ]
    assert len(set(views)) == 3
    assert {DIALECT.view(session, None) for session in sessions[:3]} == {DIALECT.view(None, None)}


def test_a_refusal_is_one_line() -> None:
    assert DIALECT.refuse(Refusal(Problem.SERVER_FULL, "7")) == b"! The server is full: 7 clients. Try again later.\n"
