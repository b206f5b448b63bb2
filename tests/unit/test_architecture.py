"""What docs/architecture.md says about the source of mpchat stays true: read from the source, not run.

A rule is a function from one module to the lines where the module breaks it. Each is also fed a module that
does break it: a rule that cannot find anything keeps nothing true.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mpchat"

BELOW_SERVER = {"", "errors", "config", "output", "logs", "lifeline", "child", "sharedmemory", "chat", "wire", "log"}
# What the modules of each part may import of mpchat, besides those of their own part. A part is what follows
# "mpchat." in a module's name; "" is the package itself, which has the version and nothing else. "server" is what
# its two sides share.
ALLOWED_PARTS: dict[str, set[str]] = {
    "": set(),
    "errors": set(),
    "output": set(),
    "logs": {"", "errors", "output"},
    "lifeline": {"", "errors"},
    "child": {"", "errors", "output", "logs", "lifeline"},
    "sharedmemory": set(),
    "processors": set(),
    "config": {"", "errors"},
    "chat": {"", "errors"},
    "wire": {"", "errors", "chat"},
    "log": {"", "errors", "config", "child", "logs", "sharedmemory", "chat", "wire"},
    "server": BELOW_SERVER,
    "server.worker": BELOW_SERVER | {"server"},
    "server.main": BELOW_SERVER | {"server", "server.worker"},
    "client": {"", "errors", "output", "chat", "wire", "log"},
    "cli": {"", "errors", "config", "output", "logs", "processors", "chat", "wire", "log", "server.main"},
    "__main__": {"", "cli"},
}
PURE_PARTS = {"chat", "wire"}
# Each dialect is a package in wire; the registry alone knows which there are.
DIALECTS = {path.parent.name for path in (PACKAGE / "wire").glob("*/__init__.py")}
REGISTRY = "mpchat.wire.registry"
SHARED_WITH_CLIENT = "mpchat.wire.line.meaning"
IMPURE_LIBRARIES = {
    *("asyncio", "socket", "ssl", "select", "selectors", "threading", "_thread", "multiprocessing", "concurrent"),
    *("subprocess", "signal", "os", "time", "random", "secrets", "uuid", "psutil"),
}
CLOCK_READS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
THIRD_PARTIES = {"psutil"}
COMMAND_LINES = {"mpchat.cli", "mpchat.client.cli", "mpchat.__main__"}
SHAPELESS_NAMES = {"util", "utils", "helper", "helpers"}
LONGEST_FUNCTION = 60


@dataclass(frozen=True)
class Module:
    """The source of one module, and its full name; of a package, the source of its __init__.py."""

    name: str
    source: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def part(self) -> str:
        return part_of(self.name)


Rule = Callable[[Module], list[str]]


def part_of(module_name: str) -> str:
    words = module_name.split(".")[1:]
    within = ".".join(words[:2])
    return within if within in ALLOWED_PARTS else [*words, ""][0]


def load_modules() -> Iterator[Module]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        yield Module(".".join(parts[:-1] if is_package else parts), path.read_text("utf-8"), is_package)


def list_imports(module: Module) -> Iterator[tuple[int, str]]:
    """Line and full name of all that is imported, inside functions and `if TYPE_CHECKING` too.

    What `from a import b` names is "a.b", be it a module or not.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_source(module, node)
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def resolve_source(module: Module, node: ast.ImportFrom) -> str:
    """The full name of the module that a `from ... import` reads, relative ones included."""
    if node.level == 0:
        return node.module or ""
    package = module.name.split(".")
    ascents = node.level - 1 if module.is_package else node.level
    base = package[: len(package) - ascents]
    return ".".join([*base, *([node.module] if node.module else [])])


def imported_part(name: str) -> str:
    """The part an import reads: of "mpchat.__version__" the package itself, of "mpchat.wire.x" wire."""
    part = part_of(name)
    return "" if part.startswith("_") and part not in ALLOWED_PARTS else part


def dotted(node: ast.AST) -> str:
    """The `a.b.c` that an expression spells, or "" when it is another kind of expression."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


def imports_go_one_way(module: Module) -> list[str]:
    allowed = ALLOWED_PARTS.get(module.part)
    if allowed is None:
        return [f"{module.part!r} has no place among the parts of mpchat: give it one in ALLOWED_PARTS"]
    return [
        f"line {line} imports {name}"
        for line, name in list_imports(module)
        if name.split(".")[0] == "mpchat" and imported_part(name) not in allowed | {module.part}
    ]


def only_the_registry_knows_dialects(module: Module) -> list[str]:
    """Of the server. The client is at the other end of the line dialect, and keeps its rules."""
    if module.name == REGISTRY:
        return []
    foreign = [f"mpchat.wire.{name}" for name in DIALECTS if not _is_within(module.name, f"mpchat.wire.{name}")]
    return [
        f"line {line} imports {name}"
        for line, name in list_imports(module)
        if any(_is_within(name, dialect) for dialect in foreign)
        and not (module.part == "client" and _is_within(name, SHARED_WITH_CLIENT))
    ]


def _is_within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def pure_parts_do_no_io(module: Module) -> list[str]:
    if module.part not in PURE_PARTS:
        return []
    imports = [
        f"line {line} imports {name}"
        for line, name in list_imports(module)
        if name.split(".")[0] in IMPURE_LIBRARIES
    ]
    clocks = [
        f"line {node.lineno} reads the clock"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and ".".join(dotted(node).split(".")[-2:]) in CLOCK_READS
    ]
    return imports + clocks


def third_parties_are_few(module: Module) -> list[str]:
    # The client works wherever there is a Python.
    allowed = {"mpchat"} | (set() if module.part == "client" else THIRD_PARTIES)
    return [
        f"line {line} imports {name}"
        for line, name in list_imports(module)
        if (top := name.split(".")[0]) not in sys.stdlib_module_names and top not in allowed
    ]


def modules_say_what_they_are(module: Module) -> list[str]:
    return [] if ast.get_docstring(module.tree) else ["has no docstring"]


def modules_are_nouns(module: Module) -> list[str]:
    return [f"is called {word}" for word in module.name.split(".") if word in SHAPELESS_NAMES]


def functions_are_short(module: Module) -> list[str]:
    return [
        f"line {node.lineno}: {node.name} has {length} lines"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    ]


def only_the_front_prints(module: Module) -> list[str]:
    if module.part == "client" or module.name in COMMAND_LINES:
        return []
    return [
        f"line {node.lineno} prints"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and dotted(node.func) == "print"
    ]


def only_command_lines_read_the_environment(module: Module) -> list[str]:
    if module.name in COMMAND_LINES:
        return []
    readers = {"os.environ", "os.environb", "os.getenv", "os.getenvb"}
    uses = [
        node.lineno
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and dotted(node) in readers
    ]
    imports = [line for line, name in list_imports(module) if name in readers]
    return [f"line {line} reads the environment" for line in sorted(uses + imports)]


# Each rule, and modules that break it once.
BREACHES: list[tuple[Rule, Module]] = [
    (imports_go_one_way, Module("mpchat.chat.state.state", "from mpchat.wire import framing")),
    (imports_go_one_way, Module("mpchat.chat.state.state", "from mpchat import wire")),
    (imports_go_one_way, Module("mpchat.chat.state.state", "from ...wire import framing")),
    (imports_go_one_way, Module("mpchat.chat.state.state", "from ... import wire")),
    (imports_go_one_way, Module("mpchat.chat", "from .. import wire", is_package=True)),
    (imports_go_one_way, Module("mpchat.chat.state.state", "def f():\n    import mpchat.config")),
    (imports_go_one_way, Module("mpchat.wire.framing", "import mpchat.log.port as c")),
    (imports_go_one_way, Module("mpchat.log.local.memory", "from mpchat.server.worker.worker import Worker")),
    (imports_go_one_way, Module("mpchat.server.worker", "from mpchat.client import plain")),
    (imports_go_one_way, Module("mpchat.server.worker", "from mpchat.cli import main")),
    (imports_go_one_way, Module("mpchat.server.worker.caller", "from mpchat.server.main.workers import workforce")),
    (imports_go_one_way, Module("mpchat.server.control", "from mpchat.server.worker.inbound.client import Client")),
    (imports_go_one_way, Module("mpchat.client.plain", "if TYPE_CHECKING:\n    from mpchat.server import x")),
    (imports_go_one_way, Module("mpchat.client.plain", "from mpchat.config import Config")),
    (imports_go_one_way, Module("mpchat.errors", "from mpchat.chat import events")),
    (imports_go_one_way, Module("mpchat.server.worker", "import mpchat.elsewhere")),
    (imports_go_one_way, Module("mpchat.elsewhere", "")),
    (only_the_registry_knows_dialects, Module("mpchat.server.worker.caller", "from mpchat.wire.line.words import x")),
    (only_the_registry_knows_dialects, Module("mpchat.server.worker.caller", "from mpchat.wire import line")),
    (only_the_registry_knows_dialects, Module("mpchat.wire.framing", "from .line import framing")),
    (only_the_registry_knows_dialects, Module("mpchat.wire", "import mpchat.wire.line", is_package=True)),
    (only_the_registry_knows_dialects, Module("mpchat.client.plain", "from mpchat.wire.line.words import x")),
    (only_the_registry_knows_dialects, Module("mpchat.server.worker", "from mpchat.wire.line.meaning import x")),
    *((pure_parts_do_no_io, Module("mpchat.chat.state.state", f"import {name}")) for name in sorted(IMPURE_LIBRARIES)),
    (pure_parts_do_no_io, Module("mpchat.wire.framing", "from os.path import join")),
    (pure_parts_do_no_io, Module("mpchat.wire.framing", "def f():\n    from time import monotonic")),
    (pure_parts_do_no_io, Module("mpchat.chat.state.history", "now = datetime.now(UTC)")),
    (pure_parts_do_no_io, Module("mpchat.chat.state.history", "now = datetime.datetime.now(UTC)")),
    (third_parties_are_few, Module("mpchat.log.redis", "import redis.asyncio")),
    (third_parties_are_few, Module("mpchat.client.plain", "import psutil")),
    (modules_say_what_they_are, Module("mpchat.chat.state.state", "x = 1")),
    (modules_are_nouns, Module("mpchat.server.utils", "")),
    (modules_are_nouns, Module("mpchat.helpers.thing", "")),
    (functions_are_short, Module("mpchat.chat.state.state", "def f():\n" + "    x = 1\n" * 60)),
    (functions_are_short, Module("mpchat.chat.state.state", "class C:\n async def f():\n" + "  x = 1\n" * 60)),
    (only_the_front_prints, Module("mpchat.server.worker", "print('ready')")),
    (only_command_lines_read_the_environment, Module("mpchat.config", "x = os.environ['HOME']")),
    (only_command_lines_read_the_environment, Module("mpchat.config", "x = os.getenv('HOME')")),
    (only_command_lines_read_the_environment, Module("mpchat.config", "from os import environ")),
]
# What the rules have to let pass.
CUSTOMS: list[tuple[Rule, Module]] = [
    (imports_go_one_way, Module("mpchat.chat.state.state", "from mpchat.chat.events import X\nfrom . import history")),
    (imports_go_one_way, Module("mpchat.chat", "from .events import X\nfrom mpchat import errors", True)),
    (imports_go_one_way, Module("mpchat.server.worker", "from mpchat.log import port\nimport mpchat.chat")),
    (imports_go_one_way, Module("mpchat.server.main.workers.workforce", "from mpchat.server.worker import worker")),
    (imports_go_one_way, Module("mpchat.server.worker.outbound.reader", "from mpchat.server import control")),
    (imports_go_one_way, Module("mpchat.cli", "from mpchat import __version__, config\nimport mpchatter")),
    (imports_go_one_way, Module("mpchat.__main__", "from mpchat.cli import main")),
    (only_the_registry_knows_dialects, Module("mpchat.wire.registry", "from mpchat.wire.line import dialect")),
    (only_the_registry_knows_dialects, Module("mpchat.client.plain", "from mpchat.wire.line.meaning import x")),
    (only_the_registry_knows_dialects, Module("mpchat.wire.line.dialect", "from mpchat.wire.line.words import x")),
    (only_the_registry_knows_dialects, Module("mpchat.server.worker.caller", "from mpchat.wire.linear import x")),
    (pure_parts_do_no_io, Module("mpchat.server.worker", "import os, time")),
    (pure_parts_do_no_io, Module("mpchat.chat.state.history", "x = datetime.fromtimestamp(t, UTC)\ny = self.now()")),
    (third_parties_are_few, Module("mpchat.server.worker", "import psutil, asyncio, mpchat.log")),
    (modules_say_what_they_are, Module("mpchat.chat.state.state", '"""What the chat is."""')),
    (functions_are_short, Module("mpchat.chat.state.state", "def f():\n" + "    x = 1\n" * 59)),
    (only_the_front_prints, Module("mpchat.client.plain", "print('hello')")),
    (only_the_front_prints, Module("mpchat.server.worker", "log.print('hello')")),
    (only_command_lines_read_the_environment, Module("mpchat.cli", "x = os.environ['HOME']")),
]
RULES = list(dict.fromkeys(rule for rule, _ in BREACHES))


def name_case(value: Rule | Module) -> str:
    return value.name if isinstance(value, Module) else value.__name__


@pytest.mark.parametrize("rule", RULES, ids=name_case)
def test_rule_is_kept(rule: Rule) -> None:
    assert [f"{module.name}: {breach}" for module in load_modules() for breach in rule(module)] == []


@pytest.mark.parametrize(("rule", "module"), BREACHES, ids=name_case)
def test_breach_is_found(rule: Rule, module: Module) -> None:
    assert len(rule(module)) == 1


@pytest.mark.parametrize(("rule", "module"), CUSTOMS, ids=name_case)
def test_custom_is_let_pass(rule: Rule, module: Module) -> None:
    assert rule(module) == []


def test_the_package_is_found() -> None:
    assert {"mpchat", "mpchat.chat", "mpchat.wire"} <= {module.name for module in load_modules()}


IMPORT_AND_LOOK_AROUND = """
import importlib, sys, threading
import psutil
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert threading.active_count() == 1, f"{name} starts a thread"
    assert not psutil.Process().children(), f"{name} starts a process"
"""


def import_all(names: list[str], directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Imports modules in a new process, which fails when one of them starts something."""
    return subprocess.run(
        [sys.executable, "-c", IMPORT_AND_LOOK_AROUND, *names],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_line_dialect_is_found() -> None:
    assert "line" in DIALECTS


def test_importing_starts_nothing() -> None:
    # To import __main__ is to run it.
    names = [module.name for module in load_modules() if not module.name.endswith("__main__")]
    result = import_all(names)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "starts a thread"),
        ("import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', ''])", "starts a process"),
    ],
)
def test_import_that_starts_something_is_found(tmp_path: Path, source: str, complaint: str) -> None:
    (tmp_path / "hasty.py").write_text(source)
    result = import_all(["hasty"], tmp_path)
    assert f"hasty {complaint}" in result.stderr
