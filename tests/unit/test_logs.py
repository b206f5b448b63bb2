"""Logging writes whole lines that are harmless to a terminal, and never raises or waits."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logfiles import open_fifo, read_lines, read_now, restored_logging

from mpchat.errors import ConfigError
from mpchat.logs import (
    check_log_file,
    log_descriptors,
    reopen_log,
    report_lost_lines,
    set_log_level,
    start_logging,
)

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
log = logging.getLogger("mpchat.server.worker.worker")


@pytest.fixture(autouse=True)
def _logging_is_put_back() -> Iterator[None]:
    with restored_logging():
        yield


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[tuple[str, int]]:
    with open_fifo(tmp_path / "log") as found:
        yield found


def test_a_line_has_a_time_a_process_a_level_and_a_message(capfd: pytest.CaptureFixture[str]) -> None:
    start_logging("worker-0", "info")
    log.info("%s has %d clients", "alice", 3)
    log.warning("careful")
    said = capfd.readouterr()
    first, second = said.err.splitlines()
    assert re.fullmatch(f"{STAMP} worker-0 INFO alice has 3 clients", first)
    assert re.fullmatch(f"{STAMP} worker-0 WARNING careful", second)
    assert said.out == ""


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level(level: str, count: int, capfd: pytest.CaptureFixture[str]) -> None:
    start_logging("main", level)
    for say in (log.debug, log.info, log.warning, log.error):
        say("x")
    assert len(capfd.readouterr().err.splitlines()) == count


def test_started_twice_it_says_things_once(capfd: pytest.CaptureFixture[str]) -> None:
    start_logging("main", "info")
    start_logging("worker-0", "info")
    log.info("x")
    assert capfd.readouterr().err.count("\n") == 1


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
def test_unprintable_characters_are_escaped_as_python_does(
    text: str, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    start_logging("main", "info")
    log.info("%s", text)
    log.info(text)
    assert [line.partition(" INFO ")[2] for line in capfd.readouterr().err.split("\n")] == [shown, shown, ""]


def test_a_traceback_keeps_its_lines_and_each_of_them_is_harmless(capfd: pytest.CaptureFixture[str]) -> None:
    start_logging("main", "info")
    try:
        raise ValueError("bad \x1b[2J\nforged line")
    except ValueError:
        log.exception("a fault of ours")
    head, *middle, before_last, last = capfd.readouterr().err.splitlines()
    assert head.endswith(" main ERROR a fault of ours")
    assert middle[0] == "Traceback (most recent call last):"
    assert (before_last, last) == (r"ValueError: bad \x1b[2J", "forged line")


def test_times_are_utc(capfd: pytest.CaptureFixture[str]) -> None:
    start_logging("main", "info")
    record = log.makeRecord(log.name, logging.INFO, "", 0, "x", (), None)
    record.created, record.msecs = 86_399.25, 250.0
    log.handle(record)
    assert capfd.readouterr().err == "1970-01-01T23:59:59.250Z main INFO x\n"


def test_a_stack_is_harmless_too(capfd: pytest.CaptureFixture[str]) -> None:
    start_logging("main", "info")
    exec(compile("log.info('here', stack_info=True)", "evil\x1b[2J.py", "exec"), {"log": log})
    stack = capfd.readouterr().err
    assert r'File "evil\x1b[2J.py", line 1' in stack
    assert stack.replace("\n", "").isprintable()


@given(st.text(st.characters(), max_size=50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_but_its_own_end_is_a_control_character(capfd: pytest.CaptureFixture[str], text: str) -> None:
    start_logging("main", "info")
    log.info("%s", text)
    line = capfd.readouterr().err
    assert line.endswith("\n")
    assert line[:-1].isprintable()


def test_another_level(capfd: pytest.CaptureFixture[str]) -> None:
    start_logging("main", "error")
    log.info("unseen")
    set_log_level("info")
    log.info("seen")
    start_logging("main")
    log.info("still")
    assert [line.split()[-1] for line in capfd.readouterr().err.splitlines()] == ["seen", "still"]


def test_a_line_that_cannot_be_formatted_is_logged_as_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    start_logging("main", "info")
    log.info("%d clients", "three")
    log.info("next")
    first, second = capfd.readouterr().err.splitlines()
    assert f" main ERROR log line cannot be formatted error=TypeError at={__file__}:" in first
    assert second.endswith(" main INFO next")


def test_records_of_libraries_take_the_same_way(capfd: pytest.CaptureFixture[str]) -> None:
    start_logging("main", "info")
    library = logging.getLogger("a.library")
    root = logging.getLogger()
    handlers, root.handlers[:] = root.handlers[:], []  # those of pytest
    try:
        library.info("unseen")
        library.warning("seen")
    finally:
        root.handlers[:] = handlers
    assert re.fullmatch(f"{STAMP} main WARNING seen\n", capfd.readouterr().err)


# --- what cannot be written ---------------------------------------------------------------------------------


def test_unread_lines_are_counted_and_the_count_comes_first(fifo: tuple[str, int]) -> None:
    path, reader = fifo
    start_logging("main", "info", path)
    for number in range(2000):
        log.info("%s %d", "x" * 100, number)
    kept = read_now(reader)
    assert kept == [f"main INFO {'x' * 100} {number}" for number in range(len(kept))]
    log.info("room again")
    assert read_now(reader) == [
        f"main WARNING log lines lost count={2000 - len(kept)}",
        "main INFO room again",
    ]


def test_the_count_is_logged_even_if_nothing_else_is(fifo: tuple[str, int]) -> None:
    path, reader = fifo
    start_logging("main", "error", path)
    for _ in range(2000):
        log.error("x" * 100)
    report_lost_lines()
    kept = len(read_now(reader))
    report_lost_lines()
    report_lost_lines()
    assert read_now(reader) == [f"main WARNING log lines lost count={2000 - kept}"]


def test_a_reader_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    start_logging("main", "info", str(path))
    os.close(reader)
    log.info("one")
    log.info("two")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log.info("three")
    assert read_now(reader) == ["main WARNING log lines lost count=2", "main INFO three"]
    os.close(reader)


def test_nothing_is_raised_by_a_full_disk() -> None:
    start_logging("main", "info", "/dev/full")
    log.info("one")
    try:
        raise ValueError
    except ValueError:
        log.exception("two")
    report_lost_lines()


# --- a log file ---------------------------------------------------------------------------------------------


def test_a_log_file_is_added_to(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    start_logging("main", "info", str(path))
    log.info("after")
    assert re.fullmatch(f"before\n{STAMP} main INFO after\n", path.read_text())
    assert capfd.readouterr().err == ""


def test_a_log_file_that_was_moved_away_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    start_logging("main", "info", str(path))
    log.info("one")
    path.rename(tmp_path / "log.1")
    log.info("two")
    reopen_log()
    log.info("three")
    assert read_lines(tmp_path / "log.1") == ["main INFO one", "main INFO two"]
    assert read_lines(path) == ["main INFO log file reopened", "main INFO three"]


def test_the_old_file_stays_if_the_log_cannot_be_reopened(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    start_logging("main", "info", str(folder / "log"))
    folder.rename(tmp_path / "moved")
    reopen_log()
    log.info("goes on")
    first, second = read_lines(tmp_path / "moved" / "log")
    assert first.startswith(
        f"main ERROR log file cannot be reopened: the destination stays reason={folder / 'log'}: No such file"
    )
    assert second == "main INFO goes on"
    folder.mkdir()
    reopen_log()
    assert read_lines(folder / "log") == ["main INFO log file reopened"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "fifo"])
def test_a_log_file_that_cannot_be_opened_is_a_configuration_error(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "log"
    make(path)
    for open_log in (check_log_file, lambda name: start_logging("main", "info", name)):
        with pytest.raises(ConfigError, match=f"log_file = {path}: "):
            open_log(str(path))


def test_a_start_that_must_not_fail_logs_to_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "folder" / "log"
    start_logging("main", "info", str(path), insist=False)
    log.info("here")
    first, second = capfd.readouterr().err.splitlines()
    assert f" main ERROR log file cannot be reopened: the destination stays reason={path}: No such file" in first
    assert second.endswith(" main INFO here")
    path.parent.mkdir()
    reopen_log()
    log.info("there")
    assert read_lines(path) == ["main INFO log file reopened", "main INFO there"]
    assert capfd.readouterr().err == ""


def test_without_a_log_file_there_is_nothing_to_reopen(capfd: pytest.CaptureFixture[str]) -> None:
    start_logging("main", "info")
    reopen_log()
    check_log_file("")
    assert capfd.readouterr().err == ""
    assert log_descriptors() == []
