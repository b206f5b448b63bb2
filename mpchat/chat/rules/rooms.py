"""Rooms: who enters and leaves them, what a newcomer is shown, and what can be asked about them."""

from itertools import islice

from mpchat.chat.entries import Forgot, SessionId
from mpchat.chat.events import (
    Changed,
    Departed,
    Effect,
    Entered,
    Joined,
    Left,
    MemberList,
    RoomList,
    Told,
    Topic,
    TopicSet,
    ToRoom,
    ToSession,
)
from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.requests import Join, Leave, ListMembers, ListRooms, SetTopic, ShowTopic
from mpchat.chat.rules.recall import recall_history
from mpchat.chat.state.names import check_room, name_look
from mpchat.chat.state.state import LOBBY, Room, Session, State

CROWD = 100
"""Rooms with more members than this are not told who joins and who leaves."""

NAMES_ON_JOIN = 20
"""How many names a session is shown when it enters a room. Of the other members it is shown the number."""

MEMBERS_A_PAGE = 100
ROOMS_A_PAGE = 20


# --- entering and leaving -----------------------------------------------------------------------------------


def join_room(state: State, session: Session, request: Join, time: int) -> list[Effect]:
    name = check_room(request.room)
    new = name not in session.rooms
    if new and len(session.rooms) >= state.limits.rooms_of_session:
        raise Refusal(Problem.ROOMS_OF_SESSION, str(state.limits.rooms_of_session))
    if name not in state.rooms:
        _refuse_new_room(state, name)
    state.enter(session, name)
    room = state.rooms[name]
    others, more = list_others(state, session, room)
    entered = Entered(room.name, others, more, room.topic, new)
    effects: list[Effect] = [Changed(session.sid), Told(ToSession(session.sid), entered)]
    if new:
        effects += recall_history(state, session, name)
        effects += announce_joined(session, room)
    return effects


def _refuse_new_room(state: State, name: str) -> None:
    """Raise Refusal if the room may not be made."""
    alike = state.room_looks.find(name_look(name))
    if alike is not None:
        raise Refusal(Problem.ROOM_ALIKE, name, alike)
    if len(state.rooms) >= state.limits.rooms_of_server and not state.evict_room():
        raise Refusal(Problem.ROOMS_OF_SERVER, str(state.limits.rooms_of_server))


def leave_room(state: State, session: Session, request: Leave, time: int) -> list[Effect]:
    room, reason = _resolve_leave(state, session, request)
    if session.rooms.keys() == {LOBBY}:
        raise Refusal(Problem.ONLY_LOBBY)
    back_in_lobby = state.leave(session, room)
    effects: list[Effect] = [
        Changed(session.sid),
        Told(ToSession(session.sid), Departed(room, session.current)),
        *announce_left(state, session, room, reason),
    ]
    if back_in_lobby:
        effects += announce_joined(session, state.rooms[LOBBY])
    return effects


def _resolve_leave(state: State, session: Session, request: Leave) -> tuple[str, str]:
    """The room that the request means, and the reason."""
    if request.room is None:
        return session.current, request.reason
    try:
        room = check_room(request.room)
    except Refusal:
        if request.otherwise is None:
            raise
        return session.current, request.otherwise
    if room in session.rooms:
        return room, request.reason
    if request.otherwise is None or room in state.rooms:
        raise Refusal(Problem.NOT_IN_ROOM, room)
    return session.current, request.otherwise


def list_others(state: State, session: Session, room: Room) -> tuple[tuple[str, ...], int]:
    """The first names in `room` without the session's own, and how many more there are."""
    others = (other for other in room.members if other != session.sid)
    names = tuple(state.sessions[other].name for other in islice(others, NAMES_ON_JOIN))
    return names, len(room.members) - 1 - len(names)


def announce_joined(session: Session, room: Room) -> list[Effect]:
    """Tell the others in `room` that the session has joined, unless the room is a crowd."""
    if len(room.members) > CROWD:
        return []
    return [Told(ToRoom(room.name, session.sid, noise=True), Joined(session.name, room.name))]


def announce_left(state: State, session: Session, room: str, reason: str) -> list[Effect]:
    """Tell those who are still in `room` that the session has left, unless the room was a crowd."""
    left = state.rooms.get(room)
    if left is None or len(left.members) >= CROWD:
        return []
    return [Told(ToRoom(room, session.sid, noise=True), Left(session.name, room, reason))]


def list_small_rooms(state: State, sid: SessionId) -> list[str]:
    """The rooms of a session that are no crowds."""
    return [room for room in state.sessions[sid].rooms if len(state.rooms[room].members) <= CROWD]


# --- lists --------------------------------------------------------------------------------------------------


def list_rooms(state: State, session: Session, request: ListRooms, time: int) -> list[Effect]:
    pages = _count_pages(len(state.rooms), ROOMS_A_PAGE)
    page = _check_page(request.page, pages)
    shown = state.ranked((page - 1) * ROOMS_A_PAGE, ROOMS_A_PAGE)
    rooms = tuple((room.name, len(room.members), room.topic) for room in shown)
    return [Told(ToSession(session.sid), RoomList(rooms, page, pages))]


def list_members(state: State, session: Session, request: ListMembers, time: int) -> list[Effect]:
    name, page = _resolve_members(state, session, request)
    room = state.rooms.get(name)
    if room is None:
        raise Refusal(Problem.NO_SUCH_ROOM, name)
    pages = _count_pages(len(room.members), MEMBERS_A_PAGE)
    page = _check_page(page, pages)
    first = (page - 1) * MEMBERS_A_PAGE
    shown = [state.sessions[sid] for sid in islice(room.members, first, first + MEMBERS_A_PAGE)]
    members = tuple((member.name, member.away is not None) for member in shown)
    return [Told(ToSession(session.sid), MemberList(name, members, len(room.members), page, pages))]


def _resolve_members(state: State, session: Session, request: ListMembers) -> tuple[str, int | None]:
    """The room that the request means, and the page."""
    if request.room is None:
        return session.current, request.page
    if not request.either:
        return check_room(request.room), request.page
    if request.room in state.rooms:
        return request.room, 1
    return session.current, request.page


def _count_pages(count: int, size: int) -> int:
    return max(1, -(-count // size))


def _check_page(page: int | None, pages: int) -> int:
    if page is None:
        raise Refusal(Problem.PAGE_NUMBER)
    if not 1 <= page <= pages:
        raise Refusal(Problem.NO_SUCH_PAGE, str(pages))
    return page


# --- topic, and what is forgotten ---------------------------------------------------------------------------


def show_topic(state: State, session: Session, request: ShowTopic, time: int) -> list[Effect]:
    room = state.rooms[session.current]
    return [Told(ToSession(session.sid), Topic(room.name, room.topic))]


def set_topic(state: State, session: Session, request: SetTopic, time: int) -> list[Effect]:
    room, topic = state.rooms[session.current], request.topic
    if len(topic) > state.limits.topic:
        raise Refusal(Problem.TEXT_LONG, str(state.limits.topic))
    room.topic = topic
    event = TopicSet(session.name, room.name, topic)
    return [Told(ToSession(session.sid), event), Told(ToRoom(room.name, session.sid), event)]


def forget_lines(state: State, entry: Forgot) -> None:
    """Forget the lines that `entry` means; of a room, also its topic. A room that nothing keeps any more goes."""
    match entry.kind:
        case "name":
            state.history.forget_name(entry.key)
        case "room":
            state.forget_room(entry.key)
        case "before":
            state.history.forget_before(int(entry.key))
