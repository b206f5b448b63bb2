"""Ctrl-C and the other signals that end a program, as an exception: raised where it is waited for and nowhere else.

Owns these signals while its loop runs. A signal that the parent had ignored stays ignored, as for the jobs that
a shell script starts with `&`.
"""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Without us, HUP (a closed terminal) and QUIT (Ctrl-\\) would leave what was typed to the shell."""


class Interrupted(Exception):
    """The person wants to leave now; no error."""


class Interrupts:
    """Made in the main thread, inside the loop; the loop's end gives the signals back."""

    def __init__(self) -> None:
        self._struck = asyncio.Event()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, self._struck.set)

    async def race(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; raises Interrupted, with `work` cancelled, if a signal comes before it."""
        task = asyncio.create_task(work)
        struck = asyncio.create_task(self._struck.wait())
        try:
            await asyncio.wait({task, struck}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self._struck.clear()  # the next one interrupts what is done about this one
                raise Interrupted
            return task.result()
        finally:
            task.cancel()
            struck.cancel()
            await asyncio.gather(task, struck, return_exceptions=True)
