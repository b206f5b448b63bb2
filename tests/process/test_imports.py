"""Importing a module of the package starts no thread and no process."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mpchat

IMPORT_AND_LOOK_AROUND = """
import importlib, sys, threading
import psutil
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert threading.active_count() == 1, f"{name} starts a thread"
    assert not psutil.Process().children(), f"{name} starts a process"
"""


def import_all(names: list[str], directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Import modules in a new process, which fails when one of them starts something."""
    return subprocess.run(
        [sys.executable, "-c", IMPORT_AND_LOOK_AROUND, *names],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_importing_starts_nothing() -> None:
    modules = [module.name for module in pkgutil.walk_packages(mpchat.__path__, "mpchat.")]
    assert {"mpchat.cli", "mpchat.wire.line.words", "mpchat.server.main.supervisor"} <= set(modules)
    # To import __main__ is to run it.
    result = import_all([name for name in modules if not name.endswith("__main__")])
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "starts a thread"),
        ("import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', ''])", "starts a process"),
    ],
)
def test_import_that_starts_something_is_found(tmp_path: Path, source: str, complaint: str) -> None:
    (tmp_path / "hasty.py").write_text(source)
    result = import_all(["hasty"], tmp_path)
    assert f"hasty {complaint}" in result.stderr
