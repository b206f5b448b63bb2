"""The worker's link to main, over a real pipe: nothing waits for main, and what ends together is told together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from multiprocessing import Pipe

import pytest
from onloop import on_loop, turn

from mpchat.server.control import (
    PRESENCE_MOST,
    SIDS_MOST,
    Beat,
    Channel,
    ChannelClosed,
    Closed,
    Presence,
    Released,
    Retire,
    ToMain,
    ToWorker,
)
from mpchat.server.worker.mainlink import MainLink

SIDS = [number.to_bytes(16, "big") for number in range(SIDS_MOST + 1)]


class Office:
    """A link on the running loop, main's end of the channel, and what the link has called."""

    def __init__(self) -> None:
        self.main, self.channel = map(Channel, Pipe())
        self.idle = 0
        self.errors: list[Exception] = []
        self.heard: list[tuple[ToWorker, list[int]]] = []
        self._link: MainLink | None = None

    @property
    def link(self) -> MainLink:
        if self._link is None:
            self._link = MainLink(asyncio.get_running_loop(), self.channel, self._see_idle, self.errors.append)
        return self._link

    def _see_idle(self) -> None:
        self.idle += 1

    def told(self) -> list[ToMain]:
        """What main has been told since the last time."""
        messages = []
        while self.main.readable():
            messages.append(self.main.receive()[0])
        return messages

    def close(self) -> None:
        self.main.close()
        self.channel.close()


@pytest.fixture
def office() -> Iterator[Office]:
    opened = Office()
    yield opened
    opened.close()


@on_loop
async def _check_closed_together(office: Office) -> None:
    office.link.report_closed(SIDS[:2])
    office.link.report_closed(SIDS[2:])
    assert office.link.busy
    assert not office.told()
    await turn()
    assert office.told() == [Closed(tuple(SIDS[:SIDS_MOST])), Closed(tuple(SIDS[SIDS_MOST:]))]
    assert not office.link.busy
    assert office.idle == 1


def test_sessions_that_end_in_one_turn_are_reported_together(office: Office) -> None:
    _check_closed_together(office)


@pytest.mark.parametrize(
    ("count", "last", "messages"),
    [
        (0, True, [Released((), True)]),
        (0, False, [Released((), False)]),
        (1, True, [Released((SIDS[0],), True)]),
        (SIDS_MOST + 1, True, [Released(tuple(SIDS[:SIDS_MOST]), False), Released((SIDS[-1],), True)]),
        (SIDS_MOST + 1, False, [Released(tuple(SIDS[:SIDS_MOST]), False), Released((SIDS[-1],), False)]),
    ],
)
def test_only_the_last_message_of_a_release_says_so(
    office: Office, count: int, last: bool, messages: list[ToMain]
) -> None:
    @on_loop
    async def check() -> None:
        office.link.report_released(SIDS[:count], last)

    check()
    assert office.told() == messages


def test_messages_wait_in_order_while_main_does_not_read(office: Office) -> None:
    @on_loop
    async def check() -> None:
        posted: list[ToMain] = []
        while not office.link.busy:
            posted.append(Closed(tuple(SIDS[:SIDS_MOST])))
            office.link.post(posted[-1])
        posted.append(Released((SIDS[0],), True))
        office.link.post(posted[-1])
        office.link.beat()  # adds nothing to unread messages
        told: list[ToMain] = []
        while office.link.busy:
            told += office.told()
            await turn()
        assert told + office.told() == posted
        assert office.idle == 1
        office.link.beat()
        assert office.told() == [Beat()]

    check()
    assert not office.errors


def test_a_message_of_main_is_passed_on(office: Office) -> None:
    @on_loop
    async def check() -> None:
        office.link.listen(lambda message, descriptors: office.heard.append((message, descriptors)))
        office.main.post(Retire())
        while not office.heard:
            await turn()

    check()
    assert office.heard == [(Retire(), [])]


def test_when_main_is_gone_the_worker_is_told(office: Office) -> None:
    @on_loop
    async def check() -> None:
        office.main.close()
        office.link.post(Beat())

    check()
    assert [type(error) for error in office.errors] == [ChannelClosed]
    office.main, _ = map(Channel, Pipe())
    _.close()


@on_loop
async def _check_presence(office: Office) -> None:
    office.link.report_named(SIDS[0], "ann")
    office.link.report_left(SIDS[1], "bob", "quit")
    office.link.report_named(SIDS[1], "bob")
    assert office.link.busy
    assert office.told() == []
    await turn()
    assert office.told() == [
        Presence(((SIDS[0], "ann"), (SIDS[1], "bob")), ()),
        Presence((), ((SIDS[1], "bob", "quit"),)),
    ]
    assert not office.link.busy
    assert office.idle == 1


def test_names_of_one_turn_are_reported_together_and_before_ends(office: Office) -> None:
    _check_presence(office)


@on_loop
async def _check_presence_first(office: Office) -> None:
    office.link.report_left(SIDS[0], "ann", "quit")
    office.link.report_released([SIDS[0]], last=True)
    assert office.told() == [Presence((), ((SIDS[0], "ann", "quit"),)), Released((SIDS[0],), last=True)]


def test_main_hears_a_name_before_anything_else_of_its_session(office: Office) -> None:
    _check_presence_first(office)


@on_loop
async def _check_long_names(office: Office) -> None:
    name = "\U0001f9d1" * 32  # the most bytes that 32 characters can have
    for sid in SIDS[: 3 * PRESENCE_MOST]:
        office.link.report_named(sid, name)
        office.link.report_left(sid, name, "send queue exceeded")
    await turn()
    messages = [message for message in office.told() if isinstance(message, Presence)]
    assert sum(len(message.named) for message in messages) == sum(len(message.left) for message in messages)
    assert {len(message.named) + len(message.left) for message in messages} == {PRESENCE_MOST}


def test_messages_hold_the_longest_names(office: Office) -> None:
    _check_long_names(office)
