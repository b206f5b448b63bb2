"""Clean text: nothing of one client's bytes may command another client's terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.wire.text import clean_lines, clean_message

EMBEDDINGS, ISOLATES, POP_ISOLATE = "\u202a\u202b\u202c\u202d\u202e", "\u2066\u2067\u2068", "\u2069"
FRAGMENTS = st.sampled_from(
    [
        *[b"hello", b"\t", b"\n", b"\r\n", b"\r", b"\0", b"\x1b[31m", b"\x7f", b"\xc2\x85", b"\xc2\x9b"],
        *[b"\xc3", b"\xa9", b"\xed\xa0\x80", b"\xf0\x9f", "é€😀\u2028\u2029\u202e".encode()],
        *["\u2066".encode(), "\u2069".encode(), b"\xef\xbb\xbf", b"[0m", b"\x1b]0;t", b"\x1b\\"],
        *[b"\x9b", b"\x9d", b"\x9c"],
    ]
)
ODD = EMBEDDINGS + ISOLATES + POP_ISOLATE + "\ufeff"
SOUP = st.lists(st.one_of(FRAGMENTS, st.binary(max_size=6)), max_size=20).map(b"".join)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"plain", "plain"),
        (b"a\tb", "a\tb"),
        (b"a\r\nb\nc", "abc"),
        (b"\x1b[31mred\x07\x7f\0", "red"),
        ("é \x9b31m\x85 é".encode(), "é  é"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"\xc3\x01\xa9", "\ufffd\ufffd"),  # not an é put together from what stood around a control character
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),  # a surrogate is no character
        (b"caf\xc3", "caf\ufffd"),
        ("one\u2028two\u2029three".encode(), "one two three"),
        ("e\u0301 \u200eabc \u200d".encode(), "e\u0301 \u200eabc \u200d"),  # format characters are no controls
        ("\u202aa\u202bb\u202cc\u202dd\u202ee".encode(), "abcde"),
        ("\u2066a\u2067b\u2069\u2068c".encode(), "\u2066a\u2067b\u2069\u2068c\u2069\u2069"),
        ("\u2069a".encode(), "a"),
        ("\ufeffa\ufeffb".encode(), "a\ufeffb"),
        ("\0\n\x1b[m\u202e\ufeffa".encode(), "a"),
        ("\u2069\ufeffa".encode(), "a"),
    ],
)
def test_message(data: bytes, text: str) -> None:
    assert clean_message(data) == text


@given(SOUP)
def test_nothing_commands_a_terminal(data: bytes) -> None:
    text = clean_message(data)
    text.encode()  # a lone surrogate would raise
    assert not [char for char in text if unicodedata.category(char) in {"Cc", "Zl", "Zp"} and char != "\t"]
    assert not [char for char in text if char in EMBEDDINGS]
    assert not text.startswith("\ufeff")
    depth = 0
    for char in text:
        depth += (char in ISOLATES) - (char == POP_ISOLATE)
        assert depth >= 0
    assert depth == 0


@given(SOUP)
def test_it_is_clean_at_once(data: bytes) -> None:
    text = clean_message(data)
    assert clean_message(text.encode()) == text


@given(SOUP)
def test_a_block_is_its_lines(data: bytes) -> None:
    assert clean_lines(data) == [clean_message(line) for line in data.split(b"\n")]


CLEAN = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters=ODD, include_characters="\t")


@given(st.text(CLEAN))
def test_clean_text_stays_as_it_is(text: str) -> None:
    assert clean_message(text.encode()) == text
