"""The handover: what one program leaves to the next in the same process, and the exec between them.

Owns the format. It is JSON in shared memory without a name; output that clients have not taken yet is in the ledger's
carry. `FORMAT` changes whenever the meaning of a handover does. The trial is told the format, so that a version which
cannot read it never takes over. Promises that nothing is lost when the new program cannot be executed.
"""

import json
import logging
import os
from dataclasses import dataclass
from typing import Any

from mpchat.chat.entries import VERSION as ENTRIES_VERSION
from mpchat.chat.entries import SessionId
from mpchat.chat.state.snapshot import SNAPSHOT_VERSION, SNAPSHOT_VERSIONS
from mpchat.errors import ServeError, in_words
from mpchat.log.port import Snapshot
from mpchat.server.ledger import Shape
from mpchat.server.main import signals
from mpchat.server.main.connection import Held
from mpchat.server.main.upgrade.program import Program
from mpchat.sharedmemory import make_memory

log = logging.getLogger(__name__)

FORMAT = f"4.{ENTRIES_VERSION}.{SNAPSHOT_VERSION}"
"""The formats of the handover, the entries and the snapshots that this version leaves."""

READABLE = frozenset(f"{FORMAT.rpartition('.')[0]}.{version}" for version in SNAPSHOT_VERSIONS)
"""The formats from which this version can take over."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What one program leaves to the next. Descriptors are numbers that stay open across the exec."""

    listeners: tuple[tuple[int, str], ...]
    """The descriptor of each listener, and the id of its dialect."""
    shape: Shape
    ledger: tuple[int, int]
    snapshot: Snapshot
    clients: dict[SessionId, Held]
    workers: int
    """How many workers were wanted, after TTIN and TTOU."""
    workers_configured: int
    address: dict[str, Any]
    """The host and port that were configured, by the names of these options."""
    data: tuple[str, int, int] | None
    """The data directory, the descriptor of its lock, and the number that names the log; None without a directory."""
    version: str
    """The version of the program that leaves the handover."""
    tried: str
    """The version that has passed the trial; empty when it could not be executed, and the old program goes on."""

    @property
    def descriptors(self) -> list[int]:
        """All descriptors that the next program needs."""
        listeners = (descriptor for descriptor, _ in self.listeners)
        lock = [] if self.data is None else [self.data[1]]
        return [*listeners, *self.ledger, *lock, *(held.descriptor for held in self.clients.values())]


def execute(handover: Handover, program: Program) -> None:
    """Execute the new program in this process. Returns only when that fails, and logs why."""
    signals.block()
    descriptor = make_memory(0, "mpchat-handover")
    snapshot = make_memory(0, "mpchat-snapshot")
    _write(snapshot, handover.snapshot.blob)
    _write(descriptor, json.dumps(_pack(handover, snapshot)).encode())
    passed = [descriptor, snapshot, *handover.descriptors]
    try:
        for number in passed:
            os.set_inheritable(number, True)
        if program.directory is not None:
            os.chdir(program.directory)
        words = [*program.command, "--inherit", str(descriptor)]
        os.execve(words[0], words, program.environment)
    except OSError as error:
        log.error("new program cannot be executed reason=%s", in_words(error))
        for number in passed:
            os.set_inheritable(number, False)
        os.close(descriptor)
        os.close(snapshot)


def read_handover(descriptor: int) -> Handover:
    """Read the handover of the previous program, and close `descriptor`. Raises ServeError."""
    try:
        packed = json.loads(_read(descriptor))
        if packed["format"] not in READABLE:
            raise ServeError(f"the previous program left a handover of format {packed['format']}, not of {FORMAT}")
        handover = _unpack(packed)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ServeError(f"the handover of the previous program cannot be read: {in_words(error)}") from error
    for number in handover.descriptors:
        os.set_inheritable(number, False)
    os.close(descriptor)
    return handover


def _pack(handover: Handover, snapshot: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "listeners": handover.listeners,
        "shape": list(handover.shape),
        "ledger": list(handover.ledger),
        "snapshot": snapshot,
        "seq": handover.snapshot.seq,
        "clients": [[sid.hex(), *held] for sid, held in handover.clients.items()],
        "workers": handover.workers,
        "workers_configured": handover.workers_configured,
        "address": handover.address,
        "data": handover.data,
        "version": handover.version,
        "tried": handover.tried,
    }


def _unpack(packed: dict[str, Any]) -> Handover:
    ledger, carry = packed["ledger"]
    blob = _read(packed["snapshot"])
    os.close(packed["snapshot"])
    return Handover(
        listeners=tuple((descriptor, dialect) for descriptor, dialect in packed["listeners"]),
        shape=Shape(*packed["shape"]),
        ledger=(ledger, carry),
        snapshot=Snapshot(packed["seq"], blob),
        clients={bytes.fromhex(sid): Held(*fields) for sid, *fields in packed["clients"]},
        workers=packed["workers"],
        workers_configured=packed["workers_configured"],
        address=packed["address"],
        data=None if packed["data"] is None else tuple(packed["data"]),
        version=packed["version"],
        tried=packed["tried"],
    )


def _write(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)


def _read(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()
