"""Memory that processes share and that outlives each of them: no name leads to it, so nothing is left behind.

memfd_create(2) makes it where the system has that call and allows it. Elsewhere (macOS, gVisor, old container runtimes)
it is a file without a name: in /dev/shm, which is memory too, or in the directory for temporary files.
"""

import errno
import os
import tempfile
from pathlib import Path

_MISSING = frozenset({errno.ENOSYS, errno.EPERM, errno.EACCES})
"""How a system says that it does not have a call, or does not allow it."""

_IN_MEMORY = Path("/dev/shm")


def make_memory(size: int, name: str) -> int:
    """A descriptor of `size` bytes of memory, all zero. They are taken when they are written to; `name` is for whoever
    looks into /proc. Raises OSError."""
    descriptor = _make_memfd(name)
    if descriptor is None:
        with tempfile.TemporaryFile(dir=_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None) as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def find_substitute() -> str:
    """What is used in place of memfd_create(2), for the log; empty where the system has it."""
    descriptor = _make_memfd("mpchat-probe")
    if descriptor is not None:
        os.close(descriptor)
        return ""
    return str(_IN_MEMORY) if os.access(_IN_MEMORY, os.W_OK) else tempfile.gettempdir()


def _make_memfd(name: str) -> int | None:
    """An empty memfd, None where there is none. Asks the kernel: the build knows nothing of the machine it runs on."""
    try:
        return os.memfd_create(name)
    except AttributeError:
        return None
    except OSError as error:
        if error.errno not in _MISSING:
            raise
        return None
