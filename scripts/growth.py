#!/usr/bin/env python3
"""Measure how mpchat grows with workers, members, rooms, idle clients and bytes."""

from mpchat_tools.common.options import launch
from mpchat_tools.growth.command import main

if __name__ == "__main__":
    launch(main)
