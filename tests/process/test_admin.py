"""`mpchat-admin` as a process, on data directories that no server uses."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mpchat.archive.database import DONE, FILE, Gap, Line, Place, Topic, Wish, open_database

NOON = 1_764_072_000_000
"""2025-11-25 12:00 UTC."""


def admin(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mpchat.admin.cli", *arguments]
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [
        Line("lobby", NOON, "Alice", "alice", "hello 李雷"),
        Line("python", NOON + 1000, "bob", "bob", "waves", DONE),
        Line("lobby", NOON + 3_600_000, "bob", "bob", "bye"),
    ]
    with closing(open_database(folder)) as database:
        database.write(
            Place("log", 3, NOON + 3_600_000), lines, [Topic("python", "Snakes")], Gap(1, 2, "the disk was full")
        )
    yield folder


def test_export_writes_text(data: Path) -> None:
    assert admin("export", "--data", str(data)).stdout.splitlines() == [
        "2025-11-25 12:00:00 #lobby Alice: hello 李雷",
        "2025-11-25 12:00:01 #python ** bob waves",
        "2025-11-25 13:00:00 #lobby bob: bye",
    ]


def test_export_writes_json_and_picks(data: Path) -> None:
    done = admin(
        *("export", "--data", str(data), "--room", "#Lobby", "--since", "2025-11-25T12:30", "--format", "jsonl")
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"time": NOON + 3_600_000, "room": "lobby", "name": "bob", "action": False, "text": "bye"}
    ]


def test_check_says_what_is_there(data: Path) -> None:
    done = admin("check", "--data", str(data))
    assert done.returncode == 0
    assert "lines     3" in done.stdout
    assert "up to     2025-11-25 13:00:00" in done.stdout
    assert "the disk was full" in done.stdout


def test_check_finds_damage(data: Path) -> None:
    with closing(sqlite3.connect(data / FILE)) as raw:
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute("DELETE FROM rooms WHERE key = 'python'")
        raw.commit()
    done = admin("check", "--data", str(data))
    assert done.returncode == 1
    assert "damaged" in done.stdout


def test_forget_deletes_and_leaves_a_wish_for_the_next_server(data: Path) -> None:
    done = admin("forget", "--data", str(data), "--name", "BOB")
    assert (done.returncode, done.stdout) == (0, "2 lines deleted\n")
    with closing(open_database(data)) as database:
        assert [line.name for line in database.read_lines()] == ["Alice"]
        assert database.list_wishes() == [Wish("name", "bob")]
        assert [room.key for room in database.list_rooms()] == ["lobby", "python"]
    assert admin("forget", "--data", str(data), "--room", "python").returncode == 0
    with closing(open_database(data)) as database:
        assert [room.key for room in database.list_rooms()] == ["lobby"]


def test_backup_copies_and_overwrites_nothing(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    assert admin("backup", "--data", str(data), str(copy / FILE)).returncode == 0
    assert "lines     3" in admin("check", "--data", str(copy)).stdout
    again = admin("backup", "--data", str(data), str(copy / FILE))
    assert again.returncode == 5
    assert "nothing is overwritten" in again.stderr


def test_backup_shows_its_progress_on_a_terminal_only(data: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "mpchat.admin.cli", "backup", "--data", str(data), str(tmp_path / "copy")]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stderr=slave, timeout=30)
    os.close(slave)
    assert b"] 100 %" in os.read(master, 1 << 16)
    os.close(master)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("export", "--data", "{missing}"), 5, "there is no database in"),
        (("check", "--data", "{missing}"), 5, "there is no database in"),
        (("forget", "--data", "{missing}", "--name", "x"), 5, "there is no database in"),
        (("export", "--data", "{data}", "--since", "yesterday"), 2, "is no time"),
        (("forget", "--data", "{data}"), 2, "one of the arguments --name --room is required"),
        (("forget", "--data", "{data}", "--name", "a b!"), 2, "is no name"),
        ((), 2, "required"),
    ],
)
def test_mistakes_are_said_in_one_line(
    arguments: tuple[str, ...], code: int, said: str, data: Path, tmp_path: Path
) -> None:
    done = admin(*(each.format(data=data, missing=tmp_path / "missing") for each in arguments))
    assert done.returncode == code
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_reader_who_goes_is_no_error(data: Path) -> None:
    with closing(open_database(data)) as database:
        database.write(Place("log", 4, NOON), [Line("lobby", NOON, "carol", "carol", "x" * 1000) for _ in range(2000)])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m mpchat.admin.cli export --data {data} | head -1"],
        check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
