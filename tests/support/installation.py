"""Versions of mpchat in folders, a link that says which one is installed, and a server that runs from it."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from server import (
    ROOT,
    Server,
    running_server,
)

COMMAND = (sys.executable, "-P", "-m", "mpchat")
WORDS = Path("wire", "line", "words.py")


class Installation:
    """Versions of mpchat in folders, one of which is installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "installed"
        self.add("old")
        self.install("old")

    def add(self, version: str) -> Path:
        """Another version; give the folder of its package."""
        package = self._folder / version / "mpchat"
        shutil.copytree(ROOT / "mpchat", package, ignore=shutil.ignore_patterns("__pycache__"))
        self.change(package / "__init__.py", '"0.1.0"', f'"{version}"')
        self.change(package / WORDS, "* Bye, {event.name}.", f"* The {version} version says bye.")
        return package

    def change(self, file: Path, old: str, new: str) -> None:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def install(self, version: str) -> None:
        new = self._folder / "link"
        new.symlink_to(self._folder / version)
        new.rename(self.path)


@contextmanager
def running(installation: Installation, *options: str, command: Sequence[str] = COMMAND) -> Iterator[Server]:
    env = {"PYTHONPATH": str(installation.path), "PYTHONDONTWRITEBYTECODE": "1"}
    with running_server(*options, command=command, env=env) as server:
        yield server


def upgrade(server: Server, times: int = 1) -> None:
    server.process.send_signal(signal.SIGUSR2)
    server.expect_log("the program is replaced old=", count=times)
