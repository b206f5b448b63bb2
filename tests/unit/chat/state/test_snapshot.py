"""Snapshots of the chat: made and loaded in steps that are bounded, whatever there is of the chat.

What a replica that was loaded does then is tested with the replica.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.codec import dump_plain_alike, load_plain
from mpchat.chat.entries import Asked, Ended, Opened, Said
from mpchat.chat.requests import Ignore, Join, Quit
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state import snapshot
from mpchat.chat.state.history import History
from mpchat.chat.state.snapshot import CHUNK, ROW_RUNS, ROW_SIDS, STEP, Capture, Loading
from mpchat.chat.state.state import LOBBY, Limits, State

SESSIONS = 3 * STEP
BUDGET = 4 << 20
TEXT = "x" * 100


def sid_of(number: int) -> bytes:
    return number.to_bytes(16)


def make_crowd() -> Replica:
    """More of everything than goes into one step."""
    replica = Replica(Limits(history_bytes=BUDGET, rooms_of_server=SESSIONS))
    for number in range(SESSIONS):
        replica.apply(Opened(sid_of(number), "127.0.0.1"), number)
        replica.apply(Said(sid_of(number), 1, (f"n{number}",)), number)
    for number in range(0, SESSIONS, 2):
        replica.apply(Asked(sid_of(number), 2, Join(f"room{number % 1000}")), number)
        replica.apply(Asked(sid_of(number), 3, Ignore("n1")), number)
    end = 4
    while replica._state.history.size < BUDGET * 9 / 10:
        for number in range(0, SESSIONS, 2):
            replica.apply(Said(sid_of(number), end, (TEXT, TEXT)), end)
        end += 1
    for number in range(SESSIONS, 2 * SESSIONS):
        replica.apply(Ended(sid_of(number), ""), number)
    return replica


@pytest.fixture(scope="module")
def crowd() -> Replica:
    return make_crowd()


def list_chunks(blob: bytes) -> list[tuple[object, ...]]:
    """The rows of each, as they are written."""
    chunks, at = [], 12
    while length := int.from_bytes(blob[at : at + 4]):
        chunks.append(load_plain(blob[at + 4 : at + 4 + length]))
        at += 4 + length
    assert at + 4 == len(blob)
    return chunks


def test_a_step_copies_a_bounded_number_of_things(crowd: Replica) -> None:
    capture, steps, before = crowd.capture(), 1, 0
    while not capture.advance():
        steps += 1
        copied = len(capture._rows) + len(capture._histories)
        assert copied - before <= STEP + 1
        before = copied
    assert steps >= SESSIONS / STEP + 1


def test_a_chunk_has_a_bounded_number_of_things(crowd: Replica) -> None:
    """So making one, and loading one, takes a bounded time."""
    chunks = list_chunks(crowd.dump())
    assert len(chunks) > 10
    most = CHUNK / 200 + 1
    for rows in chunks:
        assert len(rows) <= most
        for kind, *values in cast(list[tuple[Any, ...]], rows):
            if kind == snapshot._RUNS:
                assert len(values[1]) <= ROW_RUNS
            elif kind == snapshot._ROOM:
                assert len(values[2]) <= ROW_SIDS
            elif kind == snapshot._TOMBSTONES:
                assert len(values[0]) <= ROW_SIDS
    runs = [sum(sum(row[-1]) for row in rows if row[0] == snapshot._RUNS) for rows in chunks]  # type: ignore
    assert max(runs) <= CHUNK + ROW_RUNS * 500


def test_each_chunk_is_loaded_by_itself_as_soon_as_it_is_there(crowd: Replica) -> None:
    blob = crowd.dump()
    loading, loaded = Loading(Limits(history_bytes=BUDGET)), 0
    for start in range(0, len(blob), 1000):
        loading.feed(blob[start : start + 1000])
        while loading.advance():
            loaded += 1
        assert len(loading._data) < CHUNK  # what was loaded is not kept
    assert loading.finished
    assert loaded == len(list_chunks(blob)) + 1  # and the header
    assert Replica(state=loading.state).dump() == blob


def test_what_was_captured_is_not_changed_by_what_comes_then() -> None:
    replica = make_crowd()
    expected = replica.dump()
    capture = replica.capture()
    while not capture.advance():
        pass
    chunks = capture.chunks()
    begun = next(chunks)
    for number in range(SESSIONS):
        replica.apply(Said(sid_of(number), 1000, ("more",)), 0)
        replica.apply(Asked(sid_of(number), 1001, Quit("")), 0)
    assert begun + b"".join(chunks) == expected


@pytest.mark.parametrize(("cut", "end"), [*((cut, b"") for cut in (0, 1, 11, 12, 15, 20, -1)), (12, bytes(4))])
def test_what_has_no_end_gives_no_state(cut: int, end: bytes) -> None:
    loading = Loading(Limits())
    loading.feed(Replica().dump()[:cut] + end)
    while loading.advance():
        pass
    with pytest.raises(ValueError, match="without an end"):
        _ = loading.state


def frame(*rows: object) -> bytes:
    data = dump_plain_alike(rows)
    return len(data).to_bytes(4) + data


@pytest.mark.parametrize(
    "data",
    [
        b"some other file",
        Replica().dump()[:12] + b"\0\0\0\2no",
        Replica().dump()[:12] + frame((99, 1)),
        Replica().dump()[:12] + frame((snapshot._SESSION, 1, 2)),
        Replica().dump()[:12] + frame((snapshot._RUNS, "a", (1,), (2,), (), (7,), (False,), (("x",),), (9,))),
        Replica().dump()[:12] + frame(1),
        Replica().dump()[:12] + frame(()),
    ],
)
def test_what_is_no_snapshot_is_said(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"snapshot|plain|pickle"):
        Replica.load(data)


@given(st.lists(st.tuples(st.sampled_from([LOBBY, "a", "b"]), st.text(max_size=5)), max_size=200))
def test_histories_of_several_rows_keep_their_order(lines: list[tuple[str, str]]) -> None:
    state = State(Limits(history=1000))
    for time, (room, text) in enumerate(lines):
        state.history.add(room, time, text[:2], (text,), action=not text)
    capture = Capture(state)
    while not capture.advance():
        pass
    loading = Loading(Limits(history=1000))
    loading.feed(b"".join(capture.chunks()))
    while loading.advance():
        pass
    loaded: History = loading.state.history
    assert list(loaded.copy_runs()) == list(state.history.copy_runs())
    assert (loaded.size, loaded.number) == (state.history.size, state.history.number)


def test_a_snapshot_of_the_version_before_loads() -> None:
    """Left by a program that ignored people by name, and for which `anna` with a Cyrillic letter was another name."""
    replica = Replica.load(Path(__file__).with_name("snapshot-2.bin").read_bytes())
    state = replica._state
    names = [session.name for session in state.sessions.values()]
    assert names == ["alice", "bob", "anna", "аnna", "alice\ufe0f"]
    alice, bob = (state.find(name) for name in ("alice", "bob"))
    assert alice is not None
    assert bob is not None
    assert [*alice.ignores] == [bob.sid]  # and not carol, who has left
    assert [line.text for line in state.history.last(LOBBY, 10, 1 << 20, alice.ignores)] == ["from anna"]
    assert not state.is_free("Anna")
    # The twins go one after the other; only then their name is free.
    for sid in (3, 4):
        assert not state.is_free("anna")
        replica.apply(Ended(bytes([sid]) * 16, ""), 7000)
    assert state.is_free("anna")
    assert Replica.load(replica.dump()).dump() == replica.dump()


def test_a_snapshot_without_questions_loads() -> None:
    """Left by a program that had no archive to ask."""
    replica = Replica.load(Path(__file__).with_name("snapshot-4.bin").read_bytes())
    alice, bob = (replica._state.find(name) for name in ("alice", "bob"))
    assert alice is not None
    assert bob is not None
    assert ([*alice.ignores], alice.recall, alice.questions, alice.asked) == ([bob.sid], False, (), 0)
    assert Replica.load(replica.dump()).dump() == replica.dump()
