"""What people write for the address of a server."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.client.errors import AddressError
from mpchat.client.net.address import Address, add_port, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost", Address("localhost", 4000)),
        ("127.0.0.1:5000", Address("127.0.0.1", 5000)),
        ("chat.example.org:1", Address("chat.example.org", 1)),
        ("[::1]:5000", Address("::1", 5000)),
        ("[::1]", Address("::1", 4000)),
        ("::1", Address("::1", 4000)),
        ("fe80::1%eth0", Address("fe80::1%eth0", 4000)),
        ("höst:65535", Address("höst", 65535)),
    ],
)
def test_reads_what_is_an_address(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", ":4000", "host:", "host:0", "host:65536", "host:4 000", "host:+1", "host:-1", "host:4_0", "host:٤٠٠٠",
        "host:http", "1:2:3", "[::1", "[::1]x", "[::1]:", "[host]:4000", "[]:4000", "a b", "a\nb", "host:" + "9" * 9000,
    ],
)  # fmt: skip
def test_refuses_what_is_none(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


HOSTS = st.text(string.ascii_letters + string.digits + ".-", min_size=1) | st.ip_addresses().map(str)


@given(host=HOSTS, port=st.integers(1, 65535))
def test_reads_what_it_writes(host: str, port: int) -> None:
    assert parse_address(str(Address(host, port))) == Address(host, port)


@given(text=st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError:
        return
    assert address.host
    assert 1 <= address.port <= 65535


@pytest.mark.parametrize("host", ["localhost", "10.0.0.1", "::1", "[::1]", "fe80::1%eth0"])
def test_a_port_beside_the_host(host: str) -> None:
    assert add_port(parse_address(host), "4001") == Address(host.strip("[]"), 4001)


@pytest.mark.parametrize(("text", "port"), [("a:1", "2"), ("[::1]:4000", "4000"), ("a", "x"), ("a", "9 9"), ("a", "")])
def test_a_wrong_port_beside_the_host(text: str, port: str) -> None:
    with pytest.raises(AddressError):
        add_port(parse_address(text), port)
