"""The session: how it begins, gets its name and ends, and the answers that its dialect has already decided."""

from mpchat.chat import events, requests
from mpchat.chat.entries import ENDING, KEEPING, PACES, Opened, SessionId, Slowed
from mpchat.chat.events import (
    Changed,
    Effect,
    Explained,
    Failed,
    Gone,
    Goodbye,
    Mistaken,
    NameAsked,
    NameGiven,
    Negotiated,
    Quit,
    SignedOn,
    Told,
    ToPeers,
    ToSession,
    Welcome,
)
from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.rules.recall import recall_history
from mpchat.chat.rules.rooms import announce_joined, list_others, list_small_rooms
from mpchat.chat.rules.talk import say
from mpchat.chat.state.names import clean_name
from mpchat.chat.state.state import LOBBY, Session, State


def open_session(state: State, entry: Opened, time: int) -> list[Effect]:
    """Begin the session of `entry`, or raise its epoch if it has begun."""
    session = state.sessions.get(entry.sid)
    if session is not None:
        session.epoch = max(session.epoch, entry.epoch)
        return []
    if state.open(entry.sid, entry.address, entry.epoch, entry.dialect, time) is None:
        return []
    return [Told(ToSession(entry.sid), Welcome())]


def sign_on(state: State, session: Session, texts: tuple[str, ...], time: int) -> list[Effect]:
    """Take each text for a try at a name until one is acceptable; the texts behind that one are said."""
    effects: list[Effect] = []
    for number, text in enumerate(texts, 1):
        effects += _try_name(state, session, text, time)
        if session.sid not in state.sessions:
            break
        if session.name:
            if texts[number:]:
                effects.append(say(state, session, texts[number:], time))
            break
    return effects


def _try_name(state: State, session: Session, text: str, time: int) -> list[Effect]:
    to_self = ToSession(session.sid)
    try:
        wanted = clean_name(text)
    except Refusal as refusal:
        session.tries += 1
        failed = refuse(session, refusal)
        if session.tries >= state.limits.name_tries:
            return failed + end_session(state, session.sid, "no acceptable name")
        return [*failed, Told(to_self, NameAsked())]
    name = state.free_name(wanted, session.sid)
    effects: list[Effect] = [] if name == wanted else [Told(to_self, NameGiven(wanted, name))]
    state.rename(session, name)
    state.enter(session, LOBBY)
    session.active = time
    room = state.rooms[LOBBY]
    others, more = list_others(state, session, room)
    return [
        *effects,
        Changed(session.sid),
        Told(to_self, SignedOn(name, LOBBY, others, more, room.topic)),
        *recall_history(state, session, LOBBY),
        *announce_joined(session, room),
    ]


def note_pace(state: State, entry: Slowed) -> list[Effect]:
    """The session goes over its rate, or keeps to it again. It is told once, until it has kept to it."""
    session = state.sessions.get(entry.sid)
    # At one position, KEEPING comes last.
    place = (entry.position, entry.pace or len(PACES))
    if session is None or session.epoch != entry.epoch or place <= session.paced_at:
        return []
    session.paced_at = place
    if entry.pace == KEEPING:
        session.pace = KEEPING
    elif entry.pace > session.pace:
        session.pace = entry.pace
        return [Told(ToSession(entry.sid), events.Slowed(entry.rate, ended=entry.pace == ENDING))]
    return []


def end_session(state: State, sid: SessionId, reason: str, farewell: str | None = None) -> list[Effect]:
    """End the session. It is told `farewell` (None: the reason), and its rooms are told the reason."""
    session = state.sessions.get(sid)
    if session is None:
        # Its Opened may still come, published by a worker that died meanwhile. It must find a tombstone.
        state.bury(sid)
        return []
    small, ignorers = list_small_rooms(state, sid), state.list_ignorers(session)
    state.close(session)
    rooms = tuple(room for room in small if room in state.rooms)
    effects: list[Effect] = [
        Told(ToSession(sid), Goodbye(session.name, reason if farewell is None else farewell)),
        Gone(sid, session.name, "quit" if farewell == "" else reason or "connection closed"),
    ]
    if session.name and rooms:
        effects.append(Told(ToPeers(rooms, sid, noise=True), Quit(session.name, reason)))
    # Only now: they are not told that it has left, either.
    return [*effects, *map(Changed, ignorers)]


def end_all_sessions(state: State) -> list[Effect]:
    """End all sessions and tell nobody, since all connections are gone. A server that had stopped goes on."""
    state.stopped = False
    sessions = list(state.sessions.values())
    for session in sessions:
        state.close(session)
    return [Gone(session.sid) for session in sessions]


def quit_chat(state: State, session: Session, request: requests.Quit, time: int) -> list[Effect]:
    return end_session(state, session.sid, request.reason[: state.limits.topic], farewell="")


# --- answers --------------------------------------------------------------------------------------------------


def refuse(session: Session, refusal: Refusal) -> list[Effect]:
    """Tell the session why what it asked for cannot be done."""
    return [Told(ToSession(session.sid), Failed(refusal.problem, refusal.about, refusal.more))]


def ask_name_first(session: Session) -> list[Effect]:
    """Tell the session that it needs a name for what it asked for."""
    to_self = ToSession(session.sid)
    return [Told(to_self, Failed(Problem.NAME_FIRST)), Told(to_self, NameAsked())]


def explain(state: State, session: Session, request: requests.Explain, time: int) -> list[Effect]:
    return [Told(ToSession(session.sid), Explained(request.topic))]


def report_misuse(state: State, session: Session, request: requests.Misuse, time: int) -> list[Effect]:
    raise Refusal(Problem.USAGE, request.topic)


def report_misread(state: State, session: Session, request: requests.Misread, time: int) -> list[Effect]:
    raise Refusal(request.problem, request.about, request.more)


def negotiate(state: State, session: Session, request: requests.Negotiate, time: int) -> list[Effect]:
    effects: list[Effect] = []
    if session.manner != request.manner:
        session.manner = request.manner
        effects.append(Changed(session.sid))
    if request.answer:
        effects.append(Told(ToSession(session.sid), Negotiated(request.answer)))
    return effects


def end_mistake(state: State, session: Session, request: requests.Mistake, time: int) -> list[Effect]:
    """The last thing that it is told is what this is: no goodbye, which it would not understand."""
    told = Told(ToSession(session.sid), Mistaken(request.topic))
    return [told, *end_session(state, session.sid, "spoke another protocol", farewell=None)[1:]]
