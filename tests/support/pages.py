"""The pages of the documentation, read as a list of blocks, and run as a reader would type them.

A page says with a comment above a block how the block is to be run; without one, a block runs in the terminal "shell":

    <!-- terminal: NAME -->      in a terminal of that name; each terminal is a bash of its own in the same directory
    <!-- types: NAME -->         the same, and every line of the conversation is typed
    <!-- stays: REGEX -->        in the terminal "server", which then shows REGEX and keeps running
    <!-- not run: REASON -->     not at all

A page that says `<!-- with a server -->` supposes a server that runs. A block is `sh` (commands, which must succeed)
or `chat` (a conversation, in which a line that the server could have sent is expected and every other line is typed).
Blocks in other languages are for reading.

Owns the terminals that it opens. Promises that they and everything in them end with the reader. The port 4000 of the
pages becomes a free one. `.venv` is the environment of the tests: what sets it up is not run again.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import RUN_MARK
from mpchat_tools.common.terminals import OwnTerminal

ROOT = Path(__file__).parents[2]
DEADLINE = 60.0
"""Seconds for a command to end, or a line to come."""

PORT = "4000"
"""The port that the pages use."""

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- (terminal|types|stays|not run): (.+?) -->\s*(?:<!-- test command -->\s*)?\Z")
_PROMPT = re.compile(r"pages:(\d+)> ")
_OUTPUT = re.compile(r"(#\S+ )?[*!] |\*\* |\[[^]]+\] |(#\S+ )?[^\s:/]+: ")
_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_])")


_SERVER = ".venv/bin/mpchat-server --workers 2"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. `line` counts from 1."""

    page: str
    line: int
    language: str
    text: str
    kind: str
    """`terminal`, `types`, `stays` or `not run`."""
    value: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def list_pages() -> list[str]:
    """The pages, relative to the root of the repository."""
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def read_blocks(page: str) -> list[Block]:
    """The blocks of the page that can be run, in order."""
    text = (ROOT / page).read_text("utf-8")
    blocks = []
    for fence in _FENCE.finditer(text):
        if fence[1] not in ("sh", "chat"):
            continue
        comment = _COMMENT.search(text[: fence.start()])
        kind, value = (comment[1], comment[2]) if comment else ("terminal", "shell")
        line = text.count("\n", 0, fence.start()) + 1
        blocks.append(Block(page, line, fence[1], fence[2], kind, value))
    return blocks


def supposes_server(page: str) -> bool:
    return "<!-- with a server -->" in (ROOT / page).read_text("utf-8")


def is_output(line: str) -> bool:
    """Whether a line of a conversation is the server's: `* notice`, `** action`, `[bob] text`, `name: text`."""
    return _OUTPUT.match(line) is not None


class Terminal:
    """A bash on a terminal of its own, and what it has shown."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._shown = ""
        self._seen = 0
        # A bash that runs a script unsets PS1.
        start = "PS1='pages:$?> ' PS2= exec bash --norc --noprofile -i"
        self._terminal = OwnTerminal(["bash", "-c", start], folder, {**environment, "TERM": "xterm", "HISTFILE": ""})
        self.session = self._terminal.session
        try:
            self.expect(_PROMPT)
        except BaseException:
            self.close()
            raise

    def type(self, line: str) -> None:
        self._terminal.write(line.encode() + b"\n")

    def run(self, commands: str, place: str) -> None:
        """Type the commands, each when the one before it has ended with success."""
        for command in split_commands(commands):
            self.type(command)
            status = int(self.expect(_PROMPT)[1])
            assert status == 0, f"{place}: {command!r} ends with {status}:\n{self._shown[-2000:]}"

    def expect(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Wait until the terminal shows something that matches, behind what was expected before."""
        deadline = time.monotonic() + DEADLINE
        while (found := pattern.search(self._shown, self._seen)) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern.pattern!r} is not shown; what is:\n{self._shown[-3000:]}"
            new = self._terminal.read(left).decode("utf-8", "replace")
            self._shown = _SEQUENCES.sub("", self._shown + new).replace("\r", "")
        self._seen = found.end()
        return found

    def close(self) -> None:
        self._terminal.close()


class Reader:
    """Somebody who follows a page to the letter."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = str(port)
        self._terminals: dict[str, Terminal] = {}
        _lay_out(folder)
        self._environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
            RUN_MARK: os.environ[RUN_MARK],
        }

    def serve(self) -> None:
        """Have a server that runs already."""
        self.follow(Block("before the page", 1, "sh", _SERVER, "stays", "mpchat ready on"))

    def follow(self, block: Block) -> None:
        if block.kind == "not run":
            return
        name = "server" if block.kind == "stays" else block.value
        if name not in self._terminals:
            self._terminals[name] = Terminal(self._folder, self._environment)
            if name == "server":
                (self._folder / "bin" / "session").write_text(str(self._terminals[name].session))
        terminal = self._terminals[name]
        text = self._with_port(block.text)
        if block.language == "chat":
            self._converse(terminal, text, all_typed=block.kind == "types")
        elif block.kind == "stays":
            *before, last = split_commands(text)
            terminal.run("\n".join(before), block.place)
            terminal.type(last)
            terminal.expect(re.compile(self._with_port(block.value)))
        elif name == "shell":
            terminal.run(text, block.place)
        else:
            for command in split_commands(text):
                terminal.type(command)

    def close(self) -> None:
        for terminal in reversed(self._terminals.values()):
            terminal.close()

    def _converse(self, terminal: Terminal, text: str, all_typed: bool) -> None:
        for line in text.splitlines():
            if is_output(line) and not all_typed:
                terminal.expect(re.compile(rf"(?m)^{re.escape(line)}$"))
            else:
                terminal.type(line)

    def _with_port(self, text: str) -> str:
        text = re.sub(rf"\b{PORT}\b", self._port, text)
        # Who names no address means the port that everybody knows.
        text = re.sub(r"(mpchat-client)(?= *(?:$|--|\n|\|))", rf"\1 127.0.0.1:{self._port}", text)
        return re.sub(r"(mpchat-server)\b(?!.*--port)(?!.*--(?:help|version))", rf"\1 --port {self._port}", text)


@contextmanager
def reading(folder: Path, port: int) -> Iterator[Reader]:
    reader = Reader(folder, port)
    try:
        yield reader
    finally:
        reader.close()


def split_commands(text: str) -> list[str]:
    """The commands of a block; one that goes on behind a backslash or in a here-document is one."""
    commands: list[str] = []
    until: str | None = None
    for line in text.splitlines():
        if until is not None or (commands and commands[-1].endswith("\\")):
            commands[-1] += "\n" + line
            until = None if line == until else until
        elif line.strip() and not line.startswith("#"):
            commands.append(line)
            here = re.search(r"<<\s*'?(\w+)'?", line)
            until = here[1] if here else None
    return commands


def _lay_out(folder: Path) -> None:
    """A clone in which `.venv` is set up already."""
    for path in ROOT.iterdir():
        if path.name not in (".venv", ".git", ".tox"):
            (folder / path.name).symlink_to(path)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for program in Path(sysconfig.get_path("scripts")).iterdir():
        if program.name.startswith(("mpchat", "pytest", "ruff", "mypy", "tox")):
            (programs / program.name).symlink_to(program)
    _write_program(programs / "python", f'exec {sys.executable} "$@"')
    _write_program(programs / "pip", "exit 0")
    ours = folder / "bin"
    ours.mkdir()
    python3 = shutil.which("python3")
    # Other tests have servers too.
    _write_program(ours / "pkill", f'exec {shutil.which("pkill")} -s $(cat {ours / "session"}) "$@"')
    _write_program(ours / "python3", f'[ "$1 $2" = "-m venv" ] && exit 0; exec {python3} "$@"')


def _write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
