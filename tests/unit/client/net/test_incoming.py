"""From a server's bytes to lines that can be shown, in every chunking."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.client.net.incoming import MAX_LINE, Incoming

PIECES = [b"a", b"\n", b"\r\n", b"\t", b"\x1b[2J", b"\x00", b"\xc2\x9b", b"\xff", b"\xe2\x82\xac", b"\xe2\x82"]
SOUP = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=30)


def lines_of(*chunks: bytes) -> list[str]:
    incoming = Incoming()
    return [line for chunk in chunks for line in incoming.receive(chunk)] + incoming.flush()


@given(chunks=SOUP)
def test_the_same_lines_in_every_chunking(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    assert lines_of(*chunks) == lines_of(whole)
    assert lines_of(*(bytes([byte]) for byte in whole)) == lines_of(whole)


@given(chunks=SOUP, at_once=st.booleans())
def test_nothing_but_control_characters_is_left_out(chunks: list[bytes], at_once: bool) -> None:
    incoming = Incoming()
    incoming.at_once = at_once
    shown = "".join([line for chunk in chunks for line in incoming.receive(chunk)] + incoming.flush())
    came = b"".join(chunks).decode(errors="replace")
    assert not any(unicodedata.category(char) == "Cc" and char != "\t" for char in shown)
    if not at_once:  # a message that ends in half a character is one: the halves of two need not join
        assert shown == "".join(char for char in came if unicodedata.category(char) != "Cc" or char == "\t")


def test_escape_sequences_lose_their_escape() -> None:
    assert lines_of(b"\x1b]0;owned\x07\x1b[2J\xc2\x9b5n\n") == ["]0;owned[2J5n"]


def test_a_line_end_is_waited_for() -> None:
    incoming = Incoming()
    assert incoming.receive(b"one\ntw") == ["one"]
    assert incoming.holds
    assert incoming.receive(b"o\n") == ["two"]
    assert not incoming.holds


def test_at_once_each_chunk_is_a_message() -> None:
    incoming = Incoming()
    incoming.at_once = True
    assert [incoming.receive(chunk) for chunk in (b"one", b"two", b"a\nb", b"c\n")] == [["one"], ["two"], ["a"], ["bc"]]


def test_at_once_keeps_a_cut_character_together() -> None:
    incoming = Incoming()
    incoming.at_once = True
    assert incoming.receive(b"5 \xe2\x82") == ["5 "]
    assert incoming.receive(b"\xac") == []
    assert incoming.flush() == ["€"]


@pytest.mark.parametrize("character", [b"x", "€".encode()])
def test_an_endless_line_is_shown_in_pieces_and_not_held(character: bytes) -> None:
    incoming = Incoming()
    block = character * 1000
    shown = []
    for _ in range(500):
        shown += incoming.receive(block)
        assert len(incoming._held) <= MAX_LINE
    assert max(map(len, shown)) <= MAX_LINE
    assert "".join([*shown, *incoming.flush()]) == (block * 500).decode()
    assert max(map(len, lines_of(block * 500 + b"\n"))) <= MAX_LINE
