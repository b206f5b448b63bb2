"""Names: what may be one, and when two are the same."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.state.names import MAX_NAME, clean_name, clean_room, name_key, numbered_name

# Mostly what may be in a name, so that many of them are acceptable; and everything else that text may hold.
LETTERS = st.characters(categories=["L", "Nd"])
TEXTS = st.one_of(
    st.text(LETTERS, min_size=1, max_size=MAX_NAME),
    st.text(st.one_of(LETTERS, st.characters(categories=["Mn", "Mc"]), st.sampled_from("_-.[]{}|^ ")), max_size=40),
    st.text(st.characters(exclude_categories=["Cs"])),
)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("alice", "alice"),
        ("  alice\t", "alice"),
        ("John Smith", "John_Smith"),
        ("John \t  Smith", "John_Smith"),
        ("[x]{y}|z^_-.", "[x]{y}|z^_-."),
        ("_", "_"),
        ("Zoë", "Zoë"),
        ("Zoe\u0308", "Zo\u00eb"),
        ("Ａｄａ", "Ada"),
        ("Дмитрий", "Дмитрий"),
        ("李雷", "李雷"),
        ("नमस्ते", "नमस्ते"),
        ("٤٢", "٤٢"),
        ("x" * 32, "x" * 32),
    ],
)
def test_acceptable(typed: str, name: str) -> None:
    assert clean_name(typed) == name


@pytest.mark.parametrize(
    ("typed", "problem", "about"),
    [
        ("", Problem.NAME_EMPTY, ""),
        (" \t\u3000", Problem.NAME_EMPTY, ""),
        ("x" * 33, Problem.NAME_LONG, "32"),
        ("ﷺ" * 2, Problem.NAME_LONG, "32"),  # 18 characters each, after NFKC
        ("a/b", Problem.NAME_CHARACTER, "/"),
        ("#room", Problem.NAME_CHARACTER, "#"),
        ("a:b", Problem.NAME_CHARACTER, ":"),
        ("a\u202eb", Problem.NAME_CHARACTER, "U+202E"),  # right-to-left override
        ("\u200fa", Problem.NAME_CHARACTER, "U+200F"),  # right-to-left mark
        ("a\u200bb", Problem.NAME_CHARACTER, "U+200B"),  # zero width space
        ("a\u00adb", Problem.NAME_CHARACTER, "U+00AD"),  # soft hyphen
        ("\u3164", Problem.NAME_CHARACTER, "U+1160"),  # a letter that is not drawn
        ("\u0301a", Problem.NAME_CHARACTER, "U+0301"),  # an accent without its letter
        ("a" + "\u0335" * 3, Problem.NAME_CHARACTER, "U+0335"),  # a pile of them
        ("_\u0301", Problem.NAME_CHARACTER, "U+0301"),
        ("a\x1b[31m", Problem.NAME_CHARACTER, "U+001B"),
        ("a\ufffd", Problem.NAME_CHARACTER, "\ufffd"),
        ("😀", Problem.NAME_CHARACTER, "😀"),
    ],
)
def test_not_acceptable(typed: str, problem: Problem, about: str) -> None:
    with pytest.raises(Refusal) as caught:
        clean_name(typed)
    assert caught.value.problem is problem
    assert caught.value.about == about


@given(TEXTS)
def test_a_name_is_within_the_rule_and_stays_as_it_is(text: str) -> None:
    try:
        name = clean_name(text)
    except Refusal:
        return
    assert 1 <= len(name) <= MAX_NAME
    assert name.isprintable()
    assert not any(character.isspace() for character in name)
    assert unicodedata.is_normalized("NFKC", name)
    assert clean_name(name) == name


@given(TEXTS)
@example("ᾴ\u0345")
@example("İ")
@example("ǰ")
def test_case_makes_no_other_name(text: str) -> None:
    try:
        name = clean_name(text)
    except Refusal:
        return
    assert name_key(name_key(name)) == name_key(name)
    assert name_key(name.casefold()) == name_key(name)


def test_the_same_name_in_any_case_and_form() -> None:
    assert name_key("Alice") == name_key("aLICE") == name_key("Ａｌｉｃｅ")
    assert name_key("STRASSE") == name_key("straße")
    assert name_key("Σίσυφος") == name_key("ΣΊΣΥΦΟΣ")
    assert name_key("alice") != name_key("alice-2")


@given(TEXTS)
@example("ß" * 32)
def test_a_room_can_be_entered_by_the_name_it_is_shown_with(text: str) -> None:
    try:
        room = clean_room(text)
    except Refusal:
        return
    assert 1 <= len(room) <= MAX_NAME
    assert clean_room(room) == room


def test_rooms_are_folded() -> None:
    assert clean_room(" Python ") == clean_room("PYTHON") == "python"


@pytest.mark.parametrize(("text", "problem"), [("", Problem.NAME_EMPTY), ("#a", Problem.NAME_CHARACTER)])
def test_not_acceptable_as_a_room(text: str, problem: Problem) -> None:
    with pytest.raises(Refusal) as caught:
        clean_room(text)
    assert caught.value.problem is problem


@given(TEXTS, st.integers(2, 20_000))
def test_a_number_makes_another_acceptable_name(text: str, number: int) -> None:
    try:
        name = clean_name(text)
    except Refusal:
        return
    numbered = numbered_name(name, number)
    assert numbered.endswith(f"-{number}")
    assert name_key(numbered) != name_key(numbered_name(name, number + 1))
    assert clean_name(numbered) == numbered
