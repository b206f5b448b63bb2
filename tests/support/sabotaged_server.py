"""The server with one fault in how it carries on the clients of a dead worker, and with workers that die of a client.

``python sabotaged_server.py FAULT OPTION...``: the options are those of `mpchat-server`.

So that there is something to get wrong, however fast or busy the machine is, a worker rests LATE after it has flushed,
and kills itself in a flush: where a client of its own has just been sent the first line of a block (which is written,
and no mark says so) whose rest (which is not) has two messages of one sender. It does so only for a client that no
worker had before it; so no client costs more than one worker, and each one's output is carried on in the end.
"""

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

from mpchat import cli
from mpchat.server.worker import worker
from mpchat.server.worker.inbound.client import Client
from mpchat.server.worker.moves.adoption import Adoptee
from mpchat.server.worker.outbound.pace import Pace

LATE = 0.1
SENDER = re.compile(rb"^(\w+): ", re.MULTILINE)


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


flush = Pace.flush


def flush_and_rest(pace: Pace[Client]) -> float:
    """In the place of `Pace.flush`: so all that comes in LATE is in one reading, and in one flush."""
    flush(pace)
    return LATE


send_whole = Client.send


def send_and_die(client: Client, block: bytes) -> None:
    """In the place of `Client.send`."""
    first = block.find(b"\n") + 1
    senders = Counter(SENDER.findall(block[first:]))
    if client._handed.epoch or max(senders.values(), default=0) < 2:
        send_whole(client, block)
        return
    send_whole(client, block[:first])
    if not client._connection.queued:
        os.kill(os.getpid(), signal.SIGKILL)
    send_whole(client, block[first:])


class FaultyWorker:
    """In the place of `worker.run_worker`. It runs in the worker's process, and so do the patches."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __call__(self, *arguments: Any) -> int:
        with mock.patch.object(Pace, "flush", flush_and_rest), mock.patch.object(Client, "send", send_and_die):
            if self.fault in OUTPUTS:
                mock.patch.object(Adoptee, "output", property(OUTPUTS[self.fault])).start()
            return worker.run_worker(*arguments)


if __name__ == "__main__":
    fault, *options = sys.argv[1:]
    with mock.patch("mpchat.server.main.workers.workerprocess.run_worker", FaultyWorker(fault)):
        if fault == "abandon":
            mock.patch("mpchat.server.kernel.AVAILABLE", False).start()
        sys.exit(cli.main(options))
