"""The recording of the README: what terminals have shown, drawn as an SVG, and the scene itself."""

from __future__ import annotations

import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from mpchat_tools.recording.command import main
from mpchat_tools.recording.film import Pane, draw
from mpchat_tools.recording.terminal import Run, Terminal

SVG = "{http://www.w3.org/2000/svg}"


def row(text: str) -> tuple[Run, ...]:
    return (Run(0, text, "default", False),)


def texts(picture: str) -> list[str]:
    root = ElementTree.fromstring(picture)
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def test_a_row_is_drawn_once_for_as_long_as_it_stays() -> None:
    pane = Pane("a shell", 20, 2, 0, 0)
    for moment, first in enumerate(["", "one", "one", "two"]):
        pane.look(moment, [row(first) if first else (), row("same")])
    picture = draw([pane], 4.0)
    assert texts(picture) == ["a shell", "one", "two", "same"]
    assert "{0%{visibility:hidden}25.000%{visibility:visible}75.000%{visibility:hidden}}" in picture
    assert "{0.000%{visibility:visible}}" in picture


def test_what_people_type_is_no_markup() -> None:
    pane = Pane("<title> & more", 20, 1, 0, 0)
    pane.look(0.0, [row("<script>&amp;")])
    assert texts(draw([pane], 1.0)) == ["<title> & more", "<script>&amp;"]


def test_a_terminal_shows_what_its_program_writes(tmp_path: Path) -> None:
    program = ["bash", "-c", r"printf 'plain \e[1;31mred\e[0m\n'; read line; echo got $line"]
    terminal = Terminal(program, 30, 3, tmp_path, {"PATH": "/usr/bin:/bin"})
    try:
        terminal.wait_for("red")
        assert terminal.rows[0] == (Run(0, "plain ", "default", False), Run(6, "red", "red", True))
        terminal.type("yes\r")
        terminal.wait_for("got yes")
    finally:
        terminal.close()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pkill") is None, reason="the scene kills the workers with pkill")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the clients of a killed worker are disconnected")
def test_the_scene_is_played_by_the_real_programs(tmp_path: Path) -> None:
    file = tmp_path / "picture.svg"
    assert main([str(file)]) == 0
    shown = texts(file.read_text("utf-8"))
    assert any(line.endswith("alice: half a line") for line in shown)
    assert any("carried on" in line for line in shown)
