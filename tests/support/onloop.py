"""Tests that are coroutines, each on a loop of its own."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import ParamSpec

DEADLINE = 5.0
"""Seconds until what a test waits for has failed to come."""

P = ParamSpec("P")


def on_loop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Run a test that is a coroutine on a loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner() as runner:
            runner.run(test(*args, **kwargs))

    return run


async def turn() -> None:
    """Let the loop do all that is due."""
    for _ in range(3):
        await asyncio.sleep(0)
