"""The database is compared with what clients saw: every fault that is planted is found, and there is none otherwise."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpchat_tools.common.faults import Faults, Kind
from mpchat_tools.verify.check import Guest, RoomCheck
from mpchat_tools.verify.kept import check_database, check_order, compare
from mpchat_tools.verify.reference import HISTORY, Key, Seen
from mpchat_tools.verify.talk import compose

from mpchat.archive.database import Line, Place, open_database

ROOM = b"r0"
ORDER = [(b"c%d" % (number % 3), 1 + number // 3) for number in range(30)]
"""What is kept in these tests; clients saw all of it, in two lives of the server."""
SEEN = [Seen(ORDER[:12], 0), Seen(ORDER, 12)]


def line_of(key: Key) -> bytes:
    return b"%b: %b" % (key[0], compose(ROOM, *key, 24))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory with ORDER in it."""
    lines = [
        Line(ROOM.decode(), at, key[0].decode(), key[0].decode(), compose(ROOM, *key, 24).decode().strip())
        for at, key in enumerate(ORDER)
    ]
    with closing(open_database(tmp_path)) as database:
        database.write(Place("log", len(lines), len(lines), True), lines)
    return tmp_path


@pytest.fixture
def database(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "chat.db", isolation_level=None)) as database:
        yield database


def find(folder: Path, seen: list[Seen] = SEEN) -> set[Kind]:
    faults = Faults()
    check_database(folder, {ROOM: seen}, faults)
    return {kind for kind, count in faults.counts.items() if count}


def test_what_was_seen_and_is_kept_is_no_fault(folder: Path) -> None:
    assert find(folder) == set()
    faults = Faults()
    assert check_database(folder, {ROOM: SEEN}, faults) == len(ORDER)


def test_what_nobody_saw_may_be_kept(folder: Path) -> None:
    """The server was killed before it was delivered, or after what was delivered last."""
    assert find(folder, [Seen(ORDER[:12], 0), Seen(ORDER[14:], None)]) == set()
    assert find(folder, [Seen(ORDER[:29], 0)]) == set()


def test_what_a_client_sees_ahead_of_others_lacks_its_own(folder: Path) -> None:
    assert find(folder, [Seen([key for key in ORDER[3:9] if key[0] != b"c1"], own=b"c1")]) == set()
    assert find(folder, [Seen([key for key in ORDER[3:9] if key[0] != b"c1"], own=b"c2")]) == {Kind.DISAGREED}


COPY = "INSERT INTO messages SELECT {to}, room, time, name, name_key, account, kind, text FROM messages WHERE id = {of}"


@pytest.mark.parametrize(
    ("statements", "kinds"),
    [
        (["DELETE FROM messages WHERE id = 10"], {Kind.LOST, Kind.TORN}),
        (["DELETE FROM messages WHERE id = 1"], {Kind.LOST, Kind.TORN}),
        (["DELETE FROM messages WHERE id = 30"], {Kind.LOST, Kind.TORN}),
        ([COPY.format(of=10, to=31)], {Kind.DOUBLED}),
        (
            [f"UPDATE messages SET id = {to} WHERE id = {of}" for of, to in ((10, 99), (11, 10), (99, 11))],
            {Kind.DISAGREED},
        ),
        (
            [f"UPDATE messages SET id = {to} WHERE id = {of}" for of, to in ((10, 99), (13, 10), (99, 13))],
            {Kind.DISAGREED, Kind.REORDERED},
        ),
        (["UPDATE messages SET text = replace(text, 'c0', 'c1') WHERE id = 10"], {Kind.TORN, Kind.LOST}),
        (["UPDATE messages SET name = 'c9' WHERE id = 10"], {Kind.TORN, Kind.LOST}),
        (["INSERT INTO gaps (since, until, reason) VALUES (1, 2, 'slow')"], {Kind.LOST}),
    ],
)
def test_what_is_planted_in_the_database_is_found(
    folder: Path, database: sqlite3.Connection, statements: list[str], kinds: set[Kind]
) -> None:
    for statement in statements:
        database.execute(statement)
    found = find(folder)
    assert found == kinds or found == kinds - {Kind.TORN}, "the index may tell that a line is gone, too"


def test_a_line_in_another_room_is_found(folder: Path, database: sqlite3.Connection) -> None:
    database.execute("INSERT INTO rooms (id, key) VALUES (7, 'r1')")
    database.execute("UPDATE messages SET room = 7 WHERE id = 10")
    faults = Faults()
    check_database(folder, {ROOM: SEEN, b"r1": []}, faults)
    assert faults.counts == {Kind.LOST: 2, Kind.MISDELIVERED: 1}  # both of SEEN have it


def test_a_message_where_nobody_saw_it_is_found() -> None:
    faults = Faults()
    compare(ROOM, ORDER, {key: at for at, key in enumerate(ORDER)}, Seen([*ORDER[:5], *ORDER[6:]], 0), faults)
    assert faults.counts == {Kind.DISAGREED: 1}


@pytest.mark.parametrize(("shown", "kinds"), [(ORDER[5:12], {Kind.LOST: 1}), (ORDER[:12], {})])
def test_history_that_is_missing_after_a_start_is_found(shown: list[Key], kinds: dict[Kind, int]) -> None:
    faults = Faults()
    seen = Seen([*shown, *ORDER[12:]], len(shown))
    compare(ROOM, ORDER, {key: at for at, key in enumerate(ORDER)}, seen, faults)
    assert faults.counts == kinds


@given(st.lists(st.sampled_from(ORDER)))
def test_only_an_order_without_doubles_in_which_each_sender_goes_up_is_right(order: list[Key]) -> None:
    faults = Faults()
    check_order(ROOM, order, faults)
    senders = {name: [number for each, number in order if each == name] for name, _ in order}
    right = all(numbers == sorted(set(numbers)) for numbers in senders.values())
    assert right == (not faults.counts)


# ----------------------------------------------------------------------------- what was seen when all was killed


def enter(name: bytes, company: bytes = b", alone", earlier: list[Key] | None = None) -> bytes:
    """What a client receives that enters the room."""
    history = b"".join(line_of(key) for key in earlier or [])
    if history:
        history = b"* Earlier in #r0 (since 12:14 UTC):\n" + history + b"* Now.\n"
    return (
        b"* Welcome to mpchat. What is your name?\n"
        b"* Hello, %b. You are in #lobby, alone. /help lists the commands.\n"
        b"* You are in #r0%b.\n%b"
        b"* You have left #lobby. You talk in #r0 now.\n"
    ) % (name, company, history)


def make_room() -> tuple[RoomCheck, Guest, Guest]:
    """A room with an observer, and a guest whose name is c9."""
    room = RoomCheck(ROOM, Faults())
    room.reference.keep_keys()
    return room, *come(room, [])


def come(room: RoomCheck, earlier: list[Key]) -> tuple[Guest, Guest]:
    observer, guest = room.add(Guest(b"o", room, silent=True)), room.add(Guest(b"c9", room))
    observer.feed(enter(b"o", earlier=earlier))
    observer.feed(b"* c9 joined #r0\n")
    guest.feed(enter(b"c9", b" with o", earlier))
    return observer, guest


def say(room: RoomCheck, keys: list[Key]) -> bytes:
    for name, number in keys:
        room.reference.said[name] = number
    return b"".join(line_of(key) for key in keys)


@given(st.data())
def test_streams_that_end_anywhere_are_no_fault_and_what_they_had_is_seen(data: st.DataObject) -> None:
    room, observer, guest = make_room()
    spoken = say(room, ORDER)
    watched, heard = (data.draw(st.integers(0, len(spoken))) for _ in range(2))
    first = data.draw(st.integers(0, heard))
    guest.feed(spoken[:first])
    observer.feed(spoken[:watched])
    guest.feed(spoken[first:heard])
    seen = room.interrupt()
    assert room.faults.counts == {}
    most = max(spoken[:watched].count(b"\n"), spoken[:heard].count(b"\n"))
    assert [key for each in seen for key in each.keys] == ORDER[:most]


def test_what_is_missing_before_the_end_of_a_stream_is_lost() -> None:
    room, observer, guest = make_room()
    spoken = say(room, ORDER)
    lines = spoken.splitlines(keepends=True)
    observer.feed(spoken)
    guest.feed(b"".join(lines[:3] + lines[4:9]))
    room.interrupt()
    assert room.faults.counts == {Kind.LOST: 1}


@pytest.mark.parametrize("ahead", [b"c1: no message of ours\n", b"! internal error\n"])
def test_what_is_torn_ahead_of_the_observers_is_found(ahead: bytes) -> None:
    room, observer, guest = make_room()
    spoken = say(room, ORDER)
    observer.feed(spoken[:100])
    guest.feed(spoken + ahead)
    room.interrupt()
    assert room.faults.counts == {Kind.TORN: 1}


def test_after_a_start_the_history_comes_first_and_everybody_is_shown_the_same() -> None:
    room, observer, guest = make_room()
    observer.feed(say(room, ORDER[:24]))
    say(room, ORDER[24:27])
    room.interrupt()
    observer, guest = come(room, ORDER[6:26])  # two more were kept, which nobody saw
    spoken = say(room, ORDER[27:])
    observer.feed(spoken)
    guest.feed(spoken)
    assert room.complete()
    assert room.faults.counts == {}
    assert room.interrupt()[0] == Seen([*ORDER[6:26], *ORDER[27:]], HISTORY)


def test_after_a_start_a_message_of_the_life_before_is_doubled() -> None:
    room, observer, _ = make_room()
    observer.feed(say(room, ORDER[:24]))
    room.interrupt()
    observer, _ = come(room, ORDER[4:24])
    observer.feed(line_of(ORDER[23]))
    room.finish()
    assert room.faults.counts == {Kind.DOUBLED: 1}


def test_after_a_start_somebody_who_is_shown_other_history_is_found() -> None:
    room, observer, _ = make_room()
    observer.feed(say(room, ORDER[:24]))
    room.interrupt()
    observer, guest = room.add(Guest(b"o", room, silent=True)), room.add(Guest(b"c9", room))
    observer.feed(enter(b"o", earlier=ORDER[4:24]) + b"* c9 joined #r0\n")
    guest.feed(enter(b"c9", b" with o", ORDER[5:24]))
    room.finish()
    assert Kind.LOST in room.faults.counts
