"""`python -m mpchat.client`: the same as the command `mpchat-client`."""

import sys

from mpchat.client.cli import main

if __name__ == "__main__":
    sys.exit(main())
