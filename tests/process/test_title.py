"""The titles of processes: what psutil, and so `ps` and `top`, see of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from server import eventually, running_server

from mpchat.title import COMM_MOST, make_comm, set_title

linux = pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="processes have titles on Linux only")

# Takes a title and waits for the end of its input.
TITLED = """
import sys
from mpchat.title import set_title
set_title({title!r})
print(sys.argv[1:], flush=True)
sys.stdin.read()
"""


def title_of(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


@pytest.mark.parametrize(
    ("process", "comm"),
    [
        ("main", "mpchat: main"),
        ("sequencer", "mpchat: sequenc"),
        ("worker-1", "mpchat: worke-1"),
        ("worker-12", "mpchat: work-12"),
        ("worker-511", "mpchat: wor-511"),
    ],
)
def test_the_name_in_the_kernel_keeps_the_number(process: str, comm: str) -> None:
    assert make_comm(process) == comm
    assert len(comm) <= COMM_MOST


@linux
@pytest.mark.parametrize("arguments", [["a"], ["a b", "c"], ["x" * 3000]])
def test_a_title_takes_the_place_of_the_arguments(arguments: list[str]) -> None:
    """Whatever their length. The environment and `sys.argv` stay."""
    command = [sys.executable, "-c", TITLED.format(title="worker-12"), *arguments]
    with subprocess.Popen(
        command, env={"MARK": "stays"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == f"{arguments}\n"
        process = psutil.Process(started.pid)
        assert Path(f"/proc/{started.pid}/cmdline").read_bytes() == b"mpchat: worker-12\0"
        assert title_of(process) == "mpchat: worker-12"
        assert Path(f"/proc/{started.pid}/comm").read_text() == "mpchat: work-12\n"
        assert process.environ() == {"MARK": "stays"}
        started.communicate("", timeout=60)
        assert started.returncode == 0


@linux
def test_a_title_longer_than_the_arguments_is_cut() -> None:
    """There is no room for more: behind the arguments stands the environment."""
    code = "import sys; from mpchat.title import set_title; set_title(input()); print(flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, env={"MARK": "stays"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        started.stdin.write("worker-" + "1" * 5000 + "\n")
        started.stdin.flush()
        started.stdout.readline()
        process = psutil.Process(started.pid)
        room = len(" ".join(command)) + 1  # and a zero byte behind the last argument
        assert title_of(process) == ("mpchat: worker-" + "1" * 5000)[: room - 2]
        assert process.environ() == {"MARK": "stays"}
        started.communicate("\n", timeout=60)
        assert started.returncode == 0


def test_where_there_is_no_proc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "write_bytes", refuse)
    before = psutil.Process().cmdline()
    set_title("main")
    assert psutil.Process().cmdline() == before


@linux
def test_each_process_of_the_server_says_what_it_is() -> None:
    with running_server("--workers", "2") as server:
        main = psutil.Process(server.process.pid)
        assert title_of(main) == "mpchat: main"
        expected = ["mpchat: sequencer", "mpchat: worker-0", "mpchat: worker-1"]
        eventually(lambda: sorted(map(title_of, main.children())) == expected, "each has a title")
        assert [title_of(process) for process in server.workers()] == expected[1:]
        assert title_of(server.sequencer()) == expected[0]
