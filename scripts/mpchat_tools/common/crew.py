"""The worker processes of a tool, and the pipes to them.

Promises that no process is left when the block of `crew` ends, and that every wait for a message is bounded. A
process that cannot do its work sends a Failure.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias, TypeVar

from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.limits import deferred_interrupts

CONTEXT = multiprocessing.get_context("spawn")
END_S = 2.0  # for all of them, when their pipes are closed
LOOK_S = 0.2

Pipe: TypeAlias = "Connection[Any, Any]"
Said = TypeVar("Said")


@dataclass(frozen=True, slots=True)
class Here:
    """The process has started, which takes a while."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The run is not possible, with the reason."""

    reason: str


class Crew:
    """`work` is called in each process, with its end of a pipe and some of the `arguments`."""

    def __init__(self, work: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
        self.pipes: list[Pipe] = []
        self.processes: list[BaseProcess] = []
        for each in arguments:
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_run, args=(work, theirs, *each), daemon=True)
            self.pipes.append(ours)
            process.start()
            self.processes.append(process)
            theirs.close()

    def tell(self, message: object) -> None:
        """Send a message to all processes."""
        for pipe in self.pipes:
            try:
                pipe.send(message)
            except BrokenPipeError:
                raise ToolError("a process of ours died") from None

    def hear(
        self,
        kind: type[Said],
        seconds: float,
        pipes: Iterable[Pipe] | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[Said]:
        """Return one answer of each process, in the order of arrival. Raises ToolError after so many seconds.

        `meanwhile` is called every LOOK_S.
        """
        answers: list[Said] = []
        waiting = list(self.pipes if pipes is None else pipes)
        deadline = time.monotonic() + seconds
        while waiting:
            if time.monotonic() > deadline:
                raise ToolError(f"{len(waiting)} processes of ours do not answer in time")
            meanwhile()
            for pipe in wait(waiting, min(LOOK_S, max(0.0, deadline - time.monotonic()))):
                assert isinstance(pipe, Connection)
                answer = receive(pipe)
                assert isinstance(answer, kind), answer
                answers.append(answer)
                waiting.remove(pipe)
        return answers

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        deadline = time.monotonic() + END_S
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


@contextmanager
def crew(work: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Crew]:
    """Run these processes until the block ends."""
    with ExitStack() as stack:
        with deferred_interrupts():
            started = stack.enter_context(closing(Crew(work, arguments)))
        yield started


def receive(pipe: Pipe) -> Any:
    """Return the next message of a process. Raises ToolError."""
    try:
        said = pipe.recv()
    except (EOFError, ConnectionResetError):
        raise ToolError("a process of ours died") from None
    if isinstance(said, Failure):
        raise ToolError(said.reason)
    return said


def _run(work: Callable[..., None], pipe: Pipe, *arguments: Any) -> None:
    """In the process. Ctrl-C is for the parent, whose end of the pipe ends us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work(pipe, *arguments)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has gone, and nobody wants to know any more
