#!/usr/bin/env python3
"""Measure how long a server with many kept messages takes to start, and its clients wait for /search and /history."""

from mpchat_tools.common.options import launch
from mpchat_tools.growth.lookups import main

if __name__ == "__main__":
    launch(main)
