"""The configuration: one frozen value, made from all sources (`options`), and checked when it is made.

It is handed to each process that needs it. Never reads arguments, files or the environment: `cli` does.
"""

import ipaddress
from dataclasses import dataclass

from mpchat.errors import ConfigError

LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class Config:
    """The options of one server. Raises ConfigError when a value is invalid, or two values do not fit together.

    Times are in seconds, sizes in bytes. 0 means "no limit" for `rate` and `max_per_address`, "off" for
    `segment_timeout`. `keep` is in days, 0 for ever. Without `log_file`, the log goes to standard error.
    """

    host: tuple[str, ...] = ("127.0.0.1",)
    port: int = 4000
    workers: int = 2
    max_clients: int = 5000
    max_per_address: int = 50
    exempt: tuple[str, ...] = LOOPBACK
    rate: float = 10.0
    burst: int = 100
    history: int = 500
    segment_timeout: float = 0.2
    sign_on_timeout: float = 60.0
    sendq: int = 1 << 20
    max_line: int = 4096
    beat_timeout: float = 5.0
    drain_timeout: float = 10.0
    log_level: str = "info"
    log_file: str = ""
    log_addresses: bool = True
    data: str = ""
    keep: float = 0.0

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be from {least} to {most}")
        if self.log_level not in LOG_LEVELS:
            raise ConfigError(f"log_level = {self.log_level}: must be one of {', '.join(LOG_LEVELS)}")
        if self.sendq < 4 * self.max_line:
            raise ConfigError(f"sendq = {self.sendq}: must hold four lines of max_line = {self.max_line}")
        for network in self.exempt:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ConfigError(f"exempt: {error}") from error


WORKERS_MOST = 256

LOG_LEVELS = ("debug", "info", "warning", "error")

FIXED = ("host", "port", "history", "sendq", "max_line", "log_file", "data")
"""The options that cannot change while the server runs: the address, the limits that all replicas must agree on, the
sizes of shared memory, the path of the log, which each process reopens by itself, and the data directory."""

RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65535),
    "workers": (1, WORKERS_MOST),
    "max_clients": (1, 1_000_000),
    "max_per_address": (0, 1_000_000),
    "rate": (0, 1_000_000),
    "burst": (1, 1_000_000),
    "history": (0, 10_000),
    "segment_timeout": (0, 10),
    "sign_on_timeout": (0.1, 3600),
    "sendq": (4096, 1 << 30),
    "max_line": (64, 1 << 16),
    "beat_timeout": (0.5, 3600),
    "drain_timeout": (0.1, 600),
    "keep": (0, 100_000),
}
"""The lowest and highest value of each number. The highest ones bound what is allocated in advance, and catch typing
errors."""
