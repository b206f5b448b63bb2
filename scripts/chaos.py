#!/usr/bin/env python3
"""Kill, replace and move parts of a running mpchat server under load; no client may notice more than a pause.

Owns the clients, the kills, and the check of every byte that every client receives. Starts a server of its own
(stress_server) and ends it; what else can be taken away from a server is in chaos_surroundings. The check is pure
(`RoomCheck`, `Reference`, `Stream`): bytes in, faults out, however they were cut.

How it is checked. Each room has OBSERVERS, clients that only listen. What they receive, each message proven (sender,
number without a gap, CRC), is the room's *reference*: its one order, notices included. Any other client must receive
exactly the reference without its own lines, from behind the notice that it joined to the notice that it left, after
the history, which is the last 20 messages before that place; and each answer to its own commands once and in turn.
Not checked: notices of the lobby, where nobody talks, and where in its stream a client finds the answers to its
commands.

A *pause* is the time between two receipts at one client, whatever the reason: this script's own delays count. It is
counted under the kinds of all events from AROUND_S before its beginning to its end ("none": no event). A request is an
event of MOVE_S. Pauses are measured at clients that read at once and have entered their room, while everybody talks. A
client should receive something every rooms/rate seconds.

Bounded: what is kept of a reference is 2 WINDOW and what the slowest client is behind, at most BEHIND; HELD for each
client; a few words for each connection there ever was.

Exit status: 0 nothing lost, doubled, reordered, torn, disconnected (nor anything else wrong), 1 something was,
2 usage, 3 the run was not possible, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import selectors
import shlex
import signal
import socket
import sys
import textwrap
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from chaos_surroundings import HAS_LIMITS, LIMITS, LONGEST_S, NOT_BOUND, Installation, Shortage, bound_user
from stress_check import Faults, Kind
from stress_server import OwnServer, StressError

OBSERVERS = 2  # of each room: one goes on while the other's worker is dead
ROOM_MOST = 70  # clients: in rooms over 100 the server leaves out the notices that say where a client's stream begins
HISTORY = 20  # lines that somebody who enters a room is shown
WINDOW = 1 << 20  # bytes of a reference that are kept behind the slowest client, to know a doubled line
BEHIND = 16 << 20  # bytes that a client may be behind; the server's send queue holds 1 MiB
HELD = 1 << 20  # bytes that a client may be ahead of the observers
OUT_MOST = 16 << 10  # bytes that may wait in a client to be sent: then others talk
TICK_S = 0.005
TEND_S = 0.1
AROUND_S = 0.1  # what was already on its way arrives this long after the event, before the pause begins
BOOT_S = 30.0
SETTLED_S = 1.0  # a worker is stopped at this age: before it is ready, main gives it 30 s
KINDS = ("worker", "sequencer", "stop", "hup", "upgrade", "scale", "disk", "limit")
MOVES = ("hup", "upgrade", "scale")  # requests
MOVE_S = 1.0  # that they take: clients of an upgrade wait after its trial, and those of a reload one by one
STARTED = re.compile(r"(worker-\d+|sequencer) started, pid (\d+)$")
DONE = {"reloaded": "hup", "the program is replaced": "upgrade", "workers from now on": "scale"}  # as the log says it
UPGRADE_BEGINS = "trying the version that is installed now"
UPGRADE_ENDS = ("the program is replaced", "no upgrade")
PLENTY_S = 1.0  # at least, between two shortages
DISK_GONE = 0.8  # of a run: by then all on the disk that goes has gone
UPGRADE_HEARD_S = 1.0  # so long after USR2 the log says at the latest that an upgrade has begun


# --------------------------------------------------------------------------------------------- lines

TALK = re.compile(rb"(c\d+): (r\d+ (c\d+) (\d+) x*) ([0-9a-f]{8})\n")
NOTICE = re.compile(rb"\* (c\d+) (?:joined #(r\d+)|left the chat(?: \([^)\n]*\))?)\n")
LOBBY = re.compile(rb"\* c\d+ (?:joined|left) #lobby\n")
COMPANY = rb"(?:, alone| with c\d+(?:, c\d+)*(?: and \d+ more)?)\."
ANSWERS = [
    re.compile(rb"\* Welcome to mpchat\. What is your name\?()\n"),
    re.compile(rb"\* Hello, (c\d+)\. You are in #lobby" + COMPANY + rb" /help lists the commands\.\n"),
    re.compile(rb"\* You are in #(r\d+)" + COMPANY + rb"\n"),
    re.compile(rb"\* You have left #lobby\. You talk in #(r\d+) now\.\n"),
    re.compile(rb"\* Bye, (c\d+)\.\n"),
]
ENTERED = 3  # answers until the room is entered


class Line(NamedTuple):
    """A whole line about somebody: message `number` of `name` to `room`, or (number 0) that it `joined` or left."""

    name: bytes
    room: bytes | None
    number: int
    joined: bool = False


def compose(room: bytes, name: bytes, number: int, padding: int) -> bytes:
    """Message `number` of `name`, as it is typed."""
    text = b"%b %b %d %b" % (room, name, number, b"x" * padding)
    return b"%b %08x\n" % (text, zlib.crc32(text))


def read_line(line: bytes) -> Line | None:
    """What `line` says, or None when it is not as anybody typed it or the server words it."""
    talk = TALK.fullmatch(line)
    if talk is not None:
        whole = talk[1] == talk[3] and int(talk[5], 16) == zlib.crc32(talk[2])
        return Line(talk[1], talk[2].partition(b" ")[0], int(talk[4])) if whole else None
    notice = NOTICE.fullmatch(line)
    return None if notice is None else Line(notice[1], notice[2], 0, joined=notice[2] is not None)


# --------------------------------------------------------------------------------------------- the check


class Start(NamedTuple):
    """Where in the reference a client's stream begins, and the history that it is shown first."""

    position: int
    history: list[bytes]


class Reference:
    """The order of one room. Positions count its bytes from the beginning, also of those that are not kept any more."""

    def __init__(self) -> None:
        self.end = 0
        self.starts: dict[bytes, Start] = {}
        self.ends: dict[bytes, int] = {}  # where those begin to be missing who left
        self.own: dict[bytes, deque[tuple[int, int]]] = {}  # where the lines of each client are that is not over
        self.heard: Counter[bytes] = Counter()  # the newest number of each sender
        self.lost: set[tuple[bytes, int]] = set()  # what the observer that was ahead had not got in its turn
        self._text = bytearray()
        self._base = 0
        self._index: dict[bytes, int] = {}  # every line of the text is there once
        self._recent: deque[bytes] = deque(maxlen=HISTORY)

    def extend(self, line: bytes, said: Line) -> set[tuple[bytes, int]]:
        """Add what comes next; give which messages of its sender are missing before it."""
        start, self.end = self.end, self.end + len(line)
        self._index[line] = start
        self._text += line
        if said.number:
            missing = {(said.name, number) for number in range(self.heard[said.name] + 1, said.number)}
            self.lost |= missing
            self.heard[said.name] = said.number
            self._recent.append(line)
            if said.name in self.own:
                self.own[said.name].append((start, self.end))
            return missing
        if said.joined:
            self.starts[said.name] = Start(self.end, list(self._recent))
        else:
            self.ends[said.name] = start
        return set()

    def has_at(self, position: int, block: bytes) -> bool:
        return self._text.startswith(block, position - self._base)

    def find(self, line: bytes) -> int | None:
        """The position of `line`, if it is there and still kept."""
        return self._index.get(line)

    def lines(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The lines from `start` to `end`, each with its position."""
        for line in bytes(self._text[start - self._base : end - self._base]).splitlines(keepends=True):
            yield start, line
            start += len(line)

    def forget(self, name: bytes) -> None:
        """This client's stream is over. What it has said last is kept: somebody may yet be sent that again."""
        self.own.pop(name, None)
        self.starts.pop(name, None)
        self.ends.pop(name, None)

    def trim(self, least: int) -> None:
        """Nobody needs what is before `least`; keep WINDOW of it."""
        if least - self._base < 2 * WINDOW:
            return
        for line, position in list(self._index.items()):
            if position >= least - WINDOW:
                del self._text[: position - self._base]
                self._base = position
                return
            del self._index[line]


class Stream:
    """What one client receives, held against the reference. An observer (`silent`) that is at its end extends it."""

    def __init__(self, name: bytes, room: RoomCheck, silent: bool = False) -> None:
        self.name = name
        self.silent = silent
        self.said = 0  # messages that it sent
        self.lines = 0  # messages and notices that it received, history not counted
        self.quitting = False
        self.dropped = False  # not to be checked any more: a fault that was told
        self._room = room
        self._reference = room.reference
        self._own = room.reference.own.setdefault(name, deque())
        self._answers = 0
        self._position: int | None = None
        self._history: deque[bytes] = deque()
        self._missing: dict[int, bytes] = {}
        self._skipped: set[tuple[bytes, int]] = set()  # missing in what we have added to the reference
        self._held = b""

    @property
    def entered(self) -> bool:
        return self._answers >= ENTERED

    @property
    def position(self) -> int:
        """How far it has come in the reference."""
        return self._reference.end if self._position is None else self._position

    def feed(self, data: bytes) -> None:
        """Take received bytes, cut anywhere."""
        block, at = self._held + data, 0
        end = block.rfind(b"\n") + 1
        while at < end:
            taken = self._match(block, at, end)
            if not taken:
                line = block[at : block.index(b"\n", at) + 1]
                if not self._take(line):
                    self._room.waiting.add(self)
                    break
                taken = len(line)
            at += taken
        self._held = block[at:]
        if len(self._held) > HELD:
            self.judge()
            self.dropped = True

    def complete(self) -> bool:
        """Whether all has come that should have by now, and all that it said was heard."""
        goal = self._reference.ends.get(self.name) if self.quitting else self._reference.end
        arrived = self._begun() and self._skip_own() == goal
        answered = self._answers == len(ANSWERS) - (not self.quitting)
        heard = self._reference.heard[self.name] == self.said
        return arrived and answered and heard and not (self._missing or self._skipped or self._history or self._held)

    def judge(self) -> None:
        """No more comes: say what did not."""
        if self.dropped or self.complete():
            return
        self._lose(len(self._missing) + len(self._history), next(iter([*self._missing.values(), *self._history]), b""))
        self._lose(len(self._skipped), b"%b %d" % next(iter(self._skipped), (b"", 0)))
        self._lose(len(ANSWERS) - (not self.quitting) - self._answers, b"an answer to its commands")
        whole, _, rest = self._held.rpartition(b"\n")
        if rest:
            self._blame(Kind.TORN, f"was left with {rest[:80]!r}")
        if whole and self._answers:
            self._blame(Kind.LOST, f"got what no observer did: {whole[:80]!r}", whole.count(b"\n") + 1)
        goal = self._reference.ends.get(self.name, self._reference.end) if self.quitting else self._reference.end
        if self._position is not None:
            unseen = self._others(self._position, goal)
            self._lose(len(unseen), next(iter(unseen.values()), b""))
        unheard = self.said - self._reference.heard[self.name]
        if unheard:
            self._blame(Kind.LOST, f"said {self.said} messages, of which {unheard} were not heard", unheard)

    def _begun(self) -> bool:
        """Whether it is known where in the reference the stream begins."""
        start = self._reference.starts.get(self.name)
        if self._position is None and self.entered and start is not None:
            self._position, self._history = start.position, deque(start.history)
        return self._position is not None

    def _match(self, block: bytes, at: int, end: int) -> int:
        """Compare as much as the reference has before our next own line; give how much is the same: all or nothing."""
        if self._position is None or self._history:
            return 0
        self._skip_own()
        frontier = self._own[0][0] if self._own else self._reference.end
        same = min(end - at, frontier - self._position)
        if same <= 0 or not self._reference.has_at(self._position, block[at : at + same]):
            return 0
        self._position += same
        self.lines += block.count(b"\n", at, at + same)
        return same

    def _skip_own(self) -> int:
        """What we said is not sent back: go on behind it; give the position."""
        assert self._position is not None
        while self._own and self._own[0][0] <= self._position:
            self._position = max(self._position, self._own.popleft()[1])
        return self._position

    def _take(self, line: bytes) -> bool:
        """Read one line; False when the observers have yet to say what it is."""
        if self._take_answer(line) or LOBBY.fullmatch(line):
            return True
        if self.entered and not self._begun():
            return False
        if self._history:
            return self._take_history(line)
        return self._take_live(line)

    def _take_answer(self, line: bytes) -> bool:
        for number, answer in enumerate(ANSWERS):
            match = answer.fullmatch(line)
            if match is not None and match[1] in (self.name, self._room.name, b""):
                if number < self._answers:
                    self._blame(Kind.DOUBLED, f"got {line[:80]!r} again, or too late")
                else:
                    self._lose(number - self._answers, b"an answer to its commands")
                    self._answers = number + 1
                return True
        return False

    def _take_history(self, line: bytes) -> bool:
        if line == self._history[0]:
            self._history.popleft()
            return True
        self._lose(len(self._history), self._history[0])
        self._history.clear()
        return False if self._match(line, 0, len(line)) else self._take_live(line)

    def _take_live(self, line: bytes) -> bool:
        reference = self._reference
        if self._position is not None:
            if self._match(line, 0, len(line)):
                return True
            known = reference.find(line)
            if known is not None:
                self._take_out_of_place(line, known)
                return True
        said = read_line(line)
        if said is None:
            self._blame(Kind.TORN, f"got {line[:80]!r}")
        elif self._position is None or said.room not in (self._room.name, None):
            self._blame(Kind.MISDELIVERED, f"got {line[:80]!r}")
        elif said.name == self.name:
            self._blame(Kind.MISDELIVERED, f"got its own {line[:80]!r}")
        elif (said.name, said.number) in self._skipped:
            self._skipped.discard((said.name, said.number))
            self._blame(Kind.REORDERED, f"got {line[:80]!r} after a later one")
        elif (said.name, said.number) in reference.lost:
            pass  # the observer that lacks it tells
        elif said.number and said.number <= reference.heard[said.name]:
            self._blame(Kind.DOUBLED, f"got {line[:80]!r} long after its place")
        elif self.silent and self._position == reference.end:
            self._skipped |= reference.extend(line, said)
            self._position = reference.end
            self.lines += 1
        else:
            return False
        return True

    def _take_out_of_place(self, line: bytes, known: int) -> None:
        assert self._position is not None
        if known >= self._position and known not in self._missing:
            self._missing |= self._others(self._position, known)
            self._position = known + len(line)
            self.lines += 1
        elif self._missing.pop(known, None) is not None:
            self._blame(Kind.REORDERED, f"got {line[:80]!r} after a later one")
        else:
            self._blame(Kind.DOUBLED, f"got {line[:80]!r} again")

    def _others(self, start: int, end: int) -> dict[int, bytes]:
        """The lines from `start` to `end` that are not our own."""
        own = self.name + b": "
        return {at: line for at, line in self._reference.lines(start, end) if not line.startswith(own)}

    def _lose(self, count: int, example: bytes) -> None:
        if count:
            self._blame(Kind.LOST, f"never got {example[:80]!r}", count)

    def _blame(self, kind: Kind, words: str, count: int = 1) -> None:
        self._room.faults.add(kind, f"{self.name.decode()} {words}", count=count)


class RoomCheck:
    """All streams of one room. Pure: bytes in, faults out."""

    def __init__(self, name: bytes, faults: Faults) -> None:
        self.name = name
        self.faults = faults
        self.reference = Reference()
        self.waiting: set[Stream] = set()  # ahead of the observers
        self.streams: list[Stream] = []

    def add(self, name: bytes, silent: bool = False) -> Stream:
        """A client is about to come. The first has to be an observer, and enters the room before all others."""
        stream = Stream(name, self, silent)
        if not self.streams:
            self.reference.starts[name] = Start(0, [])
        self.streams.append(stream)
        return stream

    def wake(self) -> None:
        """The reference may have grown: go on with those who were ahead of it."""
        waiting, self.waiting = self.waiting, set()
        for stream in waiting:
            if not stream.dropped:
                stream.feed(b"")

    def tend(self) -> None:
        """Forget who is over and what nobody needs; give up who is too far behind."""
        for stream in self.streams:
            if self.reference.end - stream.position > BEHIND:
                stream.judge()
                stream.dropped = True
        over = [each for each in self.streams if each.dropped or (each.quitting and each.complete())]
        for stream in over:
            if not stream.silent:
                self._forget(stream)
        self.reference.trim(min((s.position for s in self.streams if not s.dropped), default=self.reference.end))

    def complete(self) -> bool:
        return all(stream.dropped or stream.complete() for stream in self.streams)

    def finish(self) -> None:
        """Nothing more comes: say what did not. Without an observer nobody can tell."""
        self.wake()
        if any(stream.silent and not stream.dropped for stream in self.streams):
            for stream in self.streams:
                stream.judge()

    def _forget(self, stream: Stream) -> None:
        self.streams.remove(stream)
        self.waiting.discard(stream)
        self.reference.forget(stream.name)


# --------------------------------------------------------------------------------------------- the clients


class Client:
    """One connection: what it is to send goes out in fragments of any size, what comes in goes to its stream."""

    def __init__(self, address: tuple[str, int], stream: Stream, room: bytes, slow: bool, leave_at: float) -> None:
        self.stream = stream
        self.slow = slow
        self.wake_at = 0.0  # a slow reader does not read before
        self.leave_at = leave_at
        self.heard_at: float | None = None
        self.ended = False
        self._room = room
        self._out = bytearray(b"%b\n/join %b\n/leave lobby\n" % (stream.name, room))
        self.socket = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        try:
            if slow:
                # So that what it does not read waits in the server.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
            self.socket.settimeout(BOOT_S)
            self.socket.connect(address)
            self.socket.setblocking(False)
        except OSError as error:
            self.socket.close()
            raise StressError(f"a client cannot connect: {error}") from error

    @property
    def talks(self) -> bool:
        """Whether it may be given another message to send."""
        return not (self.ended or self.stream.quitting) and len(self._out) < OUT_MOST

    def talk(self, padding: int) -> None:
        self.stream.said += 1
        self._out += compose(self._room, self.stream.name, self.stream.said, padding)

    def quit(self) -> None:
        self.stream.quitting = True
        self._out += b"/quit\n"

    def push(self, dice: random.Random) -> None:
        """Send a part of what waits. What cannot be sent is tried again; reading tells when the connection is over."""
        if not self._out or self.ended:
            return
        part = self._out[: dice.randint(1, len(self._out))]
        try:
            del self._out[: self.socket.send(part)]
        except OSError:
            pass

    def pull(self) -> bytes:
        """What has come; b"" when the connection is over. Raises BlockingIOError when there is nothing yet."""
        try:
            return self.socket.recv(8 << 10 if self.slow else 256 << 10)
        except BlockingIOError:
            raise
        except OSError:  # reset
            return b""


class Strike(NamedTuple):
    """What was done to the server, and for how long."""

    kind: str
    seconds: float = 0.0


class Pauses:
    """The longest pause that any client saw, in seconds, by the kinds of the events around it."""

    def __init__(self) -> None:
        self.longest: dict[str, float] = {}
        self._events: deque[tuple[float, Strike]] = deque(maxlen=10_000)

    def happened(self, strike: Strike, now: float) -> None:
        self._events.append((now, strike))

    def add(self, start: float, end: float) -> None:
        """A client received nothing from `start` to `end`."""
        kinds = set()
        for at, strike in reversed(self._events):
            if at < start - AROUND_S - max(LONGEST_S, MOVE_S):
                break
            if start - AROUND_S - strike.seconds <= at <= end:
                kinds.add(strike.kind)
        key = "+".join(sorted(kinds)) or "none"
        self.longest[key] = max(self.longest.get(key, 0.0), end - start)


def weigh(descriptors: Sequence[int]) -> list[int]:
    """How likely each worker is hit: by its clients, as a new worker has none, and its death proves little."""
    return [1 + number - min(descriptors) for number in descriptors]


class Killer:
    """Does harm to a server, or has it do something hard. Who is who, its log tells.

    An upgrade that has passed its trial executes the program, and nothing can be done for it if that is removed, or can
    open no file, in this moment. So the program stays and no shortage begins while an upgrade may be under way. Without
    the program an upgrade is refused, and in a shortage as well.
    """

    def __init__(
        self,
        server: OwnServer,
        kinds: Sequence[str],
        dice: random.Random,
        installation: Installation | None = None,
        limits: Sequence[int] = (),
        seconds: float = 0.0,
    ) -> None:
        """`installation` is needed for the kind disk, the limits that bind the server for the kind limit.

        What is on the disk goes at moments that are spread over so many seconds from now.
        """
        self.kills: Counter[str] = Counter(dict.fromkeys(kinds, 0))
        self.done: Counter[str] = Counter()
        self._server = server
        self._kinds = [kind for kind in kinds if kind != "disk"]
        self._dice = dice
        self._installation = installation
        now, parts = time.monotonic(), installation.left() if installation is not None else []
        self._removals = sorted(now + dice.uniform(0.0, DISK_GONE * seconds) for _ in parts)
        self._limits = limits
        self._shortage: Shortage | None = None
        self._plenty_until = -math.inf
        self._pids: dict[str, int] = {}
        self._upgrading = False
        self._upgrade_asked = -math.inf

    def strike(self) -> Strike | None:
        """Do it once; give what was done, or None when there was nobody to do it to."""
        self.look()
        if self._removals and time.monotonic() >= self._removals[0] and self._can_remove():
            kind = "disk"
        elif self._kinds:
            kind = self._dice.choice(self._kinds)
        else:
            return None
        try:
            struck = self._strike(kind)
        except psutil.NoSuchProcess:  # it ended just now
            return None
        if not struck:
            return None
        self.kills[kind] += 1
        if kind == "limit":
            assert self._shortage is not None
            return Strike(kind, self._shortage.seconds)
        return Strike(kind, MOVE_S if kind in MOVES else 0.0)

    def relent(self, now: float) -> None:
        """End a shortage when its time is up; at infinity, in any case."""
        if self._shortage is not None and now >= self._shortage.until:
            self._shortage.end()
            self._shortage = None
            self._plenty_until = now + PLENTY_S

    def look(self) -> None:
        """Read what the server has logged meanwhile."""
        for line in self._server.new_log_lines():
            started = STARTED.search(line)
            if started is not None:
                self._pids[started[1]] = int(started[2])
            self.done.update(kind for words, kind in DONE.items() if words in line)
            self._upgrading = UPGRADE_BEGINS in line or (self._upgrading and not any(e in line for e in UPGRADE_ENDS))

    def _strike(self, kind: str) -> bool:
        match kind:
            case _ if kind in MOVES:
                return self._strike_main(kind)
            case "disk":
                return self._strike_disk()
            case "limit":
                return self._strike_limit()
            case _:
                return self._strike_child(kind)

    def _can_remove(self) -> list[str]:
        assert self._installation is not None
        return self._installation.left(with_program=not self._may_upgrade())

    def _strike_disk(self) -> bool:
        """Remove one of the things on the disk. They do not come back."""
        assert self._installation is not None
        del self._removals[0]
        self._installation.remove(self._dice.choice(self._can_remove()))
        return True

    def _strike_limit(self) -> bool:
        """Let a limit be reached, or several; not at once again, for then nothing could ever be started."""
        if self._shortage is not None or time.monotonic() < self._plenty_until or self._may_upgrade():
            return False
        chosen = [limit for limit in self._limits if self._dice.random() < 0.5] or self._limits
        self._shortage = Shortage(psutil.Process(self._server.pid), chosen, self._dice)
        return True

    def _may_upgrade(self) -> bool:
        return self._upgrading or time.monotonic() < self._upgrade_asked + UPGRADE_HEARD_S

    def _strike_main(self, kind: str) -> bool:
        """The planned moves. While one is under way, main says no to the next, in its log."""
        numbers = {"hup": [signal.SIGHUP], "upgrade": [signal.SIGUSR2], "scale": [signal.SIGTTIN, signal.SIGTTOU]}
        psutil.Process(self._server.pid).send_signal(self._dice.choice(numbers[kind]))
        if kind == "upgrade":
            self._upgrade_asked = time.monotonic()
        return True

    def _strike_child(self, kind: str) -> bool:
        family = {child.pid: child for child in psutil.Process(self._server.pid).children(recursive=True)}
        parts = {name: family[pid] for name, pid in self._pids.items() if pid in family}
        victims = [part for name, part in parts.items() if (name == "sequencer") == (kind == "sequencer")]
        states = {victim: victim.status() for victim in victims}
        if kind == "stop":
            # One at a time: main would replace several only after longer and longer pauses.
            aged = [victim for victim in victims if time.time() - victim.create_time() > SETTLED_S]
            victims = [] if psutil.STATUS_STOPPED in states.values() else aged
        victims = [victim for victim in victims if states[victim] != psutil.STATUS_ZOMBIE]
        if not victims:
            return False
        chosen = self._dice.choices(victims, weigh([victim.num_fds() for victim in victims]))[0]
        chosen.send_signal(signal.SIGSTOP if kind == "stop" else signal.SIGKILL)
        return True


class Chaos:
    """The run: everybody talks, some come and go, and now and then something is killed."""

    def __init__(self, options: argparse.Namespace, address: tuple[str, int], killer: Killer) -> None:
        self.faults = Faults()
        self.pauses = Pauses()
        self.killer = killer
        self.messages = 0
        self.lines = 0
        self.came = 0
        self.longest_round = 0.0
        self._options = options
        self._address = address
        self._dice = random.Random(options.seed)
        self._rooms = [RoomCheck(b"r%d" % number, self.faults) for number in range(options.rooms)]
        self._clients: list[Client] = []
        self._selector = selectors.DefaultSelector()
        self._measuring = False
        self._tend_at = 0.0

    def run(self) -> None:
        """Raises StressError."""
        try:
            self._bring_observers()
            self._talk()
            self._settle()
        finally:
            for client in self._clients:
                client.socket.close()
            self._selector.close()

    def _bring_observers(self) -> None:
        for number in range(OBSERVERS * len(self._rooms)):
            observer = self._come(number % len(self._rooms), silent=True)
            deadline = time.monotonic() + BOOT_S
            while not observer.stream.entered:
                if time.monotonic() > deadline or observer.ended:
                    raise StressError("an observer cannot enter its room")
                self._turn()

    def _talk(self) -> None:
        options = self._options
        for number in range(options.clients):
            self._come(number % options.rooms, slow=number % 10 == 1, passing=number % 10 == 2)
        now = last = time.monotonic()
        end, strike_at, due = now + options.seconds, now + self._interval(), 0.0
        self._measuring = True
        while now < end and self._clients and not self.faults.counts[options.until]:
            due = min(due + (now - last) * options.rate, options.rate)
            due -= self._say(int(due))
            if now >= strike_at:
                strike_at = now + self._interval()
                strike = self.killer.strike()
                if strike is not None:
                    self.pauses.happened(strike, time.monotonic())
            self.killer.relent(now)
            self._change_guard(now)
            self._turn()
            last, now = now, time.monotonic()
            self.longest_round = max(self.longest_round, now - last)
        self._measuring = False
        self.killer.relent(math.inf)
        for client in self._clients:
            if client.heard_at is not None and not client.stream.quitting:
                self.pauses.add(client.heard_at, now)

    def _settle(self) -> None:
        patience = 0.0 if self.faults.counts[self._options.until] else self._options.settle
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and not self._settled():
            self._turn()
        for room in self._rooms:
            room.finish()
        for client in self._clients:
            if client.stream.quitting:
                self.faults.add(Kind.STUCK, f"{client.stream.name.decode()} has left, and its connection stays")

    def _settled(self) -> bool:
        gone = not any(client.stream.quitting for client in self._clients)
        return gone and all(room.complete() for room in self._rooms)

    def _say(self, due: int) -> int:
        """Give anybody so many messages to send, or fewer where nobody is free; give how many."""
        for count in range(due):
            drawn = self._dice.choices(self._clients, k=8)
            talker = next((client for client in drawn if client.talks and not client.stream.silent), None)
            if talker is None:
                return count
            talker.talk(self._dice.randrange(1000 if self._dice.random() < 0.02 else 80))
            self.messages += 1
        return due

    def _interval(self) -> float:
        return float(self._options.every / 1000 * self._dice.uniform(0.5, 1.5))

    def _come(self, room: int, silent: bool = False, slow: bool = False, passing: bool = False) -> Client:
        check = self._rooms[room]
        stream = check.add(b"c%d" % self.came, silent)
        self.came += 1
        leave_at = time.monotonic() + self._dice.uniform(0.3, 4.0) if passing else math.inf
        try:
            client = Client(self._address, stream, check.name, slow, leave_at)
        except StressError:
            stream.dropped = True
            raise
        self._clients.append(client)
        self._selector.register(client.socket, selectors.EVENT_READ, client)
        return client

    def _change_guard(self, now: float) -> None:
        """Who has been there long enough leaves, and another one comes for it."""
        for client in [each for each in self._clients if now >= each.leave_at]:
            client.quit()
            client.leave_at = math.inf
            try:
                self._come(self._dice.randrange(len(self._rooms)), slow=client.slow, passing=True)
            except StressError as error:
                self.faults.add(Kind.DISCONNECTED, str(error))

    def _turn(self) -> None:
        """Send and receive, for a tick at most."""
        for client in self._clients:
            client.push(self._dice)
        for key, _ in self._selector.select(TICK_S):
            self._receive(key.data)
        now = time.monotonic()
        for client in [each for each in self._clients if each.slow and 0 < each.wake_at <= now]:
            client.wake_at = 0.0
            self._selector.register(client.socket, selectors.EVENT_READ, client)
        for room in self._rooms:
            room.wake()
        if now >= self._tend_at:
            self._tend_at = now + TEND_S
            for room in self._rooms:
                room.tend()

    def _receive(self, client: Client) -> None:
        try:
            data = client.pull()
        except BlockingIOError:
            return
        if not data:
            self._end(client)
            return
        now = time.monotonic()
        if self._measuring and client.stream.entered and not client.slow:
            if client.heard_at is not None:
                self.pauses.add(client.heard_at, now)
            client.heard_at = now
        before = client.stream.lines
        if not client.stream.dropped:
            client.stream.feed(data)
        self.lines += client.stream.lines - before
        if client.slow and self._measuring and self._dice.random() < 0.05:
            client.wake_at = now + self._dice.uniform(0.1, 2.0)
            self._selector.unregister(client.socket)

    def _end(self, client: Client) -> None:
        if not client.stream.quitting:
            self.faults.add(Kind.DISCONNECTED, f"{client.stream.name.decode()} was disconnected")
            client.stream.dropped = True
        client.ended = True
        self._selector.unregister(client.socket)
        client.socket.close()
        self._clients.remove(client)


# --------------------------------------------------------------------------------------------- the command


def run_chaos(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The report, and the end of the server's log if it is of use. Raises StressError."""
    user = bound_user() if "limit" in options.kill else []
    with ExitStack() as stack:
        installation = stack.enter_context(closing(Installation())) if "disk" in options.kill else None
        command = [*(user or []), *(installation.command if installation else shlex.split(options.command))]
        command += server_options(options)
        if installation is None:
            server = OwnServer(command)
        else:
            server = OwnServer(command, installation.working, installation.environment)
        stack.enter_context(closing(server))
        address = server.address(time.monotonic() + BOOT_S)
        limits = LIMITS if user is not None else LIMITS[:1]
        dice = random.Random(options.seed)
        killer = Killer(server, options.kill, dice, installation, limits, options.seconds)
        chaos = Chaos(options, address, killer)
        chaos.run()
        killer.look()
        chaos.faults.merge(server.end())
        remarks = [] if user is not None else [f"limit: of descriptors only, since {NOT_BOUND}"]
        return make_report(options, chaos, remarks), server.log_tail() if chaos.faults.counts else ""


def server_options(options: argparse.Namespace) -> list[str]:
    # A guest may come before the one whose place it takes has gone.
    most = 2 * options.clients + OBSERVERS * options.rooms + 16
    words = f"--port 0 --workers {options.workers} --rate 0 --segment-timeout 0 --max-clients {most}".split()
    return words + (f"--beat-timeout {options.beat_timeout}".split() if "stop" in options.kill else [])


def make_report(options: argparse.Namespace, chaos: Chaos, remarks: Sequence[str] = ()) -> dict[str, Any]:
    """All figures and faults, as --json writes them."""
    names = ("clients", "rooms", "workers", "seconds", "every", "rate", "seed")
    return {
        "plan": {name: getattr(options, name) for name in names},
        "connections": chaos.came,
        "messages": chaos.messages,
        "deliveries": chaos.lines,
        "kills": dict(chaos.killer.kills),
        "done": dict(chaos.killer.done),
        "pause_ms": {kind: 1000 * longest for kind, longest in sorted(chaos.pauses.longest.items())},
        "longest_round_ms": 1000 * chaos.longest_round,
        "remarks": list(remarks),
        "faults": {
            kind.name.lower(): {"count": count, "examples": chaos.faults.examples[kind]}
            for kind, count in chaos.faults.counts.items()
        },
    }


NOTES = {
    "kills": "what was done to the server; hup, upgrade and scale are requests",
    "completed": "the requests that the server carried out, according to its log; it refuses a request while another\n"
    "one is under way, and gives up an upgrade when a part of it dies or the program is gone",
    "longest pause": "the longest time between two receipts at one client, by what was done to the server from\n"
    f"{1000 * AROUND_S:.0f} ms before it to its end: several kinds (+), or nothing (none); a request counts for "
    f"{MOVE_S:g} s",
    "our own delay": "of this script, which is a part of the pauses",
}


def format_report(report: dict[str, Any]) -> str:
    """The table that people read, each count with what it counts."""
    plan, kills, pauses = report["plan"], report["kills"], report["pause_ms"]
    clients = f"{plan['clients']} at a time, {plan['rooms']} rooms, {report['connections']:,} connections in all"
    rows = [
        ("clients", clients),
        ("messages", f"{report['messages']:,}  ({report['messages'] / plan['seconds']:,.0f}/s)"),
        ("deliveries", f"{report['deliveries']:,}  ({report['deliveries'] / plan['seconds']:,.0f}/s)"),
        ("kills", "  ".join(f"{kind} {count:,}" for kind, count in kills.items()) + f"  ({plan['workers']} workers)"),
        ("completed", "  ".join(f"{kind} {count:,}" for kind, count in report["done"].items()) or "-"),
        ("longest pause", "  ".join(f"{kind} {longest:,.0f} ms" for kind, longest in pauses.items())),
        ("our own delay", f"{report['longest_round_ms']:,.0f} ms at most"),
    ]
    wanted = [kind.name.lower() for kind in (Kind.LOST, Kind.DOUBLED, Kind.REORDERED, Kind.TORN, Kind.DISCONNECTED)]
    counts = dict.fromkeys(wanted, 0) | {name: fault["count"] for name, fault in report["faults"].items()}
    lines = []
    for name, value in [*rows, *((name, f"{count:,}") for name, count in counts.items())]:
        lines.append(f"{name:<16}{value}")
        if name in NOTES:
            lines += textwrap.indent(f"({NOTES[name]})", " " * 16).splitlines()
    lines += report["remarks"]
    for name, fault in report["faults"].items():
        lines += [f"WRONG: {name}:", *(f"    {example}" for example in fault["examples"])]
    return "\n".join(lines)


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def amount(text: str) -> float:
    if not 0 < (number := float(text)) < math.inf:
        raise ValueError
    return number


KILLS = """\
--kill: what is done to the server, a kind at a time, at random moments
  worker, sequencer   one is killed
  stop                a worker is stopped, and main has to notice
  hup                 a reload: every worker is replaced
  upgrade             the program is replaced by itself
  scale               a worker more or less
  disk                the working directory, the temporary directory or the installed program is removed,
                      and does not come back
  limit               for about a second main gets no more descriptors, or the server no more processes
"""


def kinds(text: str) -> list[str]:
    chosen = [kind for kind in text.split(",") if kind]
    for kind in chosen:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"{kind!r}: there are {', '.join(KINDS)}")
    if not chosen:
        raise argparse.ArgumentTypeError(f"none given; there are {', '.join(KINDS)}")
    return chosen


def why_not(kind: str, options: argparse.Namespace) -> str:
    """Why trouble of this kind cannot be made; nothing if it can."""
    if kind == "disk" and options.command is not None:
        return "not with --command, whose installation is not ours to remove"
    if kind == "limit" and not HAS_LIMITS:
        return "this system cannot limit a process that runs (prlimit(2), Linux)"
    return ""


def fault(text: str) -> Kind:
    try:
        return Kind[text.upper()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"there are {', '.join(kind.name.lower() for kind in Kind)}") from None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Kill parts of a server under load; check every byte at every client.",
        epilog=KILLS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clients", type=positive, default=200, help="that talk")
    parser.add_argument("--seconds", type=amount, default=60.0, help="that they talk")
    parser.add_argument(
        "--kill", type=kinds, metavar="KIND,...", help=f"or other trouble: {', '.join(KINDS)} (all that can be)"
    )
    parser.add_argument("--every", type=amount, default=1000.0, metavar="MS", help="between two kills, on average")
    parser.add_argument("--seed", type=int, default=0, help="decides who talks and what is killed")
    parser.add_argument("--workers", type=positive, default=4)
    parser.add_argument("--rooms", type=positive, help=f"for at most {ROOM_MOST} clients each (3, or what is needed)")
    parser.add_argument("--rate", type=amount, default=2000.0, help="messages/s of all")
    parser.add_argument("--beat-timeout", type=amount, default=1.0, metavar="S", help="of the server, with --kill stop")
    parser.add_argument("--settle", type=amount, default=20.0, metavar="S", help="for the last messages to arrive")
    parser.add_argument("--until", type=fault, metavar="FAULT", help="end as soon as such a fault is found: torn, ...")
    parser.add_argument("--command", help="starts a server; not with --kill disk, which installs one to remove it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and faults")
    options = parser.parse_args(arguments)
    if options.kill is None:
        options.kill = [kind for kind in KINDS if not why_not(kind, options)]
    for kind in options.kill:
        if why_not(kind, options):
            parser.error(f"--kill {kind}: {why_not(kind, options)}")
    if options.command is None:
        options.command = f"{shlex.quote(sys.executable)} -m mpchat"
    if options.rooms is None:
        options.rooms = max(3, math.ceil(options.clients / 60))
    if options.clients / options.rooms > ROOM_MOST:
        parser.error(f"--rooms: too few, with over {ROOM_MOST} clients in each")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json: {options.json.parent} is no directory")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        report, log = run_chaos(options)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    except (StressError, OSError, psutil.Error) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    print(format_report(report))
    if log:
        print(f"the end of the server's log:\n{log}", file=sys.stderr)
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    # TERM as Ctrl-C: the server that we started has a session of its own and would go on without us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
