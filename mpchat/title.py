"""The title of a process: what `ps` and `top` show for it, such as ``mpchat: worker-1``.

Owns the name in the kernel (`comm`) and, on Linux, the memory that the arguments are shown from. Promises that
a title is a convenience: where the system refuses one, the process goes on under its old name. Never touches the
environment, which stands behind the arguments, and never changes `sys.argv`.

Linux shows the bytes from `arg_start` to `arg_end` (proc(5), /proc/pid/stat) as the arguments. If the last of them is
not zero, it shows only what comes before the first zero byte: that is its support for setproctitle(3)
(get_mm_proctitle() in fs/proc/base.c). The bytes are written through /proc/self/mem, since they are this process's own.
"""

import re
from contextlib import suppress
from pathlib import Path

PREFIX = "mpchat: "

COMM_MOST = 15
"""Bytes of a process's name in the kernel, without the zero byte (TASK_COMM_LEN in linux/sched.h)."""

_ARG_START, _ARG_END = 47, 48  # fields 48 and 49 of /proc/pid/stat, which counts from 1


def set_title(process: str) -> None:
    """Have `ps` and `top` show that this process is `process` of mpchat. Does nothing where there is no /proc."""
    with suppress(OSError, ValueError):
        Path("/proc/self/comm").write_bytes(make_comm(process).encode())
        _write_arguments(f"{PREFIX}{process}".encode())


def make_comm(process: str) -> str:
    """Return the title in COMM_MOST bytes. The kernel would cut the number off, so letters before it go instead.

    >>> make_comm("worker-1")
    'mpchat: worke-1'
    """
    number = "".join(re.findall(r"-\d+$", process))
    word = process.removesuffix(number)
    return PREFIX + word[: COMM_MOST - len(PREFIX) - len(number)] + number


def _write_arguments(title: bytes) -> None:
    # The name of the program, in parentheses, may contain spaces and parentheses.
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[_ARG_START - 2]), int(fields[_ARG_END - 2])
    room = end - start
    if room <= 2:  # for the zero byte, and the last one
        return
    content = title[: room - 2].ljust(room - 1, b"\0") + b"\1"
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(content)
