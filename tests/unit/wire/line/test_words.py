"""The words of the line dialect: events to lines. What they look like in use is in tests/unit/chat."""

import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat import events
from mpchat.chat.problems import Problem
from mpchat.chat.state.history import Line
from mpchat.wire.line.words import PLAIN, Style, encode_event

NOON = 1_772_366_400_000  # 2026-03-01 12:00 UTC


def show(event: events.Event, style: Style = PLAIN) -> list[str]:
    block = encode_event(event, NOON, style).decode()
    assert block.endswith("\n")
    return block[:-1].split("\n")


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
        ["* The last 2 lines of #a:", "ann: hi", "** ann waves", "* Now."],
    ),
    (
        events.History("a", (Line(NOON, "ann", False, "hi"),), asked=False),
        ["* Earlier in #a (since 12:00 UTC):", "ann: hi", "* Now."],
    ),
    (events.History("a", (), asked=True, earlier=True), ["* #a: nothing is kept from before that."]),
    (events.Found((), 1, full=False), ["* Nothing found."]),
    (
        events.Found((events.FoundLine("a", NOON, "ann", True, "waves"),), 3, full=True),
        ["* Found, page 3, the newest last:", "2026-03-01 12:00 #a ** ann waves", "* Page 4 has older ones."],
    ),
    (events.RecallSet(on=False), ["* On entering a room you are not shown what was said earlier."]),
    (events.RecallSet(on=True), ["* On entering a room you are shown what was said earlier."]),
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
    (events.Explained("back"), ["* /back", "* Say that you are back. The opposite of /away."]),
    (events.Explained("/back"), ["! There is no command //back. Did you mean /back?"]),
    (events.Failed(Problem.NO_SUCH_NAME, "dave"), ["! No one here is called dave."]),
    (events.Failed(Problem.USAGE, "nick"), ["! Usage: /nick NAME"]),
    (events.Failed(Problem.USAGE, "of another dialect"), ["! Usage: of another dialect"]),
    (events.Failed(Problem.PAGE_NUMBER), ["! Usage: /who [ROOM] [PAGE]"]),
    (events.Failed(Problem.TEXT_EMPTY), ["! Usage: /msg NAME TEXT"]),
    (events.Failed(Problem.NO_SUCH_NAME, "{event} {0} %s"), ["! No one here is called {event} {0} %s."]),
    (events.Failed(Problem.UNKNOWN_COMMAND, "join", "joim"), ["! There is no command /joim. Did you mean /join?"]),
    (events.Failed(Problem.UNKNOWN_COMMAND, "", "wrong"), ["! There is no command /wrong. /help lists the commands."]),
    (events.TopicSet("ann", "a", ""), ["* ann cleared the topic of #a"]),
    (
        events.Slowed(2.5, ended=False),
        ["* That is more than 2.5 lines a second. The rest is read at that pace; what you type now comes behind it."],
    ),
    (
        events.Slowed(10.0, ended=True),
        ["* You have ended your side. What is left of what you sent is read at 10 lines a second while you stay."],
    ),
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


PROTOCOL: dict[type[events.Event], tuple[events.Event, bytes]] = {
    events.Negotiated: (
        events.Negotiated("wont 6, do 0, ayt"),
        b"\xff\xfc\x06\xff\xfd\0* Yes, mpchat is here.\r\n",
    ),
    events.Mistaken: (
        events.Mistaken("irc"),
        b"ERROR :This is mpchat, a chat of plain lines, and no IRC server. "
        b"Connect with nc, telnet or mpchat-client.\r\n",
    ),
}


@pytest.mark.parametrize(("event", "data"), PROTOCOL.values())
@pytest.mark.parametrize("style", [Style(), Style(timestamps=True, telnet=True)])
def test_what_programs_are_told_is_the_same_in_every_style(event: events.Event, data: bytes, style: Style) -> None:
    assert encode_event(event, NOON, style) == data


def test_lines_for_telnet_end_in_cr_lf() -> None:
    message = events.Message("a", "ann", ("one", "two"))
    assert encode_event(message, NOON, Style(telnet=True)) == b"ann: one\r\nann: two\r\n"
    history = events.History("a", (Line(NOON, "ann", False, "hi"),), asked=True)
    assert encode_event(history, NOON, Style(telnet=True)) == b"* The last 1 line of #a:\r\nann: hi\r\n* Now.\r\n"


def test_each_event_has_words() -> None:
    assert {type(event) for event, _ in SAMPLES} == {*typing.get_args(events.Event)} - {*PROTOCOL}


@pytest.mark.parametrize("problem", Problem)
def test_each_problem_has_words(problem: Problem) -> None:
    """One line, with what it is about if it says so; braces in that harm nothing."""
    block = encode_event(events.Failed(problem, "{nick}", "{more}"), NOON).decode()
    assert block.startswith("! ")
    assert block.endswith("\n")
    assert block.count("\n") == 1
    assert "about" not in block


@pytest.mark.parametrize(("event", "lines"), SAMPLES)
def test_timestamps_stand_before_every_line_that_happened(event: events.Event, lines: list[str]) -> None:
    """But before the two lines around what was said earlier, and before what was found."""
    framed = isinstance(event, events.History)
    around = {0, len(lines) - 1} if framed else set()
    if isinstance(event, events.Found) and event.lines:
        around = {*range(len(lines))}
    stamped = show(event, Style(timestamps=True))
    assert stamped == [line if number in around else "12:00 " + line for number, line in enumerate(lines)]


@pytest.mark.parametrize(("event", "lines"), SAMPLES)
def test_elsewhere_is_about_messages_only(event: events.Event, lines: list[str]) -> None:
    start = "#a " if isinstance(event, events.Message) else ""
    assert show(event, Style(elsewhere=True)) == [start + line for line in lines]


def test_the_room_stands_behind_the_time() -> None:
    message = events.Message("python", "ann", ("hello",))
    assert show(message, Style(elsewhere=True, timestamps=True)) == ["12:00 #python ann: hello"]


MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


@pytest.mark.parametrize(
    ("age", "since", "plain", "stamped"),
    [
        (0, "12:00", "", "12:00 "),
        (HOUR, "11:00", "", "11:00 "),
        (HOUR + 1, "10:59", "2026-03-01 10:59 ", "2026-03-01 10:59 "),
        (3 * DAY, "2026-02-26 12:00", "2026-02-26 12:00 ", "2026-02-26 12:00 "),
    ],
)
def test_history_lines_show_when_they_were_said(age: int, since: str, plain: str, stamped: str) -> None:
    history = events.History("a", (Line(NOON - age, "ann", False, "hi"), Line(NOON, "bob", True, "waves")), asked=False)
    heading = f"* Earlier in #a (since {since} UTC):"
    assert show(history) == [heading, f"{plain}ann: hi", "** bob waves", "* Now."]
    assert show(history, Style(timestamps=True)) == [heading, f"{stamped}ann: hi", "12:00 ** bob waves", "* Now."]


def test_a_line_of_yesterday_has_its_date_however_new_it_is() -> None:
    midnight = NOON + 12 * HOUR
    history = events.History("a", (Line(midnight - MINUTE, "ann", False, "hi"),), asked=True)
    assert encode_event(history, midnight).decode().split("\n")[:2] == [
        "* The last 1 line of #a:",
        "2026-03-01 23:59 ann: hi",
    ]


def test_a_program_is_shown_history_only_if_it_asks() -> None:
    lines = (Line(NOON, "ann", False, "hi"),)
    assert encode_event(events.History("a", lines, asked=False), NOON, Style(program=True)) == b""
    assert encode_event(events.History("a", lines, asked=True), NOON, Style(program=True))


def test_times_are_utc_whatever_the_hour_and_a_span_has_two_units() -> None:
    spans = [(999, "0 s"), (59_000, "59 s"), (61_000, "1 min 1 s"), (3_600_000, "1 h"), (90_061_000, "1 d 1 h")]
    for idle, words in spans:
        [line] = show(events.Whois("ann", ("a",), 0, idle, None))
        assert line == f"* ann: in #a; here since 1970-01-01 00:00 UTC; idle {words}"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])), min_size=1))
def test_a_message_is_as_many_lines_as_texts(texts: list[str]) -> None:
    assert show(events.Message("a", "ann", tuple(texts))) == [f"ann: {text}" for text in texts]
