"""The surroundings of a server of chaos.py, and how they are taken away while it runs.

Owns a throw-away installation of the server with its working and temporary directories, and the limits that are lowered
on a running server. Promises that nothing of the installation is left after `close`, and that every limit is restored.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from mpchat_tools.common.errors import ToolError

PACKAGE = "mpchat"
ENTRY = """\
#!{python}
import sys
from mpchat.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""
UNNAMED_USER = 54321
NOT_BOUND = "a limit of processes does not bind root, and setpriv(1) cannot make another user of it"
SHORTEST_S, LONGEST_S = 0.5, 1.5  # of a shortage
HAS_LIMITS = hasattr(psutil.Process, "rlimit")  # prlimit(2), Linux
LIMITS = [resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC]


class Installation:
    """A copy of the server that this Python has installed, as pip would install it: in a virtual environment.

    It runs without this checkout, in a working and with a temporary directory of its own. Dependencies are copied too.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mpchat-chaos-"))
        self._program = self._folder / "program"
        self._working = self._folder / "working"
        self._temporary = self._folder / "tmp"
        self._left = {"program", "working", "tmp"}
        try:
            self._working.mkdir()
            self._temporary.mkdir()
            self._install()
        except BaseException:
            self.close()
            raise

    @property
    def command(self) -> list[str]:
        return [str(self._program / "bin" / "mpchat-server")]

    @property
    def working(self) -> Path:
        """The working directory for the server."""
        return self._working

    @property
    def environment(self) -> dict[str, str]:
        """The environment for the server."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return kept | {"TMPDIR": str(self._temporary)}

    def left(self, with_program: bool = True) -> list[str]:
        """Return what has not been removed yet; without the program if it must stay for now."""
        return sorted(self._left if with_program else self._left - {"program"})

    def remove(self, part: str) -> None:
        """Remove one of `left()` for good, all its files at the same moment."""
        self._left.remove(part)
        gone = self._folder / f"removed-{part}"
        (self._folder / part).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def renew(self) -> None:
        """Put back what was removed, for a server that is to start."""
        gone = {"program", "working", "tmp"} - self._left
        for folder in {"working", "tmp"} & gone:
            (self._folder / folder).mkdir()
        if "program" in gone:
            self._install()
        self._left |= gone

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _install(self) -> None:
        venv.create(self._program, with_pip=False, symlinks=True)
        base = {"base": str(self._program), "platbase": str(self._program)}
        packages = Path(sysconfig.get_path("purelib", "venv", base))
        found = importlib.util.find_spec(PACKAGE)
        try:
            needed = _requirements(PACKAGE)
        except importlib.metadata.PackageNotFoundError:
            needed = None
        if found is None or not found.submodule_search_locations or needed is None:
            raise ToolError(f"{PACKAGE} is not installed for {sys.executable}, so there is nothing to copy")
        shutil.copytree(found.submodule_search_locations[0], packages / PACKAGE)
        for name in needed:
            _copy_distribution(name, packages)
        entry = Path(self.command[0])
        entry.write_text(ENTRY.format(python=self._program / "bin" / "python"))
        entry.chmod(0o755)


def _requirements(name: str) -> set[str]:
    """The distributions that `name` needs, and those that they need; none of its extras."""
    needed: set[str] = set()
    for requirement in importlib.metadata.requires(name) or ():
        if "extra ==" in requirement:
            continue
        match = re.match(r"[\w.-]+", requirement)
        assert match is not None
        with suppress(importlib.metadata.PackageNotFoundError):  # not on this platform
            needed |= {match[0]} | _requirements(match[0])
    return needed


def _copy_distribution(name: str, packages: Path) -> None:
    distribution = importlib.metadata.distribution(name)
    for file in distribution.files or ():
        source = Path(str(distribution.locate_file(file)))
        if ".." in file.parts or "__pycache__" in file.parts or not source.is_file():
            continue  # a script in bin/
        target = packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def bound_user() -> list[str] | None:
    """Return what to put before a command so that a limit on processes binds it; None where that is impossible.

    The kernel exempts root (setrlimit(2), RLIMIT_NPROC). So a command of root's becomes one of a user without a name,
    which may still open what root may.
    """
    if os.geteuid() != 0:
        return []
    allowed = "+dac_override"
    prefix = ["setpriv", f"--reuid={UNNAMED_USER}", f"--inh-caps={allowed}", f"--ambient-caps={allowed}", "--"]
    try:
        done = subprocess.run([*prefix, sys.executable, "-c", ""], check=False, capture_output=True)
    except OSError:
        return None
    return prefix if done.returncode == 0 else None


class Shortage:
    """A time in which a server gets no more descriptors or processes. It keeps what it has."""

    def __init__(self, main: psutil.Process, limits: Sequence[int], dice: random.Random) -> None:
        """Lower these limits. Descriptors are main's, which opens what others need; processes are everybody's."""
        self.seconds = dice.uniform(SHORTEST_S, LONGEST_S)
        self.until = time.monotonic() + self.seconds
        self._main = main
        lowest = {resource.RLIMIT_NOFILE: _next_descriptor(main.pid), resource.RLIMIT_NPROC: 0}
        self._lowered = {limit: lowest[limit] for limit in limits}
        with _real_user_of(main):
            self._before = {limit: main.rlimit(limit) for limit in limits}
            for limit in limits:
                for process in [main] if limit == resource.RLIMIT_NOFILE else self._family():
                    with suppress(psutil.NoSuchProcess):
                        process.rlimit(limit, (self._lowered[limit], self._before[limit][1]))

    def end(self) -> None:
        """Raise the limits again, also of processes that were started meanwhile."""
        with suppress(psutil.NoSuchProcess), _real_user_of(self._main):
            for process in self._family():
                for limit, before in self._before.items():
                    with suppress(psutil.NoSuchProcess):
                        if process.rlimit(limit)[0] == self._lowered[limit]:
                            process.rlimit(limit, before)

    def _family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [self._main, *self._main.children(recursive=True)]
        return []


@contextmanager
def _real_user_of(process: psutil.Process) -> Iterator[None]:
    """Take the real user id of this process: root in a container often may not limit others (prlimit(2))."""
    ours = os.getuid()
    theirs = process.uids().real
    if theirs != ours:
        os.setresuid(theirs, -1, -1)
    try:
        yield
    finally:
        if theirs != ours:
            os.setresuid(ours, -1, -1)


def _next_descriptor(pid: int) -> int:
    """The number that this process would get for what it opens next."""
    taken = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return min(set(range(len(taken) + 1)) - taken)
