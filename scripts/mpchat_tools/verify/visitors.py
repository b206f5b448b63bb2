"""The clients of a chaos run: all talk, some come and go, some read slowly, and between them the server gets trouble.

Pauses are measured while everybody talks, at clients that read at once and have entered their room. Without trouble, a
client receives something every rooms/rate seconds.
"""

from __future__ import annotations

import argparse
import math
import random
import time

from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.faults import Faults, Kind
from mpchat_tools.verify.check import Guest, RoomCheck
from mpchat_tools.verify.crowd import TICK_S, Client, Crowd
from mpchat_tools.verify.lives import BOOT_S, Lives
from mpchat_tools.verify.reference import Seen
from mpchat_tools.verify.talk import compose
from mpchat_tools.verify.trouble import KEEPING, Killer, Pauses

OBSERVERS = 2  # of each room: one goes on while the other's worker is dead
UNSENT_MOST = 16 << 10  # bytes that may wait in a client to be sent: then others talk
TEND_S = 0.1
SHORTEST = 24  # bytes of a message


class Visitor(Client[Guest]):
    """A client that leaves at a time of its own."""

    def __init__(self, address: tuple[str, int], stream: Guest, slow: bool = False, leave_at: float = math.inf) -> None:
        super().__init__(address, stream, BOOT_S, slow)
        self.leave_at = leave_at
        self.wake_at = 0.0  # a slow reader does not read before
        self.heard_at: float | None = None

    @property
    def talks(self) -> bool:
        """Whether it may be given another message to send."""
        return not (self.stream.silent or self.stream.quitting) and len(self.unsent) < UNSENT_MOST


class Visitors:
    """The run."""

    def __init__(self, options: argparse.Namespace, lives: Lives, killer: Killer) -> None:
        self.faults = Faults()
        self.pauses = Pauses()
        self.killer = killer
        self.messages = 0
        self.lines = 0
        self.came = 0
        self.longest_round = 0.0
        self._options = options
        self._lives = lives
        self._killed = False  # the server as a whole: all connections end
        self._dice = random.Random(options.seed)
        self._rooms = [RoomCheck(b"r%d" % number, self.faults) for number in range(options.rooms)]
        self.seen: dict[bytes, list[Seen]] = {room.name: [] for room in self._rooms}
        if set(options.kill) & set(KEEPING):
            for room in self._rooms:
                room.reference.keep_keys()
        self._crowd: Crowd[Visitor] = Crowd(self._receive, self._end, self._rooms, self._dice)
        self._measuring = False
        self._tend_at = 0.0

    def run(self) -> None:
        """Raises ToolError."""
        try:
            self._bring_observers()
            self._talk()
            self._settle()
        finally:
            self._crowd.close()

    def _bring_observers(self) -> None:
        for number in range(OBSERVERS * len(self._rooms)):
            observer = self._come(number % len(self._rooms), silent=True)
            deadline = time.monotonic() + BOOT_S
            while not observer.stream.entered:
                if time.monotonic() > deadline or observer.gone:
                    raise ToolError("an observer cannot enter its room")
                self._turn()

    def _talk(self) -> None:
        options = self._options
        for number in range(options.clients):
            self._come(number % options.rooms, slow=number % 10 == 1, passing=number % 10 == 2)
        now = last = time.monotonic()
        end, strike_at, due = now + options.seconds, now + self._interval(), 0.0
        self._measuring = True
        while now < end and self._crowd.clients and not self.faults.counts[options.until]:
            due = min(due + (now - last) * options.rate, options.rate)
            due -= self._say(int(due))
            if now >= strike_at:
                strike_at = now + self._interval()
                strike = self.killer.strike()
                if strike is not None:
                    self.pauses.happened(strike, time.monotonic())
                    if strike.kind == "all":
                        self._return()
                        now = time.monotonic()
            self.killer.relent(now)
            self._change_guard(now)
            self._turn()
            last, now = now, time.monotonic()
            self.longest_round = max(self.longest_round, now - last)
        self._measuring = False
        self.killer.relent(math.inf)
        for visitor in self._crowd.clients:
            if visitor.heard_at is not None and not visitor.stream.quitting:
                self.pauses.add(visitor.heard_at, now)

    def _return(self) -> None:
        """The server was killed: read what has arrived, start it again, and let everybody who was there come again."""
        everybody = [each for each in self._crowd.clients if not (each.stream.silent or each.stream.quitting)]
        self._measuring, self._killed = False, True
        for visitor in self._crowd.clients:
            visitor.wake_at = 0.0
        while self._crowd.clients:
            self._turn()
        self._killed = False
        for room in self._rooms:
            self.seen[room.name] += room.interrupt()
        self.killer.start_again()
        self._bring_observers()
        numbers = {room.name: number for number, room in enumerate(self._rooms)}
        for visitor in everybody:
            stream = visitor.stream
            again = self._come(numbers[stream.room.name], name=stream.name, slow=visitor.slow)
            again.leave_at, again.heard_at = visitor.leave_at, visitor.heard_at
        self._measuring = True

    def _settle(self) -> None:
        patience = 0.0 if self.faults.counts[self._options.until] else self._options.settle
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and not self._settled():
            self._turn()
        for room in self._rooms:
            room.finish()
            self.seen[room.name].append(Seen(room.reference.keys, room.reference.shown))
        for visitor in self._crowd.clients:
            if visitor.stream.quitting:
                self.faults.add(Kind.STUCK, f"{visitor.stream.name.decode()} has left, and its connection stays")

    def _settled(self) -> bool:
        gone = not any(visitor.stream.quitting for visitor in self._crowd.clients)
        return gone and all(room.complete() for room in self._rooms)

    def _say(self, due: int) -> int:
        """Have random clients send `due` messages, or fewer if nobody is free; return how many."""
        for count in range(due):
            drawn = self._dice.choices(self._crowd.clients, k=8)
            talker = next((visitor for visitor in drawn if visitor.talks), None)
            if talker is None:
                return count
            said, name = talker.stream.room.reference.said, talker.stream.name
            said[name] += 1
            size = SHORTEST + self._dice.randrange(1000 if self._dice.random() < 0.02 else 80)
            self._crowd.say(talker, compose(talker.stream.room.name, name, said[name], size))
            self.messages += 1
        return due

    def _interval(self) -> float:
        return float(self._options.every / 1000 * self._dice.uniform(0.5, 1.5))

    def _come(
        self, number: int, silent: bool = False, slow: bool = False, passing: bool = False, name: bytes | None = None
    ) -> Visitor:
        room = self._rooms[number]
        stream = room.add(Guest(name or b"c%d" % self.came, room, silent))
        self.came += 1
        leave_at = time.monotonic() + self._dice.uniform(0.3, 4.0) if passing else math.inf
        try:
            visitor = Visitor(self._lives.address, stream, slow, leave_at)
        except ToolError:
            stream.dropped = True
            raise
        self._crowd.add(visitor)
        self._crowd.say(visitor, b"%b\n/join %b\n/leave lobby\n" % (stream.name, room.name))
        return visitor

    def _change_guard(self, now: float) -> None:
        """Clients whose time is over leave, and others take their places."""
        for visitor in [each for each in self._crowd.clients if now >= each.leave_at]:
            visitor.stream.quitting = True
            visitor.leave_at = math.inf
            self._crowd.say(visitor, b"/quit\n")
            try:
                self._come(self._dice.randrange(len(self._rooms)), slow=visitor.slow, passing=True)
            except ToolError as error:
                self.faults.add(Kind.DISCONNECTED, str(error))

    def _turn(self) -> None:
        """Send and receive, for a tick at most."""
        self._crowd.turn(TICK_S)
        now = time.monotonic()
        for visitor in self._crowd.clients:
            if visitor.paused and visitor.wake_at <= now:
                self._crowd.resume(visitor)
        if now >= self._tend_at:
            self._tend_at = now + TEND_S
            for room in self._rooms:
                room.tend()

    def _receive(self, visitor: Visitor, data: bytes) -> None:
        now, stream = time.monotonic(), visitor.stream
        if self._measuring and stream.entered and not visitor.slow:
            if visitor.heard_at is not None:
                self.pauses.add(visitor.heard_at, now)
            visitor.heard_at = now
        before = stream.lines
        if not stream.dropped:
            stream.feed(data)
        self.lines += stream.lines - before
        if visitor.slow and self._measuring and self._dice.random() < 0.05:
            visitor.wake_at = now + self._dice.uniform(0.1, 2.0)
            self._crowd.pause(visitor)

    def _end(self, visitor: Visitor) -> None:
        if not (visitor.stream.quitting or self._killed):
            self.faults.add(Kind.DISCONNECTED, f"{visitor.stream.name.decode()} was disconnected")
            visitor.stream.dropped = True
