"""What a server, and the hypervisor, take while the benchmark runs.

Owns the reading of /proc and of psutil. Promises that a server is its whole tree of processes, and that CPU time is
read to the nanosecond where Linux tells it (psutil's ticks of 10 ms are much, when a workload takes a third of a
second). Never touches a process other than to read its figures.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

PROC = Path("/proc")
STOLEN = 7  # the eighth figure of the line "cpu" in /proc/stat
IDLE = (3, 4)  # waiting for a disk is idle, too
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
    spent = list_spent(before, after)
    return spent[STOLEN] / sum(spent) if sum(spent) > 0 else None


def foreign_share(before: str, after: str, own_s: float) -> float | None:
    """The part of it in which processes ran that are none of ours, if ours ran for `own_s`."""
    spent = list_spent(before, after)
    if sum(spent) <= 0:
        return None
    idle = sum(spent[place] for place in IDLE) + spent[STOLEN]
    return max(0.0, 1 - (idle + own_s * os.sysconf("SC_CLK_TCK")) / sum(spent))


def list_spent(before: str, after: str) -> list[int]:
    """Ticks of all processors together, by what they were spent on; empty if they are not told."""
    ticks = [[int(figure) for figure in stat.partition("\n")[0].split()[1:]] for stat in (before, after)]
    if any(len(figures) < CPU_FIGURES for figures in ticks):
        return []
    return [new - old for old, new in zip(*ticks, strict=True)][:CPU_FIGURES]
