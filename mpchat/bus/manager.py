"""The sequencer: a `multiprocessing.Manager` process that keeps a `MemoryLog`, and the ways to it from other processes.

* `Sequencer` starts and ends the process; main has one at a time. What the log remembers is in the journal that main
  hands it, so that the next one goes on where this one was killed.
* `LogProxy` is the log for who can wait: each call waits for its answer. For start-up and tests.
* `LogLink` is one connection to the log for an event loop: `call` sends, the loop watches `fileno()`, `receive` takes
  the answer. A worker has two, one to publish and one to read, and so needs no thread and waits for nothing.

Every failure of the way to the sequencer is a LogLost. The sequencer ignores SIGINT and SIGTERM, which a terminal or a
service manager sends to the whole group, and ends by itself when main is gone: it serves until the last.
"""

import os
import sys
import threading
from functools import partial
from multiprocessing import AuthenticationError, connection, current_process, util
from multiprocessing.context import BaseContext
from multiprocessing.managers import BaseManager, RemoteError, Server
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mpchat.bus.contract import LogError, LogLost, Reading, Record, Snapshot
from mpchat.bus.desk import Desk
from mpchat.bus.journal import Journal
from mpchat.bus.memory import MemoryLog
from mpchat.lifeline import Grip, tie_to_main

_METHODS = ("publish", "read", "put_snapshot", "get_snapshot", "ping")

# What the three ways of losing a Manager raise: the end of the stream, a reset or refused connection, a closed handle.
_LOST = (EOFError, OSError)


class LogAddress(NamedTuple):
    """Where a log is: the Manager's socket, and the log's name there. Means something to main and its children only,
    which have main's key."""

    socket: str
    ident: str


class LogProxy:
    """A `contract.Log` in the sequencer. Can be sent to a process that is being started; threads may share it.

    It speaks as a `multiprocessing.managers.BaseProxy` does, one connection a thread, but is none. A BaseProxy that
    goes tells the Manager so, and waits for it; one that comes announces itself. The log is there as long as its
    process, and so this has nothing to tell: it can be made and dropped when the sequencer is dead or hangs.
    """

    def __init__(self, address: LogAddress) -> None:
        self.address = address
        self._links = threading.local()

    def publish(self, payload: bytes, entries: int) -> int:
        return int(self._call("publish", payload, entries))

    def read(self, after: int, wait: float, alone: float = 0.0) -> Reading:
        return _as_reading(self._call("read", after, wait, alone))

    def put_snapshot(self, seq: int, blob: bytes) -> None:
        self._call("put_snapshot", seq, blob)

    def get_snapshot(self, at_most: int | None = None) -> Snapshot:
        return Snapshot(*self._call("get_snapshot", at_most))

    def ping(self) -> int:
        """The number of the last entry."""
        return int(self._call("ping"))

    def connect(self) -> None:
        """See that this thread has a connection. Raises LogLost."""
        if getattr(self._links, "link", None) is None:
            self._links.link = self.open_link(threading.current_thread().name)

    def open_link(self, name: str) -> "LogLink":
        """A connection of its own to the log, for an event loop. The Manager gives `name` to the thread that lets it
        in."""
        try:
            raw = connection.Client(self.address.socket, authkey=current_process().authkey)
        except (*_LOST, AuthenticationError) as error:
            raise LogLost(f"the sequencer does not answer: {error!r}") from error
        # The Manager makes a connection a caller of methods when this is called of no object.
        introduction = LogLink(raw, None)
        try:
            introduction.call("accept_connection", name)
            introduction.receive()
        except LogError:
            introduction.close()
            raise
        return LogLink(raw, self.address.ident)

    def _call(self, method: str, *arguments: object) -> Any:
        self.connect()
        link: LogLink = self._links.link
        # Until its answer is there, the link is good for no other call.
        self._links.link = None
        try:
            link.call(method, *arguments)
            answer = link.receive()
        except LogLost:
            link.close()
            raise
        except LogError:
            self._links.link = link
            raise
        self._links.link = link
        return answer

    def close(self) -> None:
        """Close the connections of all threads, none of which has a call under way. A next call opens another."""
        self._links = threading.local()

    def __reduce__(self) -> tuple[object, ...]:
        return LogProxy, (self.address,)


def connect_log(address: LogAddress) -> LogProxy:
    """The log at this address, from a process that main has started. Raises LogLost when it is not there."""
    proxy = LogProxy(address)
    proxy.connect()
    return proxy


class LogLink:
    """One connection to the log; one call is under way at a time.

    The messages are those of `multiprocessing.managers`: (object, method, arguments, keywords) out, (kind, result)
    back. `call` and `receive` block only while one message passes between the process and the kernel's buffer: the
    sequencer takes what comes as it comes, and when the descriptor is readable, it has all of the answer and sends it
    as fast as it is taken.
    """

    def __init__(self, link: "connection.Connection[Any, Any]", ident: str | None) -> None:
        self._link = link
        self._ident = ident

    def fileno(self) -> int:
        """The descriptor that is readable when the answer is there, or the sequencer is gone."""
        return self._link.fileno()

    def call(self, method: str, *arguments: object) -> None:
        """Send a call; its answer must be received before the next one."""
        try:
            self._link.send((self._ident, method, arguments, {}))
        except _LOST as error:
            raise LogLost(f"the sequencer is gone: {error!r}") from error

    def receive(self) -> Any:
        """The answer. Raises what the method raised (LogTrimmed, LogFull), or LogLost."""
        try:
            kind, result = self._link.recv()
        except _LOST as error:
            raise LogLost(f"the sequencer is gone: {error!r}") from error
        if kind == "#RETURN":
            return result
        if isinstance(result, BaseException):
            raise result
        raise LogError(f"the sequencer failed: {result}")

    def receive_reading(self) -> Reading:
        """The answer to a `read`."""
        return _as_reading(self.receive())

    def close(self) -> None:
        self._link.close()


class _LogServer(Server):
    """What runs in the Manager's process. It accepts connections and finds out who they are, each in a thread of its
    own for as long as that takes; who then calls the log is answered by the desk, in the main thread."""

    id_to_obj: dict[str, Any]  # what there is: by name, it, what may be called of it, and more

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._desk = Desk(lambda ident: self.id_to_obj[ident][:2])

    def serve_forever(self) -> NoReturn:
        self.stop_event = threading.Event()
        threading.Thread(target=self.accepter, name="accepts connections", daemon=True).start()
        self._desk.run()

    def serve_client(self, conn: "connection.Connection[Any, Any]") -> NoReturn:
        """Give the connection to the desk, and end this thread, whose last act is to close `conn`."""
        try:
            self._desk.seat(os.dup(conn.fileno()))
        except OSError:
            sys.exit(1)  # no descriptor is left: who has called sees the connection end
        sys.exit(0)

    def shutdown(self, c: object) -> NoReturn:
        """What the Manager asks for in a process that ends without Sequencer.stop."""
        os._exit(0)


class _LogManager(BaseManager):
    """The Manager, with what BaseManager has and does not show."""

    _Server = _LogServer
    _registry: Any  # what can be made: by name, who makes it, and what may be called of it
    _process: Any = None  # from `start` on
    _create: Any  # makes one, and gives its token


class Sequencer:
    """The sequencer's process, as main holds it.

    The log is kept in `journal`, which remains its owner's: when the process has ended and this is stopped, another
    sequencer goes on with it. Without one, the log ends with the process.
    """

    def __init__(self, context: BaseContext, journal: Journal | None = None) -> None:
        self._manager = _LogManager(ctx=context)
        self._grip: Grip | None = None
        self._proxy: LogProxy | None = None
        # Of this Manager only: `register` would be for all. It goes to the new process, and the journal with it.
        self._manager._registry = {
            "log": (partial(MemoryLog, journal=journal), _METHODS, None, None),
            "another log": (MemoryLog, _METHODS, None, None),
        }

    def start(self, **bounds: int) -> LogProxy:
        """Start the process and the log in it, with these bounds of `MemoryLog` (bytes). Once only.

        Raises LogLost when it does not come up, LogError when it cannot go on from the journal, and then leaves
        nothing behind.
        """
        # The Manager's socket goes where main's are: a process that is started later uses the folder main had by then.
        util.get_temp_dir()
        try:
            self._manager.start(initializer=tie_to_main)
            self._grip = Grip(self.pid)
            self._proxy = self._make_log("log", bounds)
            return self._proxy
        except LogError:
            self.stop()
            raise
        except _LOST as error:
            self.stop()
            raise LogLost(f"the sequencer does not come up: {error!r}") from error

    def make_log(self, **bounds: int) -> LogProxy:
        """Another, empty log in the running process, which ends with it. Raises LogLost."""
        return self._make_log("another log", bounds)

    def _make_log(self, kind: str, bounds: dict[str, int]) -> LogProxy:
        # The Manager keeps it for who has asked, until that one says that it is done with it, which we never do.
        try:
            token, _ = self._manager._create(kind, **bounds)
        except _LOST as error:
            raise LogLost(f"the sequencer does not answer: {error!r}") from error
        except RemoteError as error:
            raise LogError(f"the sequencer failed: {error}") from error
        return LogProxy(LogAddress(token.address, token.id))

    @property
    def pid(self) -> int:
        return int(self._manager._process.pid)

    @property
    def sentinel(self) -> int:
        """The descriptor that is readable when the process has ended."""
        return int(self._manager._process.sentinel)

    def kill(self) -> None:
        """End the process, whatever it is doing; its sentinel says when it has ended."""
        if self._grip is not None:
            self._grip.kill()

    def stop(self) -> int | None:
        """End the process; when this returns it is gone, with all it took here, the connections of the proxy that
        `start` gave included. Give its exit code (negative: the signal that killed it). Harmless when it is gone
        already. The journal is whole, as after any kill.
        """
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            proxy.close()
        process, self._manager._process = self._manager._process, None
        if process is None or process.pid is None:
            return None
        grip = self._grip or Grip(process.pid)
        # What it has answered for is in the journal; it has nothing else to save. The Manager's way, to ask it first,
        # waits for ever for one that hangs.
        grip.end()
        process.join()
        code: int | None = process.exitcode
        if self._manager.address:  # it had come up
            self._manager.shutdown()
            Path(str(self._manager.address)).unlink(missing_ok=True)
        process.close()
        return code


def _as_reading(result: Any) -> Reading:
    records, snapshot_wanted = result
    return Reading([Record(*record) for record in records], snapshot_wanted)
