"""Logging in forked children: they log to main's file, follow it to a new one, and report no lines that main lost."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from logfiles import open_fifo, read_lines, read_now, restored_logging

from mpchat.logs import (
    log_descriptors,
    reopen_log,
    report_lost_lines,
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


class Child:
    """A forked process that does the next thing whenever it is told to."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._done, done = os.pipe()
        go, self._go = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                os.close(self._go)
                for step in steps:
                    os.read(go, 1)
                    step()
                    os.write(done, b"x")
                code = 0
            finally:
                os._exit(code)
        os.close(done)
        os.close(go)

    def go(self) -> None:
        """Have it do the next thing, and wait until it has."""
        os.write(self._go, b"x")
        assert os.read(self._done, 1) == b"x"

    def end(self) -> None:
        _, status = os.waitpid(self._pid, 0)
        os.close(self._done)
        os.close(self._go)
        assert os.waitstatus_to_exitcode(status) == 0


def test_a_forked_child_logs_to_the_same_file_though_it_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    start_logging("main", "warning", str(folder / "log"))
    folder.rename(tmp_path / "moved")
    child = Child(lambda: start_logging("worker-0"), lambda: log.info("unseen"), lambda: log.warning("there"))
    for _ in range(3):
        child.go()
    child.end()
    assert read_lines(tmp_path / "moved" / "log") == ["worker-0 WARNING there"]


def test_a_child_follows_main_to_the_new_file_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "log"
    start_logging("main", "info", str(path))
    kept = log_descriptors()
    quiet = Child(lambda: start_logging("quiet"), report_lost_lines)
    busy = Child(lambda: start_logging("busy"), lambda: log.info("new"))
    quiet.go()
    busy.go()
    path.rename(tmp_path / "log.1")
    reopen_log()
    assert log_descriptors() == kept, "what children have to keep does not change"
    quiet.go()
    busy.go()
    quiet.end()
    busy.end()
    assert read_lines(path) == ["main INFO log file reopened", "busy INFO new"]
    assert read_lines(tmp_path / "log.1") == []


def test_a_child_that_cannot_follow_stays_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    start_logging("main", "info", str(path))
    child = Child(lambda: log.info("one"), lambda: log.info("two"), lambda: log.info("three"))
    path.rename(tmp_path / "log.1")
    reopen_log()
    path.unlink()
    path.mkdir()
    for _ in range(3):
        child.go()
    child.end()
    first, *others = read_lines(tmp_path / "log.1")
    assert first == f"main ERROR log file cannot be reopened: the destination stays reason={path}: Is a directory"
    assert others == ["main INFO one", "main INFO two", "main INFO three"], "and says so once"


def test_children_do_not_report_the_lines_that_main_lost(fifo: tuple[str, int]) -> None:
    path, reader = fifo
    start_logging("main", "info", path)
    for _ in range(2000):
        log.info("x" * 100)
    child = Child(lambda: start_logging("worker-0"), lambda: log.info("worker"))
    kept = len(read_now(reader))
    child.go()
    child.go()
    assert read_now(reader) == ["worker-0 INFO worker"]
    child.end()
    log.info("main")
    assert read_now(reader) == [f"main WARNING log lines lost count={2000 - kept}", "main INFO main"]
