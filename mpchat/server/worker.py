"""A worker: one process with a replica of the chat and the connections of its clients.

Owns an event loop, and on it three things to watch beside the clients: the channel to main, the publishing link and the
reading link to the log. The life of a message, all of it:

    Connection._readable -> Client.received -> LineFraming -> read_frames -> Publisher.add ... publish
    ... read -> Worker._apply -> Replica.apply -> Fanout.deliver ... Fanout.flush -> Client.send -> Connection.send

Promises: entries are applied in the order of the log, each once; a worker that cannot go on (its log lost, or an entry
that cannot be applied) ends with exit code 1 and leaves the rest to main. Never takes a decision about the chat by
itself.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection as Pipe
from typing import Any

from mpchat.bus.contract import LogError, LogFull, Reading
from mpchat.bus.manager import LogLink, LogProxy
from mpchat.chat.entries import Ended, Opened, SessionId, Stopped, decode_entries
from mpchat.chat.replica import Replica
from mpchat.chat.state import Limits
from mpchat.config import Config
from mpchat.errors import MpchatError
from mpchat.lifeline import die_with_main, tie_to_main
from mpchat.server.adoption import Adoptee, Adoption, receive_adoptee
from mpchat.server.client import Client, Start
from mpchat.server.control import (
    Beat,
    Bury,
    Channel,
    ChannelClosed,
    Closed,
    HandOff,
    Quiesce,
    Quiesced,
    Ready,
    Received,
    Stop,
    ToMain,
    in_chunks,
)
from mpchat.server.fanout import Fanout
from mpchat.server.ledger import Ledger
from mpchat.server.logs import start_logging
from mpchat.server.publisher import Publisher

log = logging.getLogger(__name__)

READ_WAIT = 20.0
"""Seconds that a read waits in the sequencer when nothing comes: how long a dead worker's thread stays there."""

BEATS = 4
"""How many beats fit into the silence after which main takes a worker for hung."""

FLUSH_SOON = 64 << 10
"""When about so many bytes wait for the flush, it is put off no more. A fraction of the smallest useful send queue."""

SLICE = 0.05
"""Seconds of applying before the worker looks around: a log full of what is dear to apply may take long, but beats,
clients and main may not wait for it. FLUSH_SOON ends a slice too, or the answers to one reading could fill the memory.
"""

SWEEP = 0.2
"""Seconds between two marks in the ledger: how much of the log a successor has to apply again."""

FLUSH_LATEST = 0.05
"""Seconds that a flush is put off at most, however long the last one took."""


class Worker:
    """The process from inside. `run` returns the exit code."""

    def __init__(self, config: Config, channel: Channel, proxy: LogProxy, ledger: Ledger, slot: int) -> None:
        name = f"worker-{slot}"
        self.config = config
        self.loop = asyncio.new_event_loop()
        self._slot = slot
        self._channel = channel
        self._ledger = ledger
        self._log = proxy
        self._reading_link: LogLink = proxy.open_link(f"{name} reads")
        self._limits = Limits(history=config.history, history_shown=config.sendq // 2)
        self._replica, self._position = _load_replica(proxy, self._limits)
        self._fanout = Fanout(self._replica)
        self.publisher = Publisher(self.loop, proxy.open_link(f"{name} publishes"), self._relieve, self._fail)
        self._clients: dict[SessionId, Client] = {}
        self._unrelieved: dict[Client, None] = {}
        self._unapplied: dict[Client, None] = {}
        self._stirred: dict[Client, None] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._closed: list[SessionId] = []
        self._answer: Callable[[], None] = self._read_log
        self._steps: Iterator[None] = iter(())
        self._between_records = True  # what is applied is the log up to `_position`, and nothing more
        self._snapshot_wanted = False
        self._flush_timer: asyncio.TimerHandle | None = None
        self._next_flush = 0.0
        self._adoptions = 0  # under way
        self._quiescing = False
        self._exit_code = 0

    # --- what clients ask (client.Host)

    @property
    def quiescing(self) -> bool:
        return self._quiescing

    def applied_position(self, sid: SessionId) -> int:
        session = self._replica.session(sid)
        return 0 if session is None else session.position

    def await_applied(self, client: Client) -> None:
        self._unapplied[client] = None

    def await_relief(self, client: Client) -> None:
        self._unrelieved[client] = None

    def stir(self, client: Client) -> None:
        self._stirred[client] = None

    def has_name(self, sid: SessionId) -> bool:
        session = self._replica.session(sid)
        return session is None or bool(session.name)

    def over(self, sid: SessionId) -> None:
        self._fanout.detach(sid)
        client = self._clients.pop(sid)
        for waiting in (self._unrelieved, self._unapplied, self._stirred):
            waiting.pop(client, None)
        self.publisher.call_when_applied(lambda: self._report_closed(sid))
        self._end_when_empty()

    # --- life

    def run(self) -> int:
        """Serve until main says stop, or goes."""
        self.loop.set_exception_handler(self._fail_by_loop)
        self._catch_up()
        self._ledger.set_sweep_mark(self._slot, self._position)
        self.loop.add_reader(self._channel.fileno(), self._guarded(self._hear_main))
        self.loop.add_reader(self._reading_link.fileno(), self._guarded(self._hear_log))
        self._ask_log()
        self._post(Ready())
        self._beat()
        try:
            self.loop.run_forever()
        finally:
            self.publisher.close()
            self._reading_link.close()
            self.loop.close()
            # The channel stays open until the process ends: main takes its end for ours.
        return self._exit_code

    def _catch_up(self) -> None:
        """Read the log to its end, waiting for the answers: nobody is served yet."""
        while True:
            self._reading_link.call("read", self._position, 0.0)
            reading = self._reading_link.receive_reading()
            if not reading.records:
                return
            for _ in self._apply(reading):
                pass

    def _guarded(self, step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - a replica in doubt must not go on; main replaces the worker
                self._fail(error)

        return run

    def _fail(self, error: Exception) -> None:
        """End this worker; main starts another."""
        if isinstance(error, ChannelClosed):
            log.error("main is gone")
        elif isinstance(error, MpchatError):
            log.error("%s: %s", type(error).__name__, error)
        else:
            log.error("a fault of ours", exc_info=error)
        self._exit_code = 1
        self.loop.stop()

    def _fail_by_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._fail(context.get("exception") or RuntimeError(context["message"]))

    def _beat(self) -> None:
        # A beat that is not read yet says as much as two.
        if not self._channel.backlog:
            self._post(Beat())
        self.loop.call_later(self.config.beat_timeout / BEATS, self._beat)

    # --- the log

    def _ask_log(self) -> None:
        self._answer = self._read_log
        self._reading_link.call("read", self._position, READ_WAIT)

    def _hear_log(self) -> None:
        self._answer()

    def _read_log(self) -> None:
        """Take what the log gives."""
        reading = self._reading_link.receive_reading()
        self._snapshot_wanted = reading.snapshot_wanted
        self._steps = self._apply(reading)
        self._go_on()

    def _go_on(self) -> None:
        """Apply a slice of what was read, and let the clients see it; when all is applied, ask for what follows."""
        if self._apply_slice():
            self.loop.call_soon(self._guarded(self._go_on))
        elif self._snapshot_wanted:
            self._answer = self._snapshot_taken
            self._reading_link.call("put_snapshot", self._position, self._replica.dump())
        else:
            self._ask_log()
        self.publisher.applied(self._position)
        unapplied, self._unapplied = self._unapplied, {}
        for client in unapplied:
            client.drain()
        self._plan_flush()
        if self._sweep_timer is None:
            self._sweep_timer = self.loop.call_later(SWEEP, self._guarded(self._sweep))

    def _apply_slice(self) -> bool:
        """Apply for a while; whether there is more."""
        until = time.monotonic() + SLICE
        return any(self._fanout.pending >= FLUSH_SOON or time.monotonic() >= until for _ in self._steps)

    def _snapshot_taken(self) -> None:
        try:
            self._reading_link.receive()
        except LogFull as error:
            # Nothing is lost by it: the log keeps the one before, and asks somebody again.
            log.warning("a snapshot was not taken: %s", error)
        self._ask_log()

    def _apply(self, reading: Reading) -> Iterator[None]:
        """Apply what was read, entry by entry."""
        apply, deliver = self._replica.apply, self._fanout.deliver
        for record in reading.records:
            entries = decode_entries(record.payload)
            for number, entry in enumerate(entries, 1):
                effects = apply(entry, record.time)
                if effects:
                    deliver(effects, record.time)
                self._between_records = number == len(entries)
                if self._between_records:
                    self._position = record.last
                yield

    # --- the flush

    def _plan_flush(self) -> None:
        """Flush now, or, when fan-out would take more than half of our time, as long after the last as that took.

        The first message after quiet goes out at once; in a flood, flushes become fewer and fuller.
        """
        if self._replica.stopped:
            self._flush()
            self._say_goodbye()
        elif self._flush_timer is None and self._fanout.pending:
            now = time.monotonic()
            if now >= self._next_flush or self._fanout.pending >= FLUSH_SOON:
                self._flush()
            else:
                self._flush_timer = self.loop.call_later(self._next_flush - now, self._flush_late)
        elif self._fanout.pending >= FLUSH_SOON and self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_late()

    def _flush_late(self) -> None:
        self._flush_timer = None
        self._flush()

    def _flush(self) -> None:
        start = time.monotonic()
        self._fanout.flush()
        end = time.monotonic()
        self._next_flush = end + min(end - start, FLUSH_LATEST)

    def _sweep(self) -> None:
        """Leave in the ledger how far each client's output has come; see there."""
        self._sweep_timer = None
        if self._between_records:
            if self._fanout.pending:
                self._flush()
            self._stirred = {client: None for client in self._stirred if not client.mark(self._position)}
            self._ledger.set_sweep_mark(self._slot, self._position)
        if self._stirred:
            self._sweep_timer = self.loop.call_later(SWEEP, self._guarded(self._sweep))

    def _say_goodbye(self) -> None:
        """The log says that the server stops, and the clients have been told: end their connections, and then this."""
        # Also of those whose opening came too late to be in the log.
        for client in list(self._clients.values()):
            client.finish()
        self._end_when_empty()

    # --- main

    def _hear_main(self) -> None:
        message, descriptors = self._channel.receive()
        match message:
            case HandOff():
                self._take_clients(message, descriptors)
            case Bury():
                self._bury(message)
            case Quiesce():
                self._quiesce()
            case Stop():
                self.publisher.add([Stopped(message.reason)])

    def _take_clients(self, handoff: HandOff, descriptors: list[int]) -> None:
        adoptees = []
        for handed, descriptor in zip(handoff.clients, descriptors, strict=True):
            client_socket = socket.socket(fileno=descriptor)
            client_socket.setblocking(False)
            page = self._ledger.page(handed.page)
            if handed.epoch:
                adoptees.append(receive_adoptee(handed, client_socket, page))
            else:
                client = self._attach(Client(self, handed, client_socket, page, Start()))
                client.open()
                if self._replica.stopped:
                    client.finish()
        if adoptees:
            self._adopt(adoptees)
        self._post(Received())

    def _attach(self, client: Client) -> Client:
        self._clients[client.sid] = client
        self._fanout.attach(client.sid, client)
        return client

    # --- adoption

    def _adopt(self, adoptees: list[Adoptee]) -> None:
        """Carry on with the clients of a worker that is gone, once the log says that they are ours."""
        self._adoptions += 1
        self.publisher.add([Opened(each.handed.sid, each.handed.address, each.handed.epoch) for each in adoptees])
        self.publisher.call_when_applied(lambda: self._begin_adoption(adoptees))

    def _begin_adoption(self, adoptees: list[Adoptee]) -> None:
        self._advance_adoption(Adoption(self._log, self._limits, adoptees))

    def _advance_adoption(self, adoption: Adoption) -> None:
        if self._between_records and adoption.advance(self._position):
            self._adoptions -= 1
            for adoptee in adoption.lost:
                self._lose(adoptee, "too far behind to be carried on")
            for adoptee in adoption.adoptees:
                self._carry_on(adoptee)
        else:
            self.loop.call_soon(self._guarded(lambda: self._advance_adoption(adoption)))

    def _carry_on(self, adoptee: Adoptee) -> None:
        """The shadow has come to where we are: from here on the client is like any other."""
        output = adoptee.output
        if output is None and adoptee.progress.writable:
            self._lose(adoptee, "internal error")
            return
        session = self._replica.session(adoptee.handed.sid)
        applied = adoptee.consumed if session is None else session.position
        start = Start(applied, adoptee.output_position, "" if session is None else session.mode)
        client = self._attach(Client(self, adoptee.handed, adoptee.socket, adoptee.page, start))
        client.carry_on(output or b"", adoptee.page.content(applied, adoptee.consumed))
        if not adoptee.progress.writable:
            client.mute(adoptee.progress.reset)
        if session is None or self._replica.stopped:
            client.finish()
        if not client.mark(self._position):
            self.stir(client)

    def _lose(self, adoptee: Adoptee, reason: str) -> None:
        sid = adoptee.handed.sid
        log.error("session %s: %s (mark %s, %s)", sid.hex(), reason, adoptee.mark, adoptee.progress)
        self._attach(Client(self, adoptee.handed, adoptee.socket, adoptee.page, Start())).lose(reason)

    def _bury(self, bury: Bury) -> None:
        self.publisher.add([Ended(sid, bury.reason) for sid in bury.sids])
        self.publisher.call_when_applied(lambda: self._report_closed(*bury.sids))

    def _quiesce(self) -> None:
        self._quiescing = True
        for client in list(self._clients.values()):
            client.quiesce()
        self.publisher.call_when_applied(lambda: self._post(Quiesced()))

    def _relieve(self) -> None:
        unrelieved, self._unrelieved = self._unrelieved, {}
        for client in unrelieved:
            client.drain()

    def _report_closed(self, *sids: SessionId) -> None:
        """Tell main; what is over in one round of the loop goes together."""
        if not self._closed:
            self.loop.call_soon(self._guarded(self._post_closed))
        self._closed.extend(sids)

    def _post_closed(self) -> None:
        closed, self._closed = self._closed, []
        for sids in in_chunks(closed):
            self._post(Closed(sids))

    def _post(self, message: ToMain) -> None:
        try:
            self._channel.post(message)
        except ChannelClosed as error:
            self._fail(error)
            return
        if self._channel.backlog:
            self.loop.add_writer(self._channel.fileno(), self._guarded(self._pump))

    def _pump(self) -> None:
        self._channel.pump()
        if not self._channel.backlog:
            self.loop.remove_writer(self._channel.fileno())

    def _end_when_empty(self) -> None:
        """After the end of the server was said: when the last client has gone, so do we."""
        if self._replica.stopped and not self._clients and not self._adoptions:
            self.loop.call_soon(self.loop.stop)


def run_worker(config: Config, slot: int, pipe: "Pipe[Any, Any]", proxy: LogProxy, ledger: Ledger) -> None:
    """The target of a worker's process. Ends with the worker's exit code."""
    tie_to_main()
    die_with_main()
    start_logging(f"worker-{slot}", config.log_level)
    try:
        code = Worker(config, Channel(pipe), proxy, ledger, slot).run()
    except (LogError, ChannelClosed) as error:
        log.error("%s: %s", type(error).__name__, error)
        code = 1
    raise SystemExit(code)


def _load_replica(proxy: LogProxy, limits: Limits) -> tuple[Replica, int]:
    """The replica of the latest snapshot, and the entry up to which it has read."""
    snapshot = proxy.get_snapshot()
    if not snapshot.seq:
        return Replica(limits), 0
    return Replica.load(snapshot.blob, limits), snapshot.seq
