"""The channel between main and a worker, over a real pipe: messages and descriptors keep their order; no side waits."""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing import Pipe

import pytest

from mpchat.server.control import (
    HANDOFF_MOST,
    MESSAGE_MOST,
    SIDS_MOST,
    Beat,
    Channel,
    ChannelClosed,
    Closed,
    EndSessions,
    Handed,
    HandOff,
    Quiesce,
    Quiesced,
    Ready,
    Received,
    Stop,
    ToMain,
    ToWorker,
    in_chunks,
)

DEADLINE_MS = 10_000
MESSAGES: list[ToWorker | ToMain] = [
    Ready(),
    Beat(),
    Received(),
    EndSessions(((b"x" * 16, 1),), "connection lost"),
    Closed((b"x" * 16, b"y" * 16)),
    Quiesce(),
    Quiesced(),
    Stop("maintenance"),
]


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """Both ends of a channel."""
    main, worker = map(Channel, Pipe())
    yield main, worker
    main.close()
    worker.close()


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What a test opens is closed at its end."""
    with ExitStack() as stack:
        yield stack


def receive(channel: Channel) -> tuple[ToWorker | ToMain, list[int]]:
    """The next message, which must come."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    assert poll.poll(DEADLINE_MS)
    return channel.receive()


def sids(count: int) -> tuple[bytes, ...]:
    return tuple(secrets.token_bytes(16) for _ in range(count))


def hand_off(stack: ExitStack, count: int) -> tuple[HandOff, list[int], list[socket.socket]]:
    """So many clients to hand over, their descriptors, and the other ends of their connections."""
    pairs = [socket.socketpair() for _ in range(count)]
    for ours, peer in pairs:
        stack.enter_context(ours)
        stack.enter_context(peer)
    # The longest address there is: IPv6 with an IPv4 address in it.
    address = "0000:0000:0000:0000:0000:ffff:255.255.255.255"
    clients = tuple(Handed(sid, address, 2**31, "a-dialect", 2**31) for sid in sids(count))
    return HandOff(clients), [ours.fileno() for ours, _ in pairs], [peer for _, peer in pairs]


def expect_connected(descriptors: list[int], peers: list[socket.socket]) -> None:
    """Each descriptor is the other end of its peer, in this order; closes the descriptors."""
    assert len(descriptors) == len(peers)
    for descriptor, peer in zip(descriptors, peers, strict=True):
        name = secrets.token_bytes(8)
        os.write(descriptor, name)
        os.close(descriptor)
        assert peer.recv(100) == name


def fill(channel: Channel) -> int:
    """Post until a message has to wait; give how many were posted."""
    count = 0
    while not channel.backlog:
        channel.post(Stop(f"{count:010000d}"))
        count += 1
        assert count < 1000
    return count


# --- messages and descriptors -------------------------------------------------------------------------------


def test_messages_arrive_whole_and_in_order_both_ways(ends: tuple[Channel, Channel]) -> None:
    for sender, receiver in (ends, ends[::-1]):
        for message in MESSAGES:
            sender.post(message)
        assert sender.backlog == 0
        assert [receive(receiver) for _ in MESSAGES] == [(message, []) for message in MESSAGES]


def test_descriptors_arrive_with_their_message(ends: tuple[Channel, Channel], opened: ExitStack) -> None:
    main, worker = ends
    peers = []
    for count in (1, 3):
        message, descriptors, others = hand_off(opened, count)
        main.post(message, descriptors)
        main.post(Quiesce())
        peers.append((message, others))
    for message, others in peers:
        got, received = receive(worker)
        assert got == message
        expect_connected(received, others)
        assert receive(worker) == (Quiesce(), [])


def test_the_largest_hand_off_fits_a_message(ends: tuple[Channel, Channel], opened: ExitStack) -> None:
    main, worker = ends
    message, descriptors, peers = hand_off(opened, HANDOFF_MOST)
    main.post(message, descriptors)
    got, received = receive(worker)
    assert got == message
    expect_connected(received, peers)


def test_the_largest_number_of_session_ids_fits_a_message(ends: tuple[Channel, Channel]) -> None:
    main, worker = ends
    sessions = tuple((sid, (1 << 32) - 1) for sid in sids(SIDS_MOST))
    for message in (Closed(sids(SIDS_MOST)), EndSessions(sessions, "connection lost")):
        main.post(message)
        assert receive(worker) == (message, [])


def test_a_message_that_is_too_long_is_rejected_and_the_channel_still_works(ends: tuple[Channel, Channel]) -> None:
    main, worker = ends
    with pytest.raises(ValueError, match="a control message of"):
        main.post(Stop("x" * MESSAGE_MOST))
    main.post(Beat())
    assert receive(worker) == (Beat(), [])


@pytest.mark.parametrize("count", [0, 1, SIDS_MOST, SIDS_MOST + 1, 3 * SIDS_MOST])
def test_session_ids_are_cut_into_chunks(count: int) -> None:
    all_of_them = sids(count)
    chunks = list(in_chunks(all_of_them))
    assert sum(chunks, ()) == all_of_them
    assert all(0 < len(chunk) <= SIDS_MOST for chunk in chunks)
    assert len(chunks) == -(-count // SIDS_MOST)


# --- the other side does not read ---------------------------------------------------------------------------


def test_messages_without_room_wait_in_order_and_nothing_blocks(
    ends: tuple[Channel, Channel], opened: ExitStack
) -> None:
    main, worker = ends
    # So a write that does not fit would hang here.
    assert not fcntl.fcntl(main.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK
    count = fill(main)
    message, descriptors, peers = hand_off(opened, 2)
    main.post(message, descriptors)
    assert main.backlog == 2
    main.pump()
    assert main.backlog == 2
    expected: list[ToWorker] = [Stop(f"{number:010000d}") for number in range(count)]
    for wanted in expected:
        assert receive(worker) == (wanted, [])
        main.pump()
    got, received = receive(worker)
    assert got == message
    expect_connected(received, peers)
    assert main.backlog == 0


def test_the_channel_is_writable_again_when_the_peer_has_read(ends: tuple[Channel, Channel]) -> None:
    """What the loops of both sides wait for while there is a backlog."""
    main, worker = ends
    count = fill(main)
    poll = select.poll()
    poll.register(main.fileno(), select.POLLOUT)
    assert not poll.poll(0)
    for _ in range(count - 1):
        receive(worker)
    assert poll.poll(DEADLINE_MS)
    main.pump()
    assert main.backlog == 0
    receive(worker)


# --- the other side is gone ---------------------------------------------------------------------------------


def test_reading_and_writing_notice_a_closed_peer(ends: tuple[Channel, Channel]) -> None:
    main, worker = ends
    worker.close()
    with pytest.raises(ChannelClosed):
        main.post(Beat())
    with pytest.raises(ChannelClosed):
        receive(main)


def test_messages_sent_before_the_end_are_received(ends: tuple[Channel, Channel]) -> None:
    main, worker = ends
    worker.post(Ready())
    worker.post(Closed(()))
    worker.close()
    assert [receive(main), receive(main)] == [(Ready(), []), (Closed(()), [])]
    with pytest.raises(ChannelClosed):
        receive(main)


def test_pumping_notices_the_end_of_the_channel(ends: tuple[Channel, Channel]) -> None:
    main, worker = ends
    fill(main)
    worker.close()
    with pytest.raises(ChannelClosed):
        main.pump()


def test_a_hand_off_without_its_descriptors_ends_the_channel(ends: tuple[Channel, Channel], opened: ExitStack) -> None:
    """Main was killed between the message and its descriptors."""
    main, worker = ends
    message, _, _ = hand_off(opened, 1)
    main.post(message)
    main.close()
    with pytest.raises(ChannelClosed):
        receive(worker)
