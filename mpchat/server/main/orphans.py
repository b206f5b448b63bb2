"""Orphans: processes that become main's children because their parents have ended, when main is process 1.

In a container main may be process 1. A process that ends without waiting for its children leaves them to process 1
(wait(2), "NOTES"). Until main reaps such an orphan, it stays a zombie and keeps its process id. The same holds for a
process that was started before its parent executed main. Promises to reap only processes that main has not started
itself: the part of main that started a child needs its exit code. Never waits for a process that has not ended.
"""

import logging
import os
from collections.abc import Container

log = logging.getLogger(__name__)


def is_first_process() -> bool:
    """Whether this process is process 1, and gets the orphans."""
    return os.getpid() == 1 and hasattr(os, "waitid")


def reap_orphans(own: Container[int]) -> None:
    """Reap the children that have ended, up to the first one in `own`.

    The system shows one ended child at a time. If that is one of `own`, it will soon be reaped by the part of main
    that started it, and the orphans behind it are reaped the next time.
    """
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return  # there are no children at all
        if ended is None or ended.si_pid in own:
            return
        os.waitpid(ended.si_pid, os.WNOHANG)
        log.debug("orphan reaped pid=%d", ended.si_pid)
