"""What the tests of all scripts do to a script that they interrupt."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import psutil
from server import eventually

ENDS_S = 60.0


def interrupt(script: subprocess.Popen[Any], ending: signal.Signals, children: int = 3) -> None:
    """When the script has so many children, interrupt it; see that it says so by its exit status, and that they are
    gone. Their own descendants conftest.py looks for."""
    process = psutil.Process(script.pid)
    eventually(lambda: len(process.children()) >= children, f"it has {children} children", ENDS_S)
    family = process.children()
    script.send_signal(ending)
    script.communicate(timeout=ENDS_S)
    assert script.returncode == 130
    assert not psutil.wait_procs(family, timeout=ENDS_S)[1]
