"""Errors: a refusal of the system is told apart from a bug of mpchat."""

from __future__ import annotations

import errno
import os

import pytest

from mpchat.errors import REFUSALS, BootError, ListenError, MpchatError, blame_system, is_refusal


@pytest.mark.parametrize("number", sorted(REFUSALS))
def test_a_refusal_of_the_system_becomes_one_of_ours(number: int) -> None:
    with pytest.raises(BootError) as caught, blame_system(BootError, "start"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == f"cannot start: {os.strerror(number)}"
    assert isinstance(caught.value.__cause__, OSError)


def test_no_memory_is_a_refusal_that_says_what_it_is() -> None:
    with pytest.raises(ListenError, match=r"^cannot listen: out of memory$"), blame_system(ListenError, "listen"):
        raise MemoryError


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "bad"), OSError(errno.EAGAIN, "later"), ValueError("wrong")])
def test_a_fault_of_ours_stays_what_it_is(error: Exception) -> None:
    assert not is_refusal(error)
    with pytest.raises(type(error)) as caught, blame_system(BootError, "start"):
        raise error
    assert caught.value is error


def test_an_error_of_ours_passes() -> None:
    error = MpchatError("already translated")
    with pytest.raises(MpchatError) as caught, blame_system(BootError, "start"):
        raise error
    assert caught.value is error
