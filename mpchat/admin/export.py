"""The lines of an archive as text, or as JSON, one line each."""

import json
from collections.abc import Callable

from mpchat.admin.moments import write_moment
from mpchat.archive.database import DONE, Kept

Format = Callable[[Kept], str]


def write_text(line: Kept) -> str:
    """`2026-11-25 18:00:30 #lobby alice: hello`."""
    said = f"** {line.name} {line.text}" if line.kind == DONE else f"{line.name}: {line.text}"
    return f"{write_moment(line.time)} #{line.room} {said}"


def write_json(line: Kept) -> str:
    """One object. `time` in milliseconds since the epoch; `action` tells `/me` from a message."""
    return json.dumps(
        {
            "time": line.time,
            "room": line.room,
            "name": line.name,
            "action": line.kind == DONE,
            "text": line.text,
        },
        ensure_ascii=False,
    )


FORMATS: dict[str, Format] = {"text": write_text, "jsonl": write_json}
