"""Departures: a client is given back between two records, and a worker ends when nothing is left to do.

What a departure needs of the worker is played. `tests/unit/server/test_simulation.py` has whole workers.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mpchat.chat.entries import SessionId
from mpchat.server.control import Conclude, Paused, Quiesced, Release
from mpchat.server.worker.moves.departure import Departure

ALICE, BOB = b"alice", b"bob"


class PlayedClient:
    def __init__(self, sid: SessionId) -> None:
        self.sid = sid
        self.did: list[object] = []

    def quiesce(self) -> None:
        self.did.append("quiesce")

    def finish(self) -> None:
        self.did.append("finish")

    def release(self, seq: int) -> None:
        self.did.append(seq)


class Office:
    """A departure and all around it: the roster, the reader, the snapshots, the publisher, the loop and main."""

    def __init__(self, *sids: SessionId) -> None:
        self.clients = {sid: PlayedClient(sid) for sid in sids}
        self.coming = 0
        self.told: list[object] = []
        self.soon: list[Callable[[], None]] = []
        self.barriers: list[Callable[[], None]] = []
        self.held: list[tuple[int, Callable[[], None]]] = []
        self.wanted: list[Callable[[], None]] = []
        self.replays: list[int] = []
        self.ends = 0
        self.replica = SimpleNamespace(stopped=False)
        self.reader = SimpleNamespace(position=7, between_records=True, hold=self._hold)
        self.snapshots = SimpleNamespace(
            busy=False, uncovered_entries=4, want=self._want, want_if_worth=self._want_if_worth
        )
        self.main = SimpleNamespace(busy=False, post=self.told.append, report_released=self._tell)
        self.loop = SimpleNamespace(call_soon=self.soon.append)
        self.publisher = SimpleNamespace(call_when_applied=self.barriers.append)
        self.departure = Departure(
            cast(Any, self.replica), cast(Any, self.reader), cast(Any, self.snapshots), cast(Any, Rota(self)),
            cast(Any, self.main), self._end,
        )  # fmt: skip

    def _hold(self, seq: int, then: Callable[[], None]) -> None:
        self.held.append((seq, then))

    def _want(self, then: Callable[[], None]) -> None:
        self.wanted.append(then)

    def _want_if_worth(self, entries: int, then: Callable[[], None]) -> None:
        self.replays.append(entries)
        self.wanted.append(then)

    def _tell(self, sids: list[SessionId], last: bool) -> None:
        self.told.append((sids, last))

    def _end(self) -> None:
        self.ends += 1

    def apply(self) -> None:
        """All that was published comes back."""
        for step in self.barriers:
            step()
        self.barriers.clear()

    def finish_snapshots(self) -> None:
        for then in self.wanted:
            then()
        self.wanted.clear()

    def turn(self) -> None:
        for step in self.soon:
            step()
        self.soon.clear()


class Rota:
    """In the place of the roster."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self.loop = office.loop
        self.publisher = office.publisher

    @property
    def coming(self) -> int:
        return self._office.coming

    @property
    def is_empty(self) -> bool:
        return not self._office.clients and not self._office.coming

    @property
    def clients(self) -> list[PlayedClient]:
        return list(self._office.clients.values())

    def find(self, sids: Any) -> list[PlayedClient]:
        return [self._office.clients[sid] for sid in sids if sid in self._office.clients]

    def remove(self, client: PlayedClient) -> None:
        del self._office.clients[client.sid]


def test_a_client_is_given_back_when_its_input_is_applied_and_the_snapshot_is_made() -> None:
    office = Office(ALICE, BOB)
    alice = office.clients[ALICE]
    office.departure.release(Release((ALICE, b"somebody who has gone")))
    assert alice.did == ["quiesce"]
    office.apply()
    assert office.replays == [4]
    assert not office.soon
    office.finish_snapshots()
    office.turn()
    assert alice.did == ["quiesce", 7]
    assert office.told == [([ALICE], True)]
    assert list(office.clients) == [BOB]
    assert not office.ends


def test_no_client_is_given_back_in_the_middle_of_a_record() -> None:
    office = Office(ALICE)
    office.departure.release(Release((ALICE,)))
    office.apply()
    office.reader.between_records = False
    office.finish_snapshots()
    office.turn()
    office.departure.see_applied()
    assert not office.told
    office.reader.between_records, office.reader.position = True, 9
    office.departure.see_applied()
    assert office.told == [([ALICE], True)]
    office.departure.see_applied()
    assert office.told == [([ALICE], True)]


def test_a_client_that_has_ended_meanwhile_is_not_given_back_but_the_release_is_answered() -> None:
    office = Office(ALICE)
    office.departure.release(Release((ALICE,)))
    office.apply()
    del office.clients[ALICE]
    office.finish_snapshots()
    office.turn()
    assert office.told == [([], True)]


def test_a_worker_that_retires_ends_when_nothing_is_left_to_do() -> None:
    office = Office(ALICE)
    office.departure.retire()
    office.departure.end_when_empty()
    office.apply()
    office.finish_snapshots()
    office.main.busy = True
    office.turn()
    assert not office.clients
    office.main.busy, office.snapshots.busy = False, True
    office.departure.end_when_empty()
    office.snapshots.busy, office.coming = False, 1
    office.departure.end_when_empty()
    assert not office.ends
    office.coming = 0
    office.departure.end_when_empty()
    assert office.ends


def test_a_worker_that_stays_does_not_end_when_it_is_empty() -> None:
    office = Office()
    office.departure.end_when_empty()
    office.departure.pause()
    office.departure.end_when_empty()
    assert not office.ends


def test_a_client_that_arrives_at_a_retiring_worker_is_given_back_but_ends_no_release() -> None:
    office = Office(ALICE)
    office.departure.retire()
    late = office.clients[BOB] = PlayedClient(BOB)
    office.departure.settle_in(cast(Any, late))
    office.apply()
    office.finish_snapshots()
    office.turn()
    assert office.told == [([ALICE], True), ([BOB], False)]


@pytest.mark.parametrize(("ask", "answer"), [("quiesce", Quiesced()), ("pause", None)])
def test_all_clients_are_quiesced_even_later_arrivals(ask: str, answer: object) -> None:
    office = Office(ALICE)
    getattr(office.departure, ask)()
    late = office.clients[BOB] = PlayedClient(BOB)
    office.departure.settle_in(cast(Any, late))
    assert all(client.did == ["quiesce"] for client in office.clients.values())
    assert not office.told
    office.apply()
    assert office.told == ([answer] if answer else [])


def test_a_worker_pauses_when_the_expected_clients_have_arrived() -> None:
    office = Office(ALICE)
    office.coming = 1
    office.departure.pause()
    office.apply()
    office.departure.see_adopted()
    assert not office.held
    office.coming = 0
    office.departure.see_adopted()
    [(seq, paused)] = office.held
    assert seq == 0
    paused()
    assert office.told == [Paused(7)]


@pytest.mark.parametrize("snapshot", [True, False])
def test_a_worker_concludes_at_exactly_the_record_that_main_names(snapshot: bool) -> None:
    office = Office(ALICE)
    office.departure.conclude(Conclude(9, snapshot))
    [(seq, concluded)] = office.held
    assert seq == 9
    office.reader.position = 9
    concluded()
    assert len(office.wanted) == snapshot
    office.finish_snapshots()
    assert office.told == [([ALICE], True)]
    assert office.ends


def test_when_the_server_stops_all_clients_are_finished_and_the_worker_ends_with_the_last() -> None:
    office = Office(ALICE)
    office.replica.stopped = True
    late = office.clients[BOB] = PlayedClient(BOB)
    office.departure.settle_in(cast(Any, late))
    assert late.did == ["finish"]
    office.departure.see_applied()
    assert all(client.did[-1] == "finish" for client in office.clients.values())
    office.clients.clear()
    office.main.busy = True  # nobody waits for what main is told last
    office.departure.end_when_empty()
    assert office.ends
