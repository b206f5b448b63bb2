"""The entries of the log: what sessions asked for, and the bytes in which the log carries a run of entries.

An entry says what a client *asked for*; `Replica.apply` decides what comes of it. Entries that come from a client's
input carry `end`, the position in that client's byte stream just behind the input that they come from. It grows from
entry to entry, so an entry that was published twice is recognised. A run of plain messages is one entry: the flood of
one client costs one `apply` per chunk that was received, not one per line.

`mode` says how the client's framing takes what follows `end` (`wire.framing.Framing.modes`; opaque here). A worker that
carries on from there has to know it.

The bytes hold plain values only (`codec`), so reading them can import and call nothing. `VERSION` changes whenever a
reader of the old form would go wrong.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mpchat.chat.codec import dump_plain, load_plain
from mpchat.chat.requests import Negotiate, Request, Say, pack_request, unpack_request

VERSION = 3

SessionId = bytes
"""16 random bytes: says nothing about the worker, and is never used again."""


class Opened(NamedTuple):
    """A worker has the connection of this session, from `address` (as text). The session begins if it does not exist.

    `epoch` counts the workers that have had the connection before. From here on, entries of another epoch do not count:
    a dead worker may have published entries that the log takes in only after its successor's Opened, and the successor
    reads the same input again. `dialect` is the id of the client's dialect (`wire.registry`; opaque here).
    """

    sid: SessionId
    address: str
    epoch: int = 0
    dialect: str = ""


class Said(NamedTuple):
    """The request Say: messages, or tries at a name while the session has none."""

    sid: SessionId
    end: int
    texts: tuple[str, ...]
    epoch: int = 0
    mode: str = ""


class Asked(NamedTuple):
    """Any other request."""

    sid: SessionId
    end: int
    request: Request
    epoch: int = 0
    mode: str = ""


class Skipped(NamedTuple):
    """Input up to `end` that asks for nothing, such as blank lines. Only the position moves."""

    sid: SessionId
    end: int
    epoch: int = 0
    mode: str = ""


class Noted(NamedTuple):
    """The request Negotiate, of what the client's program has sent up to `at` in between: within a line, perhaps.

    Unlike other input it is not used up, so that the line which it stands in can still be read. It is recognised by
    `at`, which grows from note to note. It is published in front of all input that reaches behind `at`.
    """

    sid: SessionId
    at: int
    request: Negotiate
    epoch: int = 0


class Ended(NamedTuple):
    """The session's connection is over, or has to be. The others are shown `reason`."""

    sid: SessionId
    reason: str
    epoch: int = 0


class Stopped(NamedTuple):
    """The server stops: everybody is told, and nothing after this entry counts."""

    reason: str


class Slowed(NamedTuple):
    """How the session keeps to its rate, which is `rate` frames a second, at `position` of its input: see PACES.

    Published when that changes, and again after a doubt: what is not behind the last one does not count.
    """

    sid: SessionId
    position: int
    pace: int
    rate: float
    epoch: int = 0


KEEPING, WAITING, ENDING = PACES = range(3)
"""Nothing waits, and has not for a while; input waits for the rate; it waits, and the client has ended its side."""

class Restarted(NamedTuple):
    """The server has started again on this log: the connections of all sessions ended with the server before."""


class Forgot(NamedTuple):
    """Lines are forgotten: those of a name, those of a room, or those from before a moment.

    `kind` is "name", "room" or "before"; `key` that of the name or of the room, or the moment in ms since the epoch.
    """

    kind: str
    key: str


class Answered(NamedTuple):
    """The archive answers question `number` of this session (`State.next_question`). A second answer does not count.

    `lines` are what it has found, in the order in which they are shown, each as (room, time, name, action, text).
    `failed`: the database cannot be read now.
    """

    sid: SessionId
    number: int
    lines: tuple[tuple[str, int, str, bool, str], ...]
    failed: bool = False


Input = Said | Asked | Skipped
"""What comes from a client's byte stream: has a session, and an `end` in its stream."""

Entry = Input | Noted | Opened | Ended | Stopped | Slowed | Restarted | Forgot | Answered


def make_input(sid: SessionId, end: int, request: Request, epoch: int = 0, mode: str = "") -> Said | Asked:
    """The entry with which the session asks for `request`."""
    if type(request) is Say:
        return Said(sid, end, request.texts, epoch, mode)
    return Asked(sid, end, request, epoch, mode)


def _make_noted(fields: Any) -> Noted:
    sid, at, answer, manner, epoch = fields
    return Noted(sid, at, Negotiate(answer, manner), epoch)


def _make_asked(fields: Any) -> Asked:
    sid, end, packed, epoch, mode = fields
    return Asked(sid, end, unpack_request(packed), epoch, mode)


_KINDS: tuple[tuple[type[Entry], Callable[[Any], Entry]], ...] = (
    (Opened, Opened._make),
    (Said, Said._make),
    (Asked, _make_asked),
    (Skipped, Skipped._make),
    (Ended, Ended._make),
    (Stopped, Stopped._make),
    (Noted, _make_noted),
    (Slowed, Slowed._make),
    (Restarted, Restarted._make),
    (Forgot, Forgot._make),
    (Answered, Answered._make),
)
_NUMBERS = {kind: number for number, (kind, _) in enumerate(_KINDS)}
_MAKERS = {number: make for number, (_, make) in enumerate(_KINDS)}


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """A run of entries as the bytes of one publication."""
    return dump_plain((VERSION, [(_NUMBERS[type(entry)], _flatten(entry)) for entry in entries]))


def decode_entries(payload: bytes) -> list[Entry]:
    """The entries of one publication.

    Raises ValueError for a version or a kind of entry that this program does not know, for a wrong number of fields,
    and for bytes that are no publication at all.
    """
    try:
        version, plain = load_plain(payload)
        if version == VERSION:
            return [_MAKERS[number](fields) for number, fields in plain]
    except (TypeError, ValueError, LookupError) as error:
        raise ValueError(f"entries that cannot be read: {error!r}") from error
    raise ValueError(f"entries of version {version}; this program reads version {VERSION}")


def _flatten(entry: Entry) -> tuple[object, ...]:
    if type(entry) is Asked:
        return entry.sid, entry.end, pack_request(entry.request), entry.epoch, entry.mode
    if type(entry) is Noted:
        return entry.sid, entry.at, entry.request.answer, entry.request.manner, entry.epoch
    return tuple(entry)
