"""The servers of the benchmark: mpchat, the baselines, and servers from Debian packages.

Owns their configurations (minimal, with the limits lifted), processes and directories. Promises that nothing of them is
left when the block of `running` ends. They listen on 127.0.0.1 only.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mpchat.archive.database import open_database
from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.limits import deferred_interrupts
from mpchat_tools.common.server import READY_S, SENDQ, Server, disk_folder
from mpchat_tools.common.server import running as running_own

LOOK_AGAIN_S = 0.02
HOST = "127.0.0.1"
DAEMONS = os.pathsep.join(["/usr/sbin", "/usr/local/sbin"])  # often not in the PATH of a user

Compose = Callable[[Path, int, int], Sequence[str]]
"""Directory, port and number of clients to the command; it may write files into the directory."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare. `command` is what starts mpchat; the others have `compose` and perhaps `program`.

    `keeps`: it gets a data directory, fresh for each run and on the disk.
    `window`: how many clients may sign on at the same time. More than a server's listen backlog are not served faster
    but ignored for a second, and one that registers once a second needs many.
    """

    name: str
    dialect: str
    program: str = ""
    compose: Compose | None = None
    command: Sequence[str] = ()
    keeps: bool = False
    window: int = 1000

    @property
    def is_ours(self) -> bool:
        return self.compose is None

    def is_installed(self) -> bool:
        return not self.program or find_program(self.program) is not None


def find_program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=DAEMONS)


# --- configurations


def baseline(kind: str) -> Compose:
    path = Path(__file__).with_name("baselines.py")
    return lambda folder, port, clients: [sys.executable, str(path), kind, "--port", str(port)]


def compose_ngircd(folder: Path, port: int, clients: int) -> list[str]:
    (folder / "motd").write_text("")
    (folder / "conf").write_text(
        f"[Global]\nName = irc.example.net\nListen = {HOST}\nPorts = {port}\nMotdFile = {folder}/motd\n"
        "AdminInfo1 = none\nAdminInfo2 = none\nAdminEMail = none@example.net\n"
        "[Limits]\nMaxConnections = 0\nMaxConnectionsIP = 0\nMaxJoins = 0\nMaxPenaltyTime = 0\n"
        "PingTimeout = 3600\nPongTimeout = 3600\n"
        "[Options]\nDNS = no\nIdent = no\nPAM = no\nSyslogFacility = local0\n"
    )
    return ["ngircd", "-n", "-f", str(folder / "conf")]


def compose_inspircd(folder: Path, port: int, clients: int) -> list[str]:
    room = clients + 64
    (folder / "conf").write_text(
        '<server name="irc.example.net" description="benchmark" id="00B" network="benchmark">\n'
        '<admin name="none" nick="none" email="none@example.net">\n'
        f'<bind address="{HOST}" port="{port}" type="clients">\n'
        f'<connect allow="*" timeout="60" pingfreq="3600" hardsendq="{SENDQ}" softsendq="{SENDQ}" recvq="{SENDQ}" '
        f'threshold="1000000" commandrate="1000000000" fakelag="no" localmax="{room}" globalmax="{room}" '
        'maxconnwarn="no" resolvehostnames="no" useconnectban="no" limit="100000">\n'
        '<performance netbuffersize="65534" somaxconn="4096" softlimit="100000" quietbursts="yes">\n'
        f'<pid file="{folder}/pid">\n<log method="file" target="{folder}/log" type="*" level="sparse">\n'
        '<options prefixquit="" syntaxhints="no">\n<class name="none">\n'
    )
    return ["inspircd", "--nofork", "--runasroot", "--config", str(folder / "conf")]


def compose_redis(folder: Path, port: int, clients: int) -> list[str]:
    (folder / "conf").write_text(
        f'bind {HOST}\nport {port}\ndir {folder}\nsave ""\nappendonly no\nloglevel warning\ntimeout 0\n'
        f"tcp-backlog 4096\nmaxclients {clients + 64}\nclient-output-buffer-limit pubsub 0 0 0\n"
    )
    return ["redis-server", str(folder / "conf")]


def compose_nats(folder: Path, port: int, clients: int) -> list[str]:
    (folder / "conf").write_text(
        f'listen: "{HOST}:{port}"\nmax_connections: {clients + 64}\nmax_pending: {SENDQ}\n'
        'write_deadline: "60s"\nping_interval: "1h"\nmax_control_line: 4096\n'
    )
    return ["nats-server", "-c", str(folder / "conf")]


PEERS = [
    Peer("ngircd", "irc", "ngircd", compose_ngircd, window=8),
    Peer("inspircd", "irc", "inspircd", compose_inspircd, window=4000),
    Peer("redis", "redis", "redis-server", compose_redis),
    Peer("nats", "nats", "nats-server", compose_nats),
    *(Peer(kind, "plain", compose=baseline(kind)) for kind in ("blocks", "asyncio", "threads")),
]


# --- running them


@contextmanager
def running(peer: Peer, clients: int, workers: int) -> Iterator[Server]:
    """The server, ready, until the block ends. ToolError if it does not come up."""
    with ExitStack() as stack:
        if peer.is_ours:
            yield from run_own(peer, clients, workers)
            return
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mpchat-benchmark-")))
        with deferred_interrupts():
            server = stack.enter_context(closing(PeerServer(peer, folder, clients)))
        server.wait_ready()
        yield server


def run_own(peer: Peer, clients: int, workers: int) -> Iterator[Server]:
    """mpchat, until the next step. A database with a gap is a ToolError: then the archive did less than the others."""
    with disk_folder() as folder:
        data = folder / "data"
        command = [*peer.command, *(["--data", str(data)] if peer.keeps else [])]
        with running_own(command, workers, clients, "warning") as server:
            yield server
        if peer.keeps:
            with closing(open_database(data, read_only=True)) as database:
                if gaps := database.list_gaps():
                    raise ToolError(f"the database has a gap: {gaps[0].reason}")


class PeerServer(Server):
    """A server that somebody else wrote, or a baseline."""

    def __init__(self, peer: Peer, folder: Path, clients: int) -> None:
        assert peer.compose is not None
        self.host, self.port = HOST, find_free_port()
        program, *arguments = peer.compose(folder, self.port, clients)
        found = find_program(program)
        if found is None:
            raise ToolError(f"{program} is not installed")
        self._name = peer.name
        super().__init__([found, *arguments], folder)

    def wait_ready(self) -> None:
        """It is ready when it takes a connection: few of them say so."""
        deadline = time.monotonic() + READY_S
        while True:
            if self._popen.poll() is not None:
                raise ToolError(f"{self._name} ended before it was ready:\n{self.log_tail()}")
            try:
                socket.create_connection((HOST, self.port), 1.0).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ToolError(f"{self._name} did not become ready:\n{self.log_tail()}") from error
            time.sleep(LOOK_AGAIN_S)


def find_free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])
