"""Whether a room is in the database as clients saw it. PURE but for `check_database`, which only reads.

What a client has seen must be there once, in the order in which it was seen, with nothing between. What was sent and
seen by nobody, because the server was killed, may be there or not; but only once, and in the order of its sender.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from mpchat.archive.database import Kept, open_database
from mpchat_tools.common.faults import EXAMPLES, Faults, Kind
from mpchat_tools.verify.reference import HISTORY, Key, Seen
from mpchat_tools.verify.talk import read_line


def check_database(folder: Path, seen: Mapping[bytes, Sequence[Seen]], faults: Faults) -> int:
    """Compare the database of a server that has ended with what was seen, by room; return how many messages it has.

    Raises ArchiveError.
    """
    messages = 0
    with closing(open_database(folder, read_only=True)) as database:
        for gap in database.list_gaps():
            faults.add(Kind.LOST, f"the database has a gap: {gap.reason}")
        for fault in database.check():
            faults.add(Kind.TORN, f"the database: {fault}")
        for name, sequences in seen.items():
            order = read_order(name, database.read_lines(name.decode()), faults)
            check_order(name, order, faults)
            places = {key: place for place, key in reversed(list(enumerate(order)))}  # of doubled ones the first
            for sequence in sequences:
                compare(name, order, places, sequence, faults)
            messages += len(order)
    return messages


def is_complete(folder: Path) -> bool:
    """Whether the database has all that the server said before it ended."""
    with closing(open_database(folder, read_only=True)) as database:
        return database.place.ended


def read_order(room: bytes, lines: Iterable[Kept], faults: Faults) -> list[Key]:
    """The messages of a room as they stand in the database; without those that nobody typed, which are faults."""
    order = []
    for line in lines:
        said = read_line(f"{line.name}: {line.text}\n".encode())
        if said is None or not said.number:
            faults.add(Kind.TORN, f"the database has {line.text[:80]!r} of {line.name}")
        elif said.room != room:
            faults.add(Kind.MISDELIVERED, f"the database has {line.text[:80]!r} in {room.decode()}")
        else:
            order.append((said.name, said.number))
    return order


def check_order(room: bytes, order: Sequence[Key], faults: Faults) -> None:
    """Each message is there once at most, and after all earlier ones of its sender."""
    newest: Counter[bytes] = Counter()
    known: set[Key] = set()
    for key in order:
        if key in known:
            _blame(faults, Kind.DOUBLED, room, f"has {_show(key)} again")
        elif key[1] < newest[key[0]]:
            _blame(faults, Kind.REORDERED, room, f"has {_show(key)} after a later one")
        known.add(key)
        newest[key[0]] = max(newest[key[0]], key[1])


def compare(room: bytes, order: Sequence[Key], places: Mapping[Key, int], seen: Seen, faults: Faults) -> None:
    """Compare what was seen with the order of the database, in which each message has one of the `places`."""
    lost = [key for key in seen.keys if key not in places]
    if lost:
        examples = [f"{room.decode()}: the database has not {_show(key)}" for key in lost[:EXAMPLES]]
        faults.add(Kind.LOST, *examples, count=len(lost))
    kept = [key for key in seen.keys if key in places]
    if not kept:
        return
    for one, two in pairwise(kept):
        if places[two] <= places[one]:
            _blame(faults, Kind.DISAGREED, room, f"has {_show(two)} before {_show(one)}")
    known, first, last = set(kept), min(map(places.__getitem__, kept)), max(map(places.__getitem__, kept))
    for key in order[first : last + 1]:
        if key not in known and key[0] != seen.own:
            _blame(faults, Kind.DISAGREED, room, f"has {_show(key)} where nobody saw it")
    if seen.shown is not None and seen.shown < HISTORY and first > 0:
        _blame(faults, Kind.LOST, room, f"has {first} messages before the {seen.shown} that were shown after a start")


def _blame(faults: Faults, kind: Kind, room: bytes, words: str) -> None:
    faults.add(kind, f"{room.decode()}: the database {words}")


def _show(key: Key) -> str:
    return f"{key[0].decode()} {key[1]}"
