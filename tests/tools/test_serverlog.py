"""What the tools match in the server's output is what a real server writes."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from mpchat_tools.common.server import READY_S, OwnServer
from mpchat_tools.common.serverlog import Event, find_event, find_start
from mpchat_tools.verify.surroundings import Installation
from server import eventually

from mpchat.server.main import supervisor


def test_a_real_server_writes_the_lines_that_the_tools_match(tmp_path: Path) -> None:
    """The first line on standard output, starts, and what becomes of requests; the program goes before the last one."""
    events: list[Event] = []
    pids: dict[str, int] = {}

    def look(server: OwnServer) -> bool:
        for line in server.new_log_lines():
            if event := find_event(line):
                events.append(event)
            pids.update([started] if (started := find_start(line)) else [])
        return True

    def ask(server: OwnServer, number: signal.Signals, *expected: Event) -> None:
        events.clear()
        psutil.Process(server.pid).send_signal(number)
        eventually(lambda: look(server) and len(events) >= len(expected), f"{number.name}: {expected}", 30.0)
        assert tuple(events) == expected

    with closing(Installation()) as installation:
        command = [*installation.command, "--port", "0", "--workers", "2", "--data", str(tmp_path / "data")]
        with closing(OwnServer(command, installation.working, installation.environment)) as server:
            assert server.address(time.monotonic() + READY_S)[0] == "127.0.0.1"
            eventually(lambda: look(server) and len(pids) == 4, "two workers, a sequencer and an archive")
            family = {child.pid for child in psutil.Process(server.pid).children()}
            assert set(pids) == {"worker-0", "worker-1", "sequencer", "archive"}
            assert set(pids.values()) == family
            ask(server, signal.SIGTTOU, Event.SCALED)
            ask(server, signal.SIGHUP, Event.RELOADED)
            pids.clear()
            ask(server, signal.SIGUSR2, Event.UPGRADE_TRIED, Event.UPGRADED)
            eventually(
                lambda: look(server) and "sequencer" in pids and len(pids) > 1,
                "a worker of the new program, and its sequencer",
            )
            installation.remove("program")
            ask(server, signal.SIGUSR2, Event.UPGRADE_TRIED, Event.UPGRADE_REFUSED)
            assert not server.end().counts


def test_a_program_that_cannot_be_executed_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """A real server says this when execve(2) fails after the trial, which no test can time."""
    handover: Any = SimpleNamespace(tried="")
    with caplog.at_level(logging.INFO):
        supervisor._log_replaced(handover)
    assert [find_event(line) for line in caplog.messages] == [Event.UPGRADE_FAILED]


def test_other_lines_are_no_event() -> None:
    assert find_event("INFO: worker-0 started, pid 12") is None
    assert find_start("INFO: worker-0 ended, pid 12") is None
    assert find_start("x INFO: sequencer started, pid 12") == ("sequencer", 12)
