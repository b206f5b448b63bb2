"""The trial of an upgrade: the version that is installed now runs as a server of its own, on a port of its own.

Owns that process. The trial is passed if the version comes up, reads the format of the handover, ends, and says which
version it is. Promises never to wait for the process, and to judge it once.
"""

import os
import subprocess
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from mpchat.server.main.upgrade.handover import FORMAT
from mpchat.server.main.upgrade.program import Program
from mpchat.server.main.waitloop import WaitLoop

TRIAL_SECONDS = 30.0
"""How long the trial may take."""

LAST_SECONDS = 1.0
"""How long the version on trial may take to end once it has closed its output."""

TRIAL_PASSED = "the trial is passed by mpchat "
"""The beginning of the last line that a version on trial writes when it came up and has ended. Its version follows."""

CHECK_AGAIN = 0.01
"""Seconds between two checks of whether it has ended, once it has closed its output or was killed."""

TRIAL_OUTPUT = 4096
"""Bytes kept of its output: the last ones."""


class Trial:
    """The new version on trial, as a process of its own. Raises OSError.

    `done` is called once: with the reason if the trial has failed, with an empty string if it is passed. `version` is
    then the version that has passed.
    """

    def __init__(self, loop: WaitLoop, program: Program, done: Callable[[str], None]) -> None:
        self._loop = loop
        self._done = done
        self.version = ""
        self._said: deque[int] = deque(maxlen=TRIAL_OUTPUT)
        self._process = subprocess.Popen(
            [*program.command, "--trial", FORMAT],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=program.environment,
            cwd=program.directory,
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._up_by = self.deadline = time.monotonic() + TRIAL_SECONDS
        self._trouble = ""
        loop.watch(self._output, lambda events: self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self, now: float) -> None:
        """Kill it when it takes too long, and judge it when it has ended. Never waits for it."""
        if now < self.deadline:
            return
        if now >= self._up_by and not self._trouble:
            self._trouble = f"timed out after {TRIAL_SECONDS:g} s"
            self._process.kill()
        if self._process.poll() is None:
            self.deadline = now + CHECK_AGAIN
        else:
            trouble = self._judge()
            self.close()
            self._done(trouble)

    def close(self) -> None:
        """Kill it without judging it. Waits until it has ended, up to LAST_SECONDS."""
        self._loop.unwatch(self._output)
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LAST_SECONDS)
        self._output.close()

    def _read(self) -> None:
        data = self._output.read(TRIAL_OUTPUT)
        if data:
            self._said.extend(data)
        elif data is not None:
            # Its output has ended: so has the process, or it is about to.
            self._loop.unwatch(self._output)
            now = time.monotonic()
            self._up_by = min(self._up_by, now + LAST_SECONDS)
            self.deadline = now

    def _judge(self) -> str:
        """Return why the trial has failed, now that the process has ended; an empty string if it is passed."""
        if self._trouble:
            return self._trouble
        code = self._process.returncode
        last = bytes(self._said).decode(errors="replace").strip().rpartition("\n")[2]
        if code:
            return f"ended with exit code {code}: {last}"
        if not last.startswith(TRIAL_PASSED):
            return f"did not say that it came up: {last}"
        self.version = last.removeprefix(TRIAL_PASSED)
        return ""
