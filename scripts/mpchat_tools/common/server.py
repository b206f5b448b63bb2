"""Servers that a tool starts for a run and ends with it.

Promises that no process of a server is left when it is closed. Never touches a process that it did not start.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path

import psutil

from mpchat.errors import in_words
from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.faults import Faults, Kind
from mpchat_tools.common.limits import deferred_interrupts
from mpchat_tools.common.meter import list_family
from mpchat_tools.common.serverlog import READY

READY_S = 20.0
SENDQ = 1 << 26  # bytes that may wait for one client where that is not what is measured
TERM_S = 15.0  # the server has 10 s to flush after TERM
LEFT_S = 2.0  # for the server's processes to end after it
LOOK_AGAIN_S = 0.01
ON_DISK = Path("/var/tmp")  # kept through reboots (FHS 5.15), so it is on a disk; /tmp is often memory


class Server:
    """A server in a session of its own, so that Ctrl-C is for us, and we end the server. Its output is its log.

    Without `working` and `environment` (its directory and its variables) it has ours.
    """

    host, port = "", 0  # once it is ready

    def __init__(
        self,
        command: Sequence[str],
        working: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stdout: int | None = None,
    ) -> None:
        """`stdout`: where standard output goes if not into the log. Raises ToolError."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._started = time.monotonic()
        try:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log if stdout is None else stdout,
                stderr=self._log,
                cwd=working,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise ToolError(f"{command[0]} cannot be started: {in_words(error)}") from error
        self.pid = self._popen.pid
        self._log_read = 0  # bytes
        self.ended = False

    def stop(self, patience: float) -> tuple[bool, bytes, list[psutil.Process]]:
        """End it by TERM, after `patience` seconds by KILL, and then its processes that are left.

        Returns whether TERM was enough, its standard output if that is a pipe, and the processes that were left.
        """
        family, in_time = list_family(self.pid)[1:], True
        self._popen.terminate()
        try:
            said, _ = self._popen.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            in_time = False
            self._popen.kill()
            said, _ = self._popen.communicate()
        self.ended = True
        return in_time, said or b"", end_the_rest(family)

    def kill_all(self, dice: random.Random) -> None:
        """Kill it and its processes at once, in any order, and wait for their end. Raises ToolError."""
        family = list_family(self.pid)
        dice.shuffle(family)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._popen.wait()
        self.ended = True
        deadline = time.monotonic() + LEFT_S
        while any(map(_runs, family)):
            if time.monotonic() > deadline:
                raise ToolError(f"processes of the server are still there {LEFT_S:g} s after KILL")
            time.sleep(LOOK_AGAIN_S)

    def new_log_lines(self) -> list[str]:
        """What the server has logged since the last call, whole lines only."""
        block = self._read_log(self._log_read)
        whole = block[: block.rfind(b"\n") + 1]
        self._log_read += len(whole)
        return whole.decode(errors="replace").splitlines()

    def log_tail(self, lines: int = 20) -> str:
        return b"\n".join(self._read_log(0).splitlines()[-lines:]).decode(errors="replace")

    def _read_log(self, start: int) -> bytes:
        # Not by seek and read: the server writes where the descriptor that it has from us stands.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), max(0, size - start), start)

    def close(self) -> None:
        """Leave nothing of it, however the run went."""
        if not self.ended:
            self.stop(TERM_S)
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        self._log.close()


class OwnServer(Server):
    """An mpchat server. `end` tells how well it ended."""

    def __init__(
        self, command: Sequence[str], working: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(command, working, environment, subprocess.PIPE)
        self.ready_s: float | None = None  # from its start to the line that says so
        self.end_s: float | None = None  # from TERM to its end

    def address(self, deadline: float) -> tuple[str, int]:
        """Wait for the line that says the server is ready; ToolError if it does not come."""
        assert self._popen.stdout is not None
        said = b""
        while not said.endswith(b"\n"):
            if not wait([self._popen.stdout.fileno()], max(0.0, deadline - time.monotonic())):
                raise ToolError("the server did not become ready")
            chunk = os.read(self._popen.stdout.fileno(), 4096)
            if not chunk:
                raise ToolError(f"the server ended before it was ready:\n{self.log_tail()}")
            said += chunk
        self.ready_s = time.monotonic() - self._started
        match = READY.fullmatch(said)
        if match is None:
            raise ToolError(f"the server does not say where it is ready, but {said[:200]!r}")
        self.host, self.port = match[1].decode().strip("[]"), int(match[2])
        return self.host, self.port

    def end(self) -> Faults:
        """End it with TERM, with KILL after TERM_S, and return what it did wrong."""
        faults, started = Faults(), time.monotonic()
        in_time, said, left = self.stop(TERM_S)
        self.end_s = time.monotonic() - started
        if not in_time:
            faults.add(Kind.SERVER, f"still there {TERM_S:g} s after TERM")
        if self._popen.returncode != 0:
            faults.add(Kind.SERVER, f"exit status {self._popen.returncode}")
        if said:
            faults.add(Kind.SERVER, f"more than one line on standard output: {said[:200]!r}")
        for process in left:
            faults.add(Kind.SERVER, f"left process {process.pid} behind")
        return faults


def _runs(process: psutil.Process) -> bool:
    """Whether it has not ended. A zombie has: init is slow."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_the_rest(family: list[psutil.Process]) -> list[psutil.Process]:
    """Kill those that do not end by themselves in LEFT_S, and name them. A zombie has ended: init is slow."""
    left = []
    for process in psutil.wait_procs(family, LEFT_S)[1]:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
                left.append(process)
        except psutil.NoSuchProcess:
            continue
    return left


@contextmanager
def disk_folder() -> Iterator[Path]:
    """An empty directory on the disk, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="mpchat-", dir=ON_DISK if ON_DISK.is_dir() else None) as folder:
        yield Path(folder)


@contextmanager
def running(command: Sequence[str], workers: int, clients: int, log_level: str) -> Iterator[OwnServer]:
    """Run a server for so many clients until the block ends. Raises ToolError if it does not start, or end well."""
    limits = f"--port 0 --workers {workers} --rate 0 --sendq {SENDQ} --max-clients {clients + 8}"
    with ExitStack() as stack:
        with deferred_interrupts():
            server = stack.enter_context(closing(OwnServer([*command, *limits.split(), "--log-level", log_level])))
        server.address(time.monotonic() + READY_S)
        yield server
        if faults := server.end().examples:
            said = "; ".join(f"{kind.value}: {', '.join(examples)}" for kind, examples in faults.items())
            raise ToolError(f"{said}\n{server.log_tail()}")
