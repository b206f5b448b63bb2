"""The server with workers that boot late or never.

``python -m tests.faulty_worker late|never OPTION...``: the options are those of `mpchat-server`.
"""

import os
import signal
import sys
from typing import Any
from unittest import mock

from mpchat import cli
from mpchat.server.worker import worker


def run_late(config: Any, slot: int, *more: Any) -> int:
    """In the place of `worker.run_worker`: worker-1 boots when it is sent SIGCONT."""
    if slot == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return worker.run_worker(config, slot, *more)


def run_never(*_: Any) -> int:
    """In the place of `worker.run_worker`: no worker boots."""
    return 9


if __name__ == "__main__":
    target = {"late": run_late, "never": run_never}[sys.argv[1]]
    with mock.patch("mpchat.server.main.workerprocess.run_worker", target):
        sys.exit(cli.main(sys.argv[2:]))
