"""The sequencer: a `multiprocessing.Manager` process that keeps a `MemoryLog`.

Owns the process, and the socket it listens on. Main has one sequencer at a time, and gives it the journal in which the
log is kept, so that the next sequencer continues where this one was killed. Promises that main's own link is there from
the start, without connecting. The process ends by itself when main is gone, and not before.

The Manager listens in the abstract namespace (unix(7)), so that no file has to stay in its place; on macOS, which has
no such namespace, on a path.
"""

import logging
import os
import secrets
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing import connection, current_process
from multiprocessing.managers import Server
from pathlib import Path
from typing import Any, NoReturn

from mpchat.child import Child, start_child
from mpchat.errors import ForkError, in_words
from mpchat.log.local.desk import Desk
from mpchat.log.local.journal import Journal
from mpchat.log.local.link import ManagerLink
from mpchat.log.local.memory import MemoryLog
from mpchat.log.local.proxy import LOST, LogProxy, ManagerAddress, connect_manager
from mpchat.log.port import CONNECT_SECONDS, LogError, LogLost
from mpchat.logs import start_logging

log = logging.getLogger(__name__)

LOG = "log"
"""The name of the log in its Manager."""

ACCEPT_PAUSE = 0.1
"""Seconds until the Manager accepts again, when the system had no descriptor or no thread for a connection."""

_METHODS = (
    *("publish", "read", "claim_snapshot", "ping", "put_snapshot", "get_snapshot"),
    *("find_snapshot", "read_snapshot", "stage_snapshot", "put_staged_snapshot"),
)


class _LogServer(Server):
    """The Manager inside its process. A thread accepts connections, and another thread authenticates each of them. Then
    the desk answers the calls of all, in the main thread."""

    id_to_obj: dict[str, Any]  # by name: the object, the methods that may be called, and more
    listener: connection.Listener

    def __init__(self, address: str, source: MemoryLog, own: int) -> None:
        """`own`: the descriptor of main's link, which is answered from the start."""
        registry: dict[str, Any] = {"another log": (MemoryLog, _METHODS, None, None)}
        super().__init__(registry, address, current_process().authkey, "pickle")
        self.id_to_obj[LOG] = (source, set(_METHODS), {})
        self._desk = Desk(lambda ident: self.id_to_obj[ident][:2])
        self._desk.seat(own)

    def serve_forever(self) -> NoReturn:
        self.stop_event = threading.Event()
        threading.Thread(target=self.accepter, name="accepts connections", daemon=True).start()
        self._desk.run()

    def accepter(self) -> NoReturn:
        """Accept connections. A shortage of descriptors or threads passes, so accepting goes on after a pause."""
        while True:
            try:
                arrival = self.listener.accept()
            except OSError:
                time.sleep(ACCEPT_PAUSE)
                continue
            if not _is_ours(arrival.fileno()):
                arrival.close()
                continue
            try:
                threading.Thread(target=self.handle_request, args=(arrival,), daemon=True).start()
            except RuntimeError as error:
                log.error("log connection refused reason=%s", error)
                arrival.close()
                time.sleep(ACCEPT_PAUSE)

    def serve_client(self, conn: "connection.Connection[Any, Any]") -> NoReturn:
        """Seat the authenticated connection at the desk, and end this thread, which then closes `conn`."""
        try:
            self._desk.seat(os.dup(conn.fileno()))
        except OSError:
            sys.exit(1)  # no descriptor is left: the caller sees the connection end
        sys.exit(0)

    def shutdown(self, c: object) -> NoReturn:
        """End at the request of the Manager's owner. There is nothing to finish."""
        os._exit(0)


class Sequencer:
    """The sequencer's process, as main holds it.

    The log is kept in `journal`, which stays its owner's: when the process has ended and this is stopped, another
    sequencer continues on it. Without a journal, the log ends with the process.
    """

    def __init__(self, journal: Journal | None = None, keep: Sequence[int] = ()) -> None:
        """`keep`: descriptors that the process is to have open."""
        self._journal = journal
        self._keep = keep
        self._child: Child | None = None
        self._folder: Path | None = None
        self._proxy: LogProxy | None = None
        self.link: ManagerLink
        """Main's own link, after `launch`. The first answer to a `ping` on it says that the process has come up."""
        self.address: ManagerAddress
        """Where the log is, after `launch`."""

    def launch(self, **bounds: int) -> None:
        """Start the process, once. `bounds`: those of its `MemoryLog`, in bytes. Does not wait for it to come up.
        Raises ForkError, and then leaves nothing behind."""
        try:
            ours, theirs = socket.socketpair()
            listens_at = self._choose_address()
        except OSError as error:
            raise ForkError(f"no process can be started: {in_words(error)}") from error
        run = partial(_run_log_server, listens_at, self._journal, bounds, theirs)
        own = [] if self._journal is None or self._journal.descriptor is None else [self._journal.descriptor]
        with ours, theirs:
            try:
                self._child = start_child(run, [theirs.fileno(), *own, *self._keep], "sequencer")
            except BaseException:
                self._remove_folder()
                raise
            self.link = ManagerLink(connection.Connection(ours.detach()), LOG)
        self.address = ManagerAddress(listens_at, LOG)

    def start(self, **bounds: int) -> LogProxy:
        """As `launch`, and wait until the process has come up. Raises LogLost when it does not, and LogError when it
        cannot continue from the journal; then it leaves nothing behind."""
        self.launch(**bounds)
        try:
            self.link.call("ping")
            self.link.receive()
            self._proxy = self.address.open_log()
        except LogError:
            self.stop()
            raise
        return self._proxy

    def make_log(self, **bounds: int) -> LogProxy:
        """Make another, empty log in the running process, which ends with it. Raises LogLost."""
        # The Manager keeps an object until its creator releases it, which we never do.
        try:
            with connect_manager(self.address.socket, current_process().authkey, CONNECT_SECONDS) as link:
                link.send((None, "create", ("another log",), bounds))
                kind, result = link.recv()
        except LOST as error:
            raise LogLost(f"the sequencer does not answer: {in_words(error)}") from error
        if kind != "#RETURN":
            raise LogError(f"the sequencer failed: {result}")
        return LogProxy(ManagerAddress(self.address.socket, result[0]))

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def sentinel(self) -> int:
        """The descriptor. It is readable when the process has ended."""
        assert self._child is not None
        return self._child.sentinel

    def kill(self) -> None:
        """Kill the process, whatever it is doing. Its sentinel says when it has ended."""
        if self._child is not None:
            self._child.kill()

    def stop(self) -> int | None:
        """Kill the process and wait until it has ended; close its link and the proxy of `start`. Return its exit code
        (negative: the signal that killed it), or None when there is none. The journal is whole, as after any kill."""
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            proxy.close()
        child, self._child = self._child, None
        if child is None:
            return None
        # All that it has answered for is in the journal. It has nothing else to save.
        code = child.end()
        self.link.close()
        self._remove_folder()
        return code

    def _choose_address(self) -> str:
        """Choose where the Manager is to listen. Nobody else can guess it."""
        if sys.platform == "linux":
            return f"\0mpchat-{secrets.token_hex(16)}"
        self._folder = Path(tempfile.mkdtemp(prefix="mpchat-"))
        return str(self._folder / "log")

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _run_log_server(listens_at: str, journal: Journal | None, bounds: dict[str, Any], own: socket.socket) -> int:
    """Run the sequencer's process. If the log cannot be opened, tell main why over its link."""
    start_logging("sequencer")
    try:
        source = MemoryLog(journal=journal, **bounds)
    except LogError as error:
        connection.Connection(own.detach()).send(("#ERROR", error))
    else:
        _LogServer(listens_at, source, own.detach()).serve_forever()
    return 1


def _is_ours(descriptor: int) -> bool:
    """Whether the peer runs as our user: any process on the machine can find an abstract address (unix(7))."""
    if sys.platform != "linux":
        return True  # only our user can enter the folder of the socket
    with socket.socket(fileno=os.dup(descriptor)) as same:
        _, user, _ = struct.unpack("3i", same.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.geteuid())
