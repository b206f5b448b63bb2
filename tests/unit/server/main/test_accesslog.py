"""The access log: one line for each client that comes and goes, whatever the workers tell again."""

from __future__ import annotations

import logging
import re

import pytest

from mpchat.chat.entries import SessionId
from mpchat.server.control import Presence
from mpchat.server.main.accesslog import AccessLog
from mpchat.server.main.connection import Held

ANN, BOB, ZOE = (bytes([number]) * 16 for number in range(3))
CLIENTS = {sid: Held(0, f"192.0.2.{number}", number, "line") for number, sid in enumerate((ANN, BOB, ZOE))}


def named(sid: SessionId, name: str) -> Presence:
    return Presence(((sid, name),), ())


def left(sid: SessionId, name: str, reason: str = "quit") -> Presence:
    return Presence((), ((sid, name, reason),))


class Office:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.access = AccessLog(with_addresses=True)

    def hear(self, *messages: Presence) -> list[str]:
        """Hear of all clients; give the lines that this has caused, without the seconds."""
        for message in messages:
            self.access.hear(message, CLIENTS)
        return self.lines()

    def lines(self) -> list[str]:
        lines = [re.sub(r" seconds=\d+", "", line) for line in self._caplog.messages]
        self._caplog.clear()
        return lines


@pytest.fixture
def office(caplog: pytest.LogCaptureFixture) -> Office:
    caplog.set_level(logging.INFO, "mpchat")
    return Office(caplog)


def test_a_visit(office: Office) -> None:
    assert office.hear(named(ANN, "ann")) == ["client signed on name=ann address=192.0.2.0"]
    assert office.hear(named(ANN, "eve")) == ["client renamed name=ann new=eve address=192.0.2.0"]
    assert office.hear(left(ANN, "eve")) == ["client left name=eve address=192.0.2.0 reason=quit"]
    office.access.forget(ANN)
    assert office.lines() == []


def test_what_the_next_worker_tells_again_is_not_logged_again(office: Office) -> None:
    office.hear(named(ANN, "ann"), named(ANN, "ann"), named(BOB, "bob"))
    assert office.hear(named(ANN, "ann"), named(BOB, "bob")) == []
    assert len(office.hear(left(ANN, "ann"))) == 1
    assert office.hear(left(ANN, "ann", "connection lost"), named(ANN, "ann")) == []


def test_a_visit_of_which_only_the_end_is_heard_has_both_lines(office: Office) -> None:
    assert office.hear(left(ANN, "ann", "send queue exceeded")) == [
        "client signed on name=ann address=192.0.2.0",
        "client left name=ann address=192.0.2.0 reason=send queue exceeded",
    ]


def test_a_client_that_is_forgotten_has_lost_its_connection(office: Office) -> None:
    office.hear(named(ANN, "ann"))
    office.access.forget(ANN)
    office.access.forget(ANN)
    assert office.lines() == ["client left name=ann address=192.0.2.0 reason=connection lost"]


def test_clients_that_the_worker_does_not_have_are_nobodys_business(office: Office) -> None:
    office.access.hear(named(ANN, "ann"), {})
    office.access.hear(left(ANN, "ann"), {})
    assert office.lines() == []


def test_without_a_name_nobody_is_logged(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    assert office.hear(left(ANN, "", "no name within 60 s")) == []
    office.access.forget(ANN)
    office.access.forget(BOB)
    assert office.lines() == []
    caplog.set_level(logging.DEBUG, "mpchat")
    assert office.hear(left(BOB, "", "x")) == ["client left without a name address=192.0.2.1 reason=x"]


def test_at_the_end_all_leave(office: Office) -> None:
    office.hear(named(ANN, "ann"), named(BOB, "bob"), left(BOB, "bob"))
    office.access.end("server stopped")
    office.access.end("server stopped")
    assert office.lines() == ["client left name=ann address=192.0.2.0 reason=server stopped"]


def test_the_next_program_knows_who_is_here_and_since_when(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.hear(named(ANN, "ann"), named(BOB, "bob"), left(BOB, "bob"))
    clients = office.access.note(CLIENTS)
    assert [held.name for held in clients.values()] == ["ann", "", ""]
    assert clients[ZOE] == CLIENTS[ZOE]
    after = Office(caplog)
    after.access.restore({sid: held.next() for sid, held in clients.items()})
    assert after.hear(named(ANN, "ann")) == []
    assert after.hear(named(ZOE, "zoe"), left(ANN, "ann"), left(ZOE, "zoe")) == [
        "client signed on name=zoe address=192.0.2.2",
        "client left name=ann address=192.0.2.0 reason=quit",
        "client left name=zoe address=192.0.2.2 reason=quit",
    ]
    # The time of its visit goes on.
    assert clients[ANN].since > 0


def test_addresses_can_be_left_out(office: Office) -> None:
    office.access.change(with_addresses=False)
    assert office.hear(named(ANN, "ann"), named(ANN, "eve"), left(ANN, "eve")) == [
        "client signed on name=ann address=withheld",
        "client renamed name=ann new=eve address=withheld",
        "client left name=eve address=withheld reason=quit",
    ]
