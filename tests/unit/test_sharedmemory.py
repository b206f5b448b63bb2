"""Shared memory, made in each of the ways that a system may offer."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mpchat import sharedmemory
from mpchat.sharedmemory import find_substitute, make_memory


def as_it_is(patch: pytest.MonkeyPatch, folder: Path) -> str:
    return find_substitute()


def without_memfd(patch: pytest.MonkeyPatch, folder: Path) -> str:
    """A system whose /dev/shm is another folder, and whose Python does not know the call."""
    patch.delattr(os, "memfd_create", raising=False)
    patch.setattr(sharedmemory, "_IN_MEMORY", folder)
    return str(folder)


def memfd_forbidden(patch: pytest.MonkeyPatch, folder: Path) -> str:
    """And no folder in memory either."""

    def refuse(name: str) -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    patch.setattr(os, "memfd_create", refuse, raising=False)
    patch.setattr(sharedmemory, "_IN_MEMORY", folder / "none")
    patch.setattr(tempfile, "tempdir", str(folder))
    return str(folder)


@pytest.mark.parametrize("system", [as_it_is, without_memfd, memfd_forbidden])
def test_memory_is_zero_of_its_size_and_without_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: Callable[[pytest.MonkeyPatch, Path], str]
) -> None:
    assert system(monkeypatch, tmp_path) == find_substitute()
    descriptor = make_memory(5000, "test")
    try:
        assert os.pread(descriptor, 6000, 0) == bytes(5000)
        os.pwrite(descriptor, b"hello", 4000)
        assert os.pread(descriptor, 5, 4000) == b"hello"
        assert list(tmp_path.iterdir()) == []
    finally:
        os.close(descriptor)


def test_another_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    with pytest.raises(OSError, match="Too many open files"):
        make_memory(1, "test")
    with pytest.raises(OSError, match="Too many open files"):
        find_substitute()
