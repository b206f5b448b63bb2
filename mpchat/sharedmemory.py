"""Memory that processes share and that outlives each of them. It has no name, so nothing is left behind.

memfd_create(2) makes it where the system has that call and allows it. Elsewhere (macOS, gVisor, old container runtimes)
it is a file without a name: in /dev/shm, which is memory too, or in the directory for temporary files.
"""

import errno
import os
import tempfile
from pathlib import Path

_MISSING = frozenset({errno.ENOSYS, errno.EPERM, errno.EACCES})
"""The error numbers of a call that the system lacks or does not allow."""

_IN_MEMORY = Path("/dev/shm")


def make_memory(size: int, name: str) -> int:
    """Make `size` bytes of memory, all zero, and return their descriptor. Raises OSError.

    A page takes memory once it has been written to. `name` is what /proc shows.
    """
    descriptor = _make_memfd(name)
    if descriptor is None:
        with tempfile.TemporaryFile(dir=_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None) as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def find_substitute() -> str:
    """Return the folder that replaces memfd_create(2), for the log. Empty if the system has that call."""
    descriptor = _make_memfd("mpchat-probe")
    if descriptor is not None:
        os.close(descriptor)
        return ""
    return str(_IN_MEMORY) if os.access(_IN_MEMORY, os.W_OK) else tempfile.gettempdir()


def _make_memfd(name: str) -> int | None:
    """Return an empty memfd, or None if the system has none. Tried, since Python may be built for a newer kernel."""
    try:
        return os.memfd_create(name)
    except AttributeError:
        return None
    except OSError as error:
        if error.errno not in _MISSING:
            raise
        return None
