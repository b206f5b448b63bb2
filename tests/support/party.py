"""A party: several people at one replica, who type lines and see lines.

`Party` and `Watcher` stand in for the server: they find out who receives what from nothing but effects and the public
face of a session, as a worker does, and look at a session anew only when an effect says that it has changed. The tests
of the fan-out and the simulation use `Watcher` too.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from mpchat.chat.entries import (
    Ended,
    Entry,
    Opened,
    SessionId,
    decode_entries,
    encode_entries,
    make_input,
)
from mpchat.chat.events import (
    Audience,
    Changed,
    Effect,
    Event,
    Gone,
    Message,
    ToEverybody,
    Told,
    ToPeers,
    ToRoom,
    ToSession,
)
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import Limits, Session
from mpchat.config import Config
from mpchat.wire.registry import LINE, make_dialects

NOON = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1000)
MAX_LINE = 4096
DIALECT = make_dialects(Config(max_line=MAX_LINE, segment_timeout=0))[LINE]


@dataclass(frozen=True, slots=True)
class Watcher:
    """What a worker remembers of one of its sessions to know what it receives, and how it is shown."""

    sid: SessionId
    rooms: tuple[str, ...]
    current: str
    ignores: frozenset[SessionId]
    quiet: bool
    timestamps: bool

    @classmethod
    def take(cls, session: Session) -> Self:
        return cls(
            session.sid,
            tuple(session.rooms),
            session.current,
            frozenset(session.ignores),
            session.quiet,
            session.timestamps,
        )

    def receives(self, audience: Audience) -> bool:
        match audience:
            case ToSession():
                return audience.sid == self.sid
            case ToRoom():
                return audience.room in self.rooms and self._hears(audience.author, audience.noise)
            case ToPeers():
                shared = any(room in self.rooms for room in audience.rooms)
                return shared and self._hears(audience.author, audience.noise)
            case ToEverybody():
                return True

    def show(self, event: Event, time: int) -> bytes:
        """The bytes in which the session is shown the event."""
        session = Session(self.sid, "", since=0, current=self.current, timestamps=self.timestamps)
        view = DIALECT.view(session, event.room if isinstance(event, Message) else None)
        return DIALECT.encode(event, time, view)

    def _hears(self, author: SessionId, noise: bool) -> bool:
        return author not in (self.sid, *self.ignores) and not (noise and self.quiet)


class Party:
    """Several people at one replica. Each entry is applied twice: the second time nothing may come of it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.replica = Replica(limits)
        self.now = NOON
        self.guests: dict[SessionId, Guest] = {}

    def connect(self) -> "Guest":
        """Somebody who has connected and not said a name yet."""
        guest = Guest(self, len(self.guests).to_bytes(16))
        self.guests[guest.sid] = guest
        self.apply(Opened(guest.sid, "127.0.0.1"))
        return guest

    def enter(self, *names: str) -> "list[Guest]":
        """People who are all in the lobby, and have read what they were shown on the way there."""
        entered = []
        for name in names:
            entered.append(self.connect())
            entered[-1].types(name)
        self.clear()
        return entered

    def clear(self) -> None:
        """Everybody has read what there was."""
        for guest in self.guests.values():
            guest.shown.clear()

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * 1000)

    def apply(self, entry: Entry) -> None:
        [entry] = decode_entries(encode_entries([entry]))
        for effect in self.replica.apply(entry, self.now):
            self._take(effect)
        assert self.replica.apply(entry, self.now + 1) == []

    def _take(self, effect: Effect) -> None:
        match effect:
            case Told():
                for guest in self.guests.values():
                    guest.receive(effect)
            case Changed():
                session = self.replica.session(effect.sid)
                assert session is not None
                self.guests[effect.sid].watcher = Watcher.take(session)
            case Gone():
                self.guests[effect.sid].gone = True


class Guest:
    """Somebody at a party: a byte stream in, lines out."""

    def __init__(self, party: Party, sid: SessionId) -> None:
        self.sid = sid
        self.watcher = Watcher.take(Session(sid, "", since=0))
        self.gone = False
        self.shown: list[str] = []
        self._party = party
        self._framing = DIALECT.framing()

    def types(self, *lines: str) -> None:
        """All in one chunk."""
        self._framing.receive("".join(line + "\n" for line in lines).encode(), 0.0)
        for end, request in DIALECT.read(self._framing.take(len(lines))):
            self._party.apply(make_input(self.sid, end, request))

    def hangs_up(self, reason: str) -> None:
        self._party.apply(Ended(self.sid, reason))

    def receive(self, told: Told) -> None:
        if not self.gone and self.watcher.receives(told.audience):
            block = self.watcher.show(told.event, self._party.now)
            self.shown += block.decode().removesuffix("\n").split("\n")

    def sees(self, *lines: str) -> None:
        """These lines and no others have been shown since it was asked last."""
        shown, self.shown = self.shown, []
        assert shown == [*lines]


def picture(replica: Replica) -> bytes:
    """All that the replica depends on, in order. (The bytes also tell which equal strings are one object.)"""
    return replica.dump()
