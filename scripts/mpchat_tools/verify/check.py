"""Whether the clients of a room receive exactly what they should. PURE: bytes in, faults out, however they were cut.

Each room has *observers*, clients that only listen. What they receive, each message verified by sender, number and CRC,
is the room's *reference*: its one order. Any other client must receive exactly the reference without its own lines. So
whole blocks are compared with it, at the speed of memcmp. Where a line differs, lines are read one by one until the
stream and the reference meet again.

There are two kinds of clients. A `Guest` comes and goes. Its stream begins with the history (the last messages before
the notice that it joined), continues after that notice, and ends with the notice that it left. Each answer to its own
commands must come once and in order. A `Resident` is present before anybody talks; notices in its room are not checked.

When the server is killed as a whole, a room is `interrupt`ed: each stream ends where it is, what was seen is returned,
and a new order begins. Its first observer is shown history, which nobody can foretell: `kept` checks that.

Faults are counted per receiver; a message that nobody got counts for every client that should have it. Not checked:
notices of the lobby, where guests do not talk, and the place of answers in a stream.

Memory is bounded: the reference (see there), HELD bytes per client, and a few words per line that a client lacks. A
client that is more than BEHIND bytes behind is given up.
"""

from __future__ import annotations

import re
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from mpchat_tools.common.faults import EXAMPLES, Faults, Kind
from mpchat_tools.verify.reference import Key, Reference, Seen, Start
from mpchat_tools.verify.talk import Said, read_line

BEHIND = 16 << 20  # bytes that a client may be behind; the server's send queue holds 1 MiB
HELD = 1 << 20  # bytes that a client may be ahead of the observers

LOBBY = re.compile(rb"\* \S+ (?:joined|left) #lobby\n")
COMPANY = rb"(?:, alone| with \S+(?:, \S+)*(?: and \d+ more)?)\."
EARLIER = re.compile(rb"\* (?:Earlier in #\S+ \(since [^)\n]+ UTC\):|Now\.)\n")
NOW = b"* Now.\n"
DATE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d ")
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
    """What one client receives, compared with the reference. An observer (`silent`) at the end of it extends it."""

    def __init__(self, name: bytes, room: RoomCheck, silent: bool = False) -> None:
        self.name = name
        self.silent = silent
        self.lines = 0  # messages and notices of the order
        self.dropped = False  # no longer checked, after a fault that was reported
        self.latencies_ns = array("q")  # of an observer, from when messages were sent
        self.room = room
        self._reference = room.reference
        self._own = room.reference.own.setdefault(name, deque())
        self._start = 0
        self._position: int | None = None
        self._missing: dict[int, bytes] = {}
        self._extra: dict[Key, None] = {}  # received, but not in the reference
        self._held = b""

    @property
    def position(self) -> int:
        """How far it has come in the reference."""
        return self._reference.end if self._position is None else self._position

    def feed(self, data: bytes, now_ns: int = 0) -> None:
        """Take bytes that were received at `now_ns`, cut anywhere."""
        block, at = self._held + data, 0
        end = block.rfind(b"\n") + 1
        while at < end:
            taken = self._match(block, at, end)
            if not taken:
                line = block[at : block.index(b"\n", at) + 1]
                # A client too far ahead is read without the reference, as if the reference were complete.
                if not self._take(line, now_ns, self._reference.closed or len(block) - at > HELD):
                    self.room.waiting.add(self)
                    break
                taken = len(line)
            at += taken
        self._held = block[at:]
        if len(self._held) > HELD:
            self._tear()

    def complete(self) -> bool:
        """Return whether everything has arrived that should have by now."""
        arrived = self._begun() and self._skip_own() == self._goal()
        return arrived and not (self._missing or self._held or self._list_lost(self._goal()))

    def judge(self) -> None:
        """Report what is missing, since nothing more comes."""
        if self.dropped or self.complete():
            return
        whole, _, rest = self._held.rpartition(b"\n")
        self._held = rest
        if rest:
            self._tear()
        self._judge_lines(whole)
        self._lose([b"%b %d" % key for key in self._list_lost(self._goal())])
        self._lose(self._missing.values())
        goal = self._goal()
        if self._position is not None:
            self._lose(self._others(self._position, self._reference.end if goal is None else goal).values())

    def interrupt(self) -> list[Key]:
        """Report what is missing before the end of the stream, which may be anywhere, since the server was killed.

        Returns the messages that arrived and that no observer had yet.
        """
        whole, _, _ = self._held.rpartition(b"\n")
        self._held = b""
        if self.dropped:
            return []
        self._lose([b"%b %d" % key for key in self._list_lost(self._position)])
        self._lose(self._missing.values())
        ahead = []
        for line in whole.splitlines(keepends=True):
            dated = DATE.match(line)
            said = self.room.read((line[dated.end() :] if dated else line).removesuffix(b"\n") + b"\n")
            if said is not None and said.number:
                ahead.append((said.name, said.number))
            elif said is None and not line.startswith(b"* "):
                self._blame(Kind.TORN, f"got {line[:80]!r}")
        return ahead

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
        """Compare up to our next own line in the reference; return the length if it is equal, else 0."""
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
        """Skip our own lines, which the server does not send back; return the position."""
        assert self._position is not None
        while self._own and self._own[0][0] <= self._position:
            self._position = max(self._position, self._own.popleft()[1])
        return self._position

    def _take(self, line: bytes, now_ns: int, alone: bool) -> bool:
        """Read one line; return False when it must wait for the observers, unless we are `alone`."""
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
        """Take a line that the reference does not have, or not yet."""
        reference, said = self._reference, self.room.read(line)
        key = (said.name, said.number) if said is not None and said.number else None
        if said is None:
            self._blame(Kind.TORN, f"got {line[:80]!r}")
        elif said.room not in (self.room.name, None):
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
        """Take a message that the reference lacks: in order if no later one of its sender has arrived."""
        if key in self._extra:
            self._blame(Kind.DOUBLED, f"got {line[:80]!r} again")
            return
        later = any(name == key[0] and number > key[1] for name, number in self._extra)
        if later or self.position > self._reference.lost[key]:
            self._blame(Kind.REORDERED, f"got {line[:80]!r} after a later one")
        self._extra[key] = None
        self.lines += 1

    def _take_out_of_place(self, line: bytes, known: int) -> None:
        """Take a message that is elsewhere in the reference."""
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

    def _list_lost(self, goal: int | None) -> list[Key]:
        """Return the messages that both the reference and we lack, and that we should have at `goal`."""
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
            self.room.faults.add(Kind.LOST, *examples, count=len(lost))

    def _blame(self, kind: Kind, words: str, count: int = 1) -> None:
        self.room.faults.add(kind, f"{self.name.decode()} {words}", count=count)


class Guest(Stream):
    """A client that comes, enters the room, and perhaps leaves."""

    def __init__(self, name: bytes, room: RoomCheck, silent: bool = False) -> None:
        super().__init__(name, room, silent)
        self.quitting = False
        self.recalls = False  # what it is shown as history is what there is
        self._is_earlier = False
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
        if EARLIER.fullmatch(line):
            self._is_earlier = line != NOW
            return True
        if self.recalls and self._is_earlier:
            self._recall(line)
            return True
        for number, answer in enumerate(ANSWERS):
            match = answer.fullmatch(line)
            if match is not None and match[1] in (self.name, self.room.name, b""):
                if number < self._answers:
                    self._blame(Kind.DOUBLED, f"got {line[:80]!r} again, or too late")
                else:
                    self._lose([b"an answer to its commands"] * (number - self._answers))
                    self._answers = number + 1
                return True
        if not self.entered:
            kind = Kind.TORN if self.room.read(line) is None else Kind.MISDELIVERED
            self._blame(kind, f"got {line[:80]!r} before it was in its room")
            return True
        return self._take_history(line)

    def _recall(self, line: bytes) -> None:
        dated = DATE.match(line)
        line = line[dated.end() if dated else 0 :]
        said = self.room.read(line)
        if said is None or not said.number:
            self._blame(Kind.TORN, f"got {line[:80]!r} as history")
        else:
            self._reference.recall(line, said)

    def _take_history(self, line: bytes) -> bool:
        if not (self._begun() and self._history):
            return False
        dated = DATE.match(line)
        if line[dated.end() if dated else 0 :] == self._history[0]:
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
            self.room.remark(line)
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
        self._goes_on = False

    def add(self, stream: AStream) -> AStream:
        """Add a client before it connects. The first must be an observer, and enters the room before all others."""
        if not self.streams:
            self.reference.starts[stream.name] = Start(0, [])
            if self._goes_on and isinstance(stream, Guest):
                stream.recalls = True
        self.streams.append(stream)
        return stream

    def interrupt(self) -> list[Seen]:
        """The server was killed, and all streams have ended. Return what was seen; begin anew, without streams."""
        self.wake()
        seen = [Seen(self.reference.keys, self.reference.shown)]
        for stream in self.streams:
            if ahead := stream.interrupt():
                seen.append(Seen(ahead, own=stream.name))
        self.reference = self.reference.go_on()
        self.streams, self.waiting = [], set()
        self._goes_on = True
        return seen

    def remark(self, line: bytes) -> None:
        """Keep an error of the server, unless it quotes the marker: then it is the marker's answer."""
        if b"stress-marker" not in line and len(self.remarks) < EXAMPLES:
            self.remarks.append(line.decode(errors="replace").strip())

    def wake(self) -> None:
        """Continue with the streams that were ahead of the reference, which may have grown."""
        waiting, self.waiting = self.waiting, set()
        for stream in waiting:
            if not stream.dropped:
                stream.feed(b"")

    def hurry(self) -> None:
        """Stop waiting for the reference, because nothing has arrived for long."""
        if self.waiting and not self.reference.closed:
            self.reference.closed = True
            self.wake()
            self.reference.closed = False

    def tend(self) -> None:
        """Forget streams that are over and text that nobody needs; give up streams that are too far behind."""
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
        """Return whether everything that was said is in the reference, and everybody has it."""
        heard = all(self.reference.heard[name] == said for name, said in self.reference.said.items())
        return heard and all(stream.dropped or stream.complete() for stream in self.streams)

    def finish(self) -> None:
        """Report what is missing, since nothing more comes. Without an observer nothing can be said."""
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
