"""The data directory belongs to one process at a time, and to nobody when that is killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mpchat.archive.folder import lock_folder, read_owner
from mpchat.errors import ArchiveError

HOLDER = """
import sys
from pathlib import Path
from mpchat.archive.folder import lock_folder
folder = lock_folder(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_it_is_made_for_its_owner_only(tmp_path: Path) -> None:
    folder = lock_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    folder.close()


def test_another_process_has_it_until_it_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ArchiveError, match=rf"in use by process {holder.pid}$"):
            lock_folder(tmp_path)
        assert read_owner(tmp_path) == holder.pid
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert read_owner(tmp_path) is None
    folder = lock_folder(tmp_path)
    assert read_owner(tmp_path) == os.getpid()
    folder.close()
    assert read_owner(tmp_path) is None


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArchiveError, match="cannot use the data directory"):
        lock_folder(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ArchiveError, match="cannot use the data directory"):
        lock_folder(tmp_path)
    tmp_path.chmod(0o700)
