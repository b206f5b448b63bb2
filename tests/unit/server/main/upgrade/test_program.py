"""How the program is started anew: the command that was given, made good for anywhere and for another installation."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from mpchat.server.main.upgrade.program import Program, current_folder, current_program, locate, make_command

PYTHON = "/releases/1/bin/python"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with releases, one of which is current, and scripts in it."""
    scripts = tmp_path / "releases" / "1" / "bin"
    scripts.mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/1")
    for name, first in (
        ("pip", f"#!{PYTHON}"),
        ("env", "#!/usr/bin/env python3"),
        ("shell", "#!/bin/sh\n'''exec' \"/a long path/python\" \"$0\" \"$@\"\n' '''"),
        ("safe", f"#!{PYTHON} -P"),
        ("plain", "# no first line for the system"),
        ("locked", f"#!{PYTHON}"),
    ):
        (scripts / name).write_text(f"{first}\nprint()\n")
        (scripts / name).chmod(0o644 if name == "locked" else 0o755)
    (scripts / "python").symlink_to(sys.executable)
    return tmp_path


# F is the folder.
@pytest.mark.parametrize(
    ("all_words", "words", "command"),
    [
        # Executed by itself: the system, or the shell that it names, put the Python before it.
        (f"{PYTHON} current/bin/pip --port 1", "current/bin/pip --port 1", "F/current/bin/pip --port 1"),
        ("python3 current/bin/env", "current/bin/env", "F/current/bin/env"),
        ("/x/python F/current/bin/shell", "F/current/bin/shell", "F/current/bin/shell"),
        (f"{PYTHON} -P current/bin/safe x", "current/bin/safe x", "F/current/bin/safe x"),
        # By a Python, which does nothing that the first line does not say.
        ("python3 current/bin/pip", "current/bin/pip", "F/current/bin/pip"),
        # With options that would be lost.
        (f"{PYTHON} -X dev current/bin/pip", "current/bin/pip", f"{PYTHON} -X dev F/current/bin/pip"),
        ("current/bin/python -P current/bin/pip", "current/bin/pip", "F/current/bin/python -P F/current/bin/pip"),
        # What the system would not execute.
        (f"{PYTHON} current/bin/plain", "current/bin/plain", f"{PYTHON} F/current/bin/plain"),
        (f"{PYTHON} current/bin/locked", "current/bin/locked", f"{PYTHON} F/current/bin/locked"),
        (f"{PYTHON} gone a", "gone a", f"{PYTHON} F/gone a"),
        # A module, or code.
        ("current/bin/python -m mpchat x", "/y/mpchat/__main__.py x", "F/current/bin/python -m mpchat x"),
        ("current/bin/python -mmpchat", "/y/mpchat/__main__.py", "F/current/bin/python -mmpchat"),
        ("python3 -m mpchat", "/y/mpchat/__main__.py", f"{PYTHON} -m mpchat"),
        ("gone/python -m mpchat", "/y/mpchat/__main__.py", f"{PYTHON} -m mpchat"),
        ("python3 -I -c code x y", "-c x y", f"{PYTHON} -I -c code x y"),
    ],
)
def test_the_command_of_the_next_program(folder: Path, all_words: str, words: str, command: str) -> None:
    executable = sys.executable if "current/bin/python" in all_words else PYTHON
    split = [[word.replace("F/", f"{folder}/") for word in text.split()] for text in (all_words, words, command)]
    assert make_command(folder, executable, split[0], split[1]) == split[2]


def test_a_path_keeps_its_symbolic_links(folder: Path) -> None:
    (folder / "work").mkdir()
    assert locate(folder / "work", "../current/bin/./pip") == folder / "current" / "bin" / "pip"
    # From the folder that the link leads to, one up is another folder than by name.
    assert locate(folder / "current", "../1/bin/pip") == folder / "current" / ".." / "1" / "bin" / "pip"
    assert locate(folder, "/bin/sh") == Path("/bin/sh")


def test_the_working_directory_is_known_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, real = folder / "current", folder / "releases" / "1"
    monkeypatch.chdir(link)
    assert current_folder({"PWD": str(link)}) == link
    for wrong in (str(folder), "current", "", "/nowhere"):
        assert current_folder({"PWD": wrong}) == current_folder({}) == real


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    before = Program(["x"], {}, current_folder({"PWD": str(gone)}))
    assert before.directory == gone
    shutil.rmtree(gone)
    assert before.directory is None
    assert current_folder({"PWD": str(gone)}) == Path()
    monkeypatch.chdir(tmp_path)  # pytest would not come back from where it is


def test_the_options_of_an_upgrade_are_not_part_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "mpchat", "--port", "0", "--inherit", "7"])
    monkeypatch.setattr(sys, "argv", ["/y/mpchat/__main__.py", "--port", "0", "--inherit", "7"])
    program = current_program(os.environ)
    assert program.command == [sys.executable, "-m", "mpchat", "--port", "0"]
    assert program.environment is os.environ
