"""What was typed at a terminal and never read: thrown away when the client ends, so that no shell runs it.

Leaves a terminal alone that belongs to another job at the moment: a background job that touches it would be stopped
(SIGTTOU, termios(3)).
"""

import fcntl
import os
import struct
import termios
import time

SETTLING = 0.2
"""Seconds for which more may come when something was left. A long paste comes in pieces, as the terminal takes them."""

PAUSE = 0.01
"""Seconds between two looks meanwhile."""


def discard_leftovers(descriptor: int | None) -> bool:
    """Throw away what a terminal has for its reader; whether there was anything that could be seen.

    None, or no terminal of ours: nothing happens. Never raises.
    """
    if descriptor is None or not is_ours(descriptor):
        return False
    was_left = False
    end = time.monotonic() + SETTLING
    while True:
        try:
            left = count_unread(descriptor)
            termios.tcflush(descriptor, termios.TCIFLUSH)
        except (OSError, termios.error):  # hung up meanwhile: nobody gets anything from it any more
            return was_left
        if not was_left and not left:
            return False
        was_left = True
        if time.monotonic() >= end:
            return True
        time.sleep(PAUSE)


def count_unread(descriptor: int) -> int:
    """Bytes that a read would give now; of a terminal that edits lines, only whole lines (FIONREAD, ioctl_tty(2))."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4))[0])


def is_ours(descriptor: int) -> bool:
    """Whether this is a terminal that no other job has in the foreground."""
    try:
        return os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # not the controlling terminal of our session: no job control there
        return True
