#!/usr/bin/env python3
"""Talk to an mpchat server from many clients at once and check every single delivery."""

from mpchat_tools.common.options import launch
from mpchat_tools.verify.stress import main

if __name__ == "__main__":
    launch(main)
