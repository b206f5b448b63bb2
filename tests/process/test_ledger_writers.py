"""The ledger in two processes: what a worker wrote outlives it, however the worker was started."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection as Pipe
from typing import Any

import pytest

from mpchat.server.ledger import Ledger, Mark, Shape

DEADLINE = 10.0
RING = 64


def write_and_wait(ledger: Ledger, pipe: Pipe[Any, Any]) -> None:
    """A worker that is killed."""
    page = ledger.page(2)
    page.rebase(100)
    page.room(100, 100)[:5] = b"hello"
    page.write_mark(Mark(12, 34))
    page.behind = False
    ledger.set_sweep_mark(1, 56)
    pipe.send("written")
    pipe.recv()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_was_written_outlives_the_writer(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    ledger = Ledger(Shape(3, 2, RING))
    ours, theirs = context.Pipe()
    process = context.Process(target=write_and_wait, args=(ledger, theirs))
    process.start()
    theirs.close()
    assert ours.poll(DEADLINE)
    assert ours.recv() == "written"
    os.kill(process.pid, signal.SIGKILL)
    process.join(DEADLINE)
    assert process.exitcode == -signal.SIGKILL
    process.close()
    ours.close()
    page = ledger.page(2)
    assert page.content(100, 105) == b"hello"
    assert page.read_mark() == Mark(12, 34)
    assert not page.behind
    assert ledger.sweep_mark(1) == 56
    ledger.close()
