"""A unit test cannot start a process, whichever way it tries."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    "start",
    [
        lambda: os.fork(),  # noqa: PLW0108 (looked up only when the test runs)
        lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}),
        lambda: os.system("true"),
        lambda: subprocess.run([sys.executable, "-c", ""], check=False),
        lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
    ],
    ids=["fork", "posix_spawn", "system", "subprocess", "multiprocessing"],
)
def test_a_unit_test_that_starts_a_process_fails(start: Callable[[], object]) -> None:
    with pytest.raises(AssertionError, match="belongs in tests/process"):
        start()
