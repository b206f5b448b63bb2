"""The registry of dialects: which there are, by the id under which the log and the hand-off know them.

The one module outside a dialect's own package that imports from it.
"""

from collections.abc import Callable

from mpchat.wire.dialect import Dialect, Settings
from mpchat.wire.line.dialect import LineDialect

LINE = "line"

DIALECTS: dict[str, Callable[[Settings], Dialect]] = {LINE: LineDialect}
"""An id is never taken away or given to another dialect: a newer program takes over the clients of an older one."""


def make_dialects(settings: Settings) -> dict[str, Dialect]:
    """One object of each dialect, by id."""
    return {name: make(settings) for name, make in DIALECTS.items()}
