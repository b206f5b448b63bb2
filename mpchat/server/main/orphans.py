"""Orphans: processes that become main's children because their parents have ended, when main is process 1.

In a container main may be the first process. Whoever ends without having waited for its children leaves them to it
(wait(2), "NOTES"), and what nobody waits for stays as a zombie, and takes a process id, until main ends. So does a
process that was started before main was executed in the place of its parent. Promises that only those are waited for
who are not main's own: the exit code of an own child is for who started it. Never waits for who has not ended.
"""

import logging
import os
from collections.abc import Container

log = logging.getLogger(__name__)


def is_first_process() -> bool:
    """Whether orphans come to us."""
    return os.getpid() == 1 and hasattr(os, "waitid")


def reap_orphans(own: Container[int]) -> None:
    """Wait for all children that have ended, up to the first one in `own`.

    The system shows one of those that have ended at a time. If that is one of our own, whoever started it is about to
    wait for it; the others have their turn the next time.
    """
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return  # there are no children at all
        if ended is None or ended.si_pid in own:
            return
        os.waitpid(ended.si_pid, os.WNOHANG)
        log.debug("orphan reaped, pid %d", ended.si_pid)
