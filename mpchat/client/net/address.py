"""Where a server listens, as people write it: HOST, HOST:PORT, IPv6 with or without brackets.

Pure: judges the form only. Whether the host exists is found out when it is resolved.
"""

import ipaddress
from dataclasses import dataclass, field

from mpchat.client.errors import AddressError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 4000


@dataclass(frozen=True, slots=True)
class Address:
    """A host (a name, IPv4, or IPv6 without brackets) and a TCP port. str() is what `parse_address` reads."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    has_port: bool = field(default=False, compare=False)
    """Whether the port was written and is not the default one."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def add_port(address: Address, text: str) -> Address:
    """The address with the port in `text`, as in `nc HOST PORT`. Raises AddressError, also if there was one already."""
    if address.has_port:
        raise AddressError(f"{address} has a port already")
    return Address(address.host, parse_port(text), has_port=True)


def parse_address(text: str) -> Address:
    """Read `HOST`, `HOST:PORT`, `[IPV6]`, `[IPV6]:PORT` or a bare `IPV6`. Raises AddressError."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or not is_ipv6(host) or (rest and not rest.startswith(":")):
            raise AddressError(f"{text!r} is not [IPV6]:PORT")
        return Address(host, parse_port(rest[1:]), has_port=True) if rest else Address(host)
    if is_ipv6(text):
        return Address(text)
    host, colon, port = text.partition(":")
    if not host or not host.isprintable() or " " in host:
        raise AddressError(f"{text!r} has no host")
    return Address(host, parse_port(port), has_port=True) if colon else Address(host)


def parse_port(text: str) -> int:
    # int() alone would take " 4000", "+4000", "4_000" and the digits of other scripts. isdecimal() alone lets
    # the last through, and a long number would cost int() quadratic time.
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise AddressError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
