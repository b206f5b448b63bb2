"""Moments as people write them, and as the archive counts them. Pure.

UTC throughout: `2026-11-25`, `2026-11-25 18:00`, `2026-11-25T18:00:30Z`. The archive counts milliseconds since the
epoch.
"""

from datetime import UTC, datetime


def read_moment(text: str) -> int:
    """Milliseconds since the epoch. Raises ValueError when `text` is no moment. Without a zone it is UTC."""
    moment = datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def write_moment(moment: int) -> str:
    """`2026-11-25 18:00:30`, for milliseconds since the epoch."""
    return f"{datetime.fromtimestamp(moment / 1000, UTC):%Y-%m-%d %H:%M:%S}"
