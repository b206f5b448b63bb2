"""The launch: from a configuration to a running server, and from one program to the next.

Owns what outlives a supervisor: the listeners, the ledger and the journal. Promises to close them when the server ends.
If the next program cannot be executed, a new supervisor in this one takes over, as the next program would.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mpchat.config import Config
from mpchat.errors import BootError, ServeError, blame_system
from mpchat.log.local.journal import Journal
from mpchat.log.local.memory import journal_size
from mpchat.logs import start_logging
from mpchat.server.ledger import Ledger
from mpchat.server.main import signals
from mpchat.server.main.intake.capacity import fit, plan_shape
from mpchat.server.main.intake.listener import Listener, open_listeners
from mpchat.server.main.reload import keep
from mpchat.server.main.supervisor import Launch, Supervisor
from mpchat.server.main.upgrade.handover import Handover, execute
from mpchat.wire.registry import LINE

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
        config = keep(config, {**inherited.address, "host": tuple(inherited.address["host"])})
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
    with blame_system(kind, "get the memory for the log"):
        journal = Journal.make(journal_size())
    try:
        with blame_system(kind, "start"):
            if inherited is not None:
                journal.seed(inherited.snapshot, time.time_ns() // 1_000_000)
            supervisor = Supervisor(config, launch, listeners, ledger, journal, inherited)
        return supervisor.run()
    finally:
        journal.close()


def _warn_of_strangers(listeners: Iterable[Listener]) -> None:
    """Log each address that other machines can reach."""
    for listener in listeners:
        if not listener.is_loopback:
            log.warning(
                "other machines can connect: there is no encryption and there are no accounts yet address=%s",
                listener.address,
            )
