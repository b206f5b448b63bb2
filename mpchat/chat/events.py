"""Events: what sessions are told, and who is told. Effects: what a worker has to do about an entry.

`Replica.apply` returns a list of effects, in the order in which they happen:

* `Told(audience, event)`: tell these sessions of this event;
* `Changed(sid)`: from here on, look at the session anew: its rooms, name or settings have changed;
* `Gone(sid)`: the session is over; close its connection when its output is written.

Events carry everything that a dialect needs to put them into words, and nothing of any dialect. Rooms have no `#`.
"""

from dataclasses import dataclass

from mpchat.chat.entries import SessionId
from mpchat.chat.problems import Problem
from mpchat.chat.state.history import Line

# --- events -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """`name` says `texts`, in this order, in `room`; or does them (`action`)."""

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
    """The session begins. What is your name?"""


@dataclass(frozen=True, slots=True)
class NameAsked:
    """What is your name? Asked again, after a name that was not acceptable."""


@dataclass(frozen=True, slots=True)
class NameGiven:
    """`wanted` is taken; the session is called `given` instead."""

    wanted: str
    given: str


@dataclass(frozen=True, slots=True)
class SignedOn:
    """The session has a name, and is in `room` with `others` and `more` people who are not named."""

    name: str
    room: str
    others: tuple[str, ...]
    more: int
    topic: str


@dataclass(frozen=True, slots=True)
class Entered:
    """The session is in `room` with `others` and `more` people who are not named. `new`: it was not there before."""

    room: str
    others: tuple[str, ...]
    more: int
    topic: str
    new: bool


@dataclass(frozen=True, slots=True)
class Departed:
    """The session has left `room`. Its current room is `current` now."""

    room: str
    current: str


@dataclass(frozen=True, slots=True)
class NameChanged:
    """The session itself is called `name` now."""

    name: str


@dataclass(frozen=True, slots=True)
class PrivateIn:
    """A private message from `name`."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class PrivateOut:
    """The session's own private message to `name`."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class OtherAway:
    """`name`, to whom the session has just written, is away."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class History:
    """The last lines of `room`, oldest first. `asked`: the session asked for them."""

    room: str
    lines: tuple[Line, ...]
    asked: bool
    earlier: bool = False
    """They are not the last ones, but the last from before some moment."""


@dataclass(frozen=True, slots=True)
class FoundLine:
    """A line that matches. `time` in ms since the epoch; `action` as in Message."""

    room: str
    time: int
    name: str
    action: bool
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """One page of the lines that match a search, oldest first. `full`: there may be another page."""

    lines: tuple[FoundLine, ...]
    page: int
    full: bool


@dataclass(frozen=True, slots=True)
class RoomList:
    """One page of the rooms: (room, members, topic)."""

    rooms: tuple[tuple[str, int, str], ...]
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class MemberList:
    """One page of the members of `room`: (name, away). `total` counts the members on all pages."""

    room: str
    members: tuple[tuple[str, bool], ...]
    total: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class Whois:
    """What is known of `name`. `since` is in ms since the epoch, `idle` in ms. `away` is the reason; None: not away."""

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
    """The names that the session ignores."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IgnoreSet:
    """From now on `name` is hidden from the session, or shown again (`on` is false)."""

    name: str
    on: bool


@dataclass(frozen=True, slots=True)
class AwaySet:
    """The session is away for `reason`. None: it is back."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class TimestampsSet:
    on: bool


@dataclass(frozen=True, slots=True)
class QuietSet:
    on: bool


@dataclass(frozen=True, slots=True)
class RecallSet:
    """From now on the session is shown what was said earlier when it enters a room, or not."""

    on: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """The answer to `requests.Explain`. Only the dialect knows what `topic` means."""

    topic: str


@dataclass(frozen=True, slots=True)
class Failed:
    """What the session asked for is refused."""

    problem: Problem
    about: str = ""
    more: str = ""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What `requests.Negotiate` is answered. Only the dialect knows what it means."""

    answer: str


@dataclass(frozen=True, slots=True)
class Mistaken:
    """The answer to `requests.Mistake`, and the session's last event. Only the dialect knows what `topic` means."""

    topic: str


@dataclass(frozen=True, slots=True)
class Slowed:
    """The session has sent more than its rate, `rate` frames a second, allows; the rest is read later. `ended`: the
    client has ended its side meanwhile."""

    rate: float
    ended: bool


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The session ends. `reason` is empty if it ends by its own request."""

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
    | PrivateIn | PrivateOut | OtherAway | History | Found | RoomList | MemberList | Whois | Topic | Ignoring
    | IgnoreSet | AwaySet | TimestampsSet | QuietSet | RecallSet | Explained | Failed | Negotiated | Mistaken | Slowed
    | Goodbye | Stopping | Stalled
)  # fmt: skip


# --- audiences ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToSession:
    """One session."""

    sid: SessionId


@dataclass(frozen=True, slots=True)
class ToRoom:
    """The members of `room`, without the author and those who ignore the author.

    `noise` marks what a session that is set to quiet does not get.
    """

    room: str
    author: SessionId
    noise: bool = False


@dataclass(frozen=True, slots=True)
class ToPeers:
    """Everybody in any of `rooms`, each once, without the author and those who ignore the author."""

    rooms: tuple[str, ...]
    author: SessionId
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
    """`name` and `reason` are for the log of the server, not for a client: they contain no text of one."""

    sid: SessionId
    name: str = ""
    reason: str = ""


Effect = Told | Changed | Gone
