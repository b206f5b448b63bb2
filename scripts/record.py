#!/usr/bin/env python3
"""Record the picture of the README: the real programs, while every worker is killed in the middle of a line."""

from mpchat_tools.common.options import launch
from mpchat_tools.recording.command import main

if __name__ == "__main__":
    launch(main)
