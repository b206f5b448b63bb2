"""The log of a whole server says who came, from where, who left and why: once each, whatever becomes of the workers."""

from __future__ import annotations

import re
import signal
from collections import Counter

import pytest
from server import BACKLOG_OPTIONS, Backlog, Server, eventually, running_server, survivable

LEFT = re.compile(r" main INFO client left name=(\S+) address=127.0.0.1 seconds=\d+ reason=(.+)$")
SIGNED_ON = re.compile(r" main INFO client signed on name=(\S+) address=127.0.0.1$")


def count_signed_on(server: Server) -> Counter[str]:
    return Counter(match[1] for line in list(server.stderr) if (match := SIGNED_ON.search(line)))


def list_left(server: Server) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for line in list(server.stderr) if (match := LEFT.search(line))]


def test_who_came_and_who_left_and_why() -> None:
    with running_server("--workers", "2") as server:
        names = ["ann", "bob", "eve", "zoe"]
        ann, bob, eve, zoe = (server.chat(name) for name in names)
        server.connect()  # says nothing, and is not worth a line
        bob.ask("/nick bobby", "* ")
        ann.say("/quit a secret reason")
        bob.end_sending()
        eve.reset()
        eventually(lambda: len(list_left(server)) == 3, "three have left")
        server.stop()
        zoe.close()
        assert count_signed_on(server) == Counter(names)
        assert sorted(list_left(server)) == [
            ("ann", "quit"),
            ("bobby", "connection closed"),
            ("eve", "connection lost"),
            ("zoe", "server stopping"),
        ]
        server.expect_log(" main INFO client renamed name=bob new=bobby address=127.0.0.1")
        assert not [line for line in server.stderr if "secret" in line]


def test_those_who_are_here_when_it_ends_at_once() -> None:
    with running_server("--workers", "2") as server:
        chatters = [server.chat(name) for name in ("ann", "bob")]
        server.expect_log("client signed on name=", count=2)
        server.stop(signal.SIGINT)
        for chatter in chatters:
            chatter.close()
        assert sorted(name for name, _ in list_left(server)) == ["ann", "bob"]


def test_a_client_that_is_cut_off_is_named() -> None:
    with running_server(*BACKLOG_OPTIONS, "--sendq", "70000", "--max-line", "4096") as server:
        backlog = Backlog(server)
        backlog.grow(6000)
        server.expect_log(" WARNING send queue exceeded name=slow session=")
        server.expect_log("client left name=slow ", "reason=send queue exceeded")
        assert [name for name, _ in list_left(server)] == ["slow"]


@survivable
def test_workers_that_are_killed_double_and_lose_no_line() -> None:
    names = [f"c{number}" for number in range(12)]
    with running_server("--workers", "2") as server:
        chatters = {name: server.chat(name) for name in names}
        staying = chatters["c0"]
        for round_, name in enumerate(names[1:7], 1):
            # It leaves while its worker dies.
            worker = server.worker_of(chatters[name])
            chatters[name].say("/quit")
            worker.kill()
            server.expect_log("ended code=-9", count=round_)
            # Not before the next worker has read it: the answer before that counts the client, and others are notices.
            start = f"* {len(names) - round_} in #lobby: "
            eventually(lambda start=start: staying.ask("/who", "* ").startswith(start), start)  # type: ignore[misc]
        for name in names[7:]:
            chatters[name].reset()
        eventually(lambda: len(list_left(server)) >= len(names) - 1, f"all but one have left: {list_left(server)}")
        assert count_signed_on(server) == Counter(names)
        assert Counter(name for name, _ in list_left(server)) == Counter(names[1:])


def test_an_upgrade_doubles_and_loses_no_line() -> None:
    with running_server("--workers", "2") as server:
        ann, bob = server.chat("ann"), server.chat("bob")
        for count in (1, 2):
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("the program is replaced old=", count=count)
        ann.say("/quit")
        ann.expect_end()
        bob.ask("/who", "* 1 in #lobby: bob")
        eventually(lambda: list_left(server), "ann has left")
        bob.close()
        eventually(lambda: len(list_left(server)) == 2, "bob has left")
        assert count_signed_on(server) == Counter(["ann", "bob"])
        assert [name for name, _ in list_left(server)] == ["ann", "bob"]


@pytest.mark.parametrize("option", ["--log-addresses=no", "--max-clients=2"])
def test_addresses_can_be_left_out(option: str) -> None:
    with running_server("--workers", "1", "--max-clients", "1", option) as server:
        server.chat("ann")
        if option == "--log-addresses=no":
            server.connect().expect_end()
            server.expect_log("client rejected address=withheld reason=server_full")
            server.expect_log("client signed on name=ann address=withheld")
            assert not [line for line in server.stderr if "address=127.0.0.1" in line]
        else:
            server.expect_log("client signed on name=ann address=127.0.0.1")
