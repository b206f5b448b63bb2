"""The server whose main meets an error in the middle of its life: when it is asked for its status (USR1).

``python tests/support/refused_server.py memory|files|fault OPTION...``: the options are those of `mpchat-server`.
"""

import errno
import os
import sys
from typing import Any
from unittest import mock

from mpchat import cli

ERRORS = {
    "memory": MemoryError(),
    "files": OSError(errno.ENFILE, os.strerror(errno.ENFILE)),
    "fault": OSError(errno.EBADF, os.strerror(errno.EBADF)),
}


def raise_error(*_: Any) -> None:
    """In the place of `status.describe_processes`."""
    raise ERRORS[sys.argv[1]]


if __name__ == "__main__":
    with mock.patch("mpchat.server.main.supervisor.describe_processes", raise_error):
        sys.exit(cli.main(sys.argv[2:]))
