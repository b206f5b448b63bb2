#!/usr/bin/env python3
"""Compare mpchat with other servers that pass messages on."""

from mpchat_tools.bench.command import main
from mpchat_tools.common.options import launch

if __name__ == "__main__":
    launch(main)
