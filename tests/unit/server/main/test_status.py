"""The status: one line for each process, and for one that is gone, too."""

from __future__ import annotations

import os
import re

import psutil
import pytest

from mpchat.server.main.status import Part, describe_processes


def test_a_process_is_shown_with_what_it_uses() -> None:
    [line] = describe_processes([Part("worker-0", os.getpid(), 3)])
    figures = r"state=\w+ cpu_s=\d+\.\d memory_mib=\d+\.\d"
    assert re.fullmatch(rf"status process=worker-0 pid={os.getpid()} clients=3 {figures}", line)


def test_a_process_without_clients_is_shown_without_their_number() -> None:
    [line] = describe_processes([Part("main", os.getpid())])
    assert "clients" not in line


def test_a_process_that_is_gone_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    known = psutil.Process

    def find(pid: int) -> psutil.Process:
        if pid == 7:
            raise psutil.NoSuchProcess(pid)
        return known(pid)

    monkeypatch.setattr(psutil, "Process", find)
    gone, here = describe_processes([Part("worker-0", 7, 1), Part("main", os.getpid())])
    assert gone == "status process=worker-0 pid=7 clients=1 state=unknown reason=NoSuchProcess"
    assert here.startswith("status process=main")
