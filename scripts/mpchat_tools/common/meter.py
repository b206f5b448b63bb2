"""How much of the machine a server, other processes and the hypervisor use while a tool runs.

Owns the reading of /proc and psutil. A server is its whole process tree. CPU time is read in nanoseconds where Linux
provides them, because psutil's ticks of 10 ms are coarse when a workload takes a third of a second. Only reads.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

PROC = Path("/proc")
KINDS = ("workers", "sequencer", "main", "rest")
"""Of the processes of a server; main is the one that was started."""
ByKind = dict[str, float]


def list_family(pid: int) -> list[psutil.Process]:
    """Return the process and all its descendants; an empty list when it has ended."""
    try:
        main = psutil.Process(pid)
        return [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def measure_process(process: psutil.Process) -> float:
    """CPU seconds of a process and all its threads."""
    try:
        stats = [path.read_text() for path in PROC.glob(f"{process.pid}/task/*/schedstat")]
        if stats:
            return sum(int(stat.split()[0]) for stat in stats) / 1e9
        times = process.cpu_times()
        return float(times.user + times.system)
    except (psutil.Error, OSError):  # it, or a thread of it, ended just now
        return 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process of the server took during the run; `private` (USS) is None where it is not told."""

    pid: int
    role: str
    cpu_s: float
    rss: int
    private: int | None


class Meter:
    """What a process and all its descendants take. Sums are by kind of process; see KINDS.

    Without a process there is nothing to measure, and all is empty.
    """

    def __init__(self, pid: int | None, kinds: Mapping[int, str] = MappingProxyType({})) -> None:
        """`kinds`: those of the descendants that are known, by pid."""
        self._pid = pid
        self._kinds = kinds
        self._started = time.monotonic()
        self._before = {process.pid: measure_process(process) for process in self._family()}

    def read_cpu(self) -> ByKind:
        """Seconds since the start of each process."""
        return self._sum(measure_process)

    def read_memory(self) -> ByKind:
        """PSS in bytes; empty where the system does not tell."""
        try:
            return self._sum(lambda process: float(process.memory_full_info().pss))
        except AttributeError:
            return {}

    def count_wakings(self) -> ByKind:
        """How often the processes went to sleep, and so were woken."""
        return self._sum(lambda process: float(process.num_ctx_switches().voluntary))

    def read_usages(self) -> tuple[float, list[Usage]]:
        """The seconds since the meter was made, and what each process that exists now has taken in them."""
        usages = [usage for process in self._family() if (usage := self._measure(process)) is not None]
        return time.monotonic() - self._started, usages

    def _family(self) -> list[psutil.Process]:
        return [] if self._pid is None else list_family(self._pid)

    def _sum(self, measure: Callable[[psutil.Process], float]) -> ByKind:
        sums = dict.fromkeys(KINDS, 0.0)
        for process in self._family():
            kind = "main" if process.pid == self._pid else self._kinds.get(process.pid, "rest")
            try:
                sums[kind] += measure(process)
            except psutil.Error:  # it ended just now
                continue
        return sums

    def _measure(self, process: psutil.Process) -> Usage | None:
        try:
            cpu_s, rss = measure_process(process), process.memory_info().rss
        except psutil.Error:  # it ended just now, or is not ours
            return None
        try:
            private = process.memory_full_info().uss
        except (psutil.Error, AttributeError):
            private = None
        role = "main" if process.pid == self._pid else "child"
        return Usage(process.pid, role, cpu_s - self._before.get(process.pid, 0.0), rss, private)


def add_up(sums: ByKind) -> float | None:
    """Of all kinds; None if nothing is known."""
    return sum(sums.values()) if sums else None


def subtract(after: ByKind, before: ByKind) -> ByKind:
    return {kind: after[kind] - before[kind] for kind in after if kind in before}


def find_server(host: str, port: int) -> int | None:
    """The pid of the process that listens there, if it is on this machine and we may know."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        local = {a.address for addresses in psutil.net_if_addrs().values() for a in addresses}
        if address not in local:
            return None
        listening = (c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
        return next((c.pid for c in listening if c.laddr and c.laddr.port == port), None)
    except (OSError, psutil.Error):
        return None


# --- the machine


@dataclass(frozen=True, slots=True)
class Disturbance:
    """The share of the machine's CPU time that others used; None where the system does not tell."""

    stolen: float | None
    foreign: float | None


class Watch:
    """Observes the machine from its creation until `read`."""

    def __init__(self) -> None:
        self._before = psutil.cpu_times()

    def read(self, own_s: float) -> Disturbance:
        """`own_s`: CPU seconds that our own processes have used meanwhile."""
        return compare_times(self._before, psutil.cpu_times(), own_s)


def compare_times(before: Any, after: Any, own_s: float) -> Disturbance:
    """What others used between two readings of psutil.cpu_times(), in which our own processes ran for `own_s`."""
    # Guests are counted in user and nice as well (proc(5)). Waiting for a disk is idle, too.
    spent = {name: getattr(after, name) - getattr(before, name) for name in after._fields if "guest" not in name}
    whole = sum(spent.values())
    if whole <= 0:
        return Disturbance(None, None)
    stolen = spent.get("steal")
    ours = spent["idle"] + spent.get("iowait", 0.0) + (stolen or 0.0) + own_s
    return Disturbance(None if stolen is None else stolen / whole, max(0.0, 1 - ours / whole))
