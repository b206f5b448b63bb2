"""The drawings in docs/explanation/architecture.md name methods that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DRAWING = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
METHOD = re.compile(r"\b([A-Z]\w+)\.([a-z_]\w*)")


def members_by_class() -> dict[str, set[str]]:
    """The names of the functions in each class of the package."""
    members: dict[str, set[str]] = {}
    for path in (ROOT / "mpchat").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = {part.name for part in ast.walk(node) if isinstance(part, ast.FunctionDef)}
                members.setdefault(node.name, set()).update(names)
    return members


def find_unknown(text: str, members: dict[str, set[str]]) -> list[str]:
    named = {match for drawing in DRAWING.findall(text) for match in METHOD.findall(drawing)}
    return sorted(f"{owner}.{name}" for owner, name in named if name not in members.get(owner, set()))


def test_what_is_drawn_is_there() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text("utf-8")
    members = members_by_class()
    assert len(METHOD.findall("".join(DRAWING.findall(text)))) > 40
    assert find_unknown(text, members) == []


def test_what_is_not_there_is_found() -> None:
    text = "```\nReader.read -> Reader.write_poems\n```\n\nReader.outside\n"
    assert find_unknown(text, {"Reader": {"read"}}) == ["Reader.write_poems"]
