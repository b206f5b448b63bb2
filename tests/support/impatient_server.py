"""The server with less patience for peers that do not answer.

``python impatient_server.py SECONDS OPTION...``: the options are those of `mpchat-server`.
"""

import sys
from unittest import mock

from mpchat import cli
from mpchat.server.main import connection


def main() -> int:
    # Main alone sets options of sockets, so it does not matter what its children have.
    with mock.patch.object(connection, "SILENCE", int(sys.argv[1])):
        return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
