"""The server that stress.py talks to: started and ended when it is our own, measured whenever we may.

Owns the processes of that server and promises that none of them is left when OwnServer is closed. It never
touches a process that it did not start, other than to read its CPU time and memory.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import psutil
from stress_check import Faults, Kind

TERM_S = 15.0  # the server has 10 s to flush after TERM
LEFT_S = 2.0  # for the server's processes to end after it


class StressError(Exception):
    """The run was not possible: no server, too few descriptors, or a client process died."""


class OwnServer:
    """A server started for this run, and ended with it. `end` tells how well it ended.

    Without `working` and `environment` (its directory and its variables) it has ours.
    """

    def __init__(
        self, command: Sequence[str], working: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            # A session of its own: Ctrl-C is for us, and we end the server.
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=working,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise StressError(f"the server cannot be started: {error}") from error
        self.pid = self._popen.pid
        self._log_read = 0  # bytes
        self.ready_s: float | None = None  # from its start to the line that says so
        self.end_s: float | None = None  # from TERM to its end
        self._started = time.monotonic()

    def address(self, deadline: float) -> tuple[str, int]:
        """Wait for the line that says the server is ready; StressError if it does not come."""
        assert self._popen.stdout is not None
        said = b""
        while not said.endswith(b"\n"):
            if not wait([self._popen.stdout.fileno()], max(0.0, deadline - time.monotonic())):
                raise StressError("the server did not become ready")
            chunk = os.read(self._popen.stdout.fileno(), 4096)
            if not chunk:
                raise StressError(f"the server ended before it was ready:\n{self.log_tail()}")
            said += chunk
        self.ready_s = time.monotonic() - self._started
        match = re.fullmatch(rb"mpchat ready on (\S+):(\d+), \d+ workers?\n", said)
        if match is None:
            raise StressError(f"the server does not say where it is ready, but {said[:200]!r}")
        return match[1].decode().strip("[]"), int(match[2])

    def end(self) -> Faults:
        """End it with TERM, with KILL after TERM_S, and say what it did wrong in this."""
        faults = Faults()
        started = time.monotonic()
        family = self._family()
        self._popen.terminate()
        try:
            said, _ = self._popen.communicate(timeout=TERM_S)
        except subprocess.TimeoutExpired:
            faults.add(Kind.SERVER, f"still there {TERM_S:g} s after TERM")
            self._popen.kill()
            said, _ = self._popen.communicate()
        self.end_s = time.monotonic() - started
        if self._popen.returncode != 0:
            faults.add(Kind.SERVER, f"exit status {self._popen.returncode}")
        if said:
            faults.add(Kind.SERVER, f"more than one line on standard output: {said[:200]!r}")
        for process in end_the_rest(family):
            faults.add(Kind.SERVER, f"left process {process.pid} behind")
        return faults

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
        """Let nothing of it stay behind, however the run went."""
        if self.end_s is None:
            self.end()
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        self._log.close()

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


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


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process of the server took during the run; `private` (USS) is None where it is not told."""

    pid: int
    role: str
    cpu_s: float
    rss: int
    private: int | None


class Meter:
    """CPU time and memory of a process and all its children, from the making of the meter on."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._started = time.monotonic()
        self._before = {usage.pid: usage.cpu_s for usage in self._sample()}

    def read(self) -> tuple[float, list[Usage]]:
        """The seconds since the start, and what each process that is there now has taken in them."""
        now = [dataclasses.replace(u, cpu_s=u.cpu_s - self._before.get(u.pid, 0.0)) for u in self._sample()]
        return time.monotonic() - self._started, now

    def _sample(self) -> list[Usage]:
        if self._pid is None:
            return []
        try:
            main = psutil.Process(self._pid)
            family = [main, *main.children(recursive=True)]
        except psutil.Error:
            return []
        return [usage for process in family if (usage := self._measure(process)) is not None]

    def _measure(self, process: psutil.Process) -> Usage | None:
        try:
            cpu = process.cpu_times()
            rss = process.memory_info().rss
            command = " ".join(process.cmdline())
        except psutil.Error:  # it ended just now, or is not ours
            return None
        try:
            private = process.memory_full_info().uss
        except (psutil.Error, AttributeError):
            private = None
        role = "main" if process.pid == self._pid else "tracker" if "resource_tracker" in command else "child"
        return Usage(process.pid, role, cpu.user + cpu.system, rss, private)


def find_server(host: str, port: int) -> int | None:
    """The pid of who listens there, if it is this machine and we may know."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        local = {a.address for addresses in psutil.net_if_addrs().values() for a in addresses}
        if address not in local:
            return None
        listening = (c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
        return next((c.pid for c in listening if c.laddr and c.laddr.port == port), None)
    except (OSError, psutil.Error):
        return None
