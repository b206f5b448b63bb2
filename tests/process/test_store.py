"""What a server begins with: the journal that is there or the database, and what a start leaves that is killed."""

from __future__ import annotations

import os
import signal
import struct
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mpchat.archive.database import Database, Gap, Line, Place, Topic, open_database
from mpchat.archive.errors import ArchiveDamaged
from mpchat.archive.folder import JOURNAL
from mpchat.chat.entries import Asked, Ended, Entry, Opened, Restarted, Said, Stopped, decode_entries, encode_entries
from mpchat.chat.requests import Join, SetTopic
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.history import Line as Shown
from mpchat.chat.state.state import Limits
from mpchat.errors import ArchiveError
from mpchat.log.local import journal as journal_module
from mpchat.log.local.journal import Journal
from mpchat.log.local.memory import MemoryLog
from mpchat.log.port import LogError, Snapshot
from mpchat.server.archive.archivist import Archivist
from mpchat.server.main.data import revival
from mpchat.server.main.data import store as store_module
from mpchat.server.main.data.store import LOST, hash_boot, inherit_store, open_store, read_boot, replay

LIMITS = Limits(history=5, rooms_stay=True)
BEGIN = 1_700_000_000_000


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still, and a journal allocates little."""
    monkeypatch.setattr(journal_module, "RESERVE", 1 << 20)
    monkeypatch.setattr(store_module, "_now", lambda: BEGIN)


class Use:
    """A server that has the directory, as far as it goes: the log, and what is in it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.closed = False
        self.store = open_store(data, LIMITS)
        self.log = MemoryLog(journal=self.store.journal)
        self.replica, self.last = replay(self.store.journal, LIMITS)

    def publish(self, *entries: Entry) -> None:
        self.log.publish(encode_entries(entries))

    def talk(self, *texts: str) -> None:
        """Alice says something, in a room that has a topic."""
        sid = os.urandom(16)
        self.publish(Opened(sid, ""), Said(sid, 1, ("alice",)), Asked(sid, 2, Join("room")))
        self.publish(Asked(sid, 3, SetTopic("Snakes")), Said(sid, 4, texts), Ended(sid, ""))

    def archive(self) -> None:
        """The archive writes all that there is."""
        with closing(open_database(self.data)) as database:
            archivist = Archivist(self.log, database, self.store.log_id, LIMITS)
            archivist.take(self.log.read(archivist.position, 0))
            archivist.write(at_once=True)

    @property
    def entries(self) -> list[Entry]:
        """All that the log has."""
        first = self.log.get_snapshot().seq
        return [entry for record in self.log.read(first, 0) for entry in decode_entries(record.payload)]

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.store.close()


@pytest.fixture
def use(tmp_path: Path) -> Iterator[Callable[[], Use]]:
    uses: list[Use] = []

    def start() -> Use:
        for each in uses:
            each.close()
        uses[:] = [Use(tmp_path / "data")]
        return uses[0]

    yield start
    for each in uses:
        each.close()


def said(replica: Replica, room: str = "room") -> list[str]:
    return [line.text for line in replica._state.history.last(room, 99, 1 << 20)]


def topic(replica: Replica, room: str = "room") -> str:
    return replica._state.rooms[room].topic


def read(data: Path) -> tuple[list[str], Place, list[Gap]]:
    with closing(open_database(data, read_only=True)) as database:
        return [line.text for line in database.read_lines()], database.place, database.list_gaps()


def peek(journal: Path) -> bytes:
    """The beginning of the file, in which all is that a test writes."""
    with journal.open("rb") as file:
        return file.read(3 << 20)


def forget_boot(data: Path) -> None:
    """Make the journal one of another boot."""
    with (data / JOURNAL).open("r+b") as file:
        file.seek(8 * journal_module._BOOT_AT)
        file.write(struct.pack("=Q", 12345))


# --- the journal goes on


def test_a_new_directory_begins_with_an_empty_chat(use: Callable[[], Use], tmp_path: Path) -> None:
    new = use()
    assert (new.log.get_snapshot().seq, new.replica.sessions) == (1, 0)
    assert read(tmp_path / "data") == ([], Place(new.store.log_id, 1, BEGIN), [])


def test_after_a_kill_all_that_was_published_is_there_and_no_session(use: Callable[[], Use], tmp_path: Path) -> None:
    before = use()
    before.talk("one", "two")
    after = use()
    assert after.store.log_id == before.store.log_id
    assert (said(after.replica), topic(after.replica), after.replica.sessions) == (["one", "two"], "Snakes", 0)
    assert after.entries[-1] == Restarted()
    after.archive()
    texts, place, gaps = read(tmp_path / "data")
    assert (texts, place.seq, gaps) == (["one", "two"], after.log.ping(), [])


def test_a_server_that_ended_in_order_goes_on_in_the_same_journal(use: Callable[[], Use], tmp_path: Path) -> None:
    before = use()
    before.talk("one")
    before.publish(Stopped(""))
    before.archive()
    assert read(tmp_path / "data")[1].ended
    after = use()
    assert not after.replica.stopped
    after.archive()
    assert not read(tmp_path / "data")[1].ended
    assert said(after.replica) == ["one"]


def test_a_full_log_gets_the_snapshot_that_it_lacks(use: Callable[[], Use], monkeypatch: pytest.MonkeyPatch) -> None:
    before = use()
    before.talk("one")
    monkeypatch.setattr(MemoryLog.__init__, "__defaults__", (700, 1 << 10, *MemoryLog.__init__.__defaults__[2:]))  # type: ignore[index]
    after = use()
    assert after.log.get_snapshot().seq == before.log.ping()
    assert (said(after.replica), after.replica.sessions) == (["one"], 0)


# --- it does not


def test_after_a_reboot_the_chat_is_what_the_database_has(
    use: Callable[[], Use], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    before = use()
    before.talk("one", "two")
    before.archive()
    before.talk("lost")
    before.close()
    forget_boot(data)
    written = read(data)[1].time
    after = use()
    assert after.store.log_id != before.store.log_id
    assert (said(after.replica), topic(after.replica), after.replica.sessions) == (["one", "two"], "Snakes", 0)
    begin = max(written, BEGIN)
    assert read(data)[1:] == (Place(after.store.log_id, 1, begin), [Gap(written, begin, LOST)])
    assert after.log.read(1, 0) == []
    assert "not trusted" in caplog.text
    assert "started again" in caplog.text


def test_a_reboot_after_an_end_in_order_leaves_no_gap(use: Callable[[], Use], tmp_path: Path) -> None:
    before = use()
    before.talk("one")
    before.publish(Stopped(""))
    before.archive()
    before.close()
    forget_boot(tmp_path / "data")
    after = use()
    assert (said(after.replica), read(tmp_path / "data")[2]) == (["one"], [])


@pytest.mark.parametrize("word", [journal_module._FORMAT_AT, journal_module._CONTENT_AT, journal_module._MAGIC_AT])
def test_a_journal_of_another_version_is_moved_aside(use: Callable[[], Use], tmp_path: Path, word: int) -> None:
    data = tmp_path / "data"
    for name in ("log.old", "log.old-2"):
        before = use()
        before.talk(name)
        before.archive()
        before.close()
        with (data / JOURNAL).open("r+b") as file:
            file.seek(8 * word)
            file.write(struct.pack("=Q", 99))
        content = peek(data / JOURNAL)
        after = use()
        assert peek(data / name) == content
        assert said(after.replica)[-1] == name


@pytest.mark.parametrize("where", ["head", "frame", "payload", "snapshot"])
def test_a_damaged_journal_stays_as_it_is_and_nothing_starts(
    use: Callable[[], Use], tmp_path: Path, where: str
) -> None:
    data = tmp_path / "data"
    before = use()
    before.talk("one")
    before.archive()
    journal = before.store.journal
    frames = list(journal.frames())
    before.close()
    place = {
        "head": (8 * journal_module._HEAD_AT, 1 << 62),
        "frame": (journal._start + frames[-1].position, 77),
        "payload": (journal._start + frames[-1].position + journal_module.HEADER, 77),
        "snapshot": (journal._start + frames[0].position + journal_module.HEADER, 77),
    }[where]
    with (data / JOURNAL).open("r+b") as file:
        file.seek(place[0])
        file.write(struct.pack("=Q", place[1]))
    content, database = peek(data / JOURNAL), read(data)
    with pytest.raises(ArchiveDamaged, match="move the journal away and start again"):
        open_store(data, LIMITS)
    assert (peek(data / JOURNAL), read(data)) == (content, database)
    # Which is what it says.
    (data / JOURNAL).rename(data / "damaged")
    assert said(use().replica) == ["one"]


def test_a_journal_that_is_behind_the_database_is_not_gone_on_with(use: Callable[[], Use], tmp_path: Path) -> None:
    before = use()
    before.close()
    with closing(open_database(tmp_path / "data")) as database:
        database.write(Place(before.store.log_id, 50, BEGIN))
    with pytest.raises(ArchiveDamaged, match="the database has record 50"):
        open_store(tmp_path / "data", LIMITS)


def test_without_its_database_the_journal_goes_on_and_the_gap_is_noted(use: Callable[[], Use], tmp_path: Path) -> None:
    data = tmp_path / "data"
    before = use()
    before.talk("one")
    before.archive()
    before.close()
    for path in data.glob("chat.db*"):
        path.unlink()
    after = use()
    assert said(after.replica) == ["one"]
    after.talk("two")
    after.archive()
    texts, _, gaps = read(data)
    assert "two" in texts
    assert len(gaps) == 1
    with closing(open_database(data)) as database:
        assert [room.topic for room in database.list_rooms() if room.key == "room"] == ["Snakes"]


def test_a_damaged_database_is_an_error_and_frees_the_lock(use: Callable[[], Use], tmp_path: Path) -> None:
    data = tmp_path / "data"
    use().close()
    content = b"\0" * 4096 + (data / "chat.db").read_bytes()[4096:]
    (data / "chat.db").write_bytes(content)
    for _ in range(2):
        with pytest.raises(ArchiveError):
            open_store(data, LIMITS)
    assert (data / "chat.db").read_bytes() == content


def test_a_full_disk_is_an_error_and_leaves_no_half_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(ArchiveError, match="No space left"):
        open_store(tmp_path, LIMITS)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("log")]
    monkeypatch.undo()
    open_store(tmp_path, LIMITS).close()


# --- an upgrade


def test_the_next_program_goes_on_in_a_new_journal_of_the_same_log(use: Callable[[], Use], tmp_path: Path) -> None:
    before = use()
    before.talk("one")
    before.archive()
    snapshot = Snapshot(before.log.ping(), replay(before.store.journal, LIMITS)[0].dump())
    path, lock, identity = before.store.handover
    after = inherit_store(path, os.dup(lock), identity, snapshot)
    log = MemoryLog(journal=after.journal)
    assert (after.log_id, log.get_snapshot()) == (before.store.log_id, snapshot)
    before.log = log
    before.talk("two")
    after.close()
    again = use()
    assert said(again.replica) == ["one", "two"]
    again.archive()
    assert read(tmp_path / "data")[0] == ["one", "two"]
    assert read(tmp_path / "data")[2] == []


def test_without_room_for_a_new_journal_the_next_program_has_one_in_memory(
    use: Callable[[], Use], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    before = use()
    before.talk("one")
    before.archive()
    snapshot = Snapshot(before.log.ping(), replay(before.store.journal, LIMITS)[0].dump())
    path, lock, identity = before.store.handover
    with monkeypatch.context() as full:
        full.setattr(os, "posix_fallocate", fail)
        after = inherit_store(path, os.dup(lock), identity, snapshot)
    assert (after.journal.boot, after.log_id) == (0, before.store.log_id)
    assert "in memory until the next" in caplog.text
    after.close()
    # Its end is the end of that memory: what is in the database is there.
    assert said(use().replica) == ["one"]


# --- a start that is killed


class Killer:
    """Kills this process at step number `at`. Each call of one of `STEPS` is two steps: before it and behind it."""

    STEPS = (
        (Path, "unlink"),
        (Path, "rename"),
        (Path, "replace"),
        (Journal, "make_file"),
        (Journal, "append"),
        (Database, "write"),
        (MemoryLog, "publish"),
        (store_module, "revive"),
    )

    def __init__(self, at: int) -> None:
        self._at = at
        for owner, name in self.STEPS:
            self._watch(owner, name)

    def _watch(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*arguments: Any, **more: Any) -> Any:
            self._step()
            result = original(*arguments, **more)
            self._step()
            return result

        setattr(owner, name, watched)

    def _step(self) -> None:
        self._at -= 1
        if not self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def start_and_die(data: Path, at: int) -> bool:
    """Start in a process that is killed at a step; false when it has not so many."""
    return do_and_die(lambda: open_store(data, LIMITS), at)


def do_and_die(do: Callable[[], object], at: int) -> bool:
    """Do something in a process that is killed at a step; false when it has not so many."""
    pid = os.fork()
    if pid == 0:
        try:
            Killer(at)
            do()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - nothing may leave the child
            traceback.print_exc()
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def make_old(use: Callable[[], Use], data: Path) -> None:
    before = use()
    before.talk("one")
    before.archive()
    before.talk("lost")
    before.close()


@pytest.mark.parametrize("kind", ["new", "reboot", "version", "same"])
def test_a_start_that_is_killed_at_any_step_leaves_a_directory_for_the_next(
    use: Callable[[], Use], tmp_path: Path, kind: str
) -> None:
    data = tmp_path / "data"
    at = 1
    if kind != "new":
        make_old(use, data)
    while True:
        if kind == "reboot":
            forget_boot(data) if (data / JOURNAL).exists() else None
        elif kind == "version" and (data / JOURNAL).exists():
            with (data / JOURNAL).open("r+b") as file:
                file.seek(8 * journal_module._CONTENT_AT)
                file.write(struct.pack("=Q", 99))
        if not start_and_die(data, at):
            break
        # The next one, without a kill.
        after = use()
        if kind == "new":
            assert said(after.replica) == []
        elif kind == "same":
            assert said(after.replica) == ["one", "lost"]
        else:
            assert said(after.replica) == ["one"]
        assert topic(after.replica) == "Snakes" if kind != "new" else "room" not in after.replica._state.rooms
        after.archive()
        texts, place, _ = read(data)
        assert place.log == after.store.log_id
        assert texts == {"new": [], "same": ["one", "lost"]}.get(kind, ["one"])
        after.close()
        at += 1
    assert at > 4
    gaps = read(data)[2]
    assert all(gap.reason == LOST for gap in gaps) and (kind in ("reboot", "version")) == bool(gaps)


def test_an_upgrade_that_is_killed_at_any_step_leaves_a_directory_for_the_next_start(
    use: Callable[[], Use], tmp_path: Path
) -> None:
    data, at, before = tmp_path / "data", 1, use()
    before.talk("one")
    while True:
        before.talk(f"before {at}")
        before.archive()
        snapshot = Snapshot(before.log.ping(), replay(before.store.journal, LIMITS)[0].dump())
        path, lock, identity = before.store.handover
        has_died = do_and_die(lambda: inherit_store(path, os.dup(lock), identity, snapshot), at)  # noqa: B023
        before = use()
        assert before.store.log_id == f"{identity:016x}"
        assert said(before.replica)[-1] == f"before {at}"
        before.archive()
        assert read(data)[0] == ["one", *(f"before {each}" for each in range(1, at + 1))]
        assert read(data)[2] == []
        if not has_died:
            break
        at += 1
    assert at > 4


# --- the boot


def test_a_boot_has_a_number_that_is_never_0_and_stays() -> None:
    assert read_boot() == read_boot() != 0
    assert hash_boot(b"one") != hash_boot(b"two")
    assert 0 < hash_boot(b"") < 1 << 64


# --- revival


def test_the_rooms_that_were_last_spoken_in_are_revived_and_no_more_than_there_may_be(tmp_path: Path) -> None:
    limits = Limits(history=2, rooms_of_server=4, rooms_stay=True)
    with closing(open_database(tmp_path)) as database:
        lines = [Line(f"r{number}", 100 + number, "Alice", "alice", f"in {number}") for number in range(6)]
        lines += [Line("lobby", 200, "Bob", "bob", text) for text in ("a", "b", "c")]
        lines.append(Line("r5", 300, "Bob", "bob", "waves", kind=1))
        topics = [Topic("named", "Names"), Topic("unnamed", "")]
        database.write(Place("log", 1, 400), lines, topics)
    state = open_and_replay(tmp_path, limits)._state
    assert list(state.rooms) == ["lobby", "named", "r4", "r5"]
    shown = state.history.last("lobby", 9, 1 << 20) + state.history.last("r5", 9, 1 << 20)
    assert shown == [
        Shown(200, "Bob", False, "b"),
        Shown(200, "Bob", False, "c"),
        Shown(105, "Alice", False, "in 5"),
        Shown(300, "Bob", True, "waves"),
    ]
    # The longest-idle room without a topic makes way first.
    assert state.evict_room()
    assert list(state.rooms) == ["lobby", "named", "r5"]


def test_memory_bounds_what_is_revived(tmp_path: Path) -> None:
    limits = Limits(history=100, history_bytes=20_000, rooms_stay=True)
    with closing(open_database(tmp_path)) as database:
        lines = [Line(f"r{number // 50}", number, "Alice", "alice", "x" * 100) for number in range(1000)]
        database.write(Place("log", 1, 2000), lines)
    state = open_and_replay(tmp_path, limits)._state
    assert 10_000 < state.history.size <= 20_000
    assert list(state.rooms) == ["lobby", "r18", "r19"]


@pytest.mark.parametrize(("lines", "each"), [(1000, 50), (120, 30), (1, 20)])
def test_rooms_share_what_is_revived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int, each: int
) -> None:
    monkeypatch.setattr(revival, "LINES", lines)
    with closing(open_database(tmp_path)) as database:
        said = [Line(f"r{number % 4}", number, "Alice", "alice", "x") for number in range(400)]
        database.write(Place("log", 1, 2000), said)
    history = open_and_replay(tmp_path, Limits(history=50, rooms_stay=True))._state.history
    assert [len(history.last(f"r{number}", 99, 1 << 20)) for number in range(4)] == [each] * 4


def open_and_replay(data: Path, limits: Limits) -> Replica:
    store = open_store(data, limits)
    replica, _ = replay(store.journal, limits)
    store.close()
    return replica


def test_an_empty_journal_is_none() -> None:
    journal = Journal.make_private(1 << 20)
    with pytest.raises(LogError, match="empty"):
        replay(journal, LIMITS)
    journal.close()
