"""An upgrade where the version is an environment of Python, and a link leads to the one that is installed."""

from __future__ import annotations

import os
import shutil
import signal
import sysconfig
import venv
from pathlib import Path

import psutil
import pytest
from installation import upgrade
from server import ROOT, running_server, suspended


class Releases:
    """Releases of mpchat, each in an environment of its own, one of which is the current one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.current = folder / "current"
        for version in ("1", "2"):
            self._make(version)
        self.switch("1")

    def _make(self, version: str) -> None:
        environment = self.folder / "releases" / version / ".venv"
        venv.create(environment, symlinks=True)
        packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
        shutil.copytree(ROOT / "mpchat", packages / "mpchat", ignore=shutil.ignore_patterns("__pycache__"))
        module = packages / "mpchat" / "__init__.py"
        module.write_text(module.read_text().replace('"0.1.0"', f'"{version}"'))
        (packages / "psutil.pth").write_text(f"{Path(psutil.__file__).parents[1]}\n")
        # What pip writes for an entry of [project.scripts].
        script = environment / "bin" / "mpchat-server"
        code = "import sys\nfrom mpchat.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
        script.write_text(f"#!{environment}/bin/python\n{code}")
        script.chmod(0o755)

    def switch(self, version: str) -> None:
        new = self.folder / "new"
        new.symlink_to(Path("releases", version))
        new.rename(self.current)


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path)


def within(folder: Path, *command: str) -> tuple[str, ...]:
    """The command, in this working directory, as a shell goes there."""
    return "sh", "-c", 'cd "$0" && exec "$@"', str(folder), *command


SCRIPT = ".venv/bin/mpchat-server"
MODULE = (".venv/bin/python", "-m", "mpchat")


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        (".", (f"current/{SCRIPT}",)),
        (".", ("current/.venv/bin/python", "-m", "mpchat")),
        ("current", (SCRIPT,)),
        ("current", MODULE),
        ("work", (f"../current/{SCRIPT}",)),
        ("work", ("../current/.venv/bin/python", "-P", f"../current/{SCRIPT}")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_the_link_says_which_version_is_installed(releases: Releases, folder: str, command: tuple[str, ...]) -> None:
    work = releases.folder / "work"
    work.mkdir()
    options = ("--workers", "1", "--config", os.path.relpath(releases.folder / "mpchat.toml", releases.folder / folder))
    (releases.folder / "mpchat.toml").write_text("max_clients = 1\n")
    # A link to the folder, as it is seen from there, would lead to another one.
    if folder == "current":
        options = ("--workers", "1", "--config", str(releases.folder / "mpchat.toml"))
    with running_server(*options, command=within(releases.folder / folder, *command)) as server:
        alice = server.chat("alice")
        server.expect_log("mpchat starts version=1")
        releases.switch("2")
        work.rmdir()
        (releases.folder / "mpchat.toml").write_text("max_clients = 2\n")
        upgrade(server)
        server.expect_log("trial passed: upgrading old=1 new=2")
        server.expect_log("the program is replaced old=1 new=2")
        server.chat("bob")
        releases.switch("1")
        upgrade(server, 2)
        server.expect_log("the program is replaced old=2 new=1")
        server.process.send_signal(signal.SIGHUP)
        server.expect_log(" retired")
        assert alice.ask("/who", "* 2 in") == "* 2 in #lobby: alice, bob"


def test_a_version_that_cannot_be_executed_any_more_leaves_the_old_one(releases: Releases) -> None:
    script = releases.current / SCRIPT
    options = ("--workers", "1", "--beat-timeout", "600")
    with running_server(*options, command=(str(script),)) as server:
        alice = server.chat("alice")
        with suspended(server.workers()[0]):
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("trial passed")
            script.chmod(0o644)
        server.expect_log("new program cannot be executed reason=")
        server.expect_log("the program is not replaced: it goes on version=1")
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"
        script.chmod(0o755)
        upgrade(server)
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"
