"""What others are told when somebody comes and goes, and what somebody who comes is shown.

Used by whatever makes it happen: signing on, commands, and a connection that ends.
"""

from itertools import islice

from mpchat.chat.entries import SessionId
from mpchat.chat.events import Effect, Gone, Goodbye, History, Joined, Left, Quit, Told, ToPeers, ToRoom, ToSession
from mpchat.chat.names import name_key
from mpchat.chat.state import Room, Session, State

CROWD = 100
"""In rooms with more members than this, who joins and leaves is not told."""

HISTORY_ON_JOIN = 20
"""How many lines somebody who enters a room is shown."""

NAMES_ON_JOIN = 20
"""How many names somebody who enters a room is told; of the others, the number."""


def list_others(room: Room, sid: SessionId, state: State) -> tuple[tuple[str, ...], int]:
    """The first names in `room` but for `sid`'s own, and how many more there are."""
    others = (other for other in room.members if other != sid)
    names = tuple(state.sessions[other].name for other in islice(others, NAMES_ON_JOIN))
    return names, len(room.members) - 1 - len(names)


def show_history(
    state: State, session: Session, room: str, count: int = HISTORY_ON_JOIN, asked: bool = False
) -> list[Effect]:
    """The last `count` lines of `room`, but for those of people whom the session ignores."""
    lines = state.history.last(room, count, state.limits.history_shown)
    if session.ignores:
        lines = [line for line in lines if name_key(line.name) not in session.ignores]
    return [Told(ToSession(session.sid), History(room, tuple(lines), asked))] if lines or asked else []


def announce_joined(session: Session, room: Room) -> list[Effect]:
    """The others in `room` are told that the session has come, unless it is a crowd."""
    if len(room.members) > CROWD:
        return []
    return [Told(ToRoom(room.name, session.key, noise=True), Joined(session.name, room.name))]


def announce_left(state: State, session: Session, room: str, reason: str) -> list[Effect]:
    """Those who are still in `room` are told that the session has left it, unless it was a crowd."""
    left = state.rooms.get(room)
    if left is None or len(left.members) >= CROWD:
        return []
    return [Told(ToRoom(room, session.key, noise=True), Left(session.name, room, reason))]


def end_session(state: State, sid: SessionId, reason: str, farewell: str | None = None) -> list[Effect]:
    """The session is over; it is told `farewell` (the reason, if None), its rooms the reason."""
    session = state.sessions.get(sid)
    if session is None:
        # Its opening may still be on its way, published by a worker that died meanwhile: it must find a tombstone.
        state.bury(sid)
        return []
    small = tuple(room for room in session.rooms if len(state.rooms[room].members) <= CROWD)
    state.close(session)
    rooms = tuple(room for room in small if room in state.rooms)
    effects: list[Effect] = [
        Told(ToSession(sid), Goodbye(session.name, reason if farewell is None else farewell)),
        Gone(sid),
    ]
    if session.name and rooms:
        effects.append(Told(ToPeers(rooms, session.key, noise=True), Quit(session.name, reason)))
    return effects
