"""The sequencer: a `multiprocessing.Manager` process that keeps a `MemoryLog`, and the ways to it from other processes.

* `Sequencer` starts and ends the process; main has one.
* `LogProxy` is the log as a Manager's proxy: each call waits for its answer. For start-up and tests.
* `LogLink` is one connection to the log for an event loop: `call` sends, the loop watches `fileno()`, `receive` takes
  the answer. A worker has two, one to publish and one to read, and so needs no thread and waits for nothing.

Every failure of the way to the sequencer is a LogLost. The sequencer ignores SIGINT and SIGTERM, which a terminal or a
service manager sends to the whole group, and ends by itself when main is gone: it serves until the last.
"""

from multiprocessing import connection, util
from multiprocessing.context import BaseContext
from multiprocessing.managers import BaseManager, BaseProxy, RemoteError
from pathlib import Path
from typing import Any

from mpchat.bus.contract import LogError, LogLost, Reading, Record, Snapshot
from mpchat.bus.memory import MemoryLog
from mpchat.lifeline import tie_to_main

_METHODS = ("publish", "read", "put_snapshot", "get_snapshot", "ping")

# What the three ways of losing a Manager raise: the end of the stream, a reset or refused connection, a closed handle.
_LOST = (EOFError, OSError)


class LogProxy(BaseProxy):
    """A `contract.Log` in the sequencer. Can be sent to a process that is being started."""

    _exposed_ = _METHODS
    _token: Any  # where the object lives: address and id
    _authkey: bytes
    _close: Any  # what happens when it is collected: the log is let go of, and the connection closed

    def publish(self, payload: bytes, entries: int) -> int:
        return int(self._call("publish", payload, entries))

    def read(self, after: int, wait: float) -> Reading:
        return _as_reading(self._call("read", after, wait))

    def put_snapshot(self, seq: int, blob: bytes) -> None:
        self._call("put_snapshot", seq, blob)

    def get_snapshot(self, at_most: int | None = None) -> Snapshot:
        return Snapshot(*self._call("get_snapshot", at_most))

    def open_link(self, name: str) -> "LogLink":
        """A connection of its own to the log, for an event loop. `name` is for the sequencer's tracebacks."""
        try:
            raw = connection.Client(self._token.address, authkey=self._authkey)
        except _LOST as error:
            raise LogLost(f"the sequencer does not answer: {error!r}") from error
        # The Manager makes a connection a caller of methods when this is called of no object.
        introduction = LogLink(raw, None)
        try:
            introduction.call("accept_connection", name)
            introduction.receive()
        except LogError:
            introduction.close()
            raise
        return LogLink(raw, self._token.id)

    def _call(self, method: str, *arguments: object) -> Any:
        try:
            return self._callmethod(method, arguments)
        except _LOST as error:
            raise LogLost(f"the sequencer does not answer: {error!r}") from error
        except RemoteError as error:
            raise LogError(f"the sequencer failed: {error}") from error


class LogLink:
    """One connection to the log; one call is under way at a time.

    The messages are those of `multiprocessing.managers`: (object, method, arguments, keywords) out, (kind, result)
    back. `call` and `receive` block only while one message passes between the process and the kernel's buffer; the
    sequencer reads what comes at once, and what it sends is on its way as a whole when the descriptor is readable.
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


class _LogManager(BaseManager):
    """The Manager that can make a log."""

    _process: Any = None  # BaseManager has it from `start` on


_LogManager.register("MemoryLog", MemoryLog, proxytype=LogProxy, exposed=_METHODS)


class Sequencer:
    """The sequencer's process, as main holds it."""

    def __init__(self, context: BaseContext) -> None:
        self._manager = _LogManager(ctx=context)
        self._proxy: LogProxy | None = None

    def start(self, **bounds: int) -> LogProxy:
        """Start the process and the log in it, with these bounds of `MemoryLog` (bytes). Once only.

        Raises LogLost when it does not come up, and then leaves nothing behind.
        """
        # The Manager's socket goes where main's are: a process that is started later uses the folder main had by then.
        util.get_temp_dir()
        try:
            self._manager.start(initializer=tie_to_main)
            self._proxy = self.make_log(**bounds)
        except _LOST as error:
            self.stop()
            raise LogLost(f"the sequencer does not come up: {error!r}") from error
        return self._proxy

    def make_log(self, **bounds: int) -> LogProxy:
        """Another, empty log in the running process; it is forgotten with its last proxy. Raises LogLost."""
        try:
            proxy = self._manager.MemoryLog(**bounds)  # type: ignore[attr-defined]
        except _LOST as error:
            raise LogLost(f"the sequencer does not answer: {error!r}") from error
        assert isinstance(proxy, LogProxy)
        return proxy

    @property
    def pid(self) -> int:
        return int(self._manager._process.pid)

    @property
    def sentinel(self) -> int:
        """The descriptor that is readable when the process has ended."""
        return int(self._manager._process.sentinel)

    def stop(self) -> None:
        """End the process; when this returns it is gone, with all it took here. Harmless when it is gone already."""
        process, self._manager._process = self._manager._process, None
        if process is None or process.pid is None:
            return
        # It has nothing to save. The Manager's way, to ask it first, waits for ever for one that hangs.
        process.kill()
        process.join()
        if self._manager.address:  # it had come up
            self._manager.shutdown()
            Path(str(self._manager.address)).unlink(missing_ok=True)
        process.close()
        # Only now: a proxy that goes tells the sequencer, and waits for it, as long as the Manager is not shut down.
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            proxy._close()


def _as_reading(result: Any) -> Reading:
    records, snapshot_wanted = result
    return Reading([Record(*record) for record in records], snapshot_wanted)
