"""A server that listens on several addresses, through each change of its life."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import Chatter, Server, run_mpchat, running_server, starting_server

SOME = ("127.0.0.1", "127.0.0.2", "127.0.0.3")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, loopback has one address")


@pytest.fixture
def port() -> int:
    """A port that is free on each of SOME."""
    sockets = [socket.create_server((SOME[0], 0))]
    number = int(sockets[0].getsockname()[1])
    try:
        sockets += [socket.create_server((host, number)) for host in SOME[1:]]
    finally:
        for each in sockets:
            each.close()
    return number


@pytest.fixture
def server(port: int) -> Iterator[Server]:
    options = [word for host in SOME for word in ("--host", host)]
    with running_server(*options, "--port", str(port), "--workers", "2") as server:
        yield server


def chat_on_each(server: Server, mark: str) -> list[Chatter]:
    """A client on each address. They see each other."""
    chatters = []
    for number, host in enumerate(SOME):
        chatter = Chatter(host, server.port)
        chatter.sign_on(f"{mark}{number}")
        chatters.append(chatter)
    chatters[-1].say(f"hello from {mark}")
    for chatter in chatters[:-1]:
        chatter.expect(f"{mark}{len(SOME) - 1}: hello from {mark}")
    return chatters


def check_still_there(chatters: list[Chatter], text: str) -> None:
    chatters[0].say(text)
    for chatter in chatters[1:]:
        while not chatter.expect_start("").endswith(f": {text}"):
            pass


def test_the_ready_line_names_the_first_and_the_log_the_others(server: Server) -> None:
    assert server.stdout == [f"mpchat ready on {SOME[0]}:{server.port}, 2 workers"]
    for host in SOME[1:]:
        server.expect_log(f" main INFO also listening address={host}:{server.port}")
    for chatter in chat_on_each(server, "a"):
        chatter.close()


def test_hup_keeps_them(server: Server) -> None:
    chatters = chat_on_each(server, "a")
    server.process.send_signal(signal.SIGHUP)
    server.expect_log(" retired", count=2)
    check_still_there(chatters, "after HUP")
    for chatter in [*chatters, *chat_on_each(server, "b")]:
        chatter.close()
    assert not [line for line in server.stderr if "WARNING" in line]


def test_an_upgrade_in_place_keeps_them(server: Server) -> None:
    chatters = chat_on_each(server, "a")
    server.process.send_signal(signal.SIGUSR2)
    server.expect_log("the program is replaced old=")
    check_still_there(chatters, "after USR2")
    for chatter in [*chatters, *chat_on_each(server, "b")]:
        chatter.close()
    server.expect_log(f" main INFO also listening address={SOME[1]}:{server.port}", count=2)
    assert not [line for line in server.stderr if "WARNING" in line]


def test_term_ends_all_of_them(server: Server) -> None:
    chatters = chat_on_each(server, "a")
    server.process.terminate()
    for chatter in chatters:
        assert chatter.expect_end()[-1] == "! The server is stopping."
        chatter.close()
    server.expect_exit(0)
    for host in SOME:
        socket.create_server((host, server.port)).close()


def test_they_cannot_change_while_the_server_runs(tmp_path: Path) -> None:
    file = tmp_path / "mpchat.toml"
    file.write_text('host = ["127.0.0.1", "127.0.0.2"]\n')
    with running_server("--config", str(file), "--workers", "1") as server:
        file.write_text('host = "127.0.0.1"\n')
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("cannot be changed while the server runs options=host")


def test_one_that_cannot_be_had_ends_the_start(port: int) -> None:
    with socket.create_server((SOME[1], port)):
        done = run_mpchat("--host", SOME[0], "--host", SOME[1], "--port", str(port))
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"mpchat-server: cannot listen: the address {SOME[1]}:{port} is in use\n"


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_beyond_loopback_the_log_warns(host: str, warned: bool) -> None:
    with starting_server("--host", host, "--workers", "1") as server:
        server.wait_ready()
        warning = f"there is no encryption and there are no accounts yet address={host}:{server.port}"
        assert bool([line for line in server.stderr if "WARNING" in line and warning in line]) is warned
        server.stop()
