"""`scripts/record.py`: the scene of the README, played by the real programs.

Bob chats with our client. Alice has sent a name and half a line when every worker is killed with -9. She sends the
rest, and Bob reads the line whole. A third terminal shows the server's log.
"""

from __future__ import annotations

import argparse
import os
import select
import shlex
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from mpchat_tools.common.options import check_files, conclude
from mpchat_tools.recording.film import Pane, draw
from mpchat_tools.recording.terminal import Terminal

PICTURE = Path(__file__).parents[3] / "docs" / "recording.svg"

KEY_SECONDS = 0.045
"""Between two keys that somebody types."""

LAST_SECONDS = 4.0
"""How long the end stays."""

PROMPT = "$ "
SHELL = ("bash", "--norc", "--noprofile", "-i")


class Studio:
    """The terminals of a scene, filmed whenever one of them shows something."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "LANG": "C.UTF-8", "HOME": str(folder)}
        self._filmed: list[tuple[Terminal, Pane]] = []
        self._started = time.monotonic()

    @property
    def panes(self) -> list[Pane]:
        return [pane for _, pane in self._filmed]

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def open(self, pane: Pane, *command: str) -> Terminal:
        terminal = Terminal(command, pane.columns, pane.lines, self._folder, self._environment)
        self._stack.enter_context(closing(terminal))
        self._filmed.append((terminal, pane))
        return terminal

    def start(self) -> None:
        """Film from here on."""
        self._started = time.monotonic()
        for pane in self.panes:
            pane.shown = []
        self.film(0.0)

    def film(self, seconds: float) -> None:
        """Look on for so long."""
        until = time.monotonic() + seconds
        while True:
            select.select(
                [terminal for terminal, _ in self._filmed], [], [], max(0.0, min(0.02, until - time.monotonic()))
            )
            for terminal, pane in self._filmed:
                terminal.take()
                pane.look(self.seconds, terminal.rows)
            if time.monotonic() >= until:
                return

    def type(self, terminal: Terminal, line: str, pause: float = 0.5) -> None:
        """Type a line, key by key, and Enter."""
        for key in line:
            terminal.type(key)
            self.film(KEY_SECONDS)
        self.film(pause)
        terminal.type("\r")
        self.film(pause)

    def film_until(self, terminal: Terminal, text: str) -> None:
        """Look on until the terminal shows `text`. Raises TimeoutError."""
        deadline = time.monotonic() + 20
        while text not in terminal.text:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{text!r} is not shown; what is:\n{terminal.text}")
            self.film(0.05)


def play(studio: Studio) -> None:
    """The scene."""
    server = studio.open(Pane("server", 104, 6, 0, 15), *SHELL)
    server.type("PS1='$ '; clear; mpchat-server --workers 2 --port 0\r")
    server.wait_for("mpchat ready on 127.0.0.1:")
    port = server.text.rpartition("mpchat ready on 127.0.0.1:")[2].partition(",")[0]
    bob = studio.open(Pane("bob: mpchat-client", 50, 11, 0, 0), "mpchat-client", f"127.0.0.1:{port}", "--name", "bob")
    bob.wait_for("#lobby")
    alice = studio.open(Pane("alice: a shell", 52, 11, 52, 0), *SHELL)
    # Only the workers of this server: there may be others on the machine.
    kill = f'pkill() {{ command pkill -s {server.session} "$@"; }}'
    alice.type(f"PS1={shlex.quote(PROMPT)}; {kill}; clear\r")
    alice.wait_for(PROMPT)
    studio.film(0.5)
    studio.start()
    studio.film(1.0)
    studio.type(alice, f"exec 3<>/dev/tcp/127.0.0.1/{port}")
    studio.type(alice, r"printf 'alice\nhalf a li' >&3")
    studio.film_until(bob, "alice joined")
    studio.type(bob, "are you there, alice?")
    studio.type(alice, "pkill -9 -f 'mpchat: worker'")
    studio.film(1.5)
    studio.type(alice, r"printf 'ne\n' >&3")
    studio.film_until(bob, "alice: half a line")
    studio.film(LAST_SECONDS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="record.py", description="Record the picture of the README from the real programs."
    )
    parser.add_argument(
        "file", nargs="?", type=Path, default=PICTURE, help="where to write the SVG (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    check_files(parser, options.file)
    return conclude(parser.prog, lambda: record(options.file))


def record(file: Path) -> int:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        studio = Studio(stack, Path(folder))
        play(studio)
        file.write_text(draw(studio.panes, studio.seconds), encoding="utf-8")
    print(f"{file}: {file.stat().st_size >> 10} KiB, {studio.seconds:.0f} s")
    return 0
