"""The program: the command that starts mpchat again, in the version that is installed by then.

Owns that command line. Promises that its paths are absolute, so that the working directory may be removed, and that no
symbolic link in them is resolved. A release is installed by pointing a link to it, and the release that the link points
to at the time of the start is the one that runs.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

FIRST_LINE = 4096
"""Bytes to read of a script's first line. Linux reads 256 (BINPRM_BUF_SIZE in linux/binfmts.h)."""


class Program(NamedTuple):
    """A command, its environment, and its working directory by the name under which it was entered."""

    command: list[str]
    environment: Mapping[str, str]
    folder: Path

    @property
    def directory(self) -> Path | None:
        """The working directory to start it in, or None for the current one if that name leads nowhere."""
        return self.folder if self.folder.is_dir() else None


def current_program(environment: Mapping[str, str]) -> Program:
    """Return how this program was started, without the arguments that an earlier upgrade has added."""
    folder = current_folder(environment)
    command = make_command(folder, sys.executable, sys.orig_argv, sys.argv)
    if "--inherit" in command:
        del command[command.index("--inherit") :]
    return Program(command, environment, folder)


def current_folder(environment: Mapping[str, str]) -> Path:
    """Return the working directory; the empty path when it has been removed.

    It has the name that the shell uses (PWD, in which links are not resolved), if that is the same directory.
    """
    try:
        real = Path.cwd()
    except OSError:
        return Path()
    named = Path(environment.get("PWD", ""))
    return named if named.is_absolute() and _is_same(named, real) else real


def make_command(folder: Path, executable: str, all_words: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the command that was given in `folder`, in a form that works in any directory.

    The last three arguments are those of `sys`: executable, orig_argv, argv.
    """
    python, *start = all_words[: len(all_words) - len(words) + 1]
    arguments = list(words[1:])
    interpreter = _locate_interpreter(folder, python, executable)
    if not start or start[-1] != words[0]:  # a module (-m) or code (-c)
        return [interpreter, *start, *arguments]
    *options, name = start
    script = locate(folder, name)
    if _runs_itself(script, options):
        return [str(script), *arguments]
    return [interpreter, *options, str(script), *arguments]


def locate(folder: Path, name: str) -> Path:
    """Return the absolute path of `name` in `folder`, with all links in it.

    ``..`` is removed where the path stays the same, so that the folder may be removed.
    """
    path = folder / name
    short = Path(os.path.normpath(path))
    return short if _is_same(short, path) else path


def _locate_interpreter(folder: Path, named: str, executable: str) -> str:
    """Return the path of Python, as it was given if it is a path. On macOS that differs from `executable`."""
    path = locate(folder, named)
    return str(path) if "/" in named and _is_same(path, Path(executable)) else executable


def _is_same(one: Path, other: Path) -> bool:
    """Whether both paths lead to the same file or folder."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _runs_itself(script: Path, options: Sequence[str]) -> bool:
    """Whether the system can execute this script, and its first line names a Python with these options.

    The scripts that pip writes are like that. Each names the Python of the environment that it is installed in, so a
    script of another release names another Python (execve(2), "Interpreter scripts").
    """
    try:
        with script.open("rb") as file:
            first = file.readline(FIRST_LINE).rstrip()
    except OSError:
        return False
    return first.startswith(b"#!") and first.endswith(os.fsencode(" ".join(options))) and os.access(script, os.X_OK)
