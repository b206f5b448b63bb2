"""The pages for whoever runs a server, and the files beside them, agree with the program."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mpchat.cli import EXIT_CODES, SIGNALS, build_parser, read_config
from mpchat.lifeline import MAINS_SIGNALS
from mpchat.options import OPTIONS, list_defaults
from mpchat.wire.line.commands import COMMANDS

ROOT = Path(__file__).parents[2]
GUIDE, REFERENCE = ROOT / "docs" / "guide", ROOT / "docs" / "reference"


def table(page: str, heading: str) -> dict[str, str]:
    """The rows of the table under a heading: the first cell without its marks, and the last one."""
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0].replace("\\|", "/")
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return {cells[0].strip(" `"): cells[-1].strip() for cells in rows[1:] if not cells[0].startswith(" ---")}


@pytest.fixture(scope="module")
def page() -> str:
    return (REFERENCE / "server.md").read_text("utf-8")


def test_the_page_names_each_option_with_its_default(page: str) -> None:
    shown = table(page, "Options")
    for option in OPTIONS:
        default = option.shown or {True: "yes"}.get(option.default, option.default)
        assert shown.pop(f"{option.flag} {option.metavar.replace('|', '/')}") == str(default)
    others = {name.split()[0] for name in shown}
    assert others == set(re.findall(r"--[a-z-]+", build_parser().format_help())) & others
    assert others == {"--config", "--print-config", "--version", "--help"}


def test_the_page_and_the_help_name_each_signal_and_each_exit_code(page: str) -> None:
    signals = {name for names in table(page, "Signals") for name in names.split(", ")}
    assert signals == {number.name.removeprefix("SIG") for number in MAINS_SIGNALS}
    assert signals == set(re.findall(r"\b(?:TERM|INT|HUP|USR1|USR2|TTIN|TTOU)\b", SIGNALS))
    assert list(table(page, "Exit codes")) == re.findall(r"\b\d+\b", EXIT_CODES)


def test_the_sample_file_has_each_option_at_its_default(page: str) -> None:
    sample = (REFERENCE / "mpchat.toml").read_text("utf-8")
    defaults = {name: setting.value for name, setting in list_defaults().items()}
    assert tomllib.loads(sample) == defaults
    assert read_config(["--config", str(REFERENCE / "mpchat.toml")]) == read_config([])
    assert f"```toml\n{sample}```\n" in page


def test_the_sample_file_explains_each_option() -> None:
    lines = (REFERENCE / "mpchat.toml").read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if " = " in line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (GUIDE / "mpchat.service").read_text("utf-8")
    command = re.search(r"^ExecStart=(\S+)", text, re.MULTILINE)
    assert command is not None
    unit = tmp_path / "mpchat.service"
    # What is verified is the unit, and not that mpchat is installed at this place.
    unit.write_text(text.replace(command[1], sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_unit_starts_is_right() -> None:
    text = (GUIDE / "mpchat.service").read_text("utf-8")
    command = re.search(r"^ExecStart=\S+/mpchat-server (.+)$", text, re.MULTILINE)
    assert command is not None
    assert build_parser().parse_args(command[1].split()).config == "/etc/mpchat.toml"
    timeout = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert timeout is not None
    assert int(timeout[1]) > read_config([]).drain_timeout


def test_the_guide_gives_the_server_options_that_there_are() -> None:
    text = (GUIDE / "running.md").read_text("utf-8")
    commands = re.findall(r"^(?:nohup )?(?:\S*/)?mpchat-server (.+?)(?: &)?$", text, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        build_parser().parse_args(command.split())


def test_advice_is_about_this_clone() -> None:
    """The tools are only in a clone, and what is on a package index under our name may be somebody else's."""
    advice = re.compile(r"pip install[^\n]*")
    paths = [*(ROOT / "scripts").rglob("*.py"), ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = [(path.name, match) for path in paths for match in advice.findall(path.read_text("utf-8"))]
    assert "plot.py" in [name for name, _ in found]
    assert [(name, text) for name, text in found if "mpchat[" in text or "install mpchat" in text] == []


def test_the_page_of_the_commands_has_what_help_says() -> None:
    page = (REFERENCE / "commands.md").read_text("utf-8")
    for command in COMMANDS:
        usage = f"/{command.name} {command.arguments}".strip()
        short = ", ".join(f"`/{word}`" for word in command.short)
        assert f"| `{usage}` | {command.summary}. {command.details} | {short} |".replace("|  |", "| |") in page
