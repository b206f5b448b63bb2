"""The wheel: what is built from the files that the container image is built from, installed, runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import psutil
import pytest
from server import ROOT, starting_server

import mpchat


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=110
    )
    if "No matching distribution" in done.stderr:
        pytest.skip("setuptools cannot be had here")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    containerfile = (ROOT / "docs" / "guide" / "Containerfile").read_text("utf-8")
    for sources, target in re.findall(r"^COPY (.+) (\S+)$", containerfile, re.MULTILINE):
        for source in sources.split():
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, folder / target)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "built", ".", cwd=folder)
    [built] = (folder / "built").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment with the wheel, and with our psutil."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "psutil.pth").write_text(f"{Path(psutil.__file__).parents[1]}\n")
    return folder / "bin"


@pytest.mark.slow
def test_its_commands_run(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "mpchat-server", "--version", cwd=tmp_path) == f"mpchat {mpchat.__version__}\n"
    assert run(installed / "mpchat-client", "--help", cwd=tmp_path).startswith("usage: mpchat-client ")
    with starting_server("--workers", "1", command=[str(installed / "mpchat-server")]) as server:
        server.wait_ready()
        server.chat("alice")
        server.close_chatters()
        server.stop()


@pytest.mark.slow
def test_pipx_run_finds_the_server(installed: Path, tmp_path: Path) -> None:
    """`pipx run mpchat` looks for an entry point of the group "pipx.run" with the name of the distribution."""
    code = """
import sys
from importlib import metadata
[entry] = metadata.entry_points(group="pipx.run")
assert entry.name == metadata.distribution("mpchat").name
sys.argv = ["mpchat", "--version"]
entry.load()()
"""
    assert run(installed / "python", "-I", "-c", code, cwd=tmp_path) == f"mpchat {mpchat.__version__}\n"
