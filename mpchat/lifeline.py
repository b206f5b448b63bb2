"""A child process ends when main does, whatever killed main.

`tie_to_main` is called once in every child. It needs no word from main: the kernel closes main's end of a pipe. So
nothing stays behind when main is killed with -9, and the port is free at once.
"""

import fcntl
import os
import shutil
import signal
import sys
import threading
from multiprocessing import connection, parent_process, util


def tie_to_main() -> None:
    """End this process, at once and without clean-up of its own, when main has ended.

    Also ignores SIGINT, SIGTERM and SIGHUP, which a terminal or a service manager sends to the whole group, and the
    kernel when main is killed while one of us is stopped (setpgid(2), orphaned process groups): main decides.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_main, name="end-with-main", daemon=True).start()


def die_with_main() -> None:
    """Have the kernel kill this process when main has ended, also while it is stopped and runs no thread.

    The pipe whose other end main has sends SIGKILL in the place of SIGIO (fcntl(2), F_SETSIG). PR_SET_PDEATHSIG would
    not do: the parent is the fork server, which ends only after all that it has forked. Linux only; elsewhere a process
    that is stopped when main is killed stays until it is continued.
    """
    main = parent_process()
    if sys.platform != "linux" or main is None:
        return
    fcntl.fcntl(main.sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(main.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(main.sentinel, fcntl.F_GETFL)
    fcntl.fcntl(main.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def _end_with_main() -> None:
    main = parent_process()
    if main is not None:
        connection.wait([main.sentinel])
        # The folder of main's and the Manager's sockets: main takes it away itself unless it was killed.
        shutil.rmtree(util.get_temp_dir(), ignore_errors=True)
    os._exit(0)
