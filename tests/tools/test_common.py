"""What all tools share: tables with and without rich, progress, processes that die, and who imports whom."""

from __future__ import annotations

import ast
import io
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from mpchat_tools.common.crew import Failure, Pipe, crew
from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.figures import Column, format_table
from mpchat_tools.common.progress import Bar
from server import ROOT

TOOLS = ROOT / "scripts" / "mpchat_tools"
COMMANDS = {
    f"mpchat_tools.{name}"
    for name in ("verify.stress", "verify.chaos", "bench.command", "growth.command", "growth.stalls", "growth.lookups")
}
MAY_IMPORT = {
    "common": {"common"},
    "verify": {"common", "verify"},
    "bench": {"common", "verify", "bench"},
    "growth": {"common", "bench", "growth"},
}
ROWS = [["server", "rate", "(range)"], ["mpchat", "1,000", "(1 to 2)"], ["x", "7", ""]]


def imports_of(module: Path) -> set[str]:
    """The modules of the tools that it imports."""
    nodes = ast.walk(ast.parse(module.read_text()))
    found = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name for name in found if name.startswith("mpchat_tools.")}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_go_one_way_and_nobody_imports_a_command_line(folder: str) -> None:
    modules = list((TOOLS / folder).rglob("*.py"))
    assert modules
    for module in modules:
        names = imports_of(module)
        assert {name.split(".")[1] for name in names} <= MAY_IMPORT[folder], module
        assert not names & COMMANDS, module


def test_a_table_stands_in_columns() -> None:
    pytest.importorskip("rich")
    assert format_table(ROWS) == [
        "  server   rate   (range)",
        "  mpchat  1,000  (1 to 2)",
        "  x           7",
    ]


def test_without_rich_the_same_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.table", None)
    assert [line.split() for line in format_table(ROWS)] == [" ".join(row).split() for row in ROWS]


def test_a_column_shows_what_is_known() -> None:
    column: Column[float | None] = Column("ms", lambda run: run, ".1f", ranged=True)
    assert column.headings() == ["ms", "(range)"]
    assert column.cells([3.0, None, 1.0]) == ["2.0", "(1.0 to 3.0)"]
    assert column.cells([None], unknown="n/a") == ["n/a", ""]


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    bar = Bar(out)
    bar.show("deliveries", 1, 1000)
    monkeypatch.setattr("mpchat_tools.common.progress.LINE_S", 0.0)
    bar.show("deliveries", 999, 1000)
    bar.close()
    assert out.getvalue().startswith("deliveries 999/1,000 ")
    assert out.getvalue().count("\n") == 1


@pytest.mark.parametrize("with_rich", [False, True])
def test_progress_is_a_bar_on_a_terminal(with_rich: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if with_rich:
        pytest.importorskip("rich")
        monkeypatch.setenv("TERM", "xterm")
    else:
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    ours, theirs = os.openpty()
    with io.FileIO(ours) as screen:
        with os.fdopen(theirs, "w") as terminal:
            bar = Bar(terminal)
            bar.show("deliveries", 999, 1000)
            bar.close()
        assert (b"deliveries" in read_all(screen)) == with_rich


def read_all(screen: io.FileIO) -> bytes:
    """What was shown; the other end is closed, which is an error and no end (pty(7))."""
    shown = b""
    with suppress(OSError):
        while chunk := screen.read(1 << 16):
            shown += chunk
    return shown


def answer(pipe: Pipe, what: object) -> None:
    pipe.send(what)
    pipe.recv()


def die(pipe: Pipe) -> None:
    os._exit(9)


def test_each_process_of_a_crew_is_heard() -> None:
    with crew(answer, [(number,) for number in range(2)]) as started:
        assert sorted(started.hear(int, 60.0)) == [0, 1]
        processes = started.processes
    with pytest.raises(ValueError, match="closed"):
        processes[0].is_alive()


def test_a_process_that_says_why_it_cannot_go_on_ends_the_run() -> None:
    with pytest.raises(ToolError, match="no way"), crew(answer, [(Failure("no way"),)]) as started:
        started.hear(int, 60.0)


def test_a_process_that_dies_ends_the_run() -> None:
    with pytest.raises(ToolError, match="died"), crew(die, [()]) as started:
        started.hear(int, 60.0)


def test_a_process_that_says_nothing_ends_the_run() -> None:
    with pytest.raises(ToolError, match="1 processes"), crew(answer, [(1,)]) as started:
        started.hear(int, 60.0)
        started.hear(int, 0.0)
