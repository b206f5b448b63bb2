"""Trouble for a running server: kills, requests, and the loss of its surroundings; and the pauses that clients see.

A *pause* is the time in which one client receives nothing, whatever the reason, our own delays included. It counts for
the kinds of all events from AROUND_S before its beginning to its end ("none": no event). A request lasts MOVE_S.
"""

from __future__ import annotations

import math
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from mpchat_tools.common.serverlog import UPGRADE_ENDS, Event, find_event, find_start
from mpchat_tools.verify.lives import Lives
from mpchat_tools.verify.surroundings import LONGEST_S, Shortage

AROUND_S = 0.1  # what was already on its way arrives this long after the event, before the pause begins
SETTLED_S = 1.0  # a worker is stopped at this age: before it is ready, main gives it 30 s
KINDS = ("worker", "sequencer", "archive", "all", "stop", "hup", "upgrade", "scale", "disk", "limit")
KEEPING = ("archive", "all")  # they need a server with a data directory
MOVES = ("hup", "upgrade", "scale")  # requests
ALONE = ("sequencer", "archive")  # there is one of them
LIVES_S = 3.0  # a server, before all of it is killed
STOPPED = 0.3  # of the archives, with the kind stop: main gives a hung one more time than a worker
MOVE_S = 1.0  # that they take: clients of an upgrade wait after its trial, and those of a reload one by one
DONE = {Event.RELOADED: "hup", Event.UPGRADED: "upgrade", Event.SCALED: "scale"}
UPGRADE_HEARD_S = 1.0  # so long after USR2 the log says at the latest that an upgrade has begun
PLENTY_S = 1.0  # at least, between two shortages
DISK_GONE = 0.8  # of a run: by then all on the disk that goes has gone


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
    """Weigh workers by their clients: a new worker has none, and its death proves little."""
    return [1 + number - min(descriptors) for number in descriptors]


class Killer:
    """Kills parts of a server, or asks it for planned moves. It knows the processes from the server's log.

    An upgrade that has passed its trial executes the program. It cannot survive if the program is removed then, or can
    open no file. So the program is not removed and no shortage begins while an upgrade may be under way. The
    server itself rejects an upgrade without the program or in a shortage.
    """

    def __init__(
        self,
        lives: Lives,
        kinds: Sequence[str],
        dice: random.Random,
        limits: Sequence[int] = (),
        seconds: float = 0.0,
    ) -> None:
        """The installation of the server is needed for the kind disk, the limits that bind it for the kind limit.

        What is on the disk goes at moments that are spread over so many seconds from now.
        """
        self.kills: Counter[str] = Counter(dict.fromkeys(kinds, 0))
        self.done: Counter[str] = Counter()
        self._lives = lives
        self._kinds = [kind for kind in kinds if kind != "disk"]
        self._dice = dice
        now, parts = time.monotonic(), lives.installation.left() if lives.installation is not None else []
        self._removals = sorted(now + dice.uniform(0.0, DISK_GONE * seconds) for _ in parts)
        self._limits = limits
        self._shortage: Shortage | None = None
        self._plenty_until = -math.inf
        self._pids: dict[str, int] = {}
        self._upgrading = False
        self._upgrade_asked = -math.inf
        self._started = now

    def strike(self) -> Strike | None:
        """Act once; return what was done, or None if nothing could be done."""
        self.look()
        if self._removals and time.monotonic() >= self._removals[0] and self._can_remove():
            kind = "disk"
        elif self._kinds:
            kind = self._choose_kind()
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

    def _choose_kind(self) -> str:
        """A kind by chance; every second time one that has not struck yet, so that a short run has them all."""
        missing = [kind for kind in self._kinds if not self.kills[kind]]
        return self._dice.choice(missing if missing and self._dice.random() < 0.5 else self._kinds)

    def relent(self, now: float) -> None:
        """End a shortage when its time is over; with infinity, in any case."""
        if self._shortage is not None and now >= self._shortage.until:
            self._shortage.end()
            self._shortage = None
            self._plenty_until = now + PLENTY_S

    def look(self) -> None:
        """Read what the server has logged meanwhile."""
        for line in self._lives.server.new_log_lines():
            if started := find_start(line):
                self._pids[started[0]] = started[1]
            event = find_event(line)
            if event in DONE:
                self.done[DONE[event]] += 1
            self._upgrading = event is Event.UPGRADE_TRIED or (self._upgrading and event not in UPGRADE_ENDS)

    def _strike(self, kind: str) -> bool:
        match kind:
            case _ if kind in MOVES:
                return self._strike_main(kind)
            case "disk":
                return self._strike_disk()
            case "limit":
                return self._strike_limit()
            case "all":
                return self._strike_all()
            case _:
                return self._strike_child(kind)

    def _can_remove(self) -> list[str]:
        assert self._lives.installation is not None
        return self._lives.installation.left(with_program=not self._may_upgrade())

    def _strike_disk(self) -> bool:
        """Remove one of the things on the disk. They do not come back."""
        assert self._lives.installation is not None
        del self._removals[0]
        self._lives.installation.remove(self._dice.choice(self._can_remove()))
        return True

    def _strike_limit(self) -> bool:
        """Let a limit be reached, or several; not at once again, for then nothing could ever be started."""
        if self._shortage is not None or time.monotonic() < self._plenty_until or self._may_upgrade():
            return False
        chosen = [limit for limit in self._limits if self._dice.random() < 0.5] or self._limits
        self._shortage = Shortage(psutil.Process(self._lives.server.pid), chosen, self._dice)
        return True

    def _strike_all(self) -> bool:
        """Kill the server as a whole. Whoever strikes then lets it `start_again`."""
        if time.monotonic() < self._started + LIVES_S:
            return False
        self.relent(math.inf)
        self.look()
        self._lives.end_all(self._dice)
        return True

    def start_again(self) -> None:
        """After all was killed, start the server in the same directory and at the same port. Raises ToolError."""
        self._pids.clear()
        self._upgrading, self._upgrade_asked = False, -math.inf
        self._lives.start_again()
        self._started = time.monotonic()

    def _may_upgrade(self) -> bool:
        return self._upgrading or time.monotonic() < self._upgrade_asked + UPGRADE_HEARD_S

    def _strike_main(self, kind: str) -> bool:
        """The planned moves. While one is under way, main says no to the next, in its log."""
        numbers = {"hup": [signal.SIGHUP], "upgrade": [signal.SIGUSR2], "scale": [signal.SIGTTIN, signal.SIGTTOU]}
        psutil.Process(self._lives.server.pid).send_signal(self._dice.choice(numbers[kind]))
        if kind == "upgrade":
            self._upgrade_asked = time.monotonic()
        return True

    def _strike_child(self, kind: str) -> bool:
        family = {child.pid: child for child in psutil.Process(self._lives.server.pid).children(recursive=True)}
        parts = {name: family[pid] for name, pid in self._pids.items() if pid in family}
        group = kind if kind in ALONE else "worker"
        victims = [part for name, part in parts.items() if name.startswith(group)]
        states = {victim: victim.status() for victim in victims}
        if kind == "stop":
            # One at a time: main would replace several only after longer and longer pauses.
            aged = [victim for victim in victims if time.time() - victim.create_time() > SETTLED_S]
            victims = [] if psutil.STATUS_STOPPED in states.values() else aged
        victims = [victim for victim in victims if states[victim] != psutil.STATUS_ZOMBIE]
        if not victims:
            return False
        chosen = self._dice.choices(victims, weigh([victim.num_fds() for victim in victims]))[0]
        stops = kind == "stop" or (kind == "archive" and "stop" in self._kinds and self._dice.random() < STOPPED)
        chosen.send_signal(signal.SIGSTOP if stops else signal.SIGKILL)
        return True
