"""Memory that processes share and that outlives each of them: no name leads to it, so nothing is left behind."""

import os
import sys
import tempfile


def make_memory(size: int, name: str) -> int:
    """A descriptor of `size` bytes of memory, all zero. They are taken when they are written to; `name` is for whoever
    looks into /proc."""
    if sys.platform == "linux":
        descriptor = os.memfd_create(name)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
