"""What becomes of what was typed or pasted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.client.screen.outgoing import Paste, find_problem, read_limit, read_paste, show_own


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("one", "one"),
        ("one\n", "one"),
        ("one\r\n", "one"),
        ("\n\none\n\n", "one"),
        ("one\ntwo", Paste(("<one", "two>"))),
        ("one\r\ntwo\r\n", Paste(("<one", "two>"))),
        ("one\rtwo\rthree", Paste(("<one", "two", "three>"))),
        ("one\n\n  \ntwo", Paste(("<one", "two>"))),
        ("", ""),
    ],
)
def test_pastes(text: str, done: Paste | str) -> None:
    assert read_paste(text, "<", ">") == done


def test_the_question() -> None:
    paste = read_paste("\n".join(map(str, range(50))), "", "")
    assert isinstance(paste, Paste)
    assert paste.question == "Send 50 lines? y/n"


def test_pasted_lines_are_text() -> None:
    assert Paste(("hello", "quit", "/nick x")).to_send == ("hello", "/say quit", "//nick x")


@given(st.text(st.sampled_from("ab \n\r"), max_size=30))
def test_no_pasted_text_is_lost(text: str) -> None:
    done = read_paste(text, "", "")
    kept = done if isinstance(done, str) else "".join(done.lines)
    assert "".join(kept.split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (("x" * 10,), ""),
        (("x" * 11,), "The line has 11 bytes, and the server takes 10. Nothing was sent."),
        (("é" * 6,), "The line has 12 bytes, and the server takes 10. Nothing was sent."),
        (("x", "x" * 11), "Line 2 of 2 has 11 bytes, and the server takes 10. Nothing was sent."),
        ((), ""),
    ],
)
def test_lines_that_are_too_long(lines: tuple[str, ...], problem: str) -> None:
    assert find_problem(lines, 10) == problem


def test_the_limit_is_learnt() -> None:
    assert read_limit("That line is too long: 100 bytes at most. It was not sent.") == 100
    assert read_limit("That is too long: 300 characters at most.") is None


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("hello", "bot: hello"),
        ("  hello", "bot:   hello"),
        ("//x", "bot: /x"),
        ("/say quit", "bot: quit"),
        ("/me waves", "** bot waves"),
        ("/ME  waves", "** bot  waves"),
        ("/who", ""),
        ("/msg ann hi", ""),
        ("quit", ""),
        ("/me", ""),
    ],
)
def test_how_own_lines_look(line: str, shown: str) -> None:
    assert show_own(line, "bot") == shown
