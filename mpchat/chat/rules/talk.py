"""Talking: to a room, and to one other session."""

from mpchat.chat.events import Effect, Message, OtherAway, PrivateIn, PrivateOut, Told, ToRoom, ToSession
from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.requests import Act, Private, Reply
from mpchat.chat.rules.people import find_member
from mpchat.chat.state.state import Session, State


def say(state: State, session: Session, texts: tuple[str, ...], time: int) -> Effect:
    """The session, which has a name, says these texts in its current room."""
    session.active = time
    room = session.current
    state.history.add(room, time, session.name, texts, author=session.sid)
    return Told(ToRoom(room, session.sid), Message(room, session.name, texts))


def act(state: State, session: Session, request: Act, time: int) -> list[Effect]:
    texts = (_require_text(request.text),)
    state.history.add(session.current, time, session.name, texts, action=True, author=session.sid)
    message = Message(session.current, session.name, texts, action=True)
    return [Told(ToRoom(session.current, session.sid), message)]


def send_private(state: State, session: Session, request: Private, time: int) -> list[Effect]:
    return _write_to(session, find_member(state, request.to), _require_text(request.text))


def reply_private(state: State, session: Session, request: Reply, time: int) -> list[Effect]:
    text = _require_text(request.text)
    if not session.reply_to:
        raise Refusal(Problem.NOBODY_TO_REPLY_TO)
    other = state.sessions.get(session.reply_to)
    if other is None:
        raise Refusal(Problem.REPLY_TO_GONE)
    return _write_to(session, other, text)


def _require_text(text: str) -> str:
    if not text:
        raise Refusal(Problem.TEXT_EMPTY)
    return text


def _write_to(session: Session, other: Session, text: str) -> list[Effect]:
    effects: list[Effect] = [Told(ToSession(session.sid), PrivateOut(other.name, text))]
    if session.sid not in other.ignores:
        effects.append(Told(ToSession(other.sid), PrivateIn(session.name, text)))
        other.reply_to = session.sid
    if other.away is not None:
        effects.append(Told(ToSession(session.sid), OtherAway(other.name, other.away)))
    return effects
