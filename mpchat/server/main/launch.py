"""The launch: from a configuration to a running server, and from one program to the next.

Owns what outlives a supervisor: the listeners, the ledger, and the journal or the data directory. Promises to close
them when the server ends. If the next program cannot be executed, a new supervisor in this one takes over, as the next
program would.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mpchat.config import Config
from mpchat.errors import BootError, ServeError, blame_system
from mpchat.log.local.journal import Journal
from mpchat.log.local.memory import journal_size
from mpchat.logs import start_logging
from mpchat.server.ledger import Ledger
from mpchat.server.limits import make_limits
from mpchat.server.main import signals
from mpchat.server.main.intake.capacity import fit, plan_shape
from mpchat.server.main.intake.listener import Listener, open_listeners
from mpchat.server.main.reload import keep
from mpchat.server.main.supervisor import Launch, Supervisor
from mpchat.server.main.upgrade.handover import Handover, execute
from mpchat.wire.registry import LINE

if TYPE_CHECKING:
    from mpchat.server.main.data.store import Store
log = logging.getLogger(__name__)


def run_server(config: Config, launch: Launch, inherited: Handover | None = None) -> None:
    """Serve until told to stop. Raises an MpchatError.

    `inherited` is what the previous program in this process has left.
    """
    # A server that has clients does not end because its log file cannot be opened.
    start_logging("main", config.log_level, config.log_file, insist=inherited is None)
    for note in launch.notes:
        log.warning("%s", note)
    signals.reset_inherited()
    if inherited is None:
        listeners = open_listeners(config.host, config.port, LINE)
        _warn_of_strangers(listeners)
        with blame_system(BootError, "get the memory for clients"):
            ledger = Ledger(plan_shape(config))
    else:
        listeners = [Listener.inherit(*listener) for listener in inherited.listeners]
        ledger = Ledger(inherited.shape, inherited.ledger)
        handed = {**inherited.address, "host": tuple(inherited.address["host"])}
        config = keep(config, {**handed, "data": inherited.data[0] if inherited.data else ""})
    config = fit(config, ledger.shape)
    try:
        while True:
            handover = _serve(config, launch, listeners, ledger, inherited)
            if handover is None or launch.program is None:
                return
            execute(handover, launch.program)
            # The new program could not be executed: this one goes on.
            inherited = replace(handover, tried="")
    finally:
        ledger.close()
        for listener in listeners:
            listener.close()


def _serve(
    config: Config, launch: Launch, listeners: Sequence[Listener], ledger: Ledger, inherited: Handover | None
) -> Handover | None:
    """Serve until the server stops, or until the next program is to take over: then return what it needs."""
    kind = BootError if inherited is None else ServeError
    handover = None
    store = _open_store(config, inherited) if config.data else None
    with blame_system(kind, "get the memory for the log"):
        journal = Journal.make(journal_size()) if store is None else store.journal
    try:
        with blame_system(kind, "start"):
            if inherited is not None and store is None:
                journal.seed(inherited.snapshot, time.time_ns() // 1_000_000)
            supervisor = Supervisor(config, launch, listeners, ledger, journal, inherited, store)
        handover = supervisor.run()
    finally:
        journal.close()
        if store is not None and handover is None:
            store.folder.close()
    return handover


def _open_store(config: Config, inherited: Handover | None) -> "Store":
    """Take the data directory, or go on with that of the previous program. Raises ArchiveError."""
    # A server without one needs no database library.
    from mpchat.server.main.data.store import inherit_store, open_store

    if inherited is not None and inherited.data is not None:
        return inherit_store(*inherited.data, inherited.snapshot)
    return open_store(Path(config.data), make_limits(config))


def _warn_of_strangers(listeners: Iterable[Listener]) -> None:
    """Log each address that other machines can reach."""
    for listener in listeners:
        if not listener.is_loopback:
            log.warning(
                "other machines can connect: there is no encryption and there are no accounts yet address=%s",
                listener.address,
            )
