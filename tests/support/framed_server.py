"""The server with two dialects at one port: the first client to connect speaks lines, the second frames, and so on.

``python framed_server.py OPTION...``: the options are those of `mpchat-server`. The product knows nothing of it.
"""

import sys
from itertools import cycle
from unittest import mock

from framed import FRAMED, FramedDialect

from mpchat import cli
from mpchat.server.main.intake.listener import Arrival, Listener
from mpchat.wire.registry import DIALECTS, LINE


def main() -> int:
    dialects, accept = cycle([LINE, FRAMED]), Listener.accept

    def accept_framed(listener: Listener) -> list[Arrival]:
        return [arrival._replace(dialect=next(dialects)) for arrival in accept(listener)]

    # Workers are forked from this process, and have what is patched here.
    with mock.patch.dict(DIALECTS, {FRAMED: FramedDialect}), mock.patch.object(Listener, "accept", accept_framed):
        return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
