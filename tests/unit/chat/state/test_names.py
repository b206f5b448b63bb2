"""Names: what may be one, and when two are the same."""

import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.state import lookalikes
from mpchat.chat.state.names import MAX_NAME, clean_name, clean_room, name_key, name_look, numbered_name
from mpchat.chat.state.state import Looks

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
        ("_x", "_x"),
        ("Zoë", "Zoë"),
        ("Zoe\u0308", "Zo\u00eb"),
        ("Ａｄａ", "Ada"),
        ("Дмитрий", "Дмитрий"),
        ("李雷", "李雷"),
        ("नमस्ते", "नमस्ते"),
        ("٤٢", "٤٢"),
        ("x" * 32, "x" * 32),
        ("admin-2", "admin-2"),
        ("[alice", "[alice"),
        ("{alice}", "{alice}"),
        # what is never drawn is no part of a name
        ("alice\ufe0f", "alice"),
        ("al\u034fice\U000e0100", "alice"),
        ("\ufeffa\u200bb\u00adc\u200f", "abc"),
        ("a\u202eb", "ab"),
        ("ក\u17b4", "ក"),
        # other scripts than those which look alike are mixed in real names
        ("李雷Lee", "李雷Lee"),
        ("Марія_2", "Марія_2"),
        ("Ὀδυσσεύς", "Ὀδυσσεύς"),
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
        ("\u3164", Problem.NAME_EMPTY, ""),  # a letter that is not drawn
        ("\u200b \ufe0f", Problem.NAME_EMPTY, ""),
        ("\u0301a", Problem.NAME_CHARACTER, "U+0301"),  # an accent without its letter
        ("a" + "\u0335" * 3, Problem.NAME_CHARACTER, "U+0335"),  # a pile of them
        ("_\u0301", Problem.NAME_CHARACTER, "U+0301"),
        ("a\x1b[31m", Problem.NAME_CHARACTER, "U+001B"),
        ("a\ufffd", Problem.NAME_CHARACTER, "\ufffd"),
        ("😀", Problem.NAME_CHARACTER, "😀"),
        (".", Problem.NAME_PUNCTUATION, "."),
        ("-", Problem.NAME_PUNCTUATION, "-"),
        ("_ ^", Problem.NAME_PUNCTUATION, "__^"),
        ("[]", Problem.NAME_PUNCTUATION, "[]"),
        ("аnna", Problem.NAME_MIXED, "Latin and Cyrillic"),
        ("ann\u0430", Problem.NAME_MIXED, "Latin and Cyrillic"),
        ("αlex", Problem.NAME_MIXED, "Latin and Greek"),
        ("αлекс", Problem.NAME_MIXED, "Greek and Cyrillic"),
        ("server", Problem.NAME_RESERVED, "server"),
        (" SyStem", Problem.NAME_RESERVED, "SyStem"),
        ("mpchat", Problem.NAME_RESERVED, "mpchat"),
        ("Ａdmin", Problem.NAME_RESERVED, "Admin"),
        ("adrnin", Problem.NAME_RESERVED, "adrnin"),  # rn for m
        ("0perat0r", Problem.NAME_RESERVED, "0perat0r"),
        ("s\u200berver", Problem.NAME_RESERVED, "server"),
        ("[alice]", Problem.NAME_RESERVED, "[alice]"),
        ("［alice］", Problem.NAME_RESERVED, "[alice]"),
        ("[to bob]", Problem.NAME_RESERVED, "[to_bob]"),
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
    assert any(character.isalnum() for character in name)
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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("anna", "аnnа"),  # Cyrillic
        ("coco", "сосо"),
        ("AHHA", "АННА"),
        ("ahha", "АННА"),
        ("ОО7", "007"),
        ("оо7", "007"),
        ("Іvan", "Ivan"),
        ("tоrn", "tom"),  # Cyrillic o
        ("tоrn", "torn"),
        ("Ian", "lan"),
        ("PauI", "paul"),
        ("bi||", "bill"),
        ("alice", "alice\ufe0f"),
        ("é", "e\u0301"),
        ("ɑlice", "alice"),
    ],
)
def test_names_that_look_the_same(one: str, other: str) -> None:
    assert name_look(one).is_like(name_look(other))
    assert name_look(other).is_like(name_look(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("anna", "anne"),
        ("ian", "lan"),
        ("李", "雷"),
        ("zoe", "zoë"),
        ("a-1", "a-2"),
        # names in ASCII that UTS 39 takes for one
        ("tom", "torn"),
        ("10", "lo"),
        ("al", "a1"),
        ("bob", "b0b"),
        ("007", "oo7"),
    ],
)
def test_names_that_look_different(one: str, other: str) -> None:
    assert not name_look(one).is_like(name_look(other))
    assert not name_look(other).is_like(name_look(one))


@given(st.data())
def test_the_first_that_looks_alike_is_found(data: st.DataObject) -> None:
    """In any order, beside names of the same skeleton, however many have gone again."""
    names = data.draw(st.lists(st.text("1lI|о0O", min_size=1, max_size=3), unique_by=name_key, max_size=20))
    looks: Looks[str] = Looks()
    for name in names:
        looks.add(name_look(name), name)
    kept = data.draw(st.sets(st.sampled_from(names))) if names else set()
    for name in names:
        if name not in kept:
            looks.drop(name_look(name), name)
    for name in names:
        alike = {other for other in kept if other != name and name_look(other).is_like(name_look(name))}
        found = looks.find(name_look(name), but=name)
        assert found in alike if alike else found is None


@given(TEXTS, st.sampled_from("\ufe0f\u034f\u17b4\u200d\u202e\U000e0100"))
def test_what_is_never_drawn_makes_no_other_name(text: str, ignorable: str) -> None:
    for at in (0, len(text) // 2, len(text)):
        longer = text[:at] + ignorable + text[at:]
        assert name_key(longer) == name_key(text)
        assert name_look(longer).is_like(name_look(text))


# Of letters: an accent may change its place among those of the letter before it.
ALIKE = [
    (prototype, character)
    for prototype, characters in lookalikes.CONFUSABLES.items()
    for character in characters
    if all(unicodedata.category(each)[0] == "L" for each in prototype + character)
]


@given(st.text(LETTERS, min_size=1, max_size=20), st.integers(0, 20), st.sampled_from(ALIKE))
def test_a_confusable_letter_makes_no_other_look(text: str, at: int, pair: tuple[str, str]) -> None:
    prototype, alike = pair
    assume(not (text + alike).isascii())
    assert name_look(text[:at] + alike + text[at:]).is_like(name_look(text[:at] + prototype + text[at:]))


def test_rooms_may_be_called_what_people_may_not() -> None:
    assert clean_room("#admin".removeprefix("#")) == "admin"
    assert clean_room("[x]") == "[x]"


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
