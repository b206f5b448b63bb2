"""What each command of the table does: one function a command, from the asking session to effects.

A handler gets the rest of the command's line as `argument` and may raise Refusal, which is told to who asked; it must
do so before it has changed anything. Handlers that can only be asked by somebody with a name are not told so: `Replica`
sees to that.
"""

from collections.abc import Callable
from itertools import islice

from mpchat.chat.announcements import announce_joined, announce_left, end_session, list_others, show_history
from mpchat.chat.commands import find_command, nearest_command
from mpchat.chat.events import (
    AwaySet,
    Changed,
    Departed,
    Effect,
    Entered,
    Event,
    Help,
    IgnoreSet,
    Ignoring,
    MemberList,
    Message,
    NameChanged,
    OtherAway,
    PrivateIn,
    PrivateOut,
    QuietSet,
    Renamed,
    RoomList,
    TimestampsSet,
    Told,
    ToPeers,
    Topic,
    TopicSet,
    ToRoom,
    ToSession,
    Whois,
)
from mpchat.chat.names import clean_name, clean_room, name_key
from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.state import LOBBY, Room, Session, State

Handler = Callable[[State, Session, str, int], list[Effect]]

MEMBERS_A_PAGE = 100
ROOMS_A_PAGE = 20


def _tell(session: Session, event: Event) -> Effect:
    return Told(ToSession(session.sid), event)


def _split(argument: str) -> tuple[str, str]:
    """The first word of `argument`, and what follows it."""
    word, _, rest = argument.strip().partition(" ")
    return word, rest.strip()


def _require(text: str, command: str) -> str:
    if not text.strip():
        raise Refusal(Problem.USAGE, command)
    return text


def _someone(state: State, name: str) -> Session:
    found = state.find(name)
    if found is None:
        raise Refusal(Problem.NO_SUCH_NAME, name)
    return found


def _page(number: str, pages: int, command: str) -> int:
    """The page that `number` asks for, counted from 1; the first when it is empty."""
    if not number:
        return 1
    if not (number.isascii() and number.isdigit()) or len(number) > 9:
        raise Refusal(Problem.USAGE, command)
    if not 1 <= int(number) <= pages:
        raise Refusal(Problem.NO_SUCH_PAGE, str(pages))
    return int(number)


def _pages(count: int, size: int) -> int:
    return max(1, -(-count // size))


def _switch(argument: str, now: bool, command: str) -> bool:
    """What ``[on/off]`` asks for; alone it changes over."""
    choices = {"": not now, "on": True, "off": False}
    try:
        return choices[argument.strip().lower()]
    except KeyError:
        raise Refusal(Problem.USAGE, command) from None


def show_help(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    word = argument.strip().removeprefix("/")
    if not word:
        return [_tell(session, Help(None))]
    command = find_command(word)
    if command is None:
        raise Refusal(Problem.UNKNOWN_COMMAND, nearest_command(word).name, word)
    return [_tell(session, Help(command.name))]


def change_name(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    name = clean_name(_require(argument, "nick"))
    holder = state.find(name)
    if holder is not None and holder is not session:
        raise Refusal(Problem.NAME_TAKEN, name)
    if name == session.name:
        return [_tell(session, NameChanged(name))]
    old, old_key = session.name, session.key
    state.rename(session, name)
    effects: list[Effect] = [Changed(session.sid)]
    for other in state.sessions.values():
        if old_key in other.ignores:
            del other.ignores[old_key]
            other.ignores[session.key] = name
            effects.append(Changed(other.sid))
    return [
        *effects,
        _tell(session, NameChanged(name)),
        Told(ToPeers(tuple(session.rooms), session.key, noise=True), Renamed(old, name)),
    ]


def join_room(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    name = clean_room(_require(argument, "join"))
    new = name not in session.rooms
    if new and len(session.rooms) >= state.limits.rooms_of_session:
        raise Refusal(Problem.ROOMS_OF_SESSION, str(state.limits.rooms_of_session))
    if name not in state.rooms and len(state.rooms) >= state.limits.rooms_of_server:
        raise Refusal(Problem.ROOMS_OF_SERVER, str(state.limits.rooms_of_server))
    state.enter(session, name)
    room = state.rooms[name]
    effects = [Changed(session.sid), _entered(state, session, room, new)]
    if new:
        effects += show_history(state, session, name)
        effects += announce_joined(session, room)
    return effects


def _entered(state: State, session: Session, room: Room, new: bool) -> Effect:
    others, more = list_others(room, session.sid, state)
    return _tell(session, Entered(room.name, others, more, room.topic, new))


def leave_room(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    room, reason = _room_to_leave(state, session, argument)
    if session.rooms.keys() == {LOBBY}:
        raise Refusal(Problem.ONLY_LOBBY)
    homeless = state.leave(session, room)
    effects: list[Effect] = [
        Changed(session.sid),
        _tell(session, Departed(room, session.current)),
        *announce_left(state, session, room, reason),
    ]
    if homeless:
        effects += announce_joined(session, state.rooms[LOBBY])
    return effects


def _room_to_leave(state: State, session: Session, argument: str) -> tuple[str, str]:
    """Which of its rooms the session means, and why it goes. A first word that names none of them is a reason."""
    word, rest = _split(argument)
    if not word:
        return session.current, ""
    try:
        room = clean_room(word)
    except Refusal:
        if word.startswith("#"):
            raise
        return session.current, argument.strip()
    if room in session.rooms:
        return room, rest
    if word.startswith("#") or room in state.rooms:
        raise Refusal(Problem.NOT_IN_ROOM, room)
    return session.current, argument.strip()


def list_rooms(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    pages = _pages(len(state.rooms), ROOMS_A_PAGE)
    page = _page(argument.strip(), pages, "rooms")
    shown = state.ranked((page - 1) * ROOMS_A_PAGE, ROOMS_A_PAGE)
    rooms = tuple((room.name, len(room.members), room.topic) for room in shown)
    return [_tell(session, RoomList(rooms, page, pages))]


def list_members(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    name, number = _room_and_page(state, session, argument)
    room = state.rooms.get(name)
    if room is None:
        raise Refusal(Problem.NO_SUCH_ROOM, name)
    pages = _pages(len(room.members), MEMBERS_A_PAGE)
    page = _page(number, pages, "who")
    first = (page - 1) * MEMBERS_A_PAGE
    shown = [state.sessions[sid] for sid in islice(room.members, first, first + MEMBERS_A_PAGE)]
    members = tuple((member.name, member.away is not None) for member in shown)
    return [_tell(session, MemberList(name, members, len(room.members), page, pages))]


def _room_and_page(state: State, session: Session, argument: str) -> tuple[str, str]:
    """The room and the page of ``[ROOM] [PAGE]``; a number alone is a page, unless a room is called so."""
    word, rest = _split(argument)
    if not word:
        return session.current, ""
    if not rest and word.isascii() and word.isdigit() and word not in state.rooms:
        return session.current, word
    return clean_room(word), rest


def show_whois(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    other = _someone(state, _require(argument, "whois").strip())
    idle = max(0, time - other.active)
    return [_tell(session, Whois(other.name, tuple(other.rooms), other.since, idle, other.away))]


def send_private(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    name, text = _split(argument)
    return _write_to(session, _someone(state, _require(name, "msg")), _require(text, "msg"))


def reply_private(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    text = _require(argument, "reply").strip()
    if not session.reply_to:
        raise Refusal(Problem.NOBODY_TO_REPLY_TO)
    other = state.sessions.get(session.reply_to)
    if other is None:
        raise Refusal(Problem.REPLY_TO_GONE)
    return _write_to(session, other, text)


def _write_to(session: Session, other: Session, text: str) -> list[Effect]:
    effects = [_tell(session, PrivateOut(other.name, text))]
    if session.key not in other.ignores:
        effects.append(_tell(other, PrivateIn(session.name, text)))
        other.reply_to = session.sid
    if other.away is not None:
        effects.append(_tell(session, OtherAway(other.name, other.away)))
    return effects


def act(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    texts = (_require(argument, "me").strip(),)
    state.history.add(session.current, time, session.name, texts, action=True)
    message = Message(session.current, session.name, texts, action=True)
    return [Told(ToRoom(session.current, session.key), message)]


def set_topic(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    room, topic = state.rooms[session.current], argument.strip()
    if not topic:
        return [_tell(session, Topic(room.name, room.topic))]
    if len(topic) > state.limits.topic:
        raise Refusal(Problem.TEXT_LONG, str(state.limits.topic))
    room.topic = topic
    event = TopicSet(session.name, room.name, topic)
    return [_tell(session, event), Told(ToRoom(room.name, session.key), event)]


def show_last(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    number = argument.strip() or "20"
    if not (number.isascii() and number.isdigit()) or len(number) > 9 or int(number) < 1:
        raise Refusal(Problem.USAGE, "history")
    return show_history(state, session, session.current, int(number), asked=True)


def ignore(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    if not argument.strip():
        return [_tell(session, Ignoring(tuple(session.ignores.values())))]
    other = _someone(state, argument.strip())
    if other is session:
        raise Refusal(Problem.IGNORE_SELF)
    if len(session.ignores) >= state.limits.ignores and other.key not in session.ignores:
        raise Refusal(Problem.IGNORES, str(state.limits.ignores))
    session.ignores[other.key] = other.name
    return [Changed(session.sid), _tell(session, IgnoreSet(other.name, on=True))]


def unignore(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    wanted = _require(argument, "unignore").strip()
    name = session.ignores.pop(name_key(wanted), None)
    if name is None:
        raise Refusal(Problem.NOT_IGNORED, wanted)
    return [Changed(session.sid), _tell(session, IgnoreSet(name, on=False))]


def go_away(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    if len(argument.strip()) > state.limits.topic:
        raise Refusal(Problem.TEXT_LONG, str(state.limits.topic))
    session.away = argument.strip()
    return [_tell(session, AwaySet(session.away))]


def come_back(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    session.away = None
    return [_tell(session, AwaySet(None))]


def set_timestamps(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    session.timestamps = _switch(argument, session.timestamps, "timestamp")
    return [Changed(session.sid), _tell(session, TimestampsSet(session.timestamps))]


def set_quiet(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    session.quiet = _switch(argument, session.quiet, "quiet")
    return [Changed(session.sid), _tell(session, QuietSet(session.quiet))]


def quit_chat(state: State, session: Session, argument: str, time: int) -> list[Effect]:
    return end_session(state, session.sid, argument.strip()[: state.limits.topic], farewell="")


HANDLERS: dict[str, Handler] = {
    "help": show_help,
    "nick": change_name,
    "join": join_room,
    "leave": leave_room,
    "rooms": list_rooms,
    "who": list_members,
    "whois": show_whois,
    "msg": send_private,
    "reply": reply_private,
    "me": act,
    "topic": set_topic,
    "history": show_last,
    "ignore": ignore,
    "unignore": unignore,
    "away": go_away,
    "back": come_back,
    "timestamp": set_timestamps,
    "quiet": set_quiet,
    "quit": quit_chat,
}
