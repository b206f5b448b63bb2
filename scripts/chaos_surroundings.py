"""What a server of chaos.py has around it, and how that is taken away while it runs.

Owns a throw-away installation of the server, with its working and its temporary directory. Promises that nothing of it
stays behind after `close`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import tempfile
import venv
from contextlib import suppress
from pathlib import Path

from stress_server import StressError

PACKAGE = "mpchat"
ENTRY = """\
#!{python}
import sys
from mpchat.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""


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
        """What has not been removed yet; without the program if that must stay for now."""
        return sorted(self._left if with_program else self._left - {"program"})

    def remove(self, part: str) -> None:
        """Remove one of `left()` for good. It is gone at one moment, and not file by file."""
        self._left.remove(part)
        gone = self._folder / f"removed-{part}"
        (self._folder / part).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

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
            raise StressError(f"{PACKAGE} is not installed for {sys.executable}, so there is nothing to copy")
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
