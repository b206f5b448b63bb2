"""What a typed line is, as a table; and that every message can be written."""

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpchat.wire.line.meaning import SPECIAL, Kind, read_meaning, write_message

MESSAGE, COMMAND, BLANK = Kind.MESSAGE, Kind.COMMAND, Kind.BLANK

TABLE = [
    # typed            kind     text
    ("hello",          MESSAGE, "hello"),
    ("  hello ",       MESSAGE, "  hello "),
    ("a /help",        MESSAGE, "a /help"),
    ("/help",          COMMAND, "/help"),
    ("  /help",        COMMAND, "/help"),
    ("\t/help",        COMMAND, "/help"),
    ("\u3000/help",    COMMAND, "/help"),
    ("/msg bea  hi ",  COMMAND, "/msg bea  hi "),
    ("/",              COMMAND, "/"),
    ("/ help",         COMMAND, "/ help"),
    ("/nonsense",      COMMAND, "/nonsense"),
    ("//",             MESSAGE, "/"),
    ("//text",         MESSAGE, "/text"),
    ("  //text",       MESSAGE, "  /text"),
    ("///",            MESSAGE, "//"),
    ("quit",           COMMAND, "/quit"),
    ("\tQuIt ",        COMMAND, "/quit"),
    ("/quit so long",  COMMAND, "/quit so long"),
    ("quit it",        MESSAGE, "quit it"),
    ("Quite",          MESSAGE, "Quite"),
    ("",               BLANK,   ""),
    (" \t\u3000",      BLANK,   ""),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "kind", "text"), TABLE, ids=repr)
def test_what_a_line_is(typed: str, kind: Kind, text: str) -> None:
    assert read_meaning(typed) == (kind, text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hello", "hello"),
        ("/etc/hosts", "//etc/hosts"),
        ("  /etc/hosts", "  //etc/hosts"),
        ("//", "///"),
        ("quit", "/say quit"),
        (" QUIT ", "/say  QUIT "),
        ("", ""),
        ("  ", "  "),
    ],
)
def test_a_message_is_written_so_that_it_is_said(text: str, line: str) -> None:
    assert write_message(text) == line


@given(st.text(st.sampled_from("/ \tquitQ\u3000é"), max_size=8) | st.text(max_size=20))
@example("/")
def test_what_is_written_is_read(text: str) -> None:
    kind, said = read_meaning(write_message(text))
    if not text.strip():
        assert kind is BLANK
    elif kind is COMMAND:
        assert said == f"/say {text}"
    else:
        assert (kind, said) == (MESSAGE, text)


def test_a_line_that_starts_with_nothing_special_is_a_message() -> None:
    for character in map(chr, range(sys.maxunicode + 1)):
        if character not in SPECIAL:
            assert read_meaning(character + "uit") == (MESSAGE, character + "uit")
