"""The server with processes that boot late, never, or not for a while.

``python tests/support/faulty_worker.py late|never OPTION...``: workers. The options are those of `mpchat-server`.
``python tests/support/faulty_worker.py workers|sequencer FILE OPTION...``: those fail for as long as FILE exists.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from mpchat import cli
from mpchat.log.local import process
from mpchat.server.worker import worker


def run_late(config: Any, slot: int, *more: Any) -> int:
    """In the place of `worker.run_worker`: worker-1 boots when it is sent SIGCONT."""
    if slot == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return worker.run_worker(config, slot, *more)


def run_never(*_: Any) -> int:
    """In the place of `worker.run_worker`: no worker boots."""
    return 9


class RunUnless:
    """In the place of a process's function: it fails while the file exists."""

    def __init__(self, path: Path, run: Any) -> None:
        self.path = path
        self.run = run

    def __call__(self, *arguments: Any) -> int:
        return 9 if self.path.exists() else self.run(*arguments)


def main(how: str, *options: str) -> int:
    place, run, rest = "mpchat.server.main.workers.workerprocess.run_worker", worker.run_worker, options[1:]
    stand_in: Any
    match how:
        case "late":
            stand_in, rest = run_late, options
        case "never":
            stand_in, rest = run_never, options
        case "workers":
            stand_in = RunUnless(Path(options[0]), run)
        case "sequencer":
            place = "mpchat.log.local.process._run_log_server"
            stand_in = RunUnless(Path(options[0]), process._run_log_server)
        case _:
            raise SystemExit(f"no such fault: {how}")
    with mock.patch(place, stand_in):
        return cli.main(list(rest))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
