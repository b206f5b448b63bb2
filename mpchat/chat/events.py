"""What sessions are told: events, whom they are for, and the changes that the owner of a connection must know of.

`Replica.apply` gives a list of effects, in the order in which they take effect:

* `Told(audience, event)`: this event goes to these sessions;
* `Changed(sid)`: what this session is to be shown from here on is another thing (rooms, name, settings);
* `Gone(sid)`: the session is over; when its output is written, its connection closes.

Events carry all that a dialect needs to put them into words, and nothing of any dialect. Rooms are named without `#`.
"""

from dataclasses import dataclass

from mpchat.chat.entries import SessionId
from mpchat.chat.history import Line
from mpchat.chat.problems import Problem

# --- events -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """`name` says `texts`, one after the other, in `room`; or does them (`action`)."""

    room: str
    name: str
    texts: tuple[str, ...]
    action: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    name: str
    room: str


@dataclass(frozen=True, slots=True)
class Left:
    """`name` has left `room`; `reason` may be empty."""

    name: str
    room: str
    reason: str


@dataclass(frozen=True, slots=True)
class Quit:
    """`name` has left the chat."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Renamed:
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class TopicSet:
    name: str
    room: str
    topic: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """The connection is made; what is your name?"""


@dataclass(frozen=True, slots=True)
class NameAsked:
    """The question again, after a name that was not acceptable."""


@dataclass(frozen=True, slots=True)
class NameGiven:
    """`wanted` is taken; the session is called `given` instead."""

    wanted: str
    given: str


@dataclass(frozen=True, slots=True)
class SignedOn:
    """The session has a name and is in `room` with `others` (the first of them) and `more` others."""

    name: str
    room: str
    others: tuple[str, ...]
    more: int
    topic: str


@dataclass(frozen=True, slots=True)
class Entered:
    """The session is in `room` with `others` and `more` others; `new`: it was not before."""

    room: str
    others: tuple[str, ...]
    more: int
    topic: str
    new: bool


@dataclass(frozen=True, slots=True)
class Departed:
    """The session has left `room` and talks in `current` now."""

    room: str
    current: str


@dataclass(frozen=True, slots=True)
class NameChanged:
    """The session's own name is `name` now."""

    name: str


@dataclass(frozen=True, slots=True)
class PrivateIn:
    """A private message from `name`."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class PrivateOut:
    """The session's own private message to `name`, as its sender sees it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class OtherAway:
    """`name`, who was written to, is away."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class History:
    """Lines of `room`, oldest first; `asked`: the session asked for them."""

    room: str
    lines: tuple[Line, ...]
    asked: bool


@dataclass(frozen=True, slots=True)
class RoomList:
    """One page of the rooms: (room, members, topic)."""

    rooms: tuple[tuple[str, int, str], ...]
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class MemberList:
    """One page of the members of `room`: (name, away). `total` counts all of them."""

    room: str
    members: tuple[tuple[str, bool], ...]
    total: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class Whois:
    """Who `name` is. Times in ms: `since` of the epoch, `idle` a span; `away` is None for somebody who is here."""

    name: str
    rooms: tuple[str, ...]
    since: int
    idle: int
    away: str | None


@dataclass(frozen=True, slots=True)
class Topic:
    room: str
    topic: str


@dataclass(frozen=True, slots=True)
class Ignoring:
    """Whom the session ignores."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IgnoreSet:
    """`name` is hidden from the session from here on, or (`on` false) shown again."""

    name: str
    on: bool


@dataclass(frozen=True, slots=True)
class AwaySet:
    """The session is away for `reason`, or (None) back."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class TimestampsSet:
    on: bool


@dataclass(frozen=True, slots=True)
class QuietSet:
    on: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """The answer to `requests.Explain`. Only the dialect knows what `topic` means."""

    topic: str


@dataclass(frozen=True, slots=True)
class Failed:
    """What the session asked for cannot be done."""

    problem: Problem
    about: str = ""
    more: str = ""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The session ends. `reason` is empty when it wanted to go."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """The server stops."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stalled:
    """Nothing can be delivered at the moment. What the session sends is kept.

    The only event that no entry leads to: a worker that has lost the log tells it.
    """


Notice = Joined | Left | Quit | Renamed | TopicSet
Event = (
    Message | Notice | Welcome | NameAsked | NameGiven | SignedOn | Entered | Departed | NameChanged
    | PrivateIn | PrivateOut | OtherAway | History | RoomList | MemberList | Whois | Topic | Ignoring | IgnoreSet
    | AwaySet | TimestampsSet | QuietSet | Explained | Failed | Goodbye | Stopping | Stalled
)  # fmt: skip


# --- audiences ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToSession:
    """One session."""

    sid: SessionId


@dataclass(frozen=True, slots=True)
class ToRoom:
    """The members of `room`, but for `author` and who ignores them.

    `author` is the key of the name of who did it; `noise` marks what `/quiet` hides.
    """

    room: str
    author: str
    noise: bool = False


@dataclass(frozen=True, slots=True)
class ToPeers:
    """Who shares one of `rooms` with `author`, each of them once, but for `author` and who ignores them."""

    rooms: tuple[str, ...]
    author: str
    noise: bool = False


@dataclass(frozen=True, slots=True)
class ToEverybody:
    """Every session of the server."""


Audience = ToSession | ToRoom | ToPeers | ToEverybody

# --- effects ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    audience: Audience
    event: Event


@dataclass(frozen=True, slots=True)
class Changed:
    sid: SessionId


@dataclass(frozen=True, slots=True)
class Gone:
    sid: SessionId


Effect = Told | Changed | Gone
