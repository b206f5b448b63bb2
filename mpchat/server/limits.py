"""The bounds of the state as the configuration gives them, the same in every process that has a replica."""

from mpchat.chat.state.state import Limits
from mpchat.config import Config


def make_limits(config: Config) -> Limits:
    """Return the bounds. An answer with history goes into half a send queue."""
    kept = bool(config.data)
    return Limits(history=config.history, history_shown=config.sendq // 2, rooms_stay=kept, archived=kept)
