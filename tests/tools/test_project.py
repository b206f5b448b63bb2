"""The files around the package agree with it and with each other: README, CHANGELOG, pyproject, tox, .ci/run."""

from __future__ import annotations

import argparse
import configparser
import importlib
import importlib.resources
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import mpchat

ROOT = Path(__file__).parents[2]
HEADING = re.compile(r"^## \[(?P<version>[^]]+)\](?: - (?P<date>.+))?$", re.MULTILINE)
DATE = re.compile(r"Unreleased|\d{4}-\d{2}-\d{2}")


def read(name: str) -> str:
    path = ROOT / name
    assert path.is_file(), f"{name} is missing"
    return path.read_text("utf-8")


@pytest.fixture
def pyproject() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))


def newest_version(changelog: str) -> str:
    """The version of the uppermost heading that has one: above it there may be an "[Unreleased]"."""
    versions = [heading["version"] for heading in HEADING.finditer(changelog)]
    return next(version for version in versions if version != "Unreleased")


def list_options(parser: argparse.ArgumentParser) -> set[str]:
    """The long options that `--help` shows, but for itself."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", parser.format_help())) - {"--help"}


def missing_options(text: str, options: set[str]) -> list[str]:
    return sorted(option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", text))


def show_test_command(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ".ci/run", "--show"],
        cwd=checkout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with our .ci/run and nothing else."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    return tmp_path


def test_changelog_tells_of_this_version() -> None:
    assert newest_version(read("CHANGELOG.md")) == mpchat.__version__


def test_headings_of_the_changelog_have_dates() -> None:
    headings = [heading for heading in HEADING.finditer(read("CHANGELOG.md")) if heading["date"]]
    assert headings
    assert [heading[0] for heading in headings if not DATE.fullmatch(heading["date"])] == []


@pytest.mark.parametrize(
    "changelog", ["## [0.2.0] - 2026-05-01\n## [0.1.0] - 2026-01-01", "## [Unreleased]\n\n## [0.2.0] - Unreleased"]
)
def test_newest_version_is_the_uppermost(changelog: str) -> None:
    assert newest_version(changelog) == "0.2.0"


def test_license_is_the_one_in_the_metadata(pyproject: dict[str, Any]) -> None:
    # The second one is that of the data in mpchat/chat/state/lookalikes.py (SPDX license list).
    assert pyproject["project"]["license"] == "MIT AND Unicode-DFS-2016"
    assert pyproject["project"]["license-files"] == ["LICENSE", "LICENSES/*.txt"]
    assert read("LICENSE").startswith("MIT License\n")
    assert "UNICODE, INC. LICENSE AGREEMENT" in read("LICENSES/Unicode.txt")


@pytest.mark.parametrize("script", ["mpchat-server", "mpchat-client"])
def test_console_script_is_there(pyproject: dict[str, Any], script: str) -> None:
    module, _, function = pyproject["project"]["scripts"][script].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_types_go_with_the_package(pyproject: dict[str, Any]) -> None:
    assert "py.typed" in pyproject["tool"]["setuptools"]["package-data"]["mpchat"]
    # Under tox this is the installed wheel, not the checkout.
    assert importlib.resources.files("mpchat").joinpath("py.typed").is_file()


def test_tox_runs_each_python_that_is_promised(pyproject: dict[str, Any]) -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read_string(read("tox.ini"))
    environments = set(re.split(r"[,\s]+", tox["tox"]["env_list"].strip()))
    promised = re.findall(r"Python :: 3\.(\d+)", "\n".join(pyproject["project"]["classifiers"]))
    assert environments == {f"py3{minor}" for minor in promised} | {"lint", "type"}
    assert pyproject["project"]["requires-python"] == f">=3.{min(map(int, promised))}"


def test_ci_runs_each_python_that_is_promised(pyproject: dict[str, Any]) -> None:
    supported = re.search(r'^readonly supported="(.+)"$', read(".ci/run"), re.MULTILINE)
    assert supported is not None
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(pyproject["project"]["classifiers"]))
    assert supported[1].split() == promised


def test_reference_names_each_option_of_the_server() -> None:
    from mpchat.cli import build_parser

    options = list_options(build_parser())
    assert {"--host", "--port", "--workers"} <= options
    assert missing_options(read("docs/reference/server.md"), options) == []


def test_missing_option_is_found() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-line")
    parser.add_argument("--max", help="other than `--max-line`")
    assert list_options(parser) == {"--max", "--max-line"}
    assert missing_options("`--max-line BYTES`: the longest line", list_options(parser)) == ["--max"]


def test_ci_finds_the_test_command_of_the_readme() -> None:
    shown = show_test_command(ROOT)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.rstrip().endswith(".venv/bin/pytest")
    block = f"<!-- test command -->\n```[a-z]*\n{re.escape(shown.stdout)}```"
    assert re.search(block, read("README.md"))


def test_ci_takes_the_marked_block_and_no_other(checkout: Path) -> None:
    (checkout / "README.md").write_text(
        "```\nrun\n```\n\n<!-- test command -->\n```sh\na && b 'c d'\n```\n\n```\nother\n```\n"
    )
    shown = show_test_command(checkout)
    assert (shown.returncode, shown.stdout) == (0, "a && b 'c d'\n")


@pytest.mark.parametrize(
    ("readme", "complaint"),
    [
        (None, "README.md is missing"),
        ("```sh\npytest\n```\n", "no fenced block after"),
        ("<!-- test command -->\n\nNothing in a fence.\n", "no fenced block after"),
        ("<!-- test command -->\n```sh\na && b\nc\n```\n", "must be one line"),
    ],
)
def test_ci_fails_without_a_test_command(checkout: Path, readme: str | None, complaint: str) -> None:
    if readme is not None:
        (checkout / "README.md").write_text(readme)
    shown = show_test_command(checkout)
    assert shown.returncode == 1
    assert complaint in shown.stderr
    assert shown.stdout == ""
