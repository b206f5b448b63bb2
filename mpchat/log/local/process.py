"""The sequencer: a `multiprocessing.Manager` process that keeps a `MemoryLog`, and the ways to it from other processes.

* `Sequencer` starts and ends the process; main has one at a time. What the log remembers is in the journal that main
  hands it, so that the next one goes on where this one was killed.
* `LogProxy` is the log for who can wait: each call waits for its answer. For start-up and tests.
* `LogLink` is one connection to the log for an event loop: `call` sends, the loop watches `fileno()`, `receive` takes
  the answer. A worker has three, one to publish, one to read, and one for snapshots and adoptions, and so needs no
  thread and waits for nothing. Main's own link is there from the start of the process, and needs no connecting.

The Manager listens in the abstract namespace (unix(7)), so that no file has to stay where it is; where there is none
(macOS), on a path. Every failure of the way to the sequencer is a LogLost. The sequencer ends by itself when main is
gone, and not before: it serves until the last.
"""

import hmac  # noqa: F401 - multiprocessing.connection would look for it on the disk at the first connection
import logging
import os
import pickle
import secrets
import select
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from multiprocessing import AuthenticationError, connection, current_process
from multiprocessing.managers import Server
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mpchat.child import Child, start_child
from mpchat.errors import ForkError
from mpchat.log.local.desk import Desk
from mpchat.log.local.journal import Journal
from mpchat.log.local.memory import MemoryLog
from mpchat.log.port import LogError, LogLost, LogTrimmed, Reading, Record, Snapshot, SnapshotPlace
from mpchat.logs import start_logging

log = logging.getLogger(__name__)

LOG = "log"
"""The name of the log in its Manager."""

CONNECT_SECONDS = 5.0
"""How long each step of a connection may take for somebody who can wait. On a busy machine it takes its time."""

RECONNECT_SECONDS = 0.2
"""The same for a worker that has clients: a sequencer that is stopped lets nobody in, and its clients may not wait for
that. Less than half of the shortest silence after which a worker counts as hung."""

ACCEPT_PAUSE = 0.1
"""Seconds until the Manager accepts again, when the system had no descriptor or no thread for a connection."""

_METHODS = (
    *("publish", "read", "ping", "put_snapshot", "get_snapshot"),
    *("find_snapshot", "read_snapshot", "stage_snapshot", "put_staged_snapshot"),
)

PIECE = 192 << 10
"""How many bytes of a snapshot go in one message. The kernel takes so much of a connection at once (208 KiB is the
default, socket(7)), so that a piece does not wait for the next turn of a loop; copying it takes far less than 1 ms."""

_RECEIVED = 64 << 10  # bytes; nearly every answer comes whole so

_LENGTH = struct.Struct("!i")
_LONG_LENGTH = struct.Struct("!Q")

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

    def read(self, after: int, wait: float) -> Reading:
        return _as_reading(self._call("read", after, wait))

    def put_snapshot(self, seq: int, blob: bytes) -> None:
        if len(blob) <= PIECE:
            self._call("put_snapshot", seq, blob)
            return
        for start in range(0, len(blob), PIECE):
            self._call("stage_snapshot", start, blob[start : start + PIECE])
        self._call("put_staged_snapshot", seq)

    def get_snapshot(self, at_most: int | None = None) -> Snapshot:
        while True:
            place = self.find_snapshot(at_most)
            with suppress(LogTrimmed):  # it has gone meanwhile: then there is a newer one
                pieces = [self.read_snapshot(place.seq, start, PIECE) for start in range(0, place.size, PIECE)]
                return Snapshot(place.seq, b"".join(pieces))

    def find_snapshot(self, at_most: int | None = None) -> SnapshotPlace:
        return SnapshotPlace(*self._call("find_snapshot", at_most))

    def read_snapshot(self, seq: int, start: int, size: int) -> bytes:
        return bytes(self._call("read_snapshot", seq, start, size))

    def ping(self) -> int:
        """The number of the last entry."""
        return int(self._call("ping"))

    def connect(self) -> None:
        """See that this thread has a connection. Raises LogLost."""
        if getattr(self._links, "link", None) is None:
            self._links.link = self.open_link(threading.current_thread().name)

    def open_link(self, name: str, patience: float = CONNECT_SECONDS) -> "LogLink":
        """A connection of its own to the log, for an event loop. The Manager gives `name` to the thread that lets it
        in. No step of that takes longer than `patience` seconds. Raises LogLost."""
        raw = _connect(self.address.socket, current_process().authkey, patience)
        # The Manager makes a connection a caller of methods when this is called of no object.
        introduction = LogLink(raw, None, patience)
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
    back. For who may not wait, whatever the sequencer does: `call` sends what goes at once, and `pump` more of it when
    there is room; when the descriptor is readable, `take` says whether `receive` has all of the answer. For who may,
    `receive` does the rest of both.
    """

    def __init__(
        self, link: "connection.Connection[Any, Any]", ident: str | None, patience: float | None = None
    ) -> None:
        """`patience`: seconds that `receive` waits for anything to happen; None: for ever."""
        os.set_blocking(link.fileno(), False)
        self._link = link
        self._ident = ident
        self._patience = patience
        self._outgoing = memoryview(b"")
        self._incoming = b""
        self._message: memoryview | None = None  # of which there are `_filled` bytes
        self._filled = 0
        self._lost: Exception | None = None

    def fileno(self) -> int:
        """The descriptor that is readable when something of the answer is there, or the sequencer is gone."""
        return self._link.fileno()

    @property
    def backlog(self) -> bool:
        """Whether something of the call has not gone out yet: `pump` when the descriptor can be written."""
        return bool(self._outgoing)

    def call(self, method: str, *arguments: object) -> None:
        """Send a call; its answer must be received before the next one. Raises LogLost."""
        message = pickle.dumps((self._ident, method, arguments, {}))
        size = len(message)
        if size < 1 << 31:
            self._outgoing = memoryview(_LENGTH.pack(size) + message)
        else:
            self._outgoing = memoryview(_LENGTH.pack(-1) + _LONG_LENGTH.pack(size) + message)
        self.pump()
        self._check()

    def pump(self) -> None:
        """Send what goes of the call."""
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[os.write(self._link.fileno(), self._outgoing) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(error)

    def take(self) -> bool:
        """Take what has come of the answer. True when `receive` has all of it, or knows that it will not come."""
        try:
            while self._lost is None and not self._is_whole:
                self._receive_some()
        except BlockingIOError:
            return False
        return True

    def receive(self) -> Any:
        """The answer. Raises what the method raised (LogTrimmed, LogFull), or LogLost."""
        while not self.take():
            self._wait()
            self.pump()
        if not self._is_whole:
            self._check()
        assert self._message is not None
        message, self._message = self._message, None
        kind, result = pickle.loads(message)
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

    @property
    def _is_whole(self) -> bool:
        return self._message is not None and self._filled == len(self._message)

    def _receive_some(self) -> None:
        """Receive once. Raises BlockingIOError."""
        try:
            if self._message is None:
                received = os.read(self._link.fileno(), _RECEIVED)
                size = len(received)
                self._begin_message(self._incoming + received)
            else:
                size = os.readv(self._link.fileno(), [self._message[self._filled :]])
                self._filled += size
        except BlockingIOError:
            raise
        except OSError as error:
            self._lose(error)
            return
        if not size:
            self._lose(EOFError())

    def _wait(self) -> None:
        """Wait until there is more of the answer, or room for more of the call."""
        poll = select.poll()
        poll.register(self._link, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        if not poll.poll(None if self._patience is None else self._patience * 1000):
            self._lose(TimeoutError("it does not answer"))

    def _begin_message(self, data: bytes) -> None:
        """There is the beginning of an answer; nothing comes behind its end."""
        start = _LENGTH.size
        length = _LENGTH.unpack_from(data)[0] if len(data) >= start else None
        if length == -1:
            start += _LONG_LENGTH.size
            length = _LONG_LENGTH.unpack_from(data, _LENGTH.size)[0] if len(data) >= start else None
        if length is None:
            self._incoming = data
            return
        self._incoming = b""
        self._filled = len(data) - start
        if self._filled > length:
            self._lose(OSError("more has come than an answer"))
        elif self._filled == length:
            self._message = memoryview(data)[start:]
        else:
            self._message = memoryview(bytearray(length))
            self._message[: self._filled] = data[start:]

    def _lose(self, error: Exception) -> None:
        self._lost = error
        self._outgoing = memoryview(b"")

    def _check(self) -> None:
        if self._lost is not None:
            raise LogLost(f"the sequencer is gone: {self._lost!r}") from self._lost


class _LogServer(Server):
    """What runs in the Manager's process. It accepts connections and finds out who they are, each in a thread of its
    own for as long as that takes; who then calls the log is answered by the desk, in the main thread."""

    id_to_obj: dict[str, Any]  # what there is: by name, it, what may be called of it, and more
    listener: connection.Listener

    def __init__(self, address: str, source: MemoryLog, own: int) -> None:
        """`own` is the descriptor of main's link, which is answered from the start."""
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
        """Let in who connects. A shortage of descriptors or threads passes, and nobody else would accept then."""
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
                log.error("a connection to the log is refused: %s", error)
                arrival.close()
                time.sleep(ACCEPT_PAUSE)

    def serve_client(self, conn: "connection.Connection[Any, Any]") -> NoReturn:
        """Give the connection to the desk, and end this thread, whose last act is to close `conn`."""
        try:
            self._desk.seat(os.dup(conn.fileno()))
        except OSError:
            sys.exit(1)  # no descriptor is left: who has called sees the connection end
        sys.exit(0)

    def shutdown(self, c: object) -> NoReturn:
        """What a Manager's owner may ask for. There is nothing to finish."""
        os._exit(0)


class Sequencer:
    """The sequencer's process, as main holds it.

    The log is kept in `journal`, which remains its owner's: when the process has ended and this is stopped, another
    sequencer goes on with it. Without one, the log ends with the process.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal
        self._child: Child | None = None
        self._folder: Path | None = None
        self._proxy: LogProxy | None = None
        self.link: LogLink
        """Main's own, after `launch`. The first answer to a `ping` on it says that the process has come up."""
        self.address: LogAddress
        """Where the log is, after `launch`."""

    def launch(self, **bounds: int) -> None:
        """Start the process, and the log in it with these bounds of `MemoryLog` (bytes); once only. Does not wait for
        it to come up. Raises ForkError, and then leaves nothing behind."""
        try:
            ours, theirs = socket.socketpair()
            listens_at = self._choose_address()
        except OSError as error:
            raise ForkError(f"no process can be started: {error}") from error
        run = partial(_run_log_server, listens_at, self._journal, bounds, theirs)
        own = self._journal.descriptor if self._journal is not None else None
        with ours, theirs:
            try:
                self._child = start_child(run, [theirs.fileno(), *([] if own is None else [own])])
            except BaseException:
                self._remove_folder()
                raise
            self.link = LogLink(connection.Connection(ours.detach()), LOG)
        self.address = LogAddress(listens_at, LOG)

    def start(self, **bounds: int) -> LogProxy:
        """As `launch`, for who can wait until it has come up. Raises LogLost when it does not, and LogError when it
        cannot go on from the journal, and then leaves nothing behind."""
        self.launch(**bounds)
        try:
            self.link.call("ping")
            self.link.receive()
            self._proxy = connect_log(self.address)
        except LogError:
            self.stop()
            raise
        return self._proxy

    def make_log(self, **bounds: int) -> LogProxy:
        """Another, empty log in the running process, which ends with it. Raises LogLost."""
        # The Manager keeps it for who has asked, until that one says that it is done with it, which we never do.
        try:
            with _connect(self.address.socket, current_process().authkey, CONNECT_SECONDS) as link:
                link.send((None, "create", ("another log",), bounds))
                kind, result = link.recv()
        except _LOST as error:
            raise LogLost(f"the sequencer does not answer: {error!r}") from error
        if kind != "#RETURN":
            raise LogError(f"the sequencer failed: {result}")
        return LogProxy(LogAddress(self.address.socket, result[0]))

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def sentinel(self) -> int:
        """The descriptor that is readable when the process has ended."""
        assert self._child is not None
        return self._child.sentinel

    def kill(self) -> None:
        """End the process, whatever it is doing; its sentinel says when it has ended."""
        if self._child is not None:
            self._child.kill()

    def stop(self) -> int | None:
        """End the process; when this returns it is gone, with all it took here, the connections of the proxy that
        `start` gave included. Give its exit code (negative: the signal that killed it). Harmless when it is gone
        already. The journal is whole, as after any kill.
        """
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            proxy.close()
        child, self._child = self._child, None
        if child is None:
            return None
        # What it has answered for is in the journal; it has nothing else to save.
        code = child.end()
        self.link.close()
        self._remove_folder()
        return code

    def _choose_address(self) -> str:
        """Where the Manager is to listen; nobody else can guess it."""
        if sys.platform == "linux":
            return f"\0mpchat-{secrets.token_hex(16)}"
        self._folder = Path(tempfile.mkdtemp(prefix="mpchat-"))
        return str(self._folder / "log")

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _run_log_server(listens_at: str, journal: Journal | None, bounds: dict[str, Any], own: socket.socket) -> int:
    """What the sequencer's process does. Main is told over its link why it cannot."""
    start_logging("sequencer")
    try:
        source = MemoryLog(journal=journal, **bounds)
    except LogError as error:
        connection.Connection(own.detach()).send(("#ERROR", error))
    else:
        _LogServer(listens_at, source, own.detach()).serve_forever()
    return 1


def _connect(listens_at: str, key: bytes, patience: float) -> "connection.Connection[Any, Any]":
    """A connection to the Manager, with which each has shown the other that it has the key. No step of that takes
    longer than `patience` seconds; `connection.Client` would wait for ever. Raises LogLost."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            _limit_waiting(client.fileno(), patience)
            client.connect(listens_at)
            raw: connection.Connection[Any, Any] = connection.Connection(client.detach())
    except OSError as error:
        raise LogLost(f"the sequencer does not answer: {error!r}") from error
    try:
        connection.answer_challenge(raw, key)
        connection.deliver_challenge(raw, key)
    except (*_LOST, AuthenticationError) as error:
        raw.close()
        raise LogLost(f"the sequencer does not answer: {error!r}") from error
    return raw


def _limit_waiting(descriptor: int, seconds: float) -> None:
    """Let no receive and no send on this socket wait longer (socket(7), SO_RCVTIMEO); 0: as long as it takes."""
    with socket.socket(fileno=os.dup(descriptor)) as same:
        interval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)


def _is_ours(descriptor: int) -> bool:
    """Whether the peer runs for the same user: anybody on the machine can find an abstract address (unix(7))."""
    if sys.platform != "linux":
        return True  # the folder of the socket is for us only
    with socket.socket(fileno=os.dup(descriptor)) as same:
        _, user, _ = struct.unpack("3i", same.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.geteuid())


def _as_reading(result: Any) -> Reading:
    records, snapshot_wanted = result
    return Reading([Record(*record) for record in records], snapshot_wanted)
