"""Unit tests start no process: those that do belong in tests/process."""

from __future__ import annotations

import multiprocessing.util
import os
import subprocess
from typing import Any

import pytest


def refuse(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("a unit test starts a process: it belongs in tests/process")


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every way in which the standard library starts a process, those of multiprocessing included."""
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(subprocess.Popen, "__del__", lambda popen: None)
    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", refuse)
