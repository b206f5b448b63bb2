"""The table of commands: whole, without double words, and in step with what handles it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.commands import COMMANDS, Command, find_command, nearest_command
from mpchat.chat.handlers import HANDLERS

# The table of the line protocol.
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
    "topic": (),
    "history": (),
    "ignore": (),
    "unignore": (),
    "away": (),
    "back": (),
    "timestamp": (),
    "quiet": (),
    "quit": ("exit",),
}


def test_the_table_is_that_of_the_protocol() -> None:
    assert {command.name: command.short for command in COMMANDS} == SHORT_FORMS


def test_each_command_has_a_handler_and_the_reverse() -> None:
    assert [*HANDLERS] == [command.name for command in COMMANDS]


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
    assert nearest_command(typed).name == meant


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_there_is_always_a_nearest(word: str) -> None:
    assert nearest_command(word) in COMMANDS
    assert nearest_command(word) in COMMANDS


def test_usage_is_the_name_and_what_follows() -> None:
    usages = {command.name: command.usage for command in COMMANDS}
    assert usages["join"] == "/join ROOM"
    assert usages["back"] == "/back"
