"""The table of commands: whole, without double words, and in step with the requests it makes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.problems import Problem
from mpchat.chat.requests import (
    KINDS,
    Act,
    Away,
    Back,
    DescribeMember,
    Explain,
    Ignore,
    Join,
    Leave,
    ListIgnored,
    ListMembers,
    ListRooms,
    Misread,
    Mistake,
    Misuse,
    Negotiate,
    Private,
    Quit,
    Rename,
    Reply,
    Request,
    Say,
    Search,
    SetQuiet,
    SetRecall,
    SetTimestamps,
    SetTopic,
    ShowEarlier,
    ShowHistory,
    ShowTopic,
    Unignore,
)
from mpchat.wire.line.commands import COMMANDS, Command, find_command, nearest_command, read_command

PROTOCOL = Path(__file__).parents[4] / "docs" / "reference" / "line-protocol.md"
SHORT_FORMS = {
    "help": ("?",),
    "nick": (),
    "join": ("j",),
    "leave": ("part",),
    "rooms": ("list",),
    "who": ("names",),
    "whois": (),
    "msg": ("w", "tell"),
    "reply": ("r",),
    "me": (),
    "say": (),
    "topic": (),
    "history": (),
    "search": (),
    "ignore": (),
    "unignore": (),
    "away": (),
    "back": (),
    "timestamp": (),
    "quiet": (),
    "quit": ("exit",),
}

READ: list[tuple[str, Request]] = [
    ("/help", Explain("")),
    ("/?  /join ", Explain("join")),
    ("/help no such thing", Explain("no such thing")),
    ("/nick  Al Pacino ", Rename("Al Pacino")),
    ("/nick ", Misuse("nick")),
    ("/join #a", Join("a")),
    ("/J\t a ", Join("a")),
    ("/join #", Join("")),
    ("/join ##", Join("#")),
    ("/join", Misuse("join")),
    ("/leave", Leave()),
    ("/leave #a", Leave("a")),
    ("/leave #", Leave("")),
    ("/part #a  so  long ", Leave("a", "so  long")),
    ("/leave so long", Leave("so", "long", otherwise="so long")),
    ("/rooms", ListRooms(1)),
    ("/list 0", ListRooms(0)),
    ("/rooms 007", ListRooms(7)),
    ("/rooms 999999999", ListRooms(999_999_999)),
    ("/rooms 1234567890", Misuse("rooms")),
    ("/rooms 1 2", Misuse("rooms")),
    ("/rooms ²", Misuse("rooms")),
    ("/who", ListMembers()),
    ("/who a", ListMembers("a")),
    ("/names #2", ListMembers("2")),
    ("/who 2", ListMembers("2", 2, either=True)),
    ("/who 1234567890", ListMembers("1234567890", None, either=True)),
    ("/who a 2", ListMembers("a", 2)),
    ("/who 2 2", ListMembers("2", 2)),
    ("/who a x", ListMembers("a", None)),
    ("/whois bob ", DescribeMember("bob")),
    ("/whois @bob", DescribeMember("bob")),
    ("/whois", Misuse("whois")),
    ("/msg bob  hello  there ", Private("bob", " hello  there ")),
    ("/msg  @bob hi", Private("bob", "hi")),
    ("/msg bob, hi", Private("bob", "hi")),
    ("/msg bob: hi", Private("bob", "hi")),
    ("/msg @ hi", Private("@", "hi")),
    ("/msg bea a\tb", Private("bea", "a\tb")),
    ("/msg\tbea\thi", Private("bea", "hi")),
    ("/msg bea  ", Private("bea", "")),
    ("/w bob", Private("bob", "")),
    ("/tell", Misuse("msg")),
    ("/r hello", Reply("hello")),
    ("/r  a\tb ", Reply(" a\tb ")),
    ("/r  ", Misuse("reply")),
    ("/reply", Misuse("reply")),
    ("/me  waves ", Act(" waves ")),
    ("/me", Misuse("me")),
    ("/say quit", Say(("quit",))),
    ("/say   x ", Say(("  x ",))),
    ("/say", Misuse("say")),
    ("/say  ", Misuse("say")),
    ("/topic", ShowTopic()),
    ("/topic  Be kind ", SetTopic("Be kind")),
    ("/topic - ", SetTopic("")),
    ("/topic -1", SetTopic("-1")),
    ("/history", ShowHistory(20)),
    ("/history 7", ShowHistory(7)),
    ("/history off", SetRecall(False)),
    ("/history ON", SetRecall(True)),
    ("/history 0", Misuse("history")),
    ("/history x", Misuse("history")),
    ("/history more", ShowEarlier(20)),
    ("/history 5 MORE", ShowEarlier(5)),
    ("/history more 5", Misuse("history")),
    ("/history before 2026-11-25", ShowEarlier(20, 1_795_564_800_000)),
    ("/history 7  before 2026-11-25 18:00", ShowEarlier(7, 1_795_629_600_000)),
    ("/history before 2026-11-25 18:00:01", ShowEarlier(20, 1_795_629_601_000)),
    ("/history before 1969-12-31", ShowEarlier(20, -86_400_000)),
    ("/history before", Misuse("history")),
    ("/history before 2026-13-25", Misuse("history")),
    ("/history before yesterday", Misuse("history")),
    ("/search", Misuse("search")),
    ("/search  tea  leaves ", Search(("tea", "leaves"))),
    ("/search \"tea leaves\" pot", Search(("tea leaves", "pot"))),
    ("/search \"tea leaves", Search(("tea leaves",))),
    ("/search tea 2", Search(("tea",), page=2)),
    ("/search tea 0", Misuse("search")),
    ("/search 42", Search(("42",))),
    ("/search \"42\"", Search(("42",))),
    ("/search tea \"42\"", Search(("tea", "42"))),
    ("/search tea in #Kitchen", Search(("tea",), "Kitchen")),
    ("/search tea in china", Search(("tea", "in", "china"))),
    ("/search tea from @bob in #a 3", Search(("tea",), "a", "bob", 3)),
    ("/search tea in #a from bob", Search(("tea",), "a", "bob")),
    ("/search tea \"from\" bob", Search(("tea", "from", "bob"))),
    ("/search from bob", Search(("from", "bob"))),
    ("/search tea in #a in #b", Search(("tea", "in", "#a"), "b")),
    ("/search - AND", Search(("AND",))),
    ("/search - \"\" *", Misuse("search")),
    ("/ignore", ListIgnored()),
    ("/ignore bob", Ignore("bob")),
    ("/ignore @bob", Ignore("bob")),
    ("/unignore bob", Unignore("bob")),
    ("/unignore", Misuse("unignore")),
    ("/away", Away("")),
    ("/away  for lunch", Away("for lunch")),
    ("/back", Back()),
    ("/back again", Back()),
    ("/timestamp", SetTimestamps(None)),
    ("/timestamp ON", SetTimestamps(True)),
    ("/timestamp off", SetTimestamps(False)),
    ("/timestamp maybe", Misuse("timestamp")),
    ("/quiet", SetQuiet(None)),
    ("/quiet on", SetQuiet(True)),
    ("/quiet off off", Misuse("quiet")),
    ("/exit", Quit("")),
    ("/quit  so long ", Quit("so long")),
    ("/joim a", Misread(Problem.UNKNOWN_COMMAND, "join", "joim")),
    ("/wrongcmd", Misread(Problem.UNKNOWN_COMMAND, "", "wrongcmd")),
    ("/", Misread(Problem.UNKNOWN_COMMAND, "", "")),
]


@pytest.mark.parametrize(("line", "request_"), READ, ids=repr)
def test_what_a_line_asks_for(line: str, request_: Request) -> None:
    assert read_command(line) == request_


def test_each_kind_of_request_can_be_typed() -> None:
    """And the examples above are of each of them. Programs ask for the other two, not people."""
    assert {type(request) for _, request in READ} == {*KINDS, Say} - {Negotiate, Mistake}


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_whatever_is_typed_can_be_read(text: str) -> None:
    for command in COMMANDS:
        assert isinstance(read_command(f"/{command.name} {text}"), Request)


def test_the_short_forms_are_those_that_people_know() -> None:
    assert {command.name: command.short for command in COMMANDS} == SHORT_FORMS


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_docs_have_each_command(command: Command) -> None:
    short = ", ".join(f"`/{word}`" for word in command.short)
    assert f"| `{command.usage}` | {short}{' ' if short else ''}|" in PROTOCOL.read_text()


def test_no_word_means_two_commands() -> None:
    words = [word for command in COMMANDS for word in (command.name, *command.short)]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_found_by_each_of_its_words_in_any_case(command: Command) -> None:
    for word in (command.name, *command.short):
        assert find_command(word) is find_command(word.upper()) is command


def test_what_is_no_command_is_not_found() -> None:
    assert find_command("") is None
    assert find_command("joim") is None
    assert find_command("/join") is None


@pytest.mark.parametrize(
    ("typed", "meant"), [("joim", "join"), ("JION", "join"), ("hepl", "help"), ("exti", "quit"), ("topics", "topic")]
)
def test_the_nearest_is_what_was_meant(typed: str, meant: str) -> None:
    assert nearest_command(typed) == meant


@pytest.mark.parametrize("typed", ["wrongcmd", "", "x", "nonsense", "wave", "\u0130" * 30])
def test_what_is_not_near_is_not_suggested(typed: str) -> None:
    assert nearest_command(typed) == ""


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_nearest_is_a_command_if_there_is_one(word: str) -> None:
    nearest = nearest_command(word)
    assert not nearest or find_command(nearest) in COMMANDS


def test_usage_is_the_name_and_what_follows() -> None:
    usages = {command.name: command.usage for command in COMMANDS}
    assert usages["join"] == "/join ROOM"
    assert usages["back"] == "/back"
