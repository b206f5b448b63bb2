"""Admission: the limits on clients. Pure: it counts each client that comes or goes, and admits or rejects.

Owns the counts of clients, in total and by address. Promises that the limits hold at every moment between `admit` and
`leave`. IPv6 addresses count by their /64, which is what one household or one attacker is given (RFC 6177).
"""

import ipaddress
from collections import Counter
from collections.abc import Sequence

from mpchat.chat.problems import Problem, Refusal

_IPV6_PREFIX = 64


class Admission:
    """The limits. `max_per_address` does not count for addresses in `exempt` networks; 0 means no limit."""

    def __init__(self, max_clients: int, max_per_address: int, exempt: Sequence[str]) -> None:
        self._clients = 0
        # Counts exempt addresses, too: the exemption may change.
        self._by_address: Counter[str] = Counter()
        self.change(max_clients, max_per_address, exempt)

    def change(self, max_clients: int, max_per_address: int, exempt: Sequence[str]) -> None:
        """Change the limits. Clients that are admitted stay."""
        self._max_clients = max_clients
        self._max_per_address = max_per_address
        self._exempt = [ipaddress.ip_network(network) for network in exempt]

    @property
    def clients(self) -> int:
        """How many clients are admitted."""
        return self._clients

    def admit(self, address: str) -> None:
        """Admit a client from `address`, in the kernel's notation. Raises Refusal when a limit is reached."""
        if self.clients >= self._max_clients:
            raise Refusal(Problem.SERVER_FULL, str(self._max_clients))
        if self._counts(address) and self._by_address[address_key(address)] >= self._max_per_address:
            raise Refusal(Problem.ADDRESS_FULL, str(self._max_per_address))
        self.restore(address)

    def restore(self, address: str) -> None:
        """Count a client that was admitted earlier, even above the limits."""
        self._clients += 1
        self._by_address[address_key(address)] += 1

    def leave(self, address: str) -> None:
        """Note that an admitted client from `address` has gone."""
        self._clients -= 1
        key = address_key(address)
        self._by_address[key] -= 1
        if not self._by_address[key]:
            del self._by_address[key]

    def _counts(self, address: str) -> bool:
        if not self._max_per_address:
            return False
        parsed = _parse(address)
        return not any(parsed.version == network.version and parsed in network for network in self._exempt)


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Parse an address without its scope. An IPv4 address that is mapped into IPv6 becomes IPv4 again."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def address_key(address: str) -> str:
    """Return the network that the addresses of one household or attacker share."""
    parsed = _parse(address)
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
