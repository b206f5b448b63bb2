"""`python -m mpchat` is `mpchat-server`."""

import sys

from mpchat.cli import main

if __name__ == "__main__":
    sys.exit(main())
