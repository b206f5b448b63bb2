"""Whether the clients of a room receive exactly what they should. PURE: bytes in, faults out, however they were cut.

How it is checked. Each room has *observers*, clients that only listen. What they receive, each message proven (sender,
number without a gap, CRC), is the room's *reference*: its one order. Any other client must receive exactly the
reference without its own lines. So whole blocks are compared with it, at the speed of memcmp; from a line on that
differs, lines are read one by one until the two meet again.

Two kinds of clients. A `Guest` comes and goes: its stream begins behind the notice that it joined, after the history,
which is the last messages before that place, and ends with the notice that it left; each answer to its own commands
must come once and in turn. A `Resident` is there before anybody talks, in a room whose notices are of no interest.

Faults are counted for each receiver, and a message that nobody got for each that should have. Not checked: notices of
the lobby, where nobody talks in the company of guests, and where in its stream a client finds answers.

Bounded: the reference (see there); HELD for each client; a few words for each line that is missing at a client, which
is given up when it is more than BEHIND.
"""

from __future__ import annotations

import re
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from mpchat_tools.common.faults import EXAMPLES, Faults, Kind
from mpchat_tools.verify.reference import Key, Reference, Start
from mpchat_tools.verify.talk import Said, read_line

BEHIND = 16 << 20  # bytes that a client may be behind; the server's send queue holds 1 MiB
HELD = 1 << 20  # bytes that a client may be ahead of the observers

LOBBY = re.compile(rb"\* \S+ (?:joined|left) #lobby\n")
COMPANY = rb"(?:, alone| with \S+(?:, \S+)*(?: and \d+ more)?)\."
ANSWERS = [
    re.compile(rb"\* Welcome to mpchat\. What is your name\?()\n"),
    re.compile(rb"\* Hello, (\S+)\. You are in #lobby" + COMPANY + rb" /help lists the commands\.\n"),
    re.compile(rb"\* You are in #(\S+?)" + COMPANY + rb"\n"),
    re.compile(rb"\* You have left #lobby\. You talk in #(\S+) now\.\n"),
    re.compile(rb"\* Bye, (\S+)\.\n"),
]
ENTERED = 3  # answers until the room is entered
FOREIGN = re.compile(rb"(?:\*\* \S+|\[[^\]\n]+\]|(?:#\S+ )?\S+:) .*\n")


class Stream:
    """What one client receives, held against the reference. An observer (`silent`) that is at its end extends it."""

    def __init__(self, name: bytes, room: RoomCheck, silent: bool = False) -> None:
        self.name = name
        self.silent = silent
        self.lines = 0  # messages and notices of the order
        self.dropped = False  # not to be checked any more: a fault that was told
        self.latencies_ns = array("q")  # of an observer, from when messages were sent
        self._room = room
        self._reference = room.reference
        self._own = room.reference.own.setdefault(name, deque())
        self._start = 0
        self._position: int | None = None
        self._missing: dict[int, bytes] = {}
        self._extra: dict[Key, None] = {}  # what it got that the reference has not
        self._held = b""

    @property
    def position(self) -> int:
        """How far it has come in the reference."""
        return self._reference.end if self._position is None else self._position

    def feed(self, data: bytes, now_ns: int = 0) -> None:
        """Take received bytes, cut anywhere, that came at `now_ns`."""
        block, at = self._held + data, 0
        end = block.rfind(b"\n") + 1
        while at < end:
            taken = self._match(block, at, end)
            if not taken:
                line = block[at : block.index(b"\n", at) + 1]
                # Who is too far ahead is read without the reference, as when nothing more comes to that.
                if not self._take(line, now_ns, self._reference.closed or len(block) - at > HELD):
                    self._room.waiting.add(self)
                    break
                taken = len(line)
            at += taken
        self._held = block[at:]
        if len(self._held) > HELD:
            self._tear()

    def complete(self) -> bool:
        """Whether all has come that should have by now."""
        arrived = self._begun() and self._skip_own() == self._goal()
        return arrived and not (self._missing or self._held or self._list_lost())

    def judge(self) -> None:
        """No more comes: say what did not."""
        if self.dropped or self.complete():
            return
        whole, _, rest = self._held.rpartition(b"\n")
        self._held = rest
        if rest:
            self._tear()
        self._judge_lines(whole)
        self._lose([b"%b %d" % key for key in self._list_lost()])
        self._lose(self._missing.values())
        goal = self._goal()
        if self._position is not None:
            self._lose(self._others(self._position, self._reference.end if goal is None else goal).values())

    # --- what differs between the kinds of clients

    def _begun(self) -> bool:
        """Whether it is known where in the reference the stream begins."""
        raise NotImplementedError

    def _goal(self) -> int | None:
        """Where in the reference the stream should be by now; None when that is not known yet."""
        return self._reference.end

    def _take_aside(self, line: bytes) -> bool:
        """Whether the line was no part of the order, and is dealt with."""
        raise NotImplementedError

    def _judge_lines(self, whole: bytes) -> None:
        """Whole lines are left that could not be read."""
        if whole:
            self._blame(Kind.LOST, f"got what no observer did: {whole[:80]!r}", whole.count(b"\n") + 1)

    # --- the order

    def _match(self, block: bytes, at: int, end: int) -> int:
        """Compare as much as the reference has before our next own line; give how much is the same: all or nothing."""
        if self._position is None:
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

    def _take(self, line: bytes, now_ns: int, alone: bool) -> bool:
        """Read one line; False when the observers have yet to say what it is, unless we are `alone`."""
        if self._take_aside(line):
            return True
        if not self._begun():
            return False
        known = self._reference.find(line)
        if known is not None and not line.startswith(self.name + b": "):
            self._take_out_of_place(line, known)
            return True
        return self._take_unknown(line, now_ns, alone)

    def _take_unknown(self, line: bytes, now_ns: int, alone: bool) -> bool:
        """A line that the reference has not, or not yet."""
        reference, said = self._reference, self._room.read(line)
        key = (said.name, said.number) if said is not None and said.number else None
        if said is None:
            self._blame(Kind.TORN, f"got {line[:80]!r}")
        elif said.room not in (self._room.name, None):
            self._blame(Kind.MISDELIVERED, f"got {line[:80]!r}")
        elif said.name == self.name:
            self._blame(Kind.MISDELIVERED, f"got its own {line[:80]!r}")
        elif key in reference.lost:
            self._take_lost(line, key)
        elif said.number and said.number <= reference.heard[said.name]:
            self._blame(Kind.DOUBLED, f"got {line[:80]!r} long after its place")
        elif self.silent and self._position == reference.end and not reference.closed:
            reference.extend(line, said)
            self._position = reference.end
            self.lines += 1
            self.latencies_ns.append(now_ns - said.sent_ns)
        elif key and alone:
            reference.lost[key] = reference.end
            self._take_lost(line, key)
        else:
            return False
        return True

    def _take_lost(self, line: bytes, key: Key) -> None:
        """A message that is not in the reference: in time if no later one of its sender has come."""
        if key in self._extra:
            self._blame(Kind.DOUBLED, f"got {line[:80]!r} again")
            return
        later = any(name == key[0] and number > key[1] for name, number in self._extra)
        if later or self.position > self._reference.lost[key]:
            self._blame(Kind.REORDERED, f"got {line[:80]!r} after a later one")
        self._extra[key] = None
        self.lines += 1

    def _take_out_of_place(self, line: bytes, known: int) -> None:
        """A message that stands elsewhere in the reference."""
        assert self._position is not None
        if known >= self._position and known not in self._missing:
            self._missing |= self._others(self._position, known)
            self._position = known + len(line)
            self.lines += 1
        elif self._missing.pop(known, None) is not None:
            self.lines += 1
            self._blame(Kind.DISAGREED, f"got {line[:80]!r} later than the observers did")
            sender = line.partition(b": ")[0] + b": "
            since = self._others(known, self._position)
            if any(at not in self._missing and other.startswith(sender) for at, other in since.items() if at > known):
                self._blame(Kind.REORDERED, f"got {line[:80]!r} after a later one")
        else:
            self._blame(Kind.DOUBLED, f"got {line[:80]!r} again")

    def _others(self, start: int, end: int) -> dict[int, bytes]:
        """The lines from `start` to `end` that are not our own."""
        own = self.name + b": "
        return {at: line for at, line in self._reference.lines(start, end) if not line.startswith(own)}

    def _list_lost(self) -> list[Key]:
        """What the reference has not, and we have not, and should have."""
        goal = self._goal()
        if self._position is None:
            return []
        return [
            key
            for key, at in self._reference.lost.items()
            if key[0] != self.name and key not in self._extra and self._start <= at and (goal is None or at <= goal)
        ]

    def _tear(self) -> None:
        """What is held has no end."""
        self._blame(Kind.TORN, f"was left with {self._held[:80]!r}")
        self._held = b""

    def _lose(self, lines: Iterable[bytes]) -> None:
        lost = list(lines)
        examples = [f"{self.name.decode()} never got {line[:80]!r}" for line in lost[:EXAMPLES]]
        if lost:
            self._room.faults.add(Kind.LOST, *examples, count=len(lost))

    def _blame(self, kind: Kind, words: str, count: int = 1) -> None:
        self._room.faults.add(kind, f"{self.name.decode()} {words}", count=count)


class Guest(Stream):
    """A client that comes, enters the room, and perhaps leaves."""

    def __init__(self, name: bytes, room: RoomCheck, silent: bool = False) -> None:
        super().__init__(name, room, silent)
        self.quitting = False
        self._answers = 0
        self._history: deque[bytes] = deque()

    @property
    def entered(self) -> bool:
        return self._answers >= ENTERED

    def complete(self) -> bool:
        reference = self._reference
        answered = self._answers == len(ANSWERS) - (not self.quitting)
        heard = reference.heard[self.name] == reference.said[self.name]
        return answered and heard and not self._history and super().complete()

    def _begun(self) -> bool:
        start = self._reference.starts.get(self.name)
        if self._position is None and self.entered and start is not None:
            self._start = self._position = start.position
            self._history = deque(start.history)
        return self._position is not None

    def _goal(self) -> int | None:
        return self._reference.ends.get(self.name) if self.quitting else self._reference.end

    def _take_aside(self, line: bytes) -> bool:
        if LOBBY.fullmatch(line):
            return True
        for number, answer in enumerate(ANSWERS):
            match = answer.fullmatch(line)
            if match is not None and match[1] in (self.name, self._room.name, b""):
                if number < self._answers:
                    self._blame(Kind.DOUBLED, f"got {line[:80]!r} again, or too late")
                else:
                    self._lose([b"an answer to its commands"] * (number - self._answers))
                    self._answers = number + 1
                return True
        if not self.entered:
            kind = Kind.TORN if self._room.read(line) is None else Kind.MISDELIVERED
            self._blame(kind, f"got {line[:80]!r} before it was in its room")
            return True
        return self._take_history(line)

    def _take_history(self, line: bytes) -> bool:
        if not (self._begun() and self._history):
            return False
        if line == self._history[0]:
            self._history.popleft()
            return True
        self._lose(self._history)
        self._history.clear()
        return bool(self._match(line, 0, len(line)))

    def _match(self, block: bytes, at: int, end: int) -> int:
        return 0 if self._history else super()._match(block, at, end)

    def _judge_lines(self, whole: bytes) -> None:
        if self._answers:
            super()._judge_lines(whole)
        self._lose(self._history)
        self._lose([b"an answer to its commands"] * (len(ANSWERS) - (not self.quitting) - self._answers))


class Resident(Stream):
    """A client that is there from the beginning to the end. `run` is in all that is said in this run."""

    def __init__(self, name: bytes, room: RoomCheck, run: bytes, silent: bool = False) -> None:
        super().__init__(name, room, silent)
        self.answers = 0
        self.notices = 0
        self._run = run
        self._position = 0

    def _begun(self) -> bool:
        return True

    def _take_aside(self, line: bytes) -> bool:
        if line.startswith(b"! "):
            self.answers += 1
            self._room.remark(line)
        elif line.startswith(b"* "):
            self.notices += 1
        else:
            # Of an earlier run, or of somebody else.
            return self._run not in line and FOREIGN.fullmatch(line) is not None
        return True


AStream = TypeVar("AStream", bound=Stream)


class RoomCheck:
    """All streams of one room in one process. `read` says what a line is."""

    def __init__(self, name: bytes, faults: Faults, read: Callable[[bytes], Said | None] = read_line) -> None:
        self.name = name
        self.read = read
        self.faults = faults
        self.remarks: list[str] = []
        self.reference = Reference()
        self.waiting: set[Stream] = set()  # ahead of the observers
        self.streams: list[Stream] = []

    def add(self, stream: AStream) -> AStream:
        """A client is about to come. The first has to be an observer, and enters the room before all others."""
        if not self.streams:
            self.reference.starts[stream.name] = Start(0, [])
        self.streams.append(stream)
        return stream

    def remark(self, line: bytes) -> None:
        """Keep what the server complained of; a marker's answer is none if it quotes the marker."""
        if b"stress-marker" not in line and len(self.remarks) < EXAMPLES:
            self.remarks.append(line.decode(errors="replace").strip())

    def wake(self) -> None:
        """The reference may have grown: go on with those who were ahead of it."""
        waiting, self.waiting = self.waiting, set()
        for stream in waiting:
            if not stream.dropped:
                stream.feed(b"")

    def hurry(self) -> None:
        """Nothing has come for long: who is ahead of the reference need not wait for it."""
        if self.waiting and not self.reference.closed:
            self.reference.closed = True
            self.wake()
            self.reference.closed = False

    def tend(self) -> None:
        """Forget who is over and what nobody needs; give up who is too far behind."""
        for stream in self.streams:
            if self.reference.end - stream.position > BEHIND:
                stream.judge()
                stream.dropped = True
        for stream in [each for each in self.streams if not each.silent and self._is_over(each)]:
            self.streams.remove(stream)
            self.waiting.discard(stream)
            self.reference.forget(stream.name)
        self.reference.trim(min((s.position for s in self.streams if not s.dropped), default=self.reference.end))

    def complete(self) -> bool:
        """Whether all that was said is in the order, and everybody has it."""
        heard = all(self.reference.heard[name] == said for name, said in self.reference.said.items())
        return heard and all(stream.dropped or stream.complete() for stream in self.streams)

    def finish(self) -> None:
        """Nothing more comes: say what did not. Without an observer nobody can tell."""
        for stream in self.streams:
            if stream.dropped:
                self.reference.said.pop(stream.name, None)
        self.wake()
        self.reference.close()
        self.wake()
        if any(stream.silent and not stream.dropped for stream in self.streams):
            for stream in self.streams:
                stream.judge()

    @staticmethod
    def _is_over(stream: Stream) -> bool:
        return stream.dropped or (isinstance(stream, Guest) and stream.quitting and stream.complete())
