"""A worker: one process with a replica of the chat and the connections of its clients.

Owns the event loop, the parts of the worker and how they are connected, and the worker's life: it comes up, beats,
hears main, loses the log and finds it again, fails. Beside its clients it watches the channel to main (`mainlink`) and
three links to the log, for publishing, for reading, and for all else (`caller`). `roster` knows the clients, `moves`
how they come and go. The life of a message, all of it:

    Connection._readable -> Client.received -> Framing -> Dialect.read -> Publisher.add ... publish
    ... read -> Reader._apply -> Replica.apply -> Fanout.deliver ... Fanout.flush -> Client.send -> Connection.send

Promises: a worker that cannot go on, because an entry cannot be applied or for any other fault, ends with exit code 1
and leaves the rest to main. A worker whose sequencer is gone keeps its clients, tells them so after a while, and waits
for main to say where the next sequencer is. Never decides anything about the chat by itself.
"""

import asyncio
import logging
from functools import partial
from multiprocessing.connection import Connection as Pipe
from typing import Any

from mpchat.chat.entries import Ended, Opened, SessionId, Stopped
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import Limits
from mpchat.config import Config
from mpchat.errors import MpchatError
from mpchat.log.port import LogAddress, LogError, LogLost
from mpchat.logs import report_lost_lines, start_logging
from mpchat.server.control import (
    NO_LOG,
    Channel,
    ChannelClosed,
    Conclude,
    EndSessions,
    HandOff,
    Pause,
    Quiesce,
    Ready,
    Received,
    Reconnect,
    Release,
    Retire,
    Stop,
    ToWorker,
    Unlinked,
)
from mpchat.server.ledger import Ledger
from mpchat.server.limits import make_limits
from mpchat.server.worker.caller import Errands
from mpchat.server.worker.inbound.client import Client
from mpchat.server.worker.inbound.publisher import Publisher
from mpchat.server.worker.mainlink import MainLink
from mpchat.server.worker.moves.departure import Departure
from mpchat.server.worker.moves.takeover import Takeover
from mpchat.server.worker.outage import Outage
from mpchat.server.worker.outbound.fanout import Fanout
from mpchat.server.worker.outbound.pace import Pace
from mpchat.server.worker.outbound.reader import Reader
from mpchat.server.worker.roster import Roster
from mpchat.server.worker.snapshots import Snapshots
from mpchat.server.worker.sweep import Sweep

log = logging.getLogger(__name__)

BEATS_PER_TIMEOUT = 4
"""Beats that a worker sends in the time of silence after which main takes it for hung."""


RECONNECT_SECONDS = 0.2
"""Seconds that each step of connecting to the next sequencer may take. One that is stopped accepts nobody, and the
clients may not wait for that. Less than half of the shortest silence after which a worker counts as hung."""


class Worker:
    """The process from inside. `run` returns the exit code."""

    def __init__(self, config: Config, channel: Channel, address: LogAddress, ledger: Ledger, slot: int) -> None:
        self.loop = loop = asyncio.new_event_loop()
        self._config = config
        self._name = f"worker-{slot}"
        self._exit_code = 0
        self._connected = False
        self._address = address
        limits = make_limits(config)
        self._replica, position = _load_replica(address, limits)
        # The way in, and the way out.
        self._fanout: Fanout[Client] = Fanout(self._replica)
        self._reader = Reader(loop, self._replica, position, self._fanout, self._see_applied, self._fail)
        self._errands = Errands(loop, self._fail)
        self._snapshots = Snapshots(self._reader, self._errands, self._see_idle, self._fail)
        self._publisher = Publisher(loop, self._see_relief, self._snapshots.claim, self._fail)
        # The clients, and how they come and go.
        self._main = MainLink(loop, channel, self._see_idle, self._fail)
        self._sweep = Sweep(loop, self._reader, ledger, slot)
        self._pace = Pace(self._fanout, self._sweep.note_sent)
        self._roster = Roster(
            loop, config, self._publisher, self._replica, self._fanout, self._sweep, self._main, self._see_closed
        )
        self._outage = Outage(loop, self._tell_of_outage)
        self._departure = Departure(self._replica, self._reader, self._snapshots, self._roster, self._main, self._end)
        self._takeover = Takeover(
            limits,
            self._replica,
            ledger,
            self._reader,
            self._errands,
            self._snapshots,
            self._roster,
            self._sweep,
            self._departure,
        )

    # --- life

    def run(self) -> int:
        """Serve until main says stop, or is gone."""
        self._come_up()
        try:
            self.loop.run_forever()
        finally:
            self._publisher.disconnect()
            self._reader.disconnect()
            self._errands.disconnect()
            self.loop.close()
        return self._exit_code

    def _come_up(self) -> None:
        """Apply the log up to its end, and then be there for whatever the loop has."""
        # An exception in any callback comes here, too: a replica in doubt must not go on, and main replaces the worker.
        self.loop.set_exception_handler(self._fail_by_loop)
        link = self._address.open_link(f"{self._name} reads")
        self._reader.catch_up(link)
        self._sweep.set_mark_for_all()
        self._connected = True
        self._reader.connect(link)
        self._publisher.connect(self._address.open_link(f"{self._name} publishes"))
        self._errands.connect(self._address.open_link(f"{self._name} has errands"))
        self._main.listen(self._hear_main)
        self._main.post(Ready())
        self._beat()

    def _beat(self) -> None:
        report_lost_lines()
        self._main.beat()
        self.loop.call_later(self._config.beat_timeout / BEATS_PER_TIMEOUT, self._beat)

    def _end(self) -> None:
        # Not at once: what this turn of the loop has begun is finished.
        self.loop.call_soon(self.loop.stop)

    def _fail(self, error: Exception) -> None:
        """End this worker, for main to start another. If the log is lost, wait for the next sequencer instead."""
        if isinstance(error, LogLost):
            self._lose_log(error)
            return
        if isinstance(error, ChannelClosed):
            log.error("worker ends reason=main is gone")
        elif isinstance(error, MpchatError):
            log.error("worker ends error=%s reason=%s", type(error).__name__, error)
        else:
            log.error("worker ends after an internal error", exc_info=error)
        self._exit_code = 1
        self.loop.stop()

    def _fail_by_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._fail(context.get("exception") or RuntimeError(context["message"]))

    # --- main

    def _hear_main(self, message: ToWorker, descriptors: list[int]) -> None:
        match message:
            case HandOff():
                self._take_clients(message, descriptors)
            case EndSessions():
                self._end_sessions(message)
            case Release():
                self._departure.release(message)
            case Retire():
                self._departure.retire()
            case Pause():
                self._departure.pause()
            case Conclude():
                self._departure.conclude(message)
            case Quiesce():
                self._departure.quiesce()
            case Reconnect(address):
                self._reconnect(address)
            case Stop(reason):
                self._publisher.add([Stopped(reason)])

    def _take_clients(self, handoff: HandOff, descriptors: list[int]) -> None:
        new = self._takeover.take(handoff, descriptors)
        if self._outage.told:
            # No entry has given them anything yet, whatever is being applied.
            self._sweep.notify(new)
        self._main.post(Received())

    def _end_sessions(self, order: EndSessions) -> None:
        """End sessions of dead workers in the log, and tell main when that is applied."""
        for sid, epoch in order.sessions:
            self._publisher.add([Opened(sid, "", epoch), Ended(sid, order.reason, epoch)])
        self._publisher.call_when_applied(partial(self._main.report_closed, [sid for sid, _ in order.sessions]))

    # --- the log

    def _lose_log(self, error: LogLost) -> None:
        """The sequencer is gone: nothing comes and nothing goes until main has started another."""
        if self._connected:
            self._connected = False
            log.warning("log lost reason=%s", error)
            self._main.post(Unlinked())
        self._outage.begin()
        self._unlink()

    def _unlink(self) -> None:
        """The links are of no use any more. What was read is still applied."""
        self._reader.disconnect()
        self._publisher.disconnect()
        self._errands.disconnect()
        self._snapshots.disconnect()
        self._takeover.disconnect()

    def _reconnect(self, address: LogAddress) -> None:
        """There is another sequencer, with the same log. If it is gone as well by now, main will say so."""
        self._unlink()
        try:
            self._reader.connect(address.open_link(f"{self._name} reads", RECONNECT_SECONDS))
            self._publisher.connect(address.open_link(f"{self._name} publishes", RECONNECT_SECONDS))
            self._errands.connect(address.open_link(f"{self._name} has errands", RECONNECT_SECONDS))
        except LogLost as error:
            log.debug("log lost again reason=%s", error)
            self._outage.begin()
            self._unlink()
            self._main.post(Unlinked())
            return
        self._connected = True
        self._outage.end()

    def _tell_of_outage(self) -> bool:
        """Tell all clients that nothing is delivered; not in the middle of a record, where no mark can be written."""
        if not self._reader.between_records:
            return False
        log.warning("clients told of the outage clients=%d", len(self._roster))
        self._sweep.notify(self._roster.clients)
        return True

    # --- what the parts tell

    def _see_applied(self) -> float:
        """More of the log has been applied: send it to the clients, and go on with all that waited for it. Return for
        how many seconds to rest."""
        rest = self._pace.flush()
        self._publisher.applied(self._reader.position)
        self._snapshots.note_applied()
        self._roster.drain_unapplied()
        self._departure.see_applied()
        self._sweep.plan()
        return rest

    def _see_relief(self) -> None:
        self._roster.drain_uncongested()

    def _see_closed(self, sid: SessionId) -> None:
        """A client's connection has ended. Main is told when the log says that the session has, too."""
        self._publisher.call_when_applied(partial(self._main.report_closed, [sid]))
        self._departure.end_when_empty()

    def _see_idle(self) -> None:
        self._departure.end_when_empty()


def run_worker(config: Config, slot: int, pipe: "Pipe[Any, Any]", address: LogAddress, ledger: Ledger) -> int:
    """Be a worker, and return the exit code of its process."""
    start_logging(f"worker-{slot}", config.log_level)
    try:
        return Worker(config, Channel(pipe), address, ledger, slot).run()
    except (LogError, ChannelClosed) as error:
        log.error("worker not started error=%s reason=%s", type(error).__name__, error)
        return NO_LOG if isinstance(error, LogLost) else 1


def _load_replica(address: LogAddress, limits: Limits) -> tuple[Replica, int]:
    """Return the replica of the latest snapshot, and the number of the record that it is of."""
    with address.open_log() as source:
        snapshot = source.get_snapshot()
    if not snapshot.seq:
        return Replica(limits), 0
    return Replica.load(snapshot.blob, limits), snapshot.seq
