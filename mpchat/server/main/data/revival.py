"""Revival: the state of the chat as far as the database has it, for a server that has no log to go on with.

There are rooms with their topics, and their last lines, within the bounds of the state. There are no sessions. So that
a start is quick, rooms share LINES: few rooms get all lines that memory keeps, many rooms get fewer each. Reads the
database and never writes to it.
"""

import gc
from collections.abc import Collection, Iterable
from itertools import groupby
from operator import attrgetter

from mpchat.archive.database import DONE, Database, Kept, KeptRoom
from mpchat.chat.rules.recall import HISTORY_ON_JOIN
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import LOBBY, Limits, State

LINES = 50_000
"""How many lines all rooms get together, about."""

_LINE_OVERHEAD = 260
"""Bytes that a line costs in the history beside its text. The history counts exactly; this bounds what is read."""

_run_of = attrgetter("room", "time", "name", "kind")


def revive(database: Database, limits: Limits) -> Replica:
    """Return a replica with the rooms of the database and their last lines. Raises ArchiveDamaged, ArchiveRefused."""
    # Nothing here is garbage, and looking through all these lines for some takes as long as reading them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _revive(database, limits)
    finally:
        if collecting:
            gc.enable()


def _revive(database: Database, limits: Limits) -> Replica:
    state = State(limits)
    rooms = _choose_rooms(database.list_rooms(), limits)
    for (room, time, name, kind), lines in groupby(_read_lines(database, rooms, limits), _run_of):
        state.history.add(room, time, name, tuple(line.text for line in lines), kind == DONE)
    # The room that was quiet for the longest time is the first to make way for a new one.
    for kept in sorted(rooms, key=attrgetter("last")):
        if kept.key == LOBBY or kept.topic or state.history.has_lines(kept.key):
            state.restore_room(kept.key, kept.topic, ())
    state.finish_restoring()
    return Replica(state=state)


def _choose_rooms(rooms: Iterable[KeptRoom], limits: Limits) -> list[KeptRoom]:
    """The rooms that live on: the lobby, then those with a topic, and of those without the last spoken in."""
    kept = [room for room in rooms if room.topic or room.last]
    kept.sort(key=lambda room: (room.key != LOBBY, not room.topic, -room.last))
    return kept[: limits.rooms_of_server - (not kept or kept[0].key != LOBBY)]


def _read_lines(database: Database, rooms: Collection[KeptRoom], limits: Limits) -> list[Kept]:
    """The last lines of these rooms, in the order of time; of the last spoken in first, as far as memory goes."""
    count = min(limits.history, max(HISTORY_ON_JOIN, LINES // max(1, len(rooms))))
    found: list[Kept] = []
    size = 0
    for room in sorted(rooms, key=attrgetter("last"), reverse=True):
        if size > limits.history_bytes or not room.last:
            break
        lines = database.read_history(room.key, count)
        found += lines
        size += sum(_LINE_OVERHEAD + len(line.text) for line in lines)
    return sorted(found, key=attrgetter("time"))
