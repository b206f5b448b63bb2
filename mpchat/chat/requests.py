"""Requests: everything a client can ask for, as typed values.

A dialect reads requests out of a client's bytes (`wire.dialect`); `rules` has a function for each kind. A request says
what the client *wants*, never what it typed: it contains no command, no argument list and no page number as text.
Names and rooms are as the client gave them; the rules check them. Texts are clean (`wire.text`).

Some inputs have two meanings, and only the state of the chat can tell which one holds: in ``/leave so long``, "so" is a
room if there is one of that name. Such a request carries both meanings, and its docstring says which one wins.

A request travels in the log as plain values: the number of its kind and its fields (`pack_request`, `unpack_request`).
So a new kind goes to the end of KINDS, and any other change to a kind changes `entries.VERSION`. `Say` has no number:
it travels as an entry of its own, `entries.Said`, because nearly all entries are that.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_type_hints

from mpchat.chat.problems import Problem


@dataclass(frozen=True, slots=True)
class Request:
    """What all requests have in common."""

    NEEDS_NAME: ClassVar[bool] = True
    """Whether the session must have a name before it may ask for this."""

    IS_ACTIVITY: ClassVar[bool] = True
    """Whether this ends the time for which the session counts as idle."""


# --- talking ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Say(Request):
    """Say these texts, in this order, in the current room. Before the session has a name, each is a try at one."""

    NEEDS_NAME: ClassVar[bool] = False
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Act(Request):
    """Show an action in the current room, such as ``** alice waves``."""

    text: str


@dataclass(frozen=True, slots=True)
class Private(Request):
    """Send a private message to the member called `to`. An empty text is refused, once it is clear that `to` exists."""

    to: str
    text: str


@dataclass(frozen=True, slots=True)
class Reply(Request):
    """Send a private message to the session that sent one last."""

    text: str


# --- rooms --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Join(Request):
    """Enter a room, which is made if it does not exist, and make it the current one."""

    room: str


@dataclass(frozen=True, slots=True)
class Leave(Request):
    """Leave `room` (None: the current one) for `reason`, which may be empty.

    `otherwise` is set when the client may not have meant a room at all. If the session is not in `room`, and no room is
    called so, then it leaves the current room, and `otherwise` is the reason.
    """

    room: str | None = None
    reason: str = ""
    otherwise: str | None = None


@dataclass(frozen=True, slots=True)
class ListRooms(Request):
    """List one page of the rooms, the fullest first. Pages count from 1."""

    page: int = 1


@dataclass(frozen=True, slots=True)
class ListMembers(Request):
    """List one page of the members of `room` (None: the current one). Pages count from 1.

    A `page` of None stands for something that is no page number. It is refused, once it is clear that `room` exists.
    `either` is set when the client named one thing only: it means the first page of `room` if a room is called so, and
    `page` of the current room otherwise.
    """

    room: str | None = None
    page: int | None = 1
    either: bool = False


@dataclass(frozen=True, slots=True)
class ShowTopic(Request):
    """Show the topic of the current room."""


@dataclass(frozen=True, slots=True)
class SetTopic(Request):
    """Set the topic of the current room. An empty one clears it."""

    topic: str


@dataclass(frozen=True, slots=True)
class ShowHistory(Request):
    """Show the last `count` lines of the current room."""

    count: int


@dataclass(frozen=True, slots=True)
class ShowEarlier(Request):
    """Show the last `count` lines of the current room from before a moment.

    `before` is in ms since the epoch. None: from before the lines of this room that the session was shown last.
    """

    count: int
    before: int | None = None


@dataclass(frozen=True, slots=True)
class Search(Request):
    """Show one page of the lines in which all `terms` occur, the newest page first. Pages count from 1.

    A term is a word, or several words that follow each other. `room` and `name` narrow the search; None: any.
    """

    terms: tuple[str, ...]
    room: str | None = None
    name: str | None = None
    page: int = 1


# --- people -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rename(Request):
    """Take another name."""

    name: str


@dataclass(frozen=True, slots=True)
class DescribeMember(Request):
    """Tell about the member called `name`: rooms, since when, idle, away."""

    name: str


@dataclass(frozen=True, slots=True)
class Ignore(Request):
    """Hide everything that the member called `name` does."""

    name: str


@dataclass(frozen=True, slots=True)
class Unignore(Request):
    """The opposite of Ignore."""

    name: str


@dataclass(frozen=True, slots=True)
class ListIgnored(Request):
    """List the names that the session ignores."""


@dataclass(frozen=True, slots=True)
class Away(Request):
    """Be away from now on, for `reason`, which may be empty."""

    reason: str


@dataclass(frozen=True, slots=True)
class Back(Request):
    """The opposite of Away."""


# --- the session --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetTimestamps(Request):
    """Show the time with everything (True), or do not (False), or toggle (None)."""

    on: bool | None


@dataclass(frozen=True, slots=True)
class SetQuiet(Request):
    """Hide notices of members who join, leave or are renamed (True), or show them (False), or toggle (None)."""

    on: bool | None


@dataclass(frozen=True, slots=True)
class SetRecall(Request):
    """Show what was said earlier on entering a room (True), or do not (False). Not answered before there is a name: a
    program asks for it then, and waits for the answer to its name."""

    NEEDS_NAME: ClassVar[bool] = False
    on: bool


@dataclass(frozen=True, slots=True)
class Quit(Request):
    """Leave the chat, for `reason`, which may be empty."""

    NEEDS_NAME: ClassVar[bool] = False
    reason: str


@dataclass(frozen=True, slots=True)
class Explain(Request):
    """Explain the dialect. The answer is `events.Explained` with the same topic, which only the dialect understands."""

    NEEDS_NAME: ClassVar[bool] = False
    topic: str


@dataclass(frozen=True, slots=True)
class Misuse(Request):
    """A request that the dialect knows, with arguments that make no sense.

    The answer is Problem.USAGE with the same `topic`, which only the dialect understands.
    """

    topic: str


@dataclass(frozen=True, slots=True)
class Misread(Request):
    """Input that the dialect could make nothing of. The answer is `problem`, with `about` and `more`."""

    NEEDS_NAME: ClassVar[bool] = False
    IS_ACTIVITY: ClassVar[bool] = False
    problem: Problem
    about: str = ""
    more: str = ""


@dataclass(frozen=True, slots=True)
class Negotiate(Request):
    """Agree with the client's program on how it is spoken to. Takes up no input (`entries.Noted`).

    `manner` is what is agreed on, and what is known of the program. `answer` is what it is answered; empty: nothing.
    The event is `events.Negotiated` with the same `answer`. Only the dialect understands either of them.
    """

    NEEDS_NAME: ClassVar[bool] = False
    IS_ACTIVITY: ClassVar[bool] = False
    answer: str
    manner: str


@dataclass(frozen=True, slots=True)
class Mistake(Request):
    """The client takes this for a server of another kind. It is told so, and the session ends.

    The event is `events.Mistaken` with the same `topic`, which only the dialect understands.
    """

    NEEDS_NAME: ClassVar[bool] = False
    IS_ACTIVITY: ClassVar[bool] = False
    topic: str


# --- in the log ---------------------------------------------------------------------------------------------

KINDS: tuple[type[Request], ...] = (
    Act, Private, Reply, Join, Leave, ListRooms, ListMembers, ShowTopic, SetTopic, ShowHistory, Rename, DescribeMember,
    Ignore, Unignore, ListIgnored, Away, Back, SetTimestamps, SetQuiet, Quit, Explain, Misuse, Misread,
    Negotiate, Mistake, SetRecall, ShowEarlier, Search,
)  # fmt: skip
"""All kinds but Say. The place of a kind is its number in the log."""

_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}


def _list_hints(kind: type[Request]) -> tuple[Any, ...]:
    hints = get_type_hints(kind)
    return tuple(hints[field.name] for field in fields(kind))


_HINTS: tuple[tuple[Any, ...], ...] = tuple(map(_list_hints, KINDS))
"""The types of the fields of each kind, as isinstance takes them."""

Packed = tuple[int, tuple[object, ...]]


def pack_request(request: Request) -> Packed:
    """The request as plain values: the number of its kind, and its fields. Raises KeyError for Say."""
    return _NUMBERS[type(request)], tuple(map(_pack_value, list_values(request)))


def unpack_request(packed: Packed) -> Request:
    """The request that gave `packed`. Raises ValueError when there is no such request."""
    try:
        number, values = packed
        hints = _HINTS[number]
        if number < 0 or len(values) != len(hints):
            raise ValueError(f"{len(values)} fields")
        return KINDS[number](*map(_unpack_value, values, hints))
    except (TypeError, ValueError, LookupError) as error:
        raise ValueError(f"no request: {packed!r:.100}") from error


def list_values(request: Request) -> tuple[object, ...]:
    """The fields of the request, in order."""
    return tuple(getattr(request, field.name) for field in fields(request))


def _pack_value(value: object) -> object:
    return value.name if isinstance(value, Problem) else value


def _unpack_value(value: object, hint: Any) -> object:
    if hint is Problem:
        return Problem[str(value)]
    if hint == tuple[str, ...]:
        if type(value) is tuple and all(type(each) is str for each in value):
            return value
        raise ValueError(f"{value!r:.40} is not {hint}")
    if not isinstance(value, hint):
        raise ValueError(f"{value!r:.40} is not {hint}")
    return value
