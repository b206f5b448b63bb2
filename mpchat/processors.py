"""Processors: how many of them this process may use.

Owns the reading of the affinity (sched_getaffinity(2)) and of the CPU quota of control groups (cgroups(7); the files
are described in the kernel's Documentation/admin-guide/cgroup-v2.rst, "cpu.max", and Documentation/scheduler/
sched-bwc.rst for version 1). Promises an answer on every system: a file that cannot be read sets no limit.

A process with a quota of 0.2 processors still sees all processors, but it is stopped for most of each period. Every
group has a quota, from the process's own up to the topmost one that is mounted; the smallest quota counts.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class Group(NamedTuple):
    """A control group that can limit CPU time: the directory of its files, and the one of the topmost group."""

    version: int
    directory: PurePosixPath
    top: PurePosixPath


def count_processors() -> int:
    """Return how many processes can run at the same time, at least 1. A fraction of a processor does not count."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = read_quota()
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def read_quota(root: Path = Path("/")) -> float | None:
    """Return the processors that the control groups of this process allow, None when they set no limit.

    `root` is the directory that holds the system's files.
    """
    try:
        membership = (root / "proc/self/cgroup").read_text()
        mounts = (root / "proc/self/mountinfo").read_text()
    except (OSError, ValueError):
        return None
    quotas = [quota for group in find_groups(membership, mounts) for quota in _read_quotas(root, group)]
    return min(quotas, default=None)


def find_groups(membership: str, mounts: str) -> Iterator[Group]:
    """Yield the groups of a process that can limit its CPU time.

    `membership` is the text of its /proc/PID/cgroup (cgroups(7)), `mounts` that of its mountinfo (proc(5)).
    """
    paths: dict[int, str] = {}
    for line in membership.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            paths[2] = path
        elif "cpu" in controllers.split(","):
            paths[1] = path
    for line in mounts.splitlines():
        fields, _, filesystem = line.partition(" - ")
        root, mount_point = map(_unescape, fields.split(" ")[3:5])
        kind, _, options = filesystem.split(" ")[:3]
        version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "cpu" in options.split(",") else 0
        if version in paths:
            yield _locate(version, PurePosixPath(paths[version]), PurePosixPath(root), PurePosixPath(mount_point))


def parse_quota(limit: str, period: str) -> float | None:
    """Return the processors that a group may use: `limit` of every `period` microseconds, None for "max" or -1."""
    try:
        processors = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return processors if processors > 0 else None


def _locate(version: int, path: PurePosixPath, root: PurePosixPath, mount_point: PurePosixPath) -> Group:
    """Return the group `path`, where the group `root` is mounted at `mount_point`."""
    if path.is_relative_to(root) and ".." not in path.parts:
        return Group(version, mount_point / path.relative_to(root), mount_point)
    # In a container, the path may be one of another namespace. The container's own group is the one that is mounted.
    return Group(version, mount_point, mount_point)


def _read_quotas(root: Path, group: Group) -> Iterator[float]:
    """Yield the quotas of this group and of the mounted groups above it."""
    for directory in (group.directory, *group.directory.parents):
        quota = _read_own_quota(root / directory.relative_to("/"), group.version)
        if quota is not None:
            yield quota
        if directory == group.top:
            return


def _read_own_quota(directory: Path, version: int) -> float | None:
    names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    with suppress(OSError, ValueError):  # the topmost group has no such files
        words = _split((directory / name).read_text() for name in names)
        return parse_quota(words[0], words[1]) if len(words) == 2 else None
    return None


def _split(texts: Iterable[str]) -> list[str]:
    return " ".join(texts).split()


def _unescape(path: str) -> str:
    r"""Undo the kernel's escapes in a path, such as \040 for a space."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
