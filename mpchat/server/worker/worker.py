"""A worker: one process with a replica of the chat and the connections of its clients.

Owns an event loop, and on it four things to watch beside the clients: the channel to main, and three links to the log,
for publishing, for reading, and for all else. The life of a message, all of it:

    Connection._readable -> Client.received -> LineFraming -> read_frames -> Publisher.add ... publish
    ... read -> Reader._apply -> Replica.apply -> Fanout.deliver ... Fanout.flush -> Client.send -> Connection.send

Promises: a worker that cannot go on (an entry that cannot be applied) ends with exit code 1 and leaves the rest to
main; one whose sequencer is gone keeps its clients, tells them so after a while, and waits for main to say where the
next one is. Never takes a decision about the chat by itself.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping
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
    Beat,
    Channel,
    ChannelClosed,
    Closed,
    Conclude,
    EndSessions,
    HandOff,
    Pause,
    Paused,
    Quiesce,
    Quiesced,
    Ready,
    Received,
    Reconnect,
    Release,
    Released,
    Retire,
    Stop,
    ToMain,
    Unlinked,
    in_chunks,
)
from mpchat.server.ledger import Ledger
from mpchat.server.worker.caller import Errands
from mpchat.server.worker.inbound.client import Client, Start
from mpchat.server.worker.inbound.publisher import Publisher
from mpchat.server.worker.moves.adoption import Adoptee, Adoption, receive_adoptee
from mpchat.server.worker.outage import Outage
from mpchat.server.worker.outbound.fanout import Fanout
from mpchat.server.worker.outbound.pace import Pace
from mpchat.server.worker.outbound.reader import Reader
from mpchat.server.worker.snapshots import Snapshots
from mpchat.wire.dialect import Dialect
from mpchat.wire.registry import make_dialects

log = logging.getLogger(__name__)

BEATS = 4
"""How many beats fit into the silence after which main takes a worker for hung."""

DEAR = 1000
"""How many entries must be to be applied again for a snapshot to be thought of."""

BYTES_AN_ENTRY = 100
"""How many bytes of a snapshot are made and loaded in the time that one entry takes to be applied: some 40 ns, and 5 us
(scripts/stalls.py; short lines, long ones take less)."""

SLICE = 0.03
"""Seconds of carrying on with clients between two looks at the loop."""

RECONNECT_SECONDS = 0.2
"""Seconds that each step of connecting to the next sequencer may take. One that is stopped accepts nobody, and the
clients may not wait for that. Less than half of the shortest silence after which a worker counts as hung."""

SWEEP = 0.2
"""Seconds between two marks in the ledger: how much of the log a successor has to apply again."""


class Worker:
    """The process from inside. `run` returns the exit code."""

    def __init__(self, config: Config, channel: Channel, address: LogAddress, ledger: Ledger, slot: int) -> None:
        self.config = config
        self.dialects: Mapping[str, Dialect] = make_dialects(config)
        self.loop = asyncio.new_event_loop()
        self._slot = slot
        self._name = f"worker-{slot}"
        self._channel = channel
        self._ledger = ledger
        self._address = address
        self._limits = Limits(history=config.history, history_shown=config.sendq // 2)
        self._replica, position = _load_replica(address, self._limits)
        self._fanout: Fanout[Client] = Fanout(self._replica)
        self._pace = Pace(self._fanout, self._stir)
        self._reader = Reader(self.loop, self._replica, position, self._fanout, self._see_applied, self._fail)
        self._errands = Errands(self.loop, self._fail)
        self._snapshots = Snapshots(self._reader, self._errands, self._end_when_empty, self._fail)
        self.publisher = Publisher(self.loop, self._relieve, self._snapshots.claim, self._fail)
        self._connected = False
        self._outage = Outage(self.loop, self._tell_of_outage)
        self._clients: dict[SessionId, Client] = {}
        self._unrelieved: dict[Client, None] = {}
        self._unapplied: dict[Client, None] = {}
        self._stirred: dict[Client, None] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._nameless: dict[Client, float] = {}  # and until when they may be, the first to be due first
        self._name_timer: asyncio.TimerHandle | None = None
        self._closed: list[SessionId] = []
        self._arriving: list[Adoptee] = []  # of a hand-off in several messages
        self._adoptees: list[Adoptee] = []  # theirs is the next adoption
        self._adoption: Adoption | None = None  # under way
        self._adopting = False  # a slice of it is scheduled
        self._inquiring = False  # the log is asked for what it needs
        self._coming = 0  # clients that are being adopted
        self._pausing = False  # main waits for us to pause
        self._leaving: list[tuple[list[Client], bool]] = []  # to be given back at the end of this record
        self._quiescing = False
        self._retiring = False
        self._exit_code = 0

    # --- what clients ask (client.Host)

    def applied_position(self, sid: SessionId) -> int:
        session = self._replica.session(sid)
        return 0 if session is None else session.position

    def await_applied(self, client: Client) -> None:
        self._unapplied[client] = None

    def await_relief(self, client: Client) -> None:
        self._unrelieved[client] = None

    def await_name(self, client: Client) -> None:
        self._nameless[client] = self.loop.time() + self.config.sign_on_timeout
        if self._name_timer is None:
            self._await_names()

    def over(self, sid: SessionId) -> None:
        self._forget(self._clients[sid])
        self.publisher.call_when_applied(lambda: self._report_closed(sid))
        self._end_when_empty()

    def _await_names(self) -> None:
        """One timer for all: a timer for each would take more memory than the rest of an idle client's."""
        due = next(iter(self._nameless.values()), None)
        self._name_timer = None if due is None else self.loop.call_at(due, self._guarded(self._expire_sign_ons))

    def _expire_sign_ons(self) -> None:
        now = self.loop.time()
        for client in [client for client, due in self._nameless.items() if due <= now]:
            del self._nameless[client]
            session = self._replica.session(client.sid)
            if session is not None and not session.name:
                client.expire_sign_on()
        self._await_names()

    # --- life

    def run(self) -> int:
        """Serve until main says stop, or goes."""
        self._come_up()
        try:
            self.loop.run_forever()
        finally:
            self.publisher.disconnect()
            self._reader.disconnect()
            self._errands.disconnect()
            self.loop.close()
            # The channel stays open until the process ends: main takes its end for ours.
        return self._exit_code

    def _come_up(self) -> None:
        """Read all there is of the log, and then be there for whatever the loop has."""
        self.loop.set_exception_handler(self._fail_by_loop)
        link = self._address.open_link(f"{self._name} reads")
        self._reader.catch_up(link)
        self._ledger.set_sweep_mark(self._slot, self._reader.position)
        self._connected = True
        self._reader.connect(link)
        self.publisher.connect(self._address.open_link(f"{self._name} publishes"))
        self._errands.connect(self._address.open_link(f"{self._name} has errands"))
        self.loop.add_reader(self._channel.fileno(), self._guarded(self._hear_main))
        self._post(Ready())
        self._beat()

    def _guarded(self, step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - a replica in doubt must not go on; main replaces the worker
                self._fail(error)

        return run

    def _fail(self, error: Exception) -> None:
        """End this worker, and main starts another; but wait for the next sequencer."""
        if isinstance(error, LogLost):
            self._lose_log(error)
            return
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
        report_lost_lines()
        # A beat that is not read yet says as much as two.
        if not self._channel.backlog:
            self._post(Beat())
        self.loop.call_later(self.config.beat_timeout / BEATS, self._beat)

    # --- the log

    def _lose_log(self, error: LogLost) -> None:
        """The sequencer is gone: nothing comes and nothing goes, until main has started another."""
        if self._connected:
            self._connected = False
            log.warning("%s", error)
            self._post(Unlinked())
        self._outage.begin()
        self._unlink()

    def _unlink(self) -> None:
        """The links are of no use any more. What was read is still applied."""
        self._reader.disconnect()
        self.publisher.disconnect()
        self._errands.disconnect()
        self._snapshots.disconnect()
        self._inquiring = False
        self._plan_adoption()

    def _reconnect(self, address: LogAddress) -> None:
        """There is another sequencer, with the same log. Should it be gone as well by now, main will say so."""
        self._unlink()
        try:
            self._reader.connect(address.open_link(f"{self._name} reads", RECONNECT_SECONDS))
            self.publisher.connect(address.open_link(f"{self._name} publishes", RECONNECT_SECONDS))
            self._errands.connect(address.open_link(f"{self._name} has errands", RECONNECT_SECONDS))
        except LogLost as error:
            log.debug("%s", error)
            self._outage.begin()
            self._unlink()
            self._post(Unlinked())
            return
        self._connected = True
        self._outage.end()

    def _tell_of_outage(self) -> bool:
        """Tell all clients that nothing is delivered; not in the middle of a record, where no mark can be written."""
        if not self._reader.between_records:
            return False
        log.warning("the log is still lost: clients are told, clients=%d", len(self._clients))
        self._notify(list(self._clients.values()))
        return True

    def _notify(self, clients: Iterable[Client]) -> None:
        position = self._reader.position
        self._stir([client for client in clients if not client.notify(position)])
        self._plan_sweep()

    def _stir(self, clients: Iterable[Client]) -> None:
        """These are being sent something: they are due for a mark."""
        self._stirred.update(dict.fromkeys(clients))

    def _see_applied(self) -> float:
        """More of the log has been applied: let the clients see it, and tell who waits for that; say how to rest."""
        rest = self._pace.flush()
        self.publisher.applied(self._reader.position)
        self._snapshots.note_applied()
        unapplied, self._unapplied = self._unapplied, {}
        for client in unapplied:
            client.drain()
        self._give_back()
        if self._replica.stopped:
            self._say_goodbye()
        self._plan_sweep()
        return rest

    def _plan_sweep(self) -> None:
        if self._sweep_timer is None:
            self._sweep_timer = self.loop.call_later(SWEEP, self._guarded(self._sweep))

    def _sweep(self) -> None:
        """Leave in the ledger how far each client's output has come; see there."""
        self._sweep_timer = None
        position = self._reader.position
        if self._reader.between_records:
            self._stirred = {client: None for client in self._stirred if not client.mark(position)}
            self._ledger.set_sweep_mark(self._slot, position)
        if self._stirred:
            self._plan_sweep()

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
            case EndSessions():
                self._end_sessions(message)
            case Release(sids):
                self._release([self._clients[sid] for sid in sids if sid in self._clients], last=True)
            case Retire():
                self._retire()
            case Pause():
                self._quiesce(self._pause)
            case Conclude(seq, snapshot):
                self._reader.hold(seq, lambda: self._conclude(snapshot))
            case Reconnect(address):
                self._reconnect(address)
            case Quiesce():
                self._quiesce(lambda: self._post(Quiesced()))
            case Stop(reason):
                self.publisher.add([Stopped(reason)])

    def _take_clients(self, handoff: HandOff, descriptors: list[int]) -> None:
        adoptees = []
        for handed, descriptor in zip(handoff.clients, descriptors, strict=True):
            client_socket = socket.socket(fileno=descriptor)
            client_socket.setblocking(False)
            page = self._ledger.page(handed.page)
            if handed.epoch:
                adoptees.append(receive_adoptee(handed, client_socket, page, self.dialects[handed.dialect]))
            else:
                client = self._attach(Client(self, handed, client_socket, page, Start()))
                client.open()
                self._settle_in(client)
                if self._outage.told:
                    # No entry has given it anything yet, whatever is being applied.
                    self._notify([client])
        if adoptees or self._arriving:
            self._adopt(adoptees, handoff.more)
        self._post(Received())

    def _attach(self, client: Client) -> Client:
        self._clients[client.sid] = client
        self._fanout.attach(client.sid, client, client.dialect)
        return client

    def _settle_in(self, client: Client) -> None:
        """A client has come to a worker that may be about to end."""
        if self._replica.stopped:
            client.finish()
        elif self._retiring:
            self._release([client], last=False)
        elif self._quiescing:
            client.quiesce()

    def _forget(self, client: Client) -> None:
        """The client is ours no more."""
        self._fanout.detach(client.sid)
        del self._clients[client.sid]
        self._nameless.pop(client, None)
        for waiting in (self._unrelieved, self._unapplied, self._stirred):
            waiting.pop(client, None)

    # --- clients that others had

    def _adopt(self, adoptees: list[Adoptee], more: bool) -> None:
        """Carry on with the clients of another worker, once the log says that they are ours; with all that come
        together, together."""
        self._coming += len(adoptees)
        self._arriving += adoptees
        handed = [adoptee.handed for adoptee in adoptees]
        self.publisher.add([Opened(each.sid, each.address, each.epoch, each.dialect) for each in handed])
        if not more:
            arrived, self._arriving = self._arriving, []
            self.publisher.call_when_applied(partial(self._await_adoption, arrived))

    def _await_adoption(self, adoptees: list[Adoptee]) -> None:
        self._adoptees += adoptees
        self._plan_adoption()

    def _plan_adoption(self) -> None:
        call = None if self._adoption is None else self._adoption.call
        if call is not None:
            if not self._inquiring:
                self._inquiring = True
                method, arguments = call
                self._errands.ask(self._tell_adoption, method, *arguments)
        elif not self._adopting and (self._adoption is not None or self._adoptees):
            self._adopting = True
            self.loop.call_soon(self._guarded(self._advance_adoption))

    def _tell_adoption(self, answer: Any) -> None:
        assert self._adoption is not None
        self._inquiring = False
        self._adoption.tell(answer)
        self._plan_adoption()

    def _advance_adoption(self) -> None:
        """Work for a slice on the adoption that is under way; or begin one, for all who have come meanwhile."""
        self._adopting = False
        if self._adoption is None:
            self._adoption = Adoption(self._limits, self._adoptees)
            self._adoptees = []
        if self._reader.between_records and self._adoption.advance(self._reader.position):
            self._carry_on_some(self._adoption)
        self._plan_adoption()

    def _carry_on_some(self, adoption: Adoption) -> None:
        """The shadow is where we are: carry on with as many as a slice is long; with the others, when it is here
        again."""
        if not adoption.carried_on:
            self._note_adoption(adoption)
        until = time.monotonic() + SLICE
        while adoption.adoptees:
            self._coming -= 1
            self._carry_on(adoption.let_go())
            if time.monotonic() >= until:
                break
        if not adoption.adoptees:
            self._adoption = None
            if self._pausing:
                self._pause()
            self._end_when_empty()

    def _note_adoption(self, adoption: Adoption) -> None:
        many = len(adoption.adoptees)
        log.info("carrying on with %d clients; %d entries were applied again", many, adoption.applied)
        # Should we be the next to die, what was applied again just now need not be once more: the clients' marks will
        # be here, or later. They do not wait for it.
        self._want_snapshot(adoption.applied, self._end_when_empty)
        self._coming -= len(adoption.lost)
        for adoptee in adoption.lost:
            self._lose(adoptee, "too far behind to be carried on")

    def _want_snapshot(self, entries: int, then: Callable[[], None]) -> None:
        """Have a snapshot of just here, if it is dearer to apply so many entries again than to make and load one: who
        has clients with marks from here on can start from it. Then call `then`, in any case."""
        if entries > DEAR:
            self._snapshots.want(then, entries * BYTES_AN_ENTRY)
        else:
            then()

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
        if session is None:
            client.finish()
        self._settle_in(client)
        if not client.mark(self._reader.position):
            self._stir([client])

    def _lose(self, adoptee: Adoptee, reason: str) -> None:
        sid = adoptee.handed.sid
        log.error("session %s: %s (mark %s, %s)", sid.hex(), reason, adoptee.mark, adoptee.progress)
        self._attach(Client(self, adoptee.handed, adoptee.socket, adoptee.page, Start())).lose(reason)

    # --- clients that others are to have

    def _release(self, clients: list[Client], last: bool) -> None:
        """Give these clients back when all that they have sent, and we have read, has come back from the log."""
        for client in clients:
            client.quiesce()
        self.publisher.call_when_applied(partial(self._see_released, clients, last))

    def _see_released(self, clients: list[Client], last: bool) -> None:
        self._want_snapshot(self._snapshots.uncovered_entries, partial(self._let_leave, clients, last))

    def _let_leave(self, clients: list[Client], last: bool) -> None:
        self._leaving.append((clients, last))
        # Usually in the middle of hearing from the log; else there may be nothing to hear for long.
        self.loop.call_soon(self._guarded(self._give_back))

    def _give_back(self) -> None:
        """Let go of who is to leave, with a mark exactly here."""
        if not self._leaving or not self._reader.between_records:
            return
        leaving, self._leaving = self._leaving, []
        for clients, last in leaving:
            here = [client for client in clients if client.sid in self._clients]
            for client in here:
                client.release(self._reader.position)
                self._forget(client)
            chunks = list(in_chunks([client.sid for client in here])) or [()]
            for number, sids in enumerate(chunks, 1):
                self._post(Released(sids, last and number == len(chunks)))
        self._end_when_empty()

    def _retire(self) -> None:
        self._retiring = True
        self._release(list(self._clients.values()), last=True)

    def _pause(self) -> None:
        """All that our clients have sent is applied: apply no more, and say how far that is. But who is being adopted
        must first be here."""
        self._pausing = bool(self._coming)
        if not self._pausing:
            self._reader.hold(0, lambda: self._post(Paused(self._reader.position)))

    def _conclude(self, snapshot: bool) -> None:
        """Everybody has come exactly so far: this is the state that goes over to the next program."""
        if snapshot:
            self._snapshots.want(self._leave_all)
        else:
            self._leave_all()

    def _leave_all(self) -> None:
        self._retiring = True
        self._leaving.append((list(self._clients.values()), True))
        self._give_back()

    def _end_sessions(self, order: EndSessions) -> None:
        for sid, epoch in order.sessions:
            self.publisher.add([Opened(sid, "", epoch), Ended(sid, order.reason, epoch)])
        sids = [sid for sid, _ in order.sessions]
        self.publisher.call_when_applied(lambda: self._report_closed(*sids))

    def _quiesce(self, then: Callable[[], None]) -> None:
        self._quiescing = True
        for client in list(self._clients.values()):
            client.quiesce()
        self.publisher.call_when_applied(then)

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
        self._end_when_empty()

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
            self._end_when_empty()

    def _end_when_empty(self) -> None:
        """When there is nothing to do any more, and nothing to come, we end."""
        ending = self._replica.stopped or self._retiring
        busy: Iterable[object] = (self._clients, self._coming, self._leaving)
        if not ending or any(busy):
            return
        if self._retiring and (self._closed or self._channel.backlog or self._snapshots.busy):
            return  # main is still to be told, or the log
        self.loop.call_soon(self.loop.stop)


def run_worker(config: Config, slot: int, pipe: "Pipe[Any, Any]", address: LogAddress, ledger: Ledger) -> int:
    """What a worker's process does; gives its exit code."""
    start_logging(f"worker-{slot}", config.log_level)
    try:
        return Worker(config, Channel(pipe), address, ledger, slot).run()
    except (LogError, ChannelClosed) as error:
        log.error("%s: %s", type(error).__name__, error)
        return NO_LOG if isinstance(error, LogLost) else 1


def _load_replica(address: LogAddress, limits: Limits) -> tuple[Replica, int]:
    """The replica of the latest snapshot, and the number of the record it is of."""
    with address.open_log() as source:
        snapshot = source.get_snapshot()
    if not snapshot.seq:
        return Replica(limits), 0
    return Replica.load(snapshot.blob, limits), snapshot.seq
