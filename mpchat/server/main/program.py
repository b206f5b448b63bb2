"""How this program is started anew, in the version that is installed by then.

Owns the command line for that. Promises that its paths are absolute, so that it does not matter what becomes of the
working directory, and that no link in them is resolved: a release is installed by leading a link to it, and what the
link leads to at the time of the start is what runs.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

FIRST_LINE = 4096
"""Bytes of a script's first line that are looked at; Linux looks at 256 (BINPRM_BUF_SIZE in linux/binfmts.h)."""


class Program(NamedTuple):
    """A command, the environment that it is started in, and the working directory, by the name it was entered by."""

    command: list[str]
    environment: Mapping[str, str]
    folder: Path

    @property
    def directory(self) -> Path | None:
        """The working directory to start it in; None for the one that we are in, if that name leads nowhere."""
        return self.folder if self.folder.is_dir() else None


def current_program(environment: Mapping[str, str]) -> Program:
    """How this program was started, in this environment, without what an earlier upgrade put behind it."""
    folder = current_folder(environment)
    command = make_command(folder, sys.executable, sys.orig_argv, sys.argv)
    if "--inherit" in command:
        del command[command.index("--inherit") :]
    return Program(command, environment, folder)


def current_folder(environment: Mapping[str, str]) -> Path:
    """The working directory, by the name that the shell has for it (PWD, with links in it), if that is right; the empty
    path when it is gone."""
    try:
        real = Path.cwd()
    except OSError:
        return Path()
    named = Path(environment.get("PWD", ""))
    return named if named.is_absolute() and _is_same(named, real) else real


def make_command(folder: Path, executable: str, all_words: Sequence[str], words: Sequence[str]) -> list[str]:
    """The command that was given in `folder`, for anywhere. The last three are as in `sys`: executable, orig_argv,
    argv."""
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
    """The path of what is called `name` in `folder`, absolute, with all links in it; without ``..`` if that is the
    same, so that the folder may go."""
    path = folder / name
    short = Path(os.path.normpath(path))
    return short if _is_same(short, path) else path


def _locate_interpreter(folder: Path, named: str, executable: str) -> str:
    """The Python, by the name that was given if that is a path; it is another one than `executable` on macOS."""
    path = locate(folder, named)
    return str(path) if "/" in named and _is_same(path, Path(executable)) else executable


def _is_same(one: Path, other: Path) -> bool:
    """Whether both lead to the same file, or folder."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _runs_itself(script: Path, options: Sequence[str]) -> bool:
    """Whether the system can execute this script, and its first line says with which Python, and with these options.

    So it is with the scripts that pip writes: each names the Python of the environment that it is installed in, and
    another script in its place names another one (execve(2), "Interpreter scripts").
    """
    try:
        with script.open("rb") as file:
            first = file.readline(FIRST_LINE).rstrip()
    except OSError:
        return False
    return first.startswith(b"#!") and first.endswith(os.fsencode(" ".join(options))) and os.access(script, os.X_OK)
