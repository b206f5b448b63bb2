"""People: what they are called, what others see of them, and what they want to see of others."""

from mpchat.chat.events import (
    AwaySet,
    Changed,
    Effect,
    IgnoreSet,
    Ignoring,
    NameChanged,
    QuietSet,
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
    SetTimestamps,
    Unignore,
)
from mpchat.chat.state.names import clean_name, name_key
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
    old, old_key = session.name, session.key
    state.rename(session, name)
    effects: list[Effect] = [Changed(session.sid)]
    for other in state.sessions.values():
        if old_key in other.ignores:
            del other.ignores[old_key]
            other.ignores[session.key] = name
            effects.append(Changed(other.sid))
    return [*effects, changed, Told(ToPeers(tuple(session.rooms), session.key, noise=True), Renamed(old, name))]


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
    if len(session.ignores) >= state.limits.ignores and other.key not in session.ignores:
        raise Refusal(Problem.IGNORES, str(state.limits.ignores))
    session.ignores[other.key] = other.name
    return [Changed(session.sid), Told(ToSession(session.sid), IgnoreSet(other.name, on=True))]


def unignore(state: State, session: Session, request: Unignore, time: int) -> list[Effect]:
    name = session.ignores.pop(name_key(request.name), None)
    if name is None:
        raise Refusal(Problem.NOT_IGNORED, request.name)
    return [Changed(session.sid), Told(ToSession(session.sid), IgnoreSet(name, on=False))]


def list_ignored(state: State, session: Session, request: ListIgnored, time: int) -> list[Effect]:
    return [Told(ToSession(session.sid), Ignoring(tuple(session.ignores.values())))]


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


def set_quiet(state: State, session: Session, request: SetQuiet, time: int) -> list[Effect]:
    session.quiet = not session.quiet if request.on is None else request.on
    return [Changed(session.sid), Told(ToSession(session.sid), QuietSet(session.quiet))]
