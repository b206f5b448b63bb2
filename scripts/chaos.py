#!/usr/bin/env python3
"""Kill, replace and move parts of a running mpchat server under load, and check every byte at every client."""

from mpchat_tools.common.options import launch
from mpchat_tools.verify.chaos import main

if __name__ == "__main__":
    launch(main)
