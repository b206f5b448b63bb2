"""Logging: whatever is logged, what comes on standard error are whole lines that harm no terminal."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpchat.server.logs import start_logging

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
log = logging.getLogger("mpchat.server.worker.worker")


@pytest.fixture(autouse=True)
def _root_is_put_back() -> Iterator[None]:
    root = logging.getLogger("mpchat")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.level, root.propagate = before


def test_a_line_says_when_who_how_bad_and_what(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("worker-0", "info")
    log.info("%s has %d clients", "alice", 3)
    log.warning("careful")
    said = capsys.readouterr()
    first, second = said.err.splitlines()
    assert re.fullmatch(f"{STAMP} worker-0 INFO alice has 3 clients", first)
    assert re.fullmatch(f"{STAMP} worker-0 WARNING careful", second)
    assert said.out == ""


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level(level: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("main", level)
    for say in (log.debug, log.info, log.warning, log.error):
        say("x")
    assert len(capsys.readouterr().err.splitlines()) == count


def test_started_twice_it_says_things_once(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("main", "info")
    start_logging("worker-0", "info")
    log.info("x")
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\a", r"\x1b[2J\x07"),
        ("one\ntwo\r\nthree", r"one\ntwo\r\nthree"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("a\u202eb\u2028c", r"a\u202eb\u2028c"),
        ("\ud800", r"\ud800"),
        ("grüße, 世界 🙂", "grüße, 世界 🙂"),
        ("\0", r"\x00"),
    ],
)
def test_what_is_not_printable_is_written_as_python_writes_it(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging("main", "info")
    log.info("%s", text)
    log.info(text)
    assert [line.partition(" INFO ")[2] for line in capsys.readouterr().err.split("\n")] == [shown, shown, ""]


def test_a_traceback_keeps_its_lines_and_each_of_them_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("main", "info")
    try:
        raise ValueError("bad \x1b[2J\nforged line")
    except ValueError:
        log.exception("a fault of ours")
    head, *middle, before_last, last = capsys.readouterr().err.splitlines()
    assert head.endswith(" main ERROR a fault of ours")
    assert middle[0] == "Traceback (most recent call last):"
    assert (before_last, last) == (r"ValueError: bad \x1b[2J", "forged line")


def test_times_are_utc(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("main", "info")
    record = log.makeRecord(log.name, logging.INFO, "", 0, "x", (), None)
    record.created, record.msecs = 86_399.25, 250.0
    log.handle(record)
    assert capsys.readouterr().err == "1970-01-01T23:59:59.250Z main INFO x\n"


def test_a_stack_is_harmless_too(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("main", "info")
    exec(compile("log.info('here', stack_info=True)", "evil\x1b[2J.py", "exec"), {"log": log})
    stack = capsys.readouterr().err
    assert r'File "evil\x1b[2J.py", line 1' in stack
    assert stack.replace("\n", "").isprintable()


@given(st.text(st.characters(), max_size=50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_but_its_own_end_is_a_control_character(capsys: pytest.CaptureFixture[str], text: str) -> None:
    start_logging("main", "info")
    log.info("%s", text)
    line = capsys.readouterr().err
    assert line.endswith("\n")
    assert line[:-1].isprintable()
