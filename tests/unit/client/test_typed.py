"""What a line of the client's input is. That the server agrees is checked with the server's own dialect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.requests import Quit, Say
from mpchat.client.typed import as_read, is_command, is_name, is_quit, quote
from mpchat.config import Config
from mpchat.wire.line.dialect import LineDialect

LINES = st.text(st.sampled_from("/qQuit say\tx\x00\ufeff\u2028é\xa0\x08\x7f\x15\x17\x1b[A\u2066\u2069"), max_size=12)


def read_as_server(line: str) -> list[object]:
    """The requests that the server makes of a line."""
    dialect = LineDialect(Config())
    framing = dialect.framing()
    framing.receive(line.encode() + b"\n", 0.0)
    return [request for _, request in dialect.read(framing.take(10))]


@pytest.mark.parametrize("line", ["quit", "QUIT ", " quit", "/quit", "/QUIT bye", "  /quit x", "\t/exit", "\x00/quit"])
def test_what_leaves(line: str) -> None:
    assert is_quit(line)
    assert is_command(line)


@pytest.mark.parametrize("line", ["", " ", "quitter", "quit now", "//quit", "/quiet", "/say quit", "i /quit", "/"])
def test_what_does_not_leave(line: str) -> None:
    assert not is_quit(line)


@given(LINES)
def test_the_server_agrees_on_what_leaves(line: str) -> None:
    assert is_quit(line) == any(isinstance(request, Quit) for request in read_as_server(line))


@given(LINES)
def test_what_is_sent_for_a_line_is_read_as_that_line(line: str) -> None:
    assert read_as_server(as_read(line)) == read_as_server(line)


@pytest.mark.parametrize(
    ("line", "text"), [("helo\x7flo", "hello"), ("/qux\x08it", "/quit"), ("bye\x15quit", "quit"), ("a bcd\x17e", "a e")]
)
def test_keys_edit_the_line(line: str, text: str) -> None:
    assert as_read(line) == text
    assert read_as_server(quote(line)) == [Say((text,))]


@given(LINES)
def test_quoted_text_is_never_a_command(line: str) -> None:
    assert all(isinstance(request, Say) for request in read_as_server(quote(line)))


@pytest.mark.parametrize("line", ["hello", "/etc/hosts", "//", "quit", "  /x", "/say x", "/say quit", "a // b"])
def test_quoted_text_is_said_as_it_stands(line: str) -> None:
    assert read_as_server(quote(line)) == [Say((line,))]


@pytest.mark.parametrize("text", ["alice", "李雷", "a b", "b*t"])
def test_names(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize("text", ["", "  ", "/quit", "quit", "//x", "a\nb", "a\x00", "\ud800"])
def test_what_cannot_be_sent_as_a_name(text: str) -> None:
    assert not is_name(text)
