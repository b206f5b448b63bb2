"""How many processors there are for the server: quotas of control groups, from made-up files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat import cli
from mpchat.config import WORKERS_MOST, Config
from mpchat.processors import Group, count_processors, find_groups, parse_quota, read_quota

MOUNT_V2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
MOUNT_V1 = "36 24 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
CONTAINER_V2 = MOUNT_V2.replace(" / ", " /docker/1f ", 1)
OTHERS = (
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
    "23 22 0:5 / /proc rw - proc proc rw\n"
    "37 24 0:32 / /sys/fs/cgroup/cpuset rw shared:11 - cgroup cgroup rw,cpuset\n"
)


# --- which groups -------------------------------------------------------------------------------------------


def group(version: int, directory: str, top: str) -> Group:
    return Group(version, PurePosixPath(directory), PurePosixPath(top))


@pytest.mark.parametrize(
    ("membership", "mounts", "groups"),
    [
        ("0::/a/b\n", MOUNT_V2, [group(2, "/sys/fs/cgroup/a/b", "/sys/fs/cgroup")]),
        ("0::/\n", MOUNT_V2, [group(2, "/sys/fs/cgroup", "/sys/fs/cgroup")]),
        (
            "4:cpuset:/x\n3:cpuacct,cpu:/a\n1:name=systemd:/y\n",
            OTHERS + MOUNT_V1,
            [group(1, "/sys/fs/cgroup/cpu,cpuacct/a", "/sys/fs/cgroup/cpu,cpuacct")],
        ),
        (
            "3:cpu,cpuacct:/a\n0::/b\n",
            MOUNT_V1 + MOUNT_V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
            [
                group(1, "/sys/fs/cgroup/cpu,cpuacct/a", "/sys/fs/cgroup/cpu,cpuacct"),
                group(2, "/sys/fs/cgroup/unified/b", "/sys/fs/cgroup/unified"),
            ],
        ),
        # A container of version 1: its own group is what is mounted.
        (
            "3:cpu,cpuacct:/docker/1f\n",
            MOUNT_V1.replace(" / ", " /docker/1f ", 1),
            [group(1, "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct")],
        ),
        ("0::/docker/1f/in\n", CONTAINER_V2, [group(2, "/sys/fs/cgroup/in", "/sys/fs/cgroup")]),
        # The path and what is mounted are of different namespaces.
        ("0::/system.slice/1f\n", CONTAINER_V2, [group(2, "/sys/fs/cgroup", "/sys/fs/cgroup")]),
        ("0::/../1f\n", MOUNT_V2, [group(2, "/sys/fs/cgroup", "/sys/fs/cgroup")]),
        ("0::/a\n", MOUNT_V2.replace("/sys/fs/cgroup", r"/the\040groups"), [group(2, "/the groups/a", "/the groups")]),
        ("0::/a\n", OTHERS, []),
        ("4:cpuset:/x\n", OTHERS + MOUNT_V1 + MOUNT_V2, []),
        ("", "", []),
    ],
)
def test_the_groups_of_a_process(membership: str, mounts: str, groups: list[Group]) -> None:
    assert list(find_groups(membership, mounts)) == groups


# --- what they allow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "period", "processors"),
    [
        ("max", "100000", None),
        ("-1", "100000", None),
        ("20000", "100000", 0.2),
        ("400000", "100000", 4.0),
        ("5000", "1000", 5.0),
        ("1", "0", None),
        ("", "", None),
    ],
)
def test_a_quota(limit: str, period: str, processors: float | None) -> None:
    assert parse_quota(limit, period) == processors


def machine(root: Path, membership: str, mounts: str, files: Mapping[str, str]) -> Path:
    """The files of a machine, below `root`."""
    for name, text in {"proc/self/cgroup": membership, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("quotas", "processors"),
    [
        ({"a/b": "50000 100000\n"}, 0.5),
        ({"a": "150000 100000\n"}, 1.5),
        ({"": "300000 100000\n", "a": "max 100000\n", "a/b": "400000 100000\n"}, 3.0),
        ({"a": "max 100000\n", "a/b": "max 100000\n"}, None),
        ({"a/b/c": "1000 100000\n", "other": "1000 100000\n"}, None),
        ({"a/b": "nonsense"}, None),
        ({}, None),
    ],
)
def test_the_least_of_all_groups_above_counts(tmp_path: Path, quotas: dict[str, str], processors: float | None) -> None:
    files = {f"sys/fs/cgroup/{path}/cpu.max": text for path, text in quotas.items()}
    # Above what is mounted there is nothing for us.
    files["sys/fs/cpu.max"] = "1000 100000"
    assert read_quota(machine(tmp_path, "0::/a/b\n", MOUNT_V2, files)) == processors


def test_the_files_of_version_1(tmp_path: Path) -> None:
    files: dict[str, str] = {}
    for path, limit in (("", "-1"), ("/a", "250000"), ("/a/b", "-1")):
        directory = f"sys/fs/cgroup/cpu,cpuacct{path}"
        files |= {f"{directory}/cpu.cfs_quota_us": f"{limit}\n", f"{directory}/cpu.cfs_period_us": "100000\n"}
    assert read_quota(machine(tmp_path, "3:cpu,cpuacct:/a/b\n", MOUNT_V1, files)) == 2.5


def test_without_such_files_there_is_no_quota(tmp_path: Path) -> None:
    assert read_quota(tmp_path) is None


@given(st.text(), st.text())
def test_whatever_the_limit_says_it_is_a_quota_or_none(limit: str, period: str) -> None:
    quota = parse_quota(limit, period)
    assert quota is None or quota > 0


@pytest.mark.parametrize(
    ("quota", "workers"), [(None, 8), (0.2, 1), (1.0, 1), (1.9, 1), (2.0, 2), (7.99, 7), (64.0, 8)]
)
def test_a_quota_is_rounded_down_to_one_at_least(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr("mpchat.processors.read_quota", lambda: quota)
    assert count_processors() == workers


def test_on_a_machine_with_more_processors_than_a_server_has_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "count_processors", lambda: 384)
    assert cli.read_config([]) == cli.read_config(["--workers", "auto"]) == Config(workers=WORKERS_MOST)
