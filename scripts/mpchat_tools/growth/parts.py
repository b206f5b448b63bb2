"""The parts of a delivery, each measured alone in this process with the server's own code.

Owns one small setup per part. Measures CPU time of this thread only, in us per unit:

    read      a line: framing, parsing, and its part of a publication of `batch` entries
    apply     an entry of a publication of `batch`: unpickling, `Replica.apply`, `Fanout.deliver`; no member is here
    show      the same with one member here: encoding and joining, and that member's part of the flush, come to it
    flush     a receiver of a flush of `batch` entries to a room of MEMBERS, without the sending: what `show` and more
              members differ by
    send      a send of a block of `batch` messages to a connection of this machine, whose reader is not waiting
    remember  not time: bytes that a session takes in a replica, of which each worker has one
"""

from __future__ import annotations

import gc
import socket
import time
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack

from mpchat.chat.entries import Entry, Opened, Said, decode_entries, encode_entries, make_input
from mpchat.chat.rules.replica import Replica
from mpchat.config import Config
from mpchat.server.worker.outbound.fanout import Fanout
from mpchat.wire.registry import LINE, make_dialects
from mpchat_tools.common.meter import Watch
from mpchat_tools.growth.sample import Sample
from mpchat_tools.growth.series import Part

MEMBERS = 200
REMEMBERED = 2000
TEXT = "x" * 64
DIALECT = make_dialects(Config())[LINE]
UNREAD = 64  # blocks that are sent before they are received

Measure = Callable[[int, float], float]


class Nobody:
    """A sink that drops its output."""

    def send(self, block: bytes) -> None:
        pass

    def named(self, name: str) -> None:
        pass

    def left(self, name: str, reason: str) -> None:
        pass

    def finish(self) -> None:
        pass


def measure_part(part: Part) -> Sample:
    watch, started = Watch(), time.process_time()
    figure = PARTS[part.name](part.batch, part.seconds)
    return Sample({"bytes" if part.name == "remember" else "us": figure}, watch.read(time.process_time() - started))


def sid_of(number: int) -> bytes:
    return b"%016d" % number


def repeat(turn: Callable[[], float], seconds: float) -> float:
    """Call `turn`, which returns how many things it did, for so many seconds; return us per thing."""
    turn()  # warms up
    things, started = 0.0, time.thread_time()
    while (spent := time.thread_time() - started) < seconds or not things:
        things += turn()
    return spent * 1e6 / things


def measure_reading(batch: int, seconds: float) -> float:
    """Read one line of each of `batch` clients."""
    line = TEXT.encode() + b"\n"
    framings = [DIALECT.framing() for _ in range(batch)]

    def turn() -> float:
        entries: list[Entry] = []
        for number, framing in enumerate(framings):
            framing.receive(line, 0.0)
            requests = DIALECT.read(framing.take(1))
            entries += [make_input(sid_of(number), end, request) for end, request in requests]
        encode_entries(entries)
        return batch

    return repeat(turn, seconds)


class Stage:
    """A replica with a lobby of MEMBERS, `here` of whom are in this worker."""

    def __init__(self, here: int) -> None:
        self.replica = Replica()
        self._fanout: Fanout[Nobody] = Fanout(self.replica)
        for number in range(MEMBERS):
            sid = sid_of(number)
            self.replica.apply(Opened(sid, "127.0.0.1:1"), 0)
            self.replica.apply(Said(sid, 1, (f"c{number:05d}",)), 0)
            if MEMBERS - number <= here:  # the senders are in another worker
                self._fanout.attach(sid, Nobody(), DIALECT)
        self._end = 1

    def make_payload(self, batch: int) -> bytes:
        self._end += 1
        return encode_entries([Said(sid_of(number), self._end, (TEXT,)) for number in range(batch)])

    def take(self, payload: bytes) -> None:
        """As server.reader does."""
        for entry in decode_entries(payload):
            if effects := self.replica.apply(entry, 0):
                self._fanout.deliver(effects, 0)
        self._fanout.flush()


def measure_applying(batch: int, seconds: float, here: int = 0) -> float:
    """Make the payloads before the clock runs, some at a time."""
    stage, spent, things = Stage(here), 0.0, 0
    while spent < seconds or not things:
        payloads = [stage.make_payload(batch) for _ in range(20)]
        started = time.thread_time()
        for payload in payloads:
            stage.take(payload)
        spent += time.thread_time() - started
        things += batch * len(payloads)
    return spent * 1e6 / things


def measure_showing(batch: int, seconds: float) -> float:
    return measure_applying(batch, seconds, here=1)


def measure_flush(batch: int, seconds: float) -> float:
    most = MEMBERS - batch
    one, many = (measure_applying(batch, seconds / 2, here) for here in (1, most))
    return max(0.0, (many - one) * batch / (most - 1))


def measure_send(batch: int, seconds: float) -> float:
    block = b"".join([b"c00000: %s\n" % TEXT.encode()] * batch)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        here = stack.enter_context(socket.create_connection(listener.getsockname()))
        there, _ = listener.accept()
        stack.enter_context(there)
        here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        spent, things = 0.0, 0
        while spent < seconds or not things:
            started = time.thread_time()
            for _ in range(blocks := max(1, UNREAD // batch)):
                here.send(block)
            spent += time.thread_time() - started
            things += blocks
            there.recv(len(block) * blocks, socket.MSG_WAITALL)
    return spent * 1e6 / things


def measure_memory(batch: int, seconds: float) -> float:
    """Return the bytes that a replica takes for a session with a name."""
    gc.collect()
    tracemalloc.start()
    try:
        replica = Replica()
        before, _ = tracemalloc.get_traced_memory()
        for number in range(REMEMBERED):
            replica.apply(Opened(sid_of(number), f"127.0.0.1:{number}"), 0)
            replica.apply(Said(sid_of(number), 1, (f"c{number:05d}",)), 0)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / REMEMBERED


PARTS: dict[str, Measure] = {
    "read": measure_reading,
    "apply": measure_applying,
    "show": measure_showing,
    "flush": measure_flush,
    "send": measure_send,
    "remember": measure_memory,
}
