"""The checkers find what pyproject.toml forbids: each is run over a copy of the tree with one breach in it."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STATE = "mpchat/chat/state/state.py"
FRAMING = "mpchat/wire/framing.py"
CALLER = "mpchat/server/worker/caller.py"
PLAIN = "mpchat/client/plain.py"

# A contract of import-linter, a module, and an import that breaks the contract there. The module may be a new one.
FORBIDDEN_IMPORTS = [
    ("layers", STATE, "from mpchat.wire import framing"),
    ("layers", STATE, "from ...wire import framing"),
    ("layers", STATE, "from ... import wire"),
    ("layers", STATE, "def f():\n    import mpchat.wire.framing"),
    ("layers", "mpchat/chat/__init__.py", "from .. import wire"),
    ("layers", FRAMING, "import mpchat.log.port as port"),
    ("layers", "mpchat/log/local/memory.py", "from mpchat.server.worker.worker import run_worker"),
    ("layers", CALLER, "from mpchat.client import plain"),
    ("layers", CALLER, "from mpchat.cli import main"),
    ("layers", PLAIN, "import mpchat.cli"),
    ("layers", "mpchat/errors.py", "from mpchat.chat import events"),
    ("layers", "mpchat/elsewhere.py", ""),
    ("layers-of-server", CALLER, "from mpchat.server.main.workers import workforce"),
    ("layers-of-server", "mpchat/server/control.py", "from mpchat.server.worker.inbound.client import Client"),
    ("layers-of-server", "mpchat/server/elsewhere.py", ""),
    ("layers-of-wire", FRAMING, "from .line import framing"),
    ("layers-of-wire", "mpchat/wire/line/words.py", "from mpchat.wire import registry"),
    ("layers-of-wire", "mpchat/wire/json/dialect.py", ""),
    ("layers-of-chat", STATE, "from mpchat.chat.rules import rooms"),
    ("layers-of-chat", "mpchat/chat/elsewhere.py", ""),
    ("acyclic", "mpchat/server/main/waitloop.py", "from mpchat.server.main import supervisor"),
    ("pure", STATE, "import os"),
    ("pure", STATE, "from mpchat.config import Config"),
    ("pure", FRAMING, "from os.path import join"),
    ("pure", "mpchat/wire/line/words.py", "def f():\n    from time import monotonic"),
    ("payloads", "mpchat/log/local/memory.py", "from mpchat.chat.entries import Entry"),
    ("dialects", CALLER, "from mpchat.wire.line.words import Style"),
    ("dialects", CALLER, "from mpchat.wire import line"),
    ("dialects", CALLER, "from mpchat.wire.line.meaning import write_message"),
    ("dialects", "mpchat/wire/__init__.py", "import mpchat.wire.line"),
    ("dialects", PLAIN, "from mpchat.wire.line.words import Style"),
    ("log", "mpchat/server/worker/inbound/client.py", "from mpchat.log.local.proxy import LogProxy"),
    ("client", PLAIN, "import psutil"),
    ("client", PLAIN, "from mpchat.config import Config"),
    ("client", PLAIN, "if TYPE_CHECKING:\n    from mpchat.server import ledger"),
    ("version", "mpchat/__init__.py", "from mpchat.errors import MpchatError"),
]
# An exception that a contract makes.
ALLOWED_IMPORTS = [("dialects", PLAIN, "from mpchat.wire.line.meaning import write_message")]
# A rule of ruff, a module, and lines that break the rule there.
FORBIDDEN_LINES = [
    ("T201", CALLER, "print('ready')"),
    ("TID251", "mpchat/config.py", "import os\nHOME = os.environ['HOME']"),
    ("TID251", "mpchat/config.py", "import os\nHOME = os.getenv('HOME')"),
    ("TID251", "mpchat/config.py", "from os import environ"),
    ("TID251", PLAIN, "import os\nHOME = os.environb[b'HOME']"),
    ("TID251", STATE, "from datetime import UTC, datetime\nNOW = datetime.now(UTC)"),
    ("TID251", STATE, "import datetime\nNOW = datetime.datetime.now(datetime.UTC)"),
    ("D100", "mpchat/elsewhere.py", "x = 1"),
    ("D104", "mpchat/elsewhere/__init__.py", "x = 1"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the checkers read."""
    shutil.copytree(ROOT / "mpchat", tmp_path / "mpchat", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(tree: Path, name: str, lines: str) -> None:
    """Append lines to a module of a tree; make the module, and the package that it is in, where there is none."""
    path = tree / name
    if not path.parent.exists():
        path.parent.mkdir()
        (path.parent / "__init__.py").touch()
    with path.open("a", encoding="utf-8") as module:
        module.write(f"\n{lines}\n")


def check(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a checker of this environment in a tree."""
    return subprocess.run(
        [str(Path(sysconfig.get_path("scripts"), command[0])), *command[1:]],
        cwd=tree,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_tree_without_breach_passes(tree: Path) -> None:
    imports = check(tree, "lint-imports", "--no-logo", "--no-cache")
    assert imports.returncode == 0, imports.stdout
    ruff = check(tree, "ruff", "check", "--no-cache")
    assert ruff.returncode == 0, ruff.stdout


@pytest.mark.parametrize(("contract", "module", "lines"), FORBIDDEN_IMPORTS)
def test_forbidden_import_is_found(tree: Path, contract: str, module: str, lines: str) -> None:
    plant(tree, module, lines)
    result = check(tree, "lint-imports", "--no-logo", "--no-cache", "--contract", contract)
    assert result.returncode == 1
    assert "Contracts: 0 kept, 1 broken" in result.stdout, result.stdout + result.stderr


@pytest.mark.parametrize(("contract", "module", "lines"), ALLOWED_IMPORTS)
def test_exception_is_allowed(tree: Path, contract: str, module: str, lines: str) -> None:
    plant(tree, module, lines)
    result = check(tree, "lint-imports", "--no-logo", "--no-cache", "--contract", contract)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("rule", "module", "lines"), FORBIDDEN_LINES)
def test_forbidden_line_is_found(tree: Path, rule: str, module: str, lines: str) -> None:
    plant(tree, module, lines)
    result = check(tree, "ruff", "check", "--no-cache", "--output-format=concise", "--select", rule)
    assert result.returncode == 1
    # Only where the breach was planted.
    found = [line for line in result.stdout.splitlines() if f" {rule} " in line]
    assert found
    assert [line for line in found if not line.startswith(f"{module}:")] == []


def test_each_contract_has_a_breach() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    assert {contract["id"] for contract in contracts} == {contract for contract, _, _ in FORBIDDEN_IMPORTS}
