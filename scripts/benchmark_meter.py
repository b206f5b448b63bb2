"""What a server, and the hypervisor, take while the benchmark runs.

Owns the reading of /proc and of psutil. Promises that a server is its whole tree of processes, and that CPU time is
read to the nanosecond where Linux tells it (psutil's ticks of 10 ms are much, when a workload takes a third of a
second). Never touches a process other than to read its figures.
"""

from __future__ import annotations

from pathlib import Path

import psutil

PROC = Path("/proc")
STOLEN = 7  # the eighth figure of the line "cpu" in /proc/stat
CPU_FIGURES = 8  # those after it are counted in others


def read_cpu(pid: int) -> float:
    """Seconds that the process and all its descendants have run, all their threads included."""
    return sum(measure_process(process) for process in list_family(pid))


def list_family(pid: int) -> list[psutil.Process]:
    try:
        main = psutil.Process(pid)
        return [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def measure_process(process: psutil.Process) -> float:
    try:
        stats = [path.read_text() for path in PROC.glob(f"{process.pid}/task/*/schedstat")]
        if stats:
            return sum(int(stat.split()[0]) for stat in stats) / 1e9
        times = process.cpu_times()
        return float(times.user + times.system)
    except (psutil.Error, OSError):  # it, or a thread of it, ended just now
        return 0.0


def read_memory(pid: int) -> int | None:
    """PSS of all processes of the family in bytes; None where the system does not tell it."""
    total = 0
    for process in list_family(pid):
        try:
            total += process.memory_full_info().pss
        except AttributeError:
            return None
        except psutil.Error:  # it ended just now
            continue
    return total


def read_stat() -> str:
    try:
        return (PROC / "stat").read_text()
    except OSError:  # not Linux
        return ""


def stolen_share(before: str, after: str) -> float | None:
    """The part of the machine's time between two readings of /proc/stat that the hypervisor gave to others."""
    ticks = [[int(figure) for figure in stat.partition("\n")[0].split()[1:]] for stat in (before, after)]
    if any(len(figures) < CPU_FIGURES for figures in ticks):
        return None
    spent = [new - old for old, new in zip(*ticks, strict=True)][:CPU_FIGURES]
    return spent[STOLEN] / sum(spent) if sum(spent) > 0 else 0.0
