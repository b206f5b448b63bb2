"""Text and queries as tokens: what is found by what, asked of SQLite itself, and what no query can break."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.archive.tokens import Query, mark, segment, write_match
from mpchat.chat.requests import Search
from mpchat.wire.line.commands import read_command


def split_terms(asked: str) -> tuple[str, ...]:
    """What somebody asks for who types this behind `/search`; nothing, if there is nothing that can be found in it."""
    request = read_command(f"/search {asked}")
    return request.terms if isinstance(request, Search) else ()


def found(text: str, asked: str, room: str = "", name: str = "") -> bool:
    database = sqlite3.connect(":memory:")
    database.execute(
        "CREATE VIRTUAL TABLE search USING fts5 (text, room, name, tokenize='unicode61 remove_diacritics 2')"
    )
    database.execute("INSERT INTO search VALUES (?, ?, ?)", (segment(text), mark("lobby"), mark("alice")))
    match = write_match(Query(split_terms(asked), room, name))
    rows = database.execute("SELECT 1 FROM search WHERE search MATCH ?", (match,)).fetchall()
    database.close()
    return bool(rows)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Hello world", "hello"),
        ("Hello world", "WORLD hello"),
        ("Hello world", '"hello world"'),
        ("Иван пришёл", "иван"),
        ("Crème brûlée", "creme"),
        ("我是李雷", "李雷"),
        ("我是李雷", "雷"),
        ("我是李雷。", '"李雷"'),
        ("ภาษาไทย", "ไทย"),
        ("カタカナとひらがな", "ひらがな"),
        ("don't", "don't"),
        ("see http://example.org/a?b=1", "http://example.org/a?b=1"),
        ("C++ and a-b", "a-b"),
    ],
)
def test_what_was_said_is_found(text: str, asked: str) -> None:
    assert found(text, asked)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Hello world", "hell"),
        ("world hello", '"hello world"'),
        ("李 is here, 雷 too", "李雷"),
        ("雷李", "李雷"),
        ("lobby alice", "bob"),
    ],
)
def test_what_was_not_said_is_not_found(text: str, asked: str) -> None:
    assert not found(text, asked)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("one two", ("one", "two")),
        ('"one two" three', ("one two", "three")),
        ('say "never closed', ("say", "never closed")),
        ('"" " " - * AND', ("AND",)),
        ("", ()),
    ],
)
def test_a_query_is_words_and_phrases(text: str, terms: tuple[str, ...]) -> None:
    assert split_terms(text) == terms


def test_a_room_and_a_name_narrow_the_search() -> None:
    assert found("hello", "hello", room="lobby", name="alice")
    assert not found("hello", "hello", room="lobb")
    assert not found("hello", "hello", name="bob")


def test_the_words_of_the_text_are_no_room_and_no_name() -> None:
    assert not found("lobby", "alice")
    assert not found(f"{mark('x')}", "hello", room="x")


@given(st.text(max_size=40))
def test_no_query_is_an_error_of_syntax(asked: str) -> None:
    if split_terms(asked):
        found("anything", asked)


@given(
    st.lists(
        st.sampled_from(['"', "*", "^", "(", ")", "AND", "OR", "NOT", "NEAR(", ":", "-", "+", "text", "a", " ", "\0"])
    )
)
def test_the_language_of_the_index_is_no_language_of_the_user(parts: list[str]) -> None:
    asked = "".join(parts)
    if split_terms(asked):
        found("anything", asked)


@given(st.text(min_size=1, max_size=20).filter(lambda text: any(character.isalnum() for character in text)))
def test_whatever_was_said_finds_itself(text: str) -> None:
    assert found(text, f'"{text.replace(chr(34), " ")}"') or not _has_tokens(text)


def _has_tokens(text: str) -> bool:
    """Whether SQLite sees a token in the text: its Unicode is older than Python's."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE t USING fts5 (text, tokenize='unicode61 remove_diacritics 2')")
    database.execute("CREATE VIRTUAL TABLE v USING fts5vocab (t, 'row')")
    database.execute("INSERT INTO t VALUES (?)", (segment(text),))
    tokens = database.execute("SELECT count(*) FROM v").fetchone()[0]
    database.close()
    return bool(tokens)
