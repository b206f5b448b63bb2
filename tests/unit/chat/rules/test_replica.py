"""The replica: what holds whatever entries come, in whatever order, from whichever worker."""

import typing
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from party import NOON, Watcher, picture
from strategies import ANY_TEXT, REQUESTS, TEXTS, build_request

from mpchat.chat.entries import (
    PACES,
    Asked,
    Ended,
    Entry,
    Forgot,
    Noted,
    Opened,
    Restarted,
    Said,
    Skipped,
    Slowed,
    Stopped,
)
from mpchat.chat.events import (
    Changed,
    Gone,
    Message,
    Negotiated,
    Told,
    ToSession,
    Welcome,
)
from mpchat.chat.problems import Problem
from mpchat.chat.requests import Misread, Negotiate, Quit, Rename
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.snapshot import SNAPSHOT_VERSION
from mpchat.chat.state.state import LOBBY, Limits, Session

# --- properties ---------------------------------------------------------------------------------------------


TIGHT = Limits(
    history=3,
    history_bytes=1500,
    rooms_of_session=3,
    rooms_of_server=4,
    ignores=2,
    name_tries=2,
    topic=10,
    tombstones=50,
)
STAYING = replace(TIGHT, rooms_stay=True)
LIMITS = st.sampled_from([TIGHT, STAYING])
SIDS = [bytes([number]) * 16 for number in range(4)]
POSITIONS = st.integers(1, 50)

SAYINGS = st.builds(Said, st.sampled_from(SIDS), POSITIONS, st.lists(TEXTS, min_size=1, max_size=4).map(tuple))
ASKINGS = st.builds(Asked, st.sampled_from(SIDS), POSITIONS, REQUESTS)
NOTES = st.builds(Noted, st.sampled_from(SIDS), POSITIONS, build_request(Negotiate))
OPENINGS = st.builds(Opened, st.sampled_from(SIDS), ANY_TEXT)
PACINGS = st.builds(Slowed, st.sampled_from(SIDS), POSITIONS, st.sampled_from(PACES), st.just(10.0))
ENDINGS = st.builds(Ended, st.sampled_from(SIDS), TEXTS)
FORGETTINGS = st.one_of(
    st.builds(Forgot, st.sampled_from(["name", "room"]), st.sampled_from(["ann", "bob", "a", "b", "lobby"])),
    st.builds(Forgot, st.just("before"), st.integers(0, 40).map(str)),
)
RESTARTS = st.builds(Restarted)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    SAYINGS,
    *(ASKINGS, ASKINGS, ASKINGS),
    *(NOTES, OPENINGS, ENDINGS, PACINGS, FORGETTINGS, RESTARTS),
    st.builds(Stopped, TEXTS),
)


def number_ends(entries: Iterable[Entry]) -> list[Entry]:
    """The same entries, each input behind those before it, as a stream gives them."""
    return [
        entry._replace(end=100 + number)
        if isinstance(entry, Said | Asked)
        else entry._replace(at=100 + number)
        if isinstance(entry, Noted)
        else entry
        for number, entry in enumerate(entries)
    ]


# Logs as workers write them: sessions are opened before they say anything, and most of them have a name. Only the
# end of a session may stand before its beginning, where a killed worker's last publication came late.
GREETINGS: list[Entry] = [
    *(Opened(sid, "127.0.0.1") for sid in SIDS),
    *(Said(sid, 60, (name,)) for sid, name in zip(SIDS[:3], ("ann", "bob", "Ann"), strict=True)),
]
LOGS = st.builds(
    lambda early, entries: [*early, *GREETINGS, *number_ends(entries)],
    st.lists(ENDINGS, max_size=1),
    st.lists(st.one_of(SAYINGS, ASKINGS, ASKINGS, ASKINGS, ENDINGS, PACINGS), max_size=30),
)


LONG_LOGS = st.builds(
    lambda log, more, again: [*log, *more, *GREETINGS[:3], *number_ends(again)],
    LOGS,
    st.lists(st.one_of(FORGETTINGS, RESTARTS), max_size=3),
    st.lists(st.one_of(SAYINGS, ASKINGS, FORGETTINGS), max_size=10),
)
"""Logs in which lines are forgotten, and servers that start again."""


def assert_consistent(replica: Replica) -> None:
    state = replica._state
    named = [session for session in state.sessions.values() if session.name]
    assert state.names == {session.key: session.sid for session in named}
    for looks, owned in (
        (state.looks, [(session.look, session.sid) for session in named]),
        (state.room_looks, [(room.look, room.name) for room in state.rooms.values()]),
    ):
        groups = looks._owners.values()
        owners = [(look, owner) for group in groups for look, alike in group.items() for owner in alike]
        assert sorted(owners) == sorted(owned)
        assert all(looks._owners.values())
        assert not any(one.is_like(other) for (one, _), (other, _) in combinations(owners, 2))
    for session in state.sessions.values():
        assert len(session.rooms) <= TIGHT.rooms_of_session
        assert len(session.ignores) <= TIGHT.ignores
        assert all(session.sid in state.list_ignorers(state.sessions[other]) for other in session.ignores)
        assert session.current in session.rooms if session.name else not session.rooms
        assert all(session.sid in state.rooms[name].members for name in session.rooms)
    assert sum(map(len, state._ignored_by.values())) == sum(len(each.ignores) for each in state.sessions.values())
    assert len(state.rooms) <= TIGHT.rooms_of_server
    for room in state.rooms.values():
        kept = state.limits.rooms_stay and (room.topic or state.history.has_lines(room.name))
        assert room.members or room.name == LOBBY or kept
        assert all(room.name in state.sessions[sid].rooms for sid in room.members)
        assert len(state.history.last(room.name, 1000, 1 << 30)) <= TIGHT.history
        assert len(room.topic) <= TIGHT.topic
    assert state.history.size <= TIGHT.history_bytes
    assert not state.history._rooms.keys() - state.rooms.keys()
    idle = [room.name for room in state.rooms.values() if not room.members and room.name != LOBBY]
    assert [list(names) for names in state._idle] == [
        [name for name in idle if bool(state.rooms[name].topic) is with_topic] for with_topic in (False, True)
    ]
    assert state._ranking == sorted((-len(room.members), room.name) for room in state.rooms.values())


@given(st.one_of(LOGS, LONG_LOGS, st.lists(ENTRIES, max_size=40)), LIMITS)
def test_it_never_raises_stays_consistent_and_says_what_has_changed(log: list[Entry], limits: Limits) -> None:
    watcher_of_all = Watcher.take(Session(b"", "", since=0, timestamps=True))
    replica, watchers = Replica(limits), {sid: Watcher.take(Session(sid, "", since=0)) for sid in SIDS}
    for time, entry in enumerate(log):
        effects = replica.apply(entry, time)
        before = picture(replica)
        assert replica.apply(entry, time + 1) == []
        assert picture(replica) == before
        assert_consistent(replica)
        for effect in effects:
            match effect:
                case Told():
                    assert watcher_of_all.show(effect.event, time).endswith(b"\n")
                case Changed():
                    session = replica.session(effect.sid)
                    assert session is not None
                    watchers[effect.sid] = Watcher.take(session)
                case Gone():
                    assert replica.stopped or replica.session(effect.sid) is None
        for session in filter(None, map(replica.session, SIDS)):
            assert watchers[session.sid] == Watcher.take(session)


@given(LOGS, st.integers(0, 40))
def test_what_is_published_again_changes_nothing(log: list[Entry], doubt: int) -> None:
    replica, again = Replica(TIGHT), Replica(TIGHT)
    expected = [replica.apply(entry, time) for time, entry in enumerate(log)]
    effects = [again.apply(entry, time) for time, entry in enumerate(log[:doubt])]
    assert [again.apply(entry, doubt) for entry in log[:doubt]] == [[] for _ in log[:doubt]]
    effects += [again.apply(entry, time) for time, entry in enumerate(log[doubt:], doubt)]
    assert effects == expected
    assert [again.apply(entry, len(log)) for entry in log] == [[] for _ in log]
    assert picture(again) == picture(replica)


@given(st.one_of(LOGS, LONG_LOGS), st.integers(0, 60), st.booleans(), LIMITS)
def test_one_that_starts_from_a_snapshot_goes_on_alike(
    log: list[Entry], start: int, stopped: bool, limits: Limits
) -> None:
    if stopped:
        log = [*log, Stopped("")]
    replica = Replica(limits)
    for time, entry in enumerate(log[:start]):
        replica.apply(entry, time)
    loaded = Replica.load(replica.dump(), limits)
    assert picture(loaded) == picture(replica)
    for time, entry in enumerate(log[start:], start):
        assert loaded.apply(entry, time) == replica.apply(entry, time)
    assert picture(loaded) == picture(replica)
    assert_consistent(loaded)
    assert loaded.stopped == replica.stopped


def test_a_snapshot_of_another_version_is_refused() -> None:
    version = SNAPSHOT_VERSION.to_bytes(4)
    snapshot = Replica().dump()
    assert snapshot[8:12] == version
    with pytest.raises(ValueError, match=f"version {SNAPSHOT_VERSION + 1}"):
        Replica.load(snapshot[:8] + (SNAPSHOT_VERSION + 1).to_bytes(4) + snapshot[12:])


def test_tombstones_are_bounded() -> None:
    replica = Replica(Limits(tombstones=3))
    sids = [bytes([number]) * 16 for number in range(10)]
    for sid in sids:
        replica.apply(Opened(sid, ""), NOON)
        replica.apply(Ended(sid, ""), NOON)
    assert [bool(replica.apply(Opened(sid, ""), NOON)) for sid in sids] == [True] * 7 + [False] * 3


# --- epochs: a connection that goes from worker to worker ---------------------------------------------------


HOST = b"h" * 16
GUEST = b"g" * 16


def carried_on(epoch: int = 2) -> Replica:
    """Two in the lobby; the host has been handed over `epoch` times, and 10 bytes of its input are applied."""
    replica = Replica()
    for sid, name in ((HOST, "host"), (GUEST, "guest")):
        replica.apply(Opened(sid, "::1"), NOON)
        replica.apply(Said(sid, 6, (name,)), NOON)
    replica.apply(Opened(HOST, "::1", epoch), NOON)
    replica.apply(Said(HOST, 10, ("hi",), epoch, "line"), NOON)
    return replica


@pytest.mark.parametrize("epoch", [0, 1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda epoch: Said(HOST, 20, ("late",), epoch, "skip"),
        lambda epoch: Asked(HOST, 20, Rename("other"), epoch, "skip"),
        lambda epoch: Asked(HOST, 20, Quit(""), epoch, "skip"),
        lambda epoch: Asked(HOST, 20, Misread(Problem.LINE_LONG, "10"), epoch, "skip"),
        lambda epoch: Skipped(HOST, 20, epoch, "skip"),
        lambda epoch: Ended(HOST, "late", epoch),
    ],
)
def test_what_is_of_another_epoch_changes_nothing(make: typing.Callable[[int], Entry], epoch: int) -> None:
    replica = carried_on()
    before = replica.dump()
    assert replica.apply(make(epoch), NOON + 1) == []
    assert replica.dump() == before
    # And of its own epoch it would have changed something.
    replica.apply(make(2), NOON + 1)
    assert replica.dump() != before


def test_a_later_opening_fences_and_shows_nothing() -> None:
    replica = carried_on(1)
    assert replica.apply(Opened(HOST, "::1", 5), NOON) == []
    session = replica.session(HOST)
    assert session is not None
    assert (session.epoch, session.position, session.mode, session.name) == (5, 10, "line", "host")
    assert replica.apply(Said(HOST, 20, ("late",), 1), NOON) == []
    # The successor reads the same input again.
    (told,) = replica.apply(Said(HOST, 20, ("again",), 5), NOON)
    assert isinstance(told, Told)
    assert told.event == Message(LOBBY, "host", ("again",))


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_an_opening_that_comes_late_changes_nothing(epoch: int) -> None:
    replica = carried_on(2)
    before = replica.dump()
    assert replica.apply(Opened(HOST, "::1", epoch), NOON + 1) == []
    assert replica.dump() == before


def test_the_first_opening_may_be_of_a_later_epoch() -> None:
    """The first worker died before it published its own; when that comes after all, it counts no more."""
    replica = Replica()
    assert replica.apply(Opened(HOST, "::1", 3), NOON) == [Told(ToSession(HOST), Welcome())]
    assert replica.apply(Opened(HOST, "::1", 0), NOON) == []
    assert replica.apply(Said(HOST, 5, ("host",), 0), NOON) == []
    assert replica.apply(Ended(HOST, "", 0), NOON) == []
    replica.apply(Said(HOST, 5, ("host",), 3), NOON)
    session = replica.session(HOST)
    assert session is not None
    assert session.name == "host"


def test_who_has_ended_is_not_opened_again_by_a_later_epoch() -> None:
    replica = carried_on(2)
    replica.apply(Ended(HOST, "", 2), NOON)
    assert replica.apply(Opened(HOST, "::1", 3), NOON) == []
    assert replica.apply(Said(HOST, 30, ("ghost",), 3), NOON) == []
    assert replica.session(HOST) is None


def test_an_end_fences_a_session_that_has_not_begun() -> None:
    replica = Replica()
    assert replica.apply(Ended(HOST, "", 1), NOON) == []
    assert replica.apply(Opened(HOST, "::1", 0), NOON) == []
    assert replica.session(HOST) is None


def test_what_was_skipped_moves_the_position_only() -> None:
    replica = carried_on(2)
    assert replica.apply(Skipped(HOST, 50, 2, "skip"), NOON) == []
    session = replica.session(HOST)
    assert session is not None
    assert (session.position, session.mode) == (50, "skip")
    assert replica.apply(Said(HOST, 50, ("before",), 2), NOON) == []
    assert replica.apply(Skipped(HOST, 40, 2, "line"), NOON) == []
    assert (session.position, session.mode) == (50, "skip")


def test_a_snapshot_knows_epochs_and_modes() -> None:
    replica = Replica.load(carried_on(2).dump())
    session = replica.session(HOST)
    assert session is not None
    assert (session.epoch, session.position, session.mode) == (2, 10, "line")


def test_a_note_is_answered_once_and_uses_up_no_input() -> None:
    replica = Replica()
    replica.apply(Opened(HOST, "", 1), NOON)
    told = Told(ToSession(HOST), Negotiated("wont 6"))
    note = Noted(HOST, 20, Negotiate("wont 6", "telnet"), 1)
    assert replica.apply(note, NOON) == [Changed(HOST), told]
    assert replica.apply(note, NOON) == replica.apply(note._replace(at=10), NOON) == []
    assert replica.apply(note._replace(at=30, epoch=0), NOON) == []
    # Nothing to look at anew: what is agreed on is the same.
    assert replica.apply(note._replace(at=30), NOON) == [told]
    assert replica.apply(Noted(HOST, 40, Negotiate("", "telnet"), 1), NOON) == []
    session = Replica.load(replica.dump()).session(HOST)
    assert session is not None
    assert (session.position, session.mode, session.noted, session.manner) == (0, "", 40, "telnet")
    # The line that the notes stood in is shorter than the last of them is far.
    assert replica.apply(Said(HOST, 25, ("host",), 1), NOON) != []
