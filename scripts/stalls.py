#!/usr/bin/env python3
"""Measure how long a worker and the sequencer of mpchat keep everybody waiting while snapshots and adoptions go on."""

from mpchat_tools.common.options import launch
from mpchat_tools.growth.stalls import main

if __name__ == "__main__":
    launch(main)
