"""Upgrade in place: in the same process, the version that is installed now replaces this program.

Owns the trial of that version, and the *handover*, which is what the old program leaves to the new one. The trial comes
first: the new version runs as a server of its own on a port of its own. Unless it says that it came up, and which
version it is, nothing happens. Then the old program stops all workers at the same record of the log, has a snapshot
made of exactly that state, and executes the new program: same process, same descriptors, same clients. Output that
clients have not taken yet is in the ledger's carry.

The handover is JSON in shared memory without a name. `FORMAT` changes whenever its meaning does. The trial is told the
format, so that a version which cannot read it never takes over.
"""

import json
import logging
import os
import subprocess
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mpchat.chat.entries import VERSION as ENTRIES_VERSION
from mpchat.chat.entries import SessionId
from mpchat.chat.state.snapshot import SNAPSHOT_VERSION
from mpchat.errors import ServeError
from mpchat.log.port import Snapshot
from mpchat.server.ledger import Shape
from mpchat.server.main import signals
from mpchat.server.main.connection import Held
from mpchat.server.main.program import Program
from mpchat.server.main.waitloop import WaitLoop
from mpchat.sharedmemory import make_memory

log = logging.getLogger(__name__)

FORMAT = f"3.{ENTRIES_VERSION}.{SNAPSHOT_VERSION}"
"""The formats of the handover, the entries and the snapshots. A version with the same FORMAT can take over."""

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


@dataclass(frozen=True, slots=True)
class Handover:
    """What one program leaves to the next. Descriptors are numbers that stay open across the exec."""

    listeners: tuple[tuple[int, str], ...]
    """The descriptor of each listener, and the id of its dialect."""
    shape: Shape
    ledger: tuple[int, int]
    snapshot: Snapshot
    clients: dict[SessionId, Held]
    workers: int
    """How many workers were wanted, after TTIN and TTOU."""
    workers_configured: int
    address: dict[str, Any]
    """The host and port that were configured, by the names of these options."""
    version: str
    """The version of the program that leaves the handover."""
    tried: str
    """The version that has passed the trial; empty when it could not be executed, and the old program goes on."""

    @property
    def descriptors(self) -> list[int]:
        """All descriptors that the next program needs."""
        listeners = (descriptor for descriptor, _ in self.listeners)
        return [*listeners, *self.ledger, *(held.descriptor for held in self.clients.values())]


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


def execute(handover: Handover, program: Program) -> None:
    """Execute the new program in this process. Returns only when that fails, and logs why."""
    signals.block()
    descriptor = make_memory(0, "mpchat-handover")
    snapshot = make_memory(0, "mpchat-snapshot")
    _write(snapshot, handover.snapshot.blob)
    _write(descriptor, json.dumps(_pack(handover, snapshot)).encode())
    passed = [descriptor, snapshot, *handover.descriptors]
    try:
        for number in passed:
            os.set_inheritable(number, True)
        if program.directory is not None:
            os.chdir(program.directory)
        words = [*program.command, "--inherit", str(descriptor)]
        os.execve(words[0], words, program.environment)
    except OSError as error:
        log.error("new program cannot be executed reason=%s", error)
        for number in passed:
            os.set_inheritable(number, False)
        os.close(descriptor)
        os.close(snapshot)


def read_handover(descriptor: int) -> Handover:
    """Read the handover of the previous program, and close `descriptor`. Raises ServeError."""
    try:
        packed = json.loads(_read(descriptor))
        if packed["format"] != FORMAT:
            raise ServeError(f"the previous program left a handover of format {packed['format']}, not of {FORMAT}")
        handover = _unpack(packed)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ServeError(f"the handover of the previous program cannot be read: {error!r}") from error
    for number in handover.descriptors:
        os.set_inheritable(number, False)
    os.close(descriptor)
    return handover


def _pack(handover: Handover, snapshot: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "listeners": handover.listeners,
        "shape": list(handover.shape),
        "ledger": list(handover.ledger),
        "snapshot": snapshot,
        "seq": handover.snapshot.seq,
        "clients": [[sid.hex(), *held] for sid, held in handover.clients.items()],
        "workers": handover.workers,
        "workers_configured": handover.workers_configured,
        "address": handover.address,
        "version": handover.version,
        "tried": handover.tried,
    }


def _unpack(packed: dict[str, Any]) -> Handover:
    ledger, carry = packed["ledger"]
    blob = _read(packed["snapshot"])
    os.close(packed["snapshot"])
    return Handover(
        listeners=tuple((descriptor, dialect) for descriptor, dialect in packed["listeners"]),
        shape=Shape(*packed["shape"]),
        ledger=(ledger, carry),
        snapshot=Snapshot(packed["seq"], blob),
        clients={bytes.fromhex(sid): Held(*fields) for sid, *fields in packed["clients"]},
        workers=packed["workers"],
        workers_configured=packed["workers_configured"],
        address=packed["address"],
        version=packed["version"],
        tried=packed["tried"],
    )


def _write(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)


def _read(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()
