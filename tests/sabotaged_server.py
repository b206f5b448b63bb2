"""The server with one fault in how it carries on the clients of a dead worker.

``python sabotaged_server.py FAULT OPTION...``: the options are those of `mpchat-server`.
"""

import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

from mpchat import cli
from mpchat.server import worker
from mpchat.server.adoption import Adoptee


def repeat(adoptee: Adoptee) -> bytes:
    """All that followed the mark, also what the dead worker had written."""
    return adoptee.tape.content


def forget(adoptee: Adoptee) -> bytes:
    """Nothing of what the dead worker had not written."""
    return b""


def tear(adoptee: Adoptee) -> bytes:
    """Without the first bytes of what the dead worker had not written."""
    return _unwritten(adoptee)[7:]


def reverse(adoptee: Adoptee) -> bytes:
    """The lines that the dead worker had not written, the last one first."""
    return b"".join(reversed(_unwritten(adoptee).splitlines(keepends=True)))


def _unwritten(adoptee: Adoptee) -> bytes:
    return adoptee.tape.content[adoptee.progress.written - adoptee.mark.position :]


OUTPUTS: dict[str, Callable[[Adoptee], bytes]] = {
    "repeat": repeat,
    "forget": forget,
    "tear": tear,
    "reverse": reverse,
}


class FaultyWorker:
    """In the place of `worker.run_worker`. It runs in the worker's process, and so does the patch."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __call__(self, *arguments: Any) -> None:
        with mock.patch.object(Adoptee, "output", property(OUTPUTS[self.fault])):
            worker.run_worker(*arguments)


if __name__ == "__main__":
    fault, *options = sys.argv[1:]
    if fault == "abandon":
        patch: Any = mock.patch("mpchat.server.kernel.AVAILABLE", False)
    else:
        patch = mock.patch("mpchat.server.workerprocess.run_worker", FaultyWorker(fault))
    with patch:
        sys.exit(cli.main(options))
