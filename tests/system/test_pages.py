"""The documentation, followed to the letter: each command is run, and each line of a conversation comes."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import pytest
from pages import ROOT, Block, is_output, list_pages, read_blocks, reading, split_commands, supposes_server

PAGES = [page for page in list_pages() if read_blocks(page)]
NEEDED = ("nc", "pkill")
"""Programs that the pages type and that a reader has."""


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_works(page: str, tmp_path: Path, port: int) -> None:
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        pytest.skip(f"the pages type what is not installed here: {', '.join(missing)}")
    with reading(tmp_path, port) as reader:
        if supposes_server(page):
            reader.serve()
        for block in read_blocks(page):
            reader.follow(block)


def test_a_block_that_is_not_run_says_why() -> None:
    skipped = [block for page in PAGES for block in read_blocks(page) if block.kind == "not run"]
    assert [block.place for block in skipped if len(block.value.split()) < 3] == []


@pytest.mark.parametrize("page", list_pages())
def test_what_a_page_leads_to_is_there(page: str) -> None:
    folder = (ROOT / page).parent
    text = (ROOT / page).read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    named = re.findall(r"`((?:tests|docs|scripts|mpchat|\.ci)/[\w./-]+)`", text)
    assert [link for link in links if not (folder / link).exists()] == []
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    ("language", "text"),
    [("sh", "false"), ("sh", "true\nexit 3"), ("sh", "no-such-program"), ("chat", "echo hi\n* never said\n")],
)
def test_a_page_that_is_wrong_is_found(
    language: str, text: str, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pages.DEADLINE", 1.0)
    with reading(tmp_path, port) as reader, pytest.raises(AssertionError):
        reader.follow(Block("a page", 1, language, text, "terminal", "shell"))


def test_commands_are_split_at_the_ends_of_lines_but_for_those_that_go_on() -> None:
    text = "one\n\n# a remark\ntwo \\\n  more\ncat <<'EOF'\nthree\nEOF\nfour\n"
    assert split_commands(text) == ["one", "two \\\n  more", "cat <<'EOF'\nthree\nEOF", "four"]


@pytest.mark.parametrize(
    "line", ["* Bye, alice.", "** alice waves", "[to bob] hi", "[bob] hi", "bob: hello", "#a bob: hi", "! No."]
)
def test_what_a_server_could_have_sent_is_expected(line: str) -> None:
    assert is_output(line)


@pytest.mark.parametrize("line", ["alice", "/join #python", "hello bob", "quit", "see http://example.org/"])
def test_what_it_could_not_have_sent_is_typed(line: str) -> None:
    assert not is_output(line)
