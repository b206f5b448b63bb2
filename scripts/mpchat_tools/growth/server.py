"""The server of a run of growth.py, and what each kind of its processes takes.

Owns the server's process tree and the kinds of its processes, which the server's log names: `workers` and `sequencer`;
`main` is the process that was started; others are `rest`. Promises that nothing of it
is left when the block of `running` ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil

from mpchat_tools.common.meter import list_family, measure_process
from mpchat_tools.common.server import OwnServer
from mpchat_tools.common.server import running as running_own
from mpchat_tools.common.serverlog import find_start

KINDS = ("workers", "sequencer", "main", "rest")

ByKind = dict[str, float]


def find_kinds(lines: Sequence[str]) -> dict[int, str]:
    """The processes that the log names, with their kinds."""
    started = [found for line in lines if (found := find_start(line))]
    return {pid: "sequencer" if name == "sequencer" else "workers" for name, pid in started}


class Server:
    """A running server. Figures are sums over the processes of a kind, since their start."""

    def __init__(self, server: OwnServer) -> None:
        self.host, self.port, self.pid = server.host, server.port, server.pid
        self.ready_s = server.ready_s
        self._kinds = find_kinds(server.new_log_lines()) | {self.pid: "main"}

    def read_cpu(self) -> ByKind:
        """Seconds."""
        return self._sum(measure_process)

    def read_memory(self) -> ByKind:
        """PSS in bytes; empty where the system does not tell."""
        try:
            return self._sum(lambda process: float(process.memory_full_info().pss))
        except AttributeError:
            return {}

    def count_wakings(self) -> ByKind:
        """How often a process has gone to sleep, and so was woken."""
        return self._sum(lambda process: float(process.num_ctx_switches().voluntary))

    def _sum(self, measure: Callable[[psutil.Process], float]) -> ByKind:
        sums = dict.fromkeys(KINDS, 0.0)
        for process in list_family(self.pid):
            try:
                sums[self._kinds.get(process.pid, "rest")] += measure(process)
            except psutil.Error:  # it ended just now
                continue
        return sums


@contextmanager
def running(command: Sequence[str], workers: int, clients: int) -> Iterator[Server]:
    """A server, ready, until the block ends. ToolError if it does not come up, or does not end well."""
    with running_own(command, workers, clients, "info") as own:
        yield Server(own)


def subtract(after: ByKind, before: ByKind) -> ByKind:
    return {kind: after[kind] - before[kind] for kind in after if kind in before}
