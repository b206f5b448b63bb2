"""How many processors there are for the server, in a real control group where the machine lets the tests make one."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import SERVER, eventually, running_server

from mpchat.processors import Group, find_groups


@pytest.fixture
def fifth() -> Iterator[Path]:
    """A real control group with a quota of 0.2 processors, below that of this process."""
    if sys.platform != "linux":
        pytest.skip("control groups are Linux's")
    own = list(find_groups(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()))
    made = next(filter(None, map(make_fifth, own)), None)
    if made is None:
        pytest.skip(f"we may make no control group with a CPU quota below {[str(each.directory) for each in own]}")
    yield made
    eventually(lambda: not (made / "cgroup.procs").read_text(), "nobody is in the group")
    made.rmdir()


def make_fifth(own: Group) -> Path | None:
    """Such a group below this one; None when we may not."""
    made = Path(own.directory) / f"mpchat-test-{uuid.uuid4().hex[:8]}"
    try:
        made.mkdir()
    except OSError:
        return None
    try:
        if own.version == 2:
            (made / "cpu.max").write_text("20000 100000")
        else:
            (made / "cpu.cfs_period_us").write_text("100000")
            (made / "cpu.cfs_quota_us").write_text("20000")
    except OSError:
        made.rmdir()
        return None
    return made


def inside(directory: Path) -> tuple[str, ...]:
    return "sh", "-c", 'echo $$ > "$0" && exec "$@"', str(directory / "cgroup.procs")


def test_a_real_group(fifth: Path) -> None:
    code = "from mpchat.processors import *; print(read_quota(), count_processors())"
    done = subprocess.run(
        [*inside(fifth), sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "0.2 1\n"


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor is one worker anyway")
def test_a_server_with_a_fifth_of_a_processor_has_one_worker(fifth: Path) -> None:
    with running_server("--beat-timeout", "60", command=(*inside(fifth), *SERVER)) as server:
        assert server.ready_line.endswith(", 1 worker")
        server.chat("alice")
