"""Departure: clients that leave this worker, and the end of the worker itself.

Owns what main has asked for (release, retire, quiesce, pause, conclude), the clients that are about to be given back,
and the decision when the worker ends.

    release, retire   stop reading clients; `_leave` when all that they sent is applied
    conclude          `_leave` with all clients when the log is applied up to the given record
    _leave            after a snapshot, if it is asked for or worth it: have the clients wait for the end of a record
    give_back         between two records: write each client's mark, let go of the client, tell main
    quiesce, pause    stop reading clients; tell main when all that they sent is applied

Promises that a client is given back with a mark exactly between two records, after all that it sent and this worker has
read was applied; that a client which arrives later shares what main has asked for; and that the worker ends only when
it has no client, none is coming, and main knows of all that left. Never decides which clients leave: main does.
"""

from collections.abc import Callable
from functools import partial

from mpchat.chat.rules.replica import Replica
from mpchat.server.control import Conclude, Paused, Quiesced, Release
from mpchat.server.worker.inbound.client import Client
from mpchat.server.worker.mainlink import MainLink
from mpchat.server.worker.outbound.reader import Reader
from mpchat.server.worker.roster import Roster
from mpchat.server.worker.snapshots import Snapshots


class Departure:
    """The way out of one worker. `end` is called, perhaps several times, when the worker has nothing left to do."""

    def __init__(
        self,
        replica: Replica,
        reader: Reader,
        snapshots: Snapshots,
        roster: Roster,
        main: MainLink,
        end: Callable[[], None],
    ) -> None:
        self._replica = replica
        self._reader = reader
        self._snapshots = snapshots
        self._roster = roster
        self._main = main
        self._end = end
        self._leaving: list[tuple[list[Client], bool]] = []  # to be given back between two records
        self._pausing = False  # main waits for us to pause, and we for clients that are coming
        self._quiescing = False
        self._retiring = False

    # --- what main asks

    def release(self, order: Release) -> None:
        """Give these clients back."""
        self._release(self._roster.find(order.sids), last=True)

    def retire(self) -> None:
        """Give all clients back, and end."""
        self._retiring = True
        self._release(self._roster.clients, last=True)

    def quiesce(self) -> None:
        """Stop reading clients, and tell main when all that they sent is applied."""
        self._quiesce(lambda: self._main.post(Quiesced()))

    def pause(self) -> None:
        """As `quiesce`, but then also stop applying the log, and tell main how far it is applied."""
        self._quiesce(self._pause)

    def conclude(self, order: Conclude) -> None:
        """Apply the log up to exactly a record, put a snapshot of it if asked to, give all clients back, and end."""
        self._reader.hold(order.seq, partial(self._conclude, order.snapshot))

    # --- what the rest of the worker calls

    def settle_in(self, client: Client) -> None:
        """A client has come to this worker, which may be about to end."""
        if self._replica.stopped:
            client.finish()
        elif self._retiring:
            self._release([client], last=False)
        elif self._quiescing:
            client.quiesce()

    def see_adopted(self) -> None:
        """An adoption is done."""
        if self._pausing:
            self._pause()
        self.end_when_empty()

    def see_applied(self) -> None:
        """More of the log has been applied."""
        self.give_back()
        if self._replica.stopped:
            self._say_goodbye()

    def give_back(self) -> None:
        """Let go of the clients that are to leave, each with a mark exactly here, if this is between two records."""
        if not self._leaving or not self._reader.between_records:
            return
        leaving, self._leaving = self._leaving, []
        for clients, last in leaving:
            here = self._roster.find(client.sid for client in clients)
            for client in here:
                client.release(self._reader.position)
                self._roster.remove(client)
            self._main.report_released([client.sid for client in here], last)
        self.end_when_empty()

    def end_when_empty(self) -> None:
        """End the worker, if it is to end and nothing is left to do."""
        ending = self._replica.stopped or self._retiring
        if not ending or self._leaving or not self._roster.is_empty:
            return
        if self._retiring and (self._main.busy or self._snapshots.busy):
            return  # main is still to be told, or the log
        self._end()

    # --- inside

    def _release(self, clients: list[Client], last: bool) -> None:
        for client in clients:
            client.quiesce()
        self._roster.publisher.call_when_applied(partial(self._released, clients, last))

    def _released(self, clients: list[Client], last: bool) -> None:
        """All that these clients sent is applied. Their next worker can start from a snapshot of this state."""
        entries = self._snapshots.uncovered_entries
        self._snapshots.want_if_worth(entries, partial(self._leave, clients, last))

    def _leave(self, clients: list[Client], last: bool) -> None:
        self._leaving.append((clients, last))
        # This is mostly called between two records of a reading. If not, the log may bring nothing for long.
        self._roster.loop.call_soon(self.give_back)

    def _quiesce(self, then: Callable[[], None]) -> None:
        self._quiescing = True
        for client in self._roster.clients:
            client.quiesce()
        self._roster.publisher.call_when_applied(then)

    def _pause(self) -> None:
        """Stop applying the log when every client that is coming is here."""
        self._pausing = bool(self._roster.coming)
        if not self._pausing:
            self._reader.hold(0, lambda: self._main.post(Paused(self._reader.position)))

    def _conclude(self, snapshot: bool) -> None:
        """All workers have come to exactly this record: its state goes over to the next program."""
        if snapshot:
            self._snapshots.want(self._leave_all)
        else:
            self._leave_all()

    def _leave_all(self) -> None:
        self._retiring = True
        self._leaving.append((self._roster.clients, True))
        self.give_back()

    def _say_goodbye(self) -> None:
        """The log says that the server stops, and the clients have been told: end their connections."""
        # Also of clients whose Opened came too late to be applied.
        for client in self._roster.clients:
            client.finish()
        self.end_when_empty()
