"""The client for people in tmux, which breaks old rows anew when its window changes, as most terminals do."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clientruns import draw_command
from drawnclient import squeeze
from playedserver import DEADLINE, Server, received_by, sign_on

LOOK_AGAIN = 0.05
TYPED = "李雷 says hi and 👍 " * 6 + "to the end"

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Pane:
    """A window of tmux with one pane."""

    def __init__(self, path: Path) -> None:
        self._tmux = ("tmux", "-S", str(path), "-f", "/dev/null")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [*self._tmux, *command], check=True, capture_output=True, text=True, timeout=DEADLINE, encoding="utf-8"
        )
        return done.stdout

    def type(self, text: str) -> None:
        self.run("send-keys", "-l", text)

    @property
    def rows(self) -> list[str]:
        return self.run("capture-pane", "-p").split("\n")

    @property
    def everything(self) -> str:
        """The scrollback and the screen, squeezed."""
        return squeeze(self.run("capture-pane", "-p", "-S", "-"))

    def see_once(self, *texts: str) -> None:
        """Look until each text is on the screen just once."""
        deadline = time.monotonic() + DEADLINE
        while any(squeeze("".join(self.rows)).count(squeeze(text)) != 1 for text in texts):
            assert time.monotonic() < deadline, f"once: {texts}\n" + "\n".join(self.rows)
            time.sleep(LOOK_AGAIN)


@contextmanager
def in_tmux(path: Path, columns: int, *args: str) -> Iterator[Pane]:
    pane = Pane(path / "tmux")
    program = shlex.join(draw_command(*args))
    pane.run("-u", "new-session", "-d", "-x", str(columns), "-y", "24", program)
    try:
        yield pane
    finally:
        subprocess.run(["tmux", "-S", str(path / "tmux"), "kill-server"], check=False, timeout=DEADLINE)


def test_pictures_of_several_characters_leave_no_gaps(tmp_path: Path) -> None:
    received: list[bytes] = []
    with Server(received_by(received)) as server, in_tmux(tmp_path, 60, server.address, "--name", "bot") as pane:
        pane.see_once("* Hello, bot.")
        for char in "I ❤\ufe0f 👩\u200d👩\u200d👧 👍🏽 🇩🇪 e\u0301 all":
            pane.type(char)
        pane.see_once("> I ❤ 👩👩👧 👍 🇩🇪 é all")
        pane.type("\x02\x02\x02\x02x")  # Ctrl-B
        pane.see_once("> I ❤ 👩👩👧 👍 🇩🇪 éx all")
        pane.type("\r")
        pane.type("\x04")
    assert received == ["I ❤\ufe0f 👩\u200d👩\u200d👧 👍🏽 🇩🇪 e\u0301x all".encode(), b"/quit"]


@pytest.mark.parametrize("columns", [60, 120])
def test_the_typed_line_stays_whole(columns: int, tmp_path: Path) -> None:
    received: list[bytes] = []
    shown = [f"ann: line {number} {'and more ' * (number % 20)}".rstrip() for number in range(200)]
    go = threading.Event()

    def handle(conn: socket.socket) -> None:
        lines = sign_on(conn)
        for line in shown:
            assert go.wait(DEADLINE)
            conn.sendall(line.encode() + b"\n")
        received.extend(lines.rest())

    with Server(handle) as server, in_tmux(tmp_path, columns, server.address, "--name", "bot", "--no-time") as pane:
        pane.see_once("* Hello, bot.")
        go.set()
        for start in range(0, len(TYPED), 7):
            pane.type(TYPED[start : start + 7])
        pane.see_once("line 199", f"> {TYPED}", "#lobby, 2 members")
        assert squeeze("".join(shown)) in pane.everything
        for width in (50, 140, columns):
            pane.run("resize-window", "-x", str(width))
            pane.see_once(f"> {TYPED}", "#lobby, 2 members", shown[-1])
        pane.type("\r")
        pane.see_once(f"bot: {TYPED}")
        pane.type("\x04")
    assert received == [TYPED.encode(), b"/quit"]
