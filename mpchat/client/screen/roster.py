"""Who I am, in which rooms, with whom: as far as the server's lines have shown it.

Pure. For completion, the status line, and for going back to the same rooms after a lost connection. What was missed, or
not understood, makes it incomplete and nothing else.
"""

import re
from dataclasses import dataclass, field

from mpchat.client.screen.reading import NAME, Kind, Reading

CROWD = 100
"""Members of a room above which the server no longer tells who comes and goes (docs/reference/line-protocol.md)."""

MOST_SPEAKERS = 1000
"""How many of those who spoke are remembered."""

_COMPANY = r"(?:, alone|(?: with (?P<others>.*?))?(?: and (?P<more>\d+) more)?)"
_HELLO = re.compile(rf"Hello, (?P<me>{NAME})\. You are in #(?P<room>{NAME}?){_COMPANY}\. /help .*")
_ENTERED = re.compile(rf"You are in #(?P<room>{NAME}?){_COMPANY}\.")
_CURRENT = re.compile(rf"You talk in #(?P<room>{NAME}?) now\.")
_LEFT = re.compile(rf"You have left #(?P<left>{NAME})\. You talk in #(?P<room>{NAME}?) now\.")
_RENAMED_ME = re.compile(rf"You are now called (?P<name>{NAME}?)\.")
_MEMBERS = re.compile(rf"(?P<total>\d+) in #(?P<room>{NAME}): (?P<names>.*)")
_JOINED = re.compile(rf"(?P<name>{NAME}) joined #(?P<room>{NAME})")
_PARTED = re.compile(rf"(?P<name>{NAME}) left #(?P<room>{NAME})(?: \(.*\))?")
_QUIT = re.compile(rf"(?P<name>{NAME}) left the chat(?: \(.*\))?")
_RENAMED = re.compile(rf"(?P<old>{NAME}) is now called (?P<name>{NAME})")
_TOPIC = re.compile(rf"#(?P<room>{NAME}): \d+ members?(?:, .*)?")


@dataclass(slots=True)
class Room:
    """A room that I am in: how many are in it, me included, and those of them whose names were shown."""

    count: int = 1
    names: set[str] = field(default_factory=set)


class Roster:
    """What the lines of one conversation have shown, connections after one another."""

    def __init__(self) -> None:
        self.me = ""
        self.current = ""
        self.rooms: dict[str, Room] = {}
        """Those that I am in, in the order in which I entered them."""
        self.gone = ""
        """Who has left the chat by the line that was heard last; else empty."""
        self._seen_rooms: dict[str, None] = {}
        self._speakers: dict[str, None] = {}  # in the order in which they spoke last

    @property
    def speakers(self) -> list[str]:
        """Those who spoke, whoever spoke last first."""
        return [name for name in reversed(self._speakers) if name != self.me]

    @property
    def others(self) -> list[str]:
        """Those whose names were shown and who have not spoken, in alphabetical order."""
        known = {name for room in self.rooms.values() for name in room.names}
        return sorted(known - set(self._speakers) - {self.me}, key=str.casefold)

    @property
    def known_rooms(self) -> list[str]:
        """The rooms that were shown, mine first."""
        return list(dict.fromkeys([*self.rooms, *self._seen_rooms]))

    def describe(self) -> str:
        """The current room and its members, for the status line; empty before there is one."""
        if not self.current:
            return ""
        count = self.rooms[self.current].count if self.current in self.rooms else 1
        return f"#{self.current}, {'over ' if count > CROWD else ''}{count} {'member' if count == 1 else 'members'}"

    def hear(self, reading: Reading) -> None:
        """Learn from a line."""
        self.gone = ""
        if reading.kind is Kind.NOTICE:
            self._hear_notice(reading.text)
        elif reading.name and reading.name != self.me:
            self._speakers.pop(reading.name, None)
            self._speakers[reading.name] = None
            if len(self._speakers) > MOST_SPEAKERS:
                del self._speakers[next(iter(self._speakers))]
        if reading.room:
            self._seen_rooms[reading.room] = None

    def forget_rooms(self) -> None:
        """The connection is over, and I am in no room any more."""
        self.rooms.clear()
        self.current = ""

    def _hear_notice(self, text: str) -> None:
        for pattern, learn in _LESSONS:
            if found := pattern.fullmatch(text):
                learn(self, found.groupdict())
                return

    def _learn_hello(self, told: dict[str, str]) -> None:
        self.me = told["me"]
        self.forget_rooms()
        self._learn_room(told)

    def _learn_room(self, told: dict[str, str]) -> None:
        others = told["others"].split(", ") if told["others"] else []
        self.rooms[told["room"]] = Room(1 + len(others) + int(told["more"] or 0), set(others))
        self._learn_current(told)

    def _learn_current(self, told: dict[str, str]) -> None:
        self.current = told["room"]
        self.rooms.setdefault(self.current, Room())

    def _learn_left(self, told: dict[str, str]) -> None:
        self.rooms.pop(told["left"], None)
        self._learn_current(told)

    def _learn_my_name(self, told: dict[str, str]) -> None:
        self.me = told["name"]

    def _learn_members(self, told: dict[str, str]) -> None:
        self._seen_rooms[told["room"]] = None
        if room := self.rooms.get(told["room"]):
            names = (name.removesuffix(" (away)").lstrip("@+") for name in told["names"].split(", "))
            room.count = int(told["total"])
            room.names.update(name for name in names if name != self.me)

    def _learn_joined(self, told: dict[str, str]) -> None:
        if (room := self.rooms.get(told["room"])) and told["name"] != self.me:
            room.count += 1
            room.names.add(told["name"])

    def _learn_parted(self, told: dict[str, str]) -> None:
        if room := self.rooms.get(told["room"]):
            room.count = max(room.count - 1, 1)
            room.names.discard(told["name"])

    def _learn_quit(self, told: dict[str, str]) -> None:
        self.gone = told["name"]
        self._speakers.pop(self.gone, None)
        for room in self.rooms.values():
            if self.gone in room.names:
                room.count = max(room.count - 1, 1)
                room.names.discard(self.gone)

    def _learn_renamed(self, told: dict[str, str]) -> None:
        old, new = told["old"], told["name"]
        if old in self._speakers:
            del self._speakers[old]
            self._speakers[new] = None
        for room in self.rooms.values():
            if old in room.names:
                room.names.discard(old)
                room.names.add(new)

    def _learn_topic(self, told: dict[str, str]) -> None:
        self._seen_rooms[told["room"]] = None


_LESSONS = (
    (_HELLO, Roster._learn_hello),
    (_ENTERED, Roster._learn_room),
    (_CURRENT, Roster._learn_current),
    (_LEFT, Roster._learn_left),
    (_RENAMED_ME, Roster._learn_my_name),
    (_MEMBERS, Roster._learn_members),
    (_JOINED, Roster._learn_joined),
    (_PARTED, Roster._learn_parted),
    (_QUIT, Roster._learn_quit),
    (_RENAMED, Roster._learn_renamed),
    (_TOPIC, Roster._learn_topic),
)
