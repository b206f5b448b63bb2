"""A plot of latency against load, with matplotlib (the extra `plot`).

Owns nothing but the picture: one line per server for p50 and one for p99, both axes logarithmic.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpchat_tools.bench.run import Run
from mpchat_tools.bench.workload import Workload
from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.figures import Figure

Line = list[tuple[float, float]]


def collect_line(runs: Sequence[Run], workloads: Sequence[Workload], server: str, quantile: str) -> Line:
    """Deliveries per second that were asked for, and the median of a latency in ms."""
    line = []
    for workload in workloads:
        mine = [run for run in runs if run.server == server and run.workload == workload.name]
        figure = Figure.of([run.latency_ms.get(quantile) for run in mine])
        if figure is not None:
            seconds = workload.senders * workload.rooms * workload.messages / workload.load
            line.append((mine[0].expected / seconds, figure.median))
    return line


def require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ToolError("--plot needs matplotlib: pip install '.[plot]' in this clone") from None


def plot(runs: Sequence[Run], workloads: Sequence[Workload], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogFormatter

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for number, server in enumerate(dict.fromkeys(run.server for run in runs)):
        for quantile, style in (("p50", "o-"), ("p99", "s--")):
            if line := collect_line(runs, workloads, server, quantile):
                axes.plot(*zip(*line, strict=True), style, color=f"C{number}", label=f"{server} {quantile}")
    axes.set(xscale="log", yscale="log", xlabel="deliveries/s asked for", ylabel="latency from the due time, ms")
    for axis in axes.xaxis, axes.yaxis:
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")
    pyplot.close(figure)
