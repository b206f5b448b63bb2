"""The sweep: who is due for a mark gets one between two records, and one mark speaks for all others."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from simulated import Clock, Loop

from mpchat.server.ledger import Ledger, Shape
from mpchat.server.worker.sweep import SWEEP_SECONDS, Sweep

SLOT = 1


class PlayedClient:
    """A client that can be marked when its output is `written`."""

    def __init__(self, written: bool = True) -> None:
        self.written = written
        self.marks: list[int] = []
        self.notices: list[int] = []

    def mark(self, seq: int) -> bool:
        self.marks.append(seq)
        return self.written

    def notify(self, seq: int) -> bool:
        self.notices.append(seq)
        return self.written


class Office:
    def __init__(self) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock)
        self.reader = SimpleNamespace(position=10, between_records=True)
        self.ledger = Ledger(Shape(1, SLOT + 1, 1 << 12))
        self.sweep = Sweep(cast(Any, self.loop), cast(Any, self.reader), self.ledger, SLOT)

    def close(self) -> None:
        self.ledger.close()

    def wait(self) -> None:
        """Until the next sweep is over."""
        self.clock.now += SWEEP_SECONDS
        self.loop.run_timers()

    def sent(self, *clients: PlayedClient) -> None:
        self.sweep.note_sent(cast(Any, clients))
        self.sweep.plan()

    @property
    def planned(self) -> int:
        return len(self.loop._timers)


@pytest.fixture
def office() -> Iterator[Office]:
    opened = Office()
    yield opened
    opened.close()


def test_a_client_that_was_sent_something_gets_one_mark_and_all_others_one_together(office: Office) -> None:
    client = PlayedClient()
    office.sent(client)
    office.sent(client)
    assert office.planned == 1
    assert not client.marks
    office.wait()
    assert client.marks == [10]
    assert office.ledger.sweep_mark(SLOT) == 10
    assert not office.planned


def test_a_client_whose_output_waits_is_marked_at_a_later_sweep(office: Office) -> None:
    client = PlayedClient(written=False)
    office.sent(client)
    office.wait()
    assert office.planned == 1
    office.reader.position, client.written = 12, True
    office.wait()
    assert client.marks == [10, 12]
    assert office.ledger.sweep_mark(SLOT) == 12
    assert not office.planned


def test_nothing_is_marked_in_the_middle_of_a_record(office: Office) -> None:
    client = PlayedClient()
    office.reader.between_records = False
    office.sent(client)
    office.wait()
    assert not client.marks
    assert office.ledger.sweep_mark(SLOT) == 0
    office.reader.between_records = True
    office.wait()
    assert client.marks == [10]


def test_a_client_that_has_left_is_not_marked(office: Office) -> None:
    client = PlayedClient()
    office.sent(client)
    office.sweep.discard(cast(Any, client))
    office.wait()
    assert not client.marks


def test_a_client_is_due_after_a_mark_or_a_notice_that_could_not_be_written(office: Office) -> None:
    marked, notified = PlayedClient(written=False), PlayedClient(written=False)
    office.sweep.mark(cast(Any, marked))
    office.sweep.notify([cast(Any, notified)])
    marked.written = notified.written = True
    office.wait()
    assert marked.marks == [10, 10]
    assert (notified.notices, notified.marks) == ([10], [10])
