"""People: what they are called, what others see of them, and what they want to see of others."""

from mpchat.chat.events import (
    AwaySet,
    Changed,
    Effect,
    IgnoreSet,
    Ignoring,
    NameChanged,
    QuietSet,
    RecallSet,
    Renamed,
    TimestampsSet,
    Told,
    ToPeers,
    ToSession,
    Whois,
)
from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.requests import (
    Away,
    Back,
    DescribeMember,
    Ignore,
    ListIgnored,
    Rename,
    SetQuiet,
    SetRecall,
    SetTimestamps,
    Unignore,
)
from mpchat.chat.state.names import clean_name
from mpchat.chat.state.state import Session, State


def find_member(state: State, name: str) -> Session:
    """The session called `name`. Raises Refusal when there is none."""
    found = state.find(name)
    if found is None:
        raise Refusal(Problem.NO_SUCH_NAME, name)
    return found


def rename(state: State, session: Session, request: Rename, time: int) -> list[Effect]:
    name = clean_name(request.name)
    if not state.is_free(name, session):
        raise Refusal(Problem.NAME_TAKEN, name)
    changed = Told(ToSession(session.sid), NameChanged(name))
    if name == session.name:
        return [changed]
    old = session.name
    state.rename(session, name)
    renamed = Told(ToPeers(tuple(session.rooms), session.sid, noise=True), Renamed(old, name))
    return [Changed(session.sid), changed, renamed]


def describe_member(state: State, session: Session, request: DescribeMember, time: int) -> list[Effect]:
    other = find_member(state, request.name)
    idle = max(0, time - other.active)
    whois = Whois(other.name, tuple(other.rooms), other.since, idle, other.away)
    return [Told(ToSession(session.sid), whois)]


# --- ignoring -----------------------------------------------------------------------------------------------


def ignore(state: State, session: Session, request: Ignore, time: int) -> list[Effect]:
    other = find_member(state, request.name)
    if other is session:
        raise Refusal(Problem.IGNORE_SELF)
    if len(session.ignores) >= state.limits.ignores and other.sid not in session.ignores:
        raise Refusal(Problem.IGNORES, str(state.limits.ignores))
    state.ignore(session, other)
    return [Changed(session.sid), Told(ToSession(session.sid), IgnoreSet(other.name, on=True))]


def unignore(state: State, session: Session, request: Unignore, time: int) -> list[Effect]:
    other = state.find(request.name)
    if other is None or other.sid not in session.ignores:
        raise Refusal(Problem.NOT_IGNORED, request.name)
    state.unignore(session, other)
    return [Changed(session.sid), Told(ToSession(session.sid), IgnoreSet(other.name, on=False))]


def list_ignored(state: State, session: Session, request: ListIgnored, time: int) -> list[Effect]:
    names = tuple(state.sessions[other].name for other in session.ignores)
    return [Told(ToSession(session.sid), Ignoring(names))]


# --- away ---------------------------------------------------------------------------------------------------


def go_away(state: State, session: Session, request: Away, time: int) -> list[Effect]:
    if len(request.reason) > state.limits.topic:
        raise Refusal(Problem.TEXT_LONG, str(state.limits.topic))
    session.away = request.reason
    return [Told(ToSession(session.sid), AwaySet(session.away))]


def come_back(state: State, session: Session, request: Back, time: int) -> list[Effect]:
    session.away = None
    return [Told(ToSession(session.sid), AwaySet(None))]


# --- settings -----------------------------------------------------------------------------------------------


def set_timestamps(state: State, session: Session, request: SetTimestamps, time: int) -> list[Effect]:
    session.timestamps = not session.timestamps if request.on is None else request.on
    return [Changed(session.sid), Told(ToSession(session.sid), TimestampsSet(session.timestamps))]


def set_recall(state: State, session: Session, request: SetRecall, time: int) -> list[Effect]:
    session.recall = request.on
    return [Told(ToSession(session.sid), RecallSet(request.on))] if session.name else []


def set_quiet(state: State, session: Session, request: SetQuiet, time: int) -> list[Effect]:
    session.quiet = not session.quiet if request.on is None else request.on
    return [Changed(session.sid), Told(ToSession(session.sid), QuietSet(session.quiet))]
