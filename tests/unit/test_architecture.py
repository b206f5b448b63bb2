"""The rules about the source that no checker in pyproject.toml knows: read from the source, not run.

A rule is a function from a module to its breaches. Each is also given a module that breaks it, since a rule that finds
nothing proves nothing. The rules about imports are import-linter's and ruff's: tests/tools/test_rules.py.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHAPELESS_NAMES = {"util", "utils", "helper", "helpers"}
LONGEST_FUNCTION = 60
THIRD_PARTIES = {"psutil"}
OF_EXTRAS = {"mpchat/client/screen/editor.py": {"prompt_toolkit"}}

Rule = Callable[[Path, str], list[str]]


def third_parties_are_few(path: Path, source: str) -> list[str]:
    if path.parts[0] != "mpchat":
        return []
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules += [node.module or ""]
    known = sys.stdlib_module_names | THIRD_PARTIES | {"mpchat"} | OF_EXTRAS.get(path.as_posix(), set())
    return [f"imports {name}" for name in modules if name.split(".")[0] not in known]


def modules_are_nouns(path: Path, source: str) -> list[str]:
    return [f"is called {word}" for word in path.with_suffix("").parts if word in SHAPELESS_NAMES]


def functions_are_short(path: Path, source: str) -> list[str]:
    return [
        f"line {node.lineno}: {node.name} has {length} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    ]


def errors_of_the_system_are_in_words(path: Path, source: str) -> list[str]:
    """An OSError in a message shows its number, ``[Errno 98]``: `errors.in_words` says it without."""
    return [
        f"line {node.lineno} shows an error of the system as it is"
        for handler in ast.walk(ast.parse(source))
        if isinstance(handler, ast.ExceptHandler) and handler.name and handler.type and _may_be_systems(handler.type)
        for node in ast.walk(handler)
        if isinstance(node, ast.FormattedValue | ast.Call) and _shows(node, handler.name)
    ]


def _may_be_systems(caught: ast.expr) -> bool:
    # LOST is a tuple of several kinds.
    names = {node.id for node in ast.walk(caught) if isinstance(node, ast.Name)}
    return any(name in ("OSError", "LOST") or name.endswith("ConnectionError") for name in names)


def _shows(node: ast.FormattedValue | ast.Call, name: str) -> bool:
    if isinstance(node, ast.FormattedValue):
        return _is_named(node.value, name)
    shows = _is_named(node.func, "str", "repr") or (
        isinstance(node.func, ast.Attribute) and _is_named(node.func.value, "log")
    )
    return shows and any(_is_named(each, name) for each in node.args)


def _is_named(node: ast.expr, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


# Each rule, and modules that break it once.
BREACHES: list[tuple[Rule, str, str]] = [
    (third_parties_are_few, "mpchat/log/redis.py", "import redis.asyncio"),
    (third_parties_are_few, "mpchat/log/redis.py", "def f():\n    from redis.asyncio import Redis"),
    (third_parties_are_few, "mpchat/client/screen/chat.py", "from prompt_toolkit import Application"),
    (modules_are_nouns, "mpchat/server/utils.py", ""),
    (modules_are_nouns, "mpchat/helpers/thing.py", ""),
    (functions_are_short, "mpchat/chat/state/state.py", "def f():\n" + "    x = 1\n" * 60),
    (functions_are_short, "mpchat/chat/state/state.py", "class C:\n async def f():\n" + "  x = 1\n" * 60),
    *(
        (errors_of_the_system_are_in_words, "mpchat/child.py", f"try:\n f()\nexcept {kinds} as e:\n {shown}")
        for kinds in ("OSError", "(ValueError, OSError)", "(*LOST, KeyError)")
        for shown in ("raise X(f'no: {e}') from e", "g(f'{e!r}')", "log.error('no: %s', e)", "g(str(e))", "g(repr(e))")
    ),
]
# What the rules allow.
CUSTOMS: list[tuple[Rule, str, str]] = [
    (third_parties_are_few, "mpchat/server/kernel.py", "import psutil, asyncio, mpchat.log\nfrom . import control"),
    (third_parties_are_few, "mpchat/client/screen/editor.py", "from prompt_toolkit import Application"),
    (functions_are_short, "mpchat/chat/state/state.py", "def f():\n" + "    x = 1\n" * 59),
    (
        errors_of_the_system_are_in_words,
        "mpchat/child.py",
        "try:\n f()\nexcept OSError as e:\n log.error('%s', in_words(e))\n raise X(f'{e.errno}')",
    ),
    (errors_of_the_system_are_in_words, "mpchat/child.py", "try:\n f()\nexcept ForkError as e:\n g(f'{e}')"),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in BREACHES))


def name_case(value: Rule | str) -> str:
    return value.split("\n")[0] if isinstance(value, str) else value.__name__


@pytest.mark.parametrize("rule", RULES, ids=name_case)
def test_rule_is_kept(rule: Rule) -> None:
    paths = [path.relative_to(ROOT) for tree in ("mpchat", "scripts") for path in sorted((ROOT / tree).rglob("*.py"))]
    assert Path("mpchat/chat/__init__.py") in paths
    assert [f"{path}: {breach}" for path in paths for breach in rule(path, (ROOT / path).read_text("utf-8"))] == []


@pytest.mark.parametrize(("rule", "path", "source"), BREACHES, ids=name_case)
def test_breach_is_found(rule: Rule, path: str, source: str) -> None:
    assert len(rule(Path(path), source)) == 1


@pytest.mark.parametrize(("rule", "path", "source"), CUSTOMS, ids=name_case)
def test_custom_is_allowed(rule: Rule, path: str, source: str) -> None:
    assert rule(Path(path), source) == []
