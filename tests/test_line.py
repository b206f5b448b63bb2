"""The line dialect by itself: lines to entries, events to lines. What it looks like in use is in `test_replica`."""

import typing
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat import events
from mpchat.chat.commands import COMMANDS
from mpchat.chat.entries import Commanded, Entry, Misread, Said
from mpchat.chat.history import Line
from mpchat.chat.problems import Problem
from mpchat.wire.framing import Frame, LineFraming
from mpchat.wire.line import PLAIN, RUN_MOST, Style, encode_event, encode_problem, read_frames

SID = b"s" * 16
NOON = 1_772_366_400_000  # 2026-03-01 12:00 UTC


def frame(texts: Iterable[str | None]) -> list[Frame]:
    return list(enumerate(texts, 1))


def show(event: events.Event, style: Style = PLAIN) -> list[str]:
    block = encode_event(event, NOON, style).decode()
    assert block.endswith("\n")
    return block[:-1].split("\n")


# --- lines to entries ---------------------------------------------------------------------------------------


def test_a_run_of_messages_is_one_entry_that_reaches_to_the_last() -> None:
    assert read_frames(SID, [(6, "hello"), (12, "again")], 100) == [Said(SID, 12, ("hello", "again"))]


def test_a_command_parts_the_messages_around_it() -> None:
    entries = read_frames(SID, frame(["one", "/me waves", "two", "", "three", "/back"]), 100)
    assert entries == [
        Said(SID, 1, ("one",)),
        Commanded(SID, 2, "me", "waves"),
        Said(SID, 5, ("two", "three")),
        Commanded(SID, 6, "back", ""),
    ]


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("hello", Said(SID, 1, ("hello",))),
        ("  hello", Said(SID, 1, ("  hello",))),
        (" /join a", Said(SID, 1, (" /join a",))),
        ("//join a", Said(SID, 1, ("/join a",))),
        ("///", Said(SID, 1, ("//",))),
        ("quit it", Said(SID, 1, ("quit it",))),
        ("Quite", Said(SID, 1, ("Quite",))),
        ("quit", Commanded(SID, 1, "quit", "")),
        ("\tQuIt ", Commanded(SID, 1, "quit", "")),
        ("/quit so long", Commanded(SID, 1, "quit", "so long")),
        ("/j #a", Commanded(SID, 1, "join", "#a")),
        ("/J\t#a", Commanded(SID, 1, "join", "#a")),
        ("/?", Commanded(SID, 1, "help", "")),
        ("/joim a", Misread(SID, 1, "UNKNOWN_COMMAND", "join", "joim")),
        (None, Misread(SID, 1, "LINE_LONG", "100", "")),
    ],
)
def test_what_one_line_asks_for(text: str | None, entry: Entry) -> None:
    assert read_frames(SID, [(1, text)], 100) == [entry]


@pytest.mark.parametrize("text", ["", " ", "\t \t"])
def test_a_blank_line_asks_for_nothing(text: str) -> None:
    assert read_frames(SID, [(1, text)], 100) == []


@pytest.mark.parametrize("word", [word for command in COMMANDS for word in (command.name, *command.short)])
def test_each_word_of_the_table_is_its_command(word: str) -> None:
    [entry] = read_frames(SID, frame([f"/{word} something"]), 100)
    assert isinstance(entry, Commanded)
    assert entry.command in [command.name for command in COMMANDS if word in (command.name, *command.short)]
    assert entry.argument == "something"


TYPED = st.one_of(
    st.none(),
    st.sampled_from(["hello", "", " ", "/", "//", "/me", "/back now", "quit", "Quit ", "q", "/nonsense"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
)


def flatten(entries: Iterable[Entry]) -> list[Entry | str]:
    """The entries, messages one by one: how they are grouped does not matter."""
    flat: list[Entry | str] = []
    for entry in entries:
        flat += entry.texts if isinstance(entry, Said) else [entry]
    return flat


@given(st.lists(TYPED, max_size=12), st.integers(0, 12))
def test_the_same_in_every_grouping(texts: list[str | None], cut: int) -> None:
    frames = frame(texts)
    whole = read_frames(SID, frames, 100)
    parted = read_frames(SID, frames[:cut], 100) + read_frames(SID, frames[cut:], 100)
    assert flatten(parted) == flatten(whole)
    singly = [entry for each in frames for entry in read_frames(SID, [each], 100)]
    assert flatten(singly) == flatten(whole)
    ends = [entry.end for entry in whole if isinstance(entry, Said | Commanded | Misread)]
    assert len(ends) == len(whole)
    assert ends == sorted(set(ends))


@given(st.binary(max_size=200))
def test_whatever_bytes_come_some_entries_can_be_made(data: bytes) -> None:
    framing = LineFraming(max_line=50, segment_timeout=0)
    framing.receive(data, 0.0)
    framing.receive_eof()
    for entry in read_frames(SID, framing.take(1000), 50):
        assert isinstance(entry, Said | Commanded | Misread)
        assert 0 < entry.end <= len(data)


# --- events to lines ----------------------------------------------------------------------------------------

SAMPLES: list[tuple[events.Event, list[str]]] = [
    (events.Message("a", "ann", ("one", "two")), ["ann: one", "ann: two"]),
    (events.Message("a", "ann", ("waves",), action=True), ["** ann waves"]),
    (events.Joined("ann", "a"), ["* ann joined #a"]),
    (events.Left("ann", "a", ""), ["* ann left #a"]),
    (events.Left("ann", "a", "bye"), ["* ann left #a (bye)"]),
    (events.Quit("ann", ""), ["* ann left the chat"]),
    (events.Quit("ann", "bye"), ["* ann left the chat (bye)"]),
    (events.Renamed("ann", "Ann"), ["* ann is now called Ann"]),
    (events.TopicSet("ann", "a", "News"), ["* ann set the topic of #a: News"]),
    (events.Welcome(), ["* Welcome to mpchat. What is your name?"]),
    (events.NameAsked(), ["* What is your name?"]),
    (events.NameGiven("ann", "ann-2"), ["* ann is taken; you are ann-2."]),
    (
        events.SignedOn("ann", "lobby", ("bob", "cy"), 3, "News"),
        ["* Hello, ann. You are in #lobby with bob, cy and 3 more. /help lists the commands.", "* Topic: News"],
    ),
    (events.Entered("a", (), 0, "", new=True), ["* You are in #a, alone."]),
    (events.Entered("a", ("bob",), 0, "News", new=True), ["* You are in #a with bob.", "* Topic: News"]),
    (events.Entered("a", ("bob",), 0, "News", new=False), ["* You talk in #a now."]),
    (events.Departed("a", "lobby"), ["* You have left #a. You talk in #lobby now."]),
    (events.NameChanged("ann"), ["* You are now called ann."]),
    (events.PrivateIn("ann", "psst"), ["[ann] psst"]),
    (events.PrivateOut("ann", "psst"), ["[to ann] psst"]),
    (events.OtherAway("ann", ""), ["* ann is away."]),
    (events.OtherAway("ann", "lunch"), ["* ann is away (lunch)."]),
    (events.History("a", (), asked=True), ["* #a: no history."]),
    (
        events.History("a", (Line(NOON, "ann", False, "hi"), Line(NOON, "ann", True, "waves")), asked=True),
        ["* The last 2 lines of #a:", "ann: hi", "** ann waves"],
    ),
    (events.History("a", (Line(NOON, "ann", False, "hi"),), asked=False), ["ann: hi"]),
    (
        events.RoomList((("a", 2, "News"), ("b", 1, "")), 1, 3),
        ["* #a: 2 members, News", "* #b: 1 member", "* Page 1 of 3; /rooms 2 shows the next."],
    ),
    (events.RoomList((("a", 2, ""),), 3, 3), ["* #a: 2 members"]),
    (
        events.MemberList("a", (("ann", False), ("bob", True)), 102, 1, 2),
        ["* 102 in #a: ann, bob (away)", "* Page 1 of 2; /who #a 2 shows the next."],
    ),
    (
        events.Whois("ann", ("lobby", "a"), NOON, 0, None),
        ["* ann: in #lobby, #a; here since 2026-03-01 12:00 UTC; idle 0 s"],
    ),
    (
        events.Whois("ann", ("a",), NOON, 3_725_999, ""),
        ["* ann: in #a; here since 2026-03-01 12:00 UTC; idle 1 h 2 min; away"],
    ),
    (
        events.Whois("ann", ("a",), NOON, 86_400_000, "lunch"),
        ["* ann: in #a; here since 2026-03-01 12:00 UTC; idle 1 d; away: lunch"],
    ),
    (events.Topic("a", ""), ["* #a has no topic."]),
    (events.Topic("a", "News"), ["* Topic: News"]),
    (events.Ignoring(()), ["* You ignore nobody."]),
    (events.Ignoring(("ann", "bob")), ["* You ignore ann, bob."]),
    (events.IgnoreSet("ann", on=True), ["* You ignore ann."]),
    (events.IgnoreSet("ann", on=False), ["* You no longer ignore ann."]),
    (events.AwaySet(None), ["* You are back."]),
    (events.AwaySet(""), ["* You are away. /back ends it."]),
    (events.TimestampsSet(on=True), ["* Timestamps are on."]),
    (events.QuietSet(on=True), ["* Notices are hidden."]),
    (events.Help("back"), ["* /back", "* Say that you are back. The opposite of /away."]),
    (events.Failed(Problem.NO_SUCH_NAME, "dave"), ["! No one here is called dave."]),
    (events.Failed(Problem.USAGE, "nick"), ["! Usage: /nick NAME"]),
    (events.Failed(Problem.NO_SUCH_NAME, "{event} {0} %s"), ["! No one here is called {event} {0} %s."]),
    (events.Goodbye("ann", ""), ["* Bye, ann."]),
    (events.Goodbye("", ""), ["* Bye."]),
    (events.Goodbye("ann", "send queue exceeded"), ["! You are disconnected: send queue exceeded."]),
    (events.Stopping(""), ["! The server is stopping."]),
    (events.Stopping("upgrade"), ["! The server is stopping (upgrade)."]),
    (
        events.Stalled(),
        ["* The server cannot deliver messages at the moment. What you send is kept and goes out as soon as it can."],
    ),
]


@pytest.mark.parametrize(("event", "lines"), SAMPLES)
def test_words(event: events.Event, lines: list[str]) -> None:
    assert show(event) == lines


def test_each_event_has_words() -> None:
    assert {type(event) for event, _ in SAMPLES} == {*typing.get_args(events.Event)}


@pytest.mark.parametrize("problem", Problem)
def test_each_problem_has_words(problem: Problem) -> None:
    """One line, with what it is about if it says so; braces in that harm nothing."""
    block = encode_problem(problem, "{nick}", "{more}").decode()
    assert block.startswith("! ")
    assert block.endswith("\n")
    assert block.count("\n") == 1
    assert "about" not in block


@pytest.mark.parametrize(("event", "lines"), SAMPLES)
def test_timestamps_stand_before_every_line_that_happened(event: events.Event, lines: list[str]) -> None:
    headings = 1 if isinstance(event, events.History) and event.asked else 0
    stamped = show(event, Style(timestamps=True))
    assert stamped == lines[:headings] + ["12:00 " + line for line in lines[headings:]]


@pytest.mark.parametrize(("event", "lines"), SAMPLES)
def test_elsewhere_is_about_messages_only(event: events.Event, lines: list[str]) -> None:
    start = "#a " if isinstance(event, events.Message) else ""
    assert show(event, Style(elsewhere=True)) == [start + line for line in lines]


def test_the_room_stands_behind_the_time() -> None:
    message = events.Message("python", "ann", ("hello",))
    assert show(message, Style(elsewhere=True, timestamps=True)) == ["12:00 #python ann: hello"]


def test_history_lines_carry_their_own_time() -> None:
    history = events.History("a", (Line(NOON - 3_600_000, "ann", False, "hi"),), asked=False)
    assert show(history, Style(timestamps=True)) == ["11:00 ann: hi"]


def test_times_are_utc_whatever_the_hour_and_a_span_has_two_units() -> None:
    spans = [(999, "0 s"), (59_000, "59 s"), (61_000, "1 min 1 s"), (3_600_000, "1 h"), (90_061_000, "1 d 1 h")]
    for idle, words in spans:
        [line] = show(events.Whois("ann", ("a",), 0, idle, None))
        assert line == f"* ann: in #a; here since 1970-01-01 00:00 UTC; idle {words}"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])), min_size=1))
def test_a_message_is_as_many_lines_as_texts(texts: list[str]) -> None:
    assert show(events.Message("a", "ann", tuple(texts))) == [f"ann: {text}" for text in texts]


@given(st.integers(0, 3 * RUN_MOST))
def test_a_run_of_messages_is_cut_so_that_one_entry_is_never_more_than_a_send_queue(count: int) -> None:
    entries = read_frames(SID, [(number, f"line {number}") for number in range(1, count + 1)], 100, 2, "line")
    assert all(isinstance(entry, Said) and len(entry.texts) <= RUN_MOST for entry in entries)
    assert [text for entry in entries for text in entry.texts] == [f"line {number}" for number in range(1, count + 1)]
    assert [entry.end for entry in entries] == sorted({entry.end for entry in entries})
    assert {(entry.epoch, entry.mode) for entry in entries} <= {(2, "line")}, "or it would not count"
