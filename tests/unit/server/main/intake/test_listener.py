"""The listener: which connections it takes, how it writes addresses, and what it says when it cannot listen."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest

from mpchat.errors import ListenError
from mpchat.server.main.intake.listener import Listener, open_listeners


def find_link_local() -> str:
    """An address of this machine that needs a scope, with it; an empty text if there is none."""
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as file:  # noqa: PTH123 - see ipv6(7)
            for line in file:
                digits, *_, interface = line.split()
                if digits.startswith("fe80"):
                    packed = bytes.fromhex(digits)
                    return f"{socket.inet_ntop(socket.AF_INET6, packed)}%{interface}"
    except OSError:
        pass
    return ""


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
dual_stack = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="IPv6 sockets take no IPv4 here")


def port_of(listener: Listener) -> int:
    return int(listener.address.rpartition(":")[2])


def arrive(listener: Listener, host: str) -> str:
    """Connect to the listener; give the address that it says the client has."""
    with socket.create_connection((host, port_of(listener)), 10):
        while not (arrivals := listener.accept()):
            pass
        [arrival] = arrivals
        arrival.socket.close()
        return arrival.address


@ipv6
@dual_stack
def test_every_ipv6_address_is_every_ipv4_address_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mpchat")
    with closing(Listener("::", 0, "line")) as listener:
        assert arrive(listener, "127.0.0.1") == "127.0.0.1"
        assert arrive(listener, "::1") == "::1"
    assert [record.getMessage() for record in caplog.records] == ["IPv4 is taken too address=[::]:0"]


@ipv6
def test_where_the_system_keeps_them_apart_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with closing(Listener("::", 0, "line")) as listener:
        assert arrive(listener, "::1") == "::1"
        with pytest.raises(ConnectionRefusedError):
            arrive(listener, "127.0.0.1")
    assert caplog.messages == ["IPv4 is not taken: add --host 0.0.0.0 for it address=[::]:0"]


@ipv6
def test_with_every_ipv4_address_beside_it_it_leaves_those_alone() -> None:
    with ExitStack() as stack:
        port = port_of(stack.enter_context(closing(Listener("127.0.0.1", 0, "line"))))
        stack.close()
        v6, v4 = (stack.enter_context(closing(each)) for each in open_listeners(("::", "0.0.0.0"), port, "line"))
        assert (v6.address, v4.address) == (f"[::]:{port}", f"0.0.0.0:{port}")
        assert arrive(v4, "127.0.0.1") == "127.0.0.1"
        assert arrive(v6, "::1") == "::1"


@pytest.mark.skipif(not find_link_local(), reason="no address with a scope here")
def test_the_scope_of_a_link_local_address_stays() -> None:
    address = find_link_local()
    with closing(Listener(address, 0, "line")) as listener:
        assert listener.address == f"[{address}]:{port_of(listener)}"
        assert not listener.is_loopback
        assert arrive(listener, address) == address


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("localhost", True), ("0.0.0.0", False), ("::1", True), ("::", False)],
)
def test_which_addresses_only_this_machine_reaches(host: str, is_loopback: bool) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6 here")
    with closing(Listener(host, 0, "line")) as listener:
        assert listener.is_loopback is is_loopback


def test_when_one_cannot_be_had_none_stays_open() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=f"^cannot listen: the address 127.0.0.1:{port} is in use$"):
            open_listeners(("127.0.0.2", "127.0.0.1"), port, "line")
        socket.create_server(("127.0.0.2", port)).close()


@pytest.mark.parametrize("host", ["no such host.invalid", "a..b", "fe80::1%no-such-interface"])
def test_a_host_that_does_not_exist(host: str) -> None:
    with pytest.raises(ListenError) as raised:
        Listener(host, 4000, "line")
    assert str(raised.value) == f"cannot listen: there is no host {host!r}"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EADDRNOTAVAIL, "cannot listen: this machine does not have the address 127.0.0.1:4000"),
        (errno.EACCES, "cannot listen: this user may not listen on 127.0.0.1:4000"),
        (errno.ENOBUFS, f"cannot listen on 127.0.0.1:4000: {os.strerror(errno.ENOBUFS)}"),
    ],
)
def test_what_the_system_refuses_is_in_words(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def refuse(*_: Any) -> Callable[..., Any]:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(ListenError) as raised:
        Listener("127.0.0.1", 4000, "line")
    assert str(raised.value) == words
