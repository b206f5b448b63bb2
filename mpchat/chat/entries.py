"""The entries of the log: what sessions did, and how a run of them becomes the bytes that the sequencer carries.

An entry says what a client *asked for*; what comes of it is decided by `Replica.apply`. Input entries carry `end`, the
position in that session's byte stream just behind the input that they come from: it grows from entry to entry, so an
entry that was published twice is recognised. A run of plain messages is one entry: the flood of one client costs
one `apply` per chunk that was received, not one per line.

`mode` says how the framing takes what follows `end` (`wire.framing.Mode`, opaque here): whoever carries on from there
in another process has to know.

The bytes are a pickle of plain tuples, numbers, strings and bytes: nothing is imported when they are read, and only our
own processes can write to the log. `VERSION` changes whenever a reader of the old form would go wrong.
"""

import pickle
from collections.abc import Sequence
from typing import NamedTuple

VERSION = 1

SessionId = bytes
"""16 random bytes: says nothing about the worker, is never used again."""


class Opened(NamedTuple):
    """A worker has the connection of this session, from `address` (as text); the session begins if it is not there.

    `epoch` counts the workers that have had it. From here on, entries of another epoch do not count: what a dead worker
    had published, and what the log takes in only after its successor's Opened, is read from the connection again.
    """

    sid: SessionId
    address: str
    epoch: int = 0


class Said(NamedTuple):
    """Lines that are no commands: messages, or attempts at a name while the session has none."""

    sid: SessionId
    end: int
    texts: tuple[str, ...]
    epoch: int = 0
    mode: str = ""


class Commanded(NamedTuple):
    """One command, by the full name of the table in `commands`, with the rest of its line."""

    sid: SessionId
    end: int
    command: str
    argument: str
    epoch: int = 0
    mode: str = ""


class Misread(NamedTuple):
    """Input that is no command and no message; `problem` is the name of a Problem."""

    sid: SessionId
    end: int
    problem: str
    about: str
    more: str
    epoch: int = 0
    mode: str = ""


class Skipped(NamedTuple):
    """Input up to `end` that asks for nothing, such as blank lines; only the position moves."""

    sid: SessionId
    end: int
    epoch: int = 0
    mode: str = ""


class Ended(NamedTuple):
    """The session's connection is over, or has to be; `reason` is shown to the others."""

    sid: SessionId
    reason: str
    epoch: int = 0


class Stopped(NamedTuple):
    """The server stops: everybody is told, and nothing after this entry counts."""

    reason: str


Input = Said | Commanded | Misread | Skipped
"""What comes from a client's byte stream: has a session, and an `end` in its stream."""

Entry = Input | Opened | Ended | Stopped

_KINDS: tuple[type[Entry], ...] = (Opened, Said, Commanded, Misread, Skipped, Ended, Stopped)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """A run of entries as the bytes of one publication."""
    plain = [(_NUMBERS[type(entry)], tuple(entry)) for entry in entries]
    return pickle.dumps((VERSION, plain), protocol=5)


def decode_entries(payload: bytes) -> list[Entry]:
    """The entries of one publication. Raises ValueError for a version that this code does not know."""
    version, plain = pickle.loads(payload)
    if version != VERSION:
        raise ValueError(f"entries of version {version}; this program reads version {VERSION}")
    return [_KINDS[number]._make(fields) for number, fields in plain]
