"""The journal against a list that remembers everything; its writer killed after every single store; other memories.

Segments are of one page here, so that frames of a few KiB go over their borders and a few dozen go all around.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mpchat.log.local import journal as journal_module
from mpchat.log.local.journal import HEADER, SEGMENT, WARM, Journal, Kind
from mpchat.log.port import LogError, LogFull, Snapshot
from mpchat.sharedmemory import make_memory

PAGE = mmap.PAGESIZE
SIZES = st.one_of(st.integers(0, 300), st.sampled_from([PAGE - HEADER - 1, PAGE - HEADER, PAGE, 3 * PAGE, 20_000]))

Content = list[tuple[int, int, int, bytes]]


def content(journal: Journal) -> Content:
    """All frames: kind, number, time and payload."""
    return [(frame.kind, frame.seq, frame.time, journal.payload(frame)) for frame in journal.frames()]


def reopen(journal: Journal) -> Journal:
    """The same memory as another process sees it."""
    assert journal.descriptor is not None
    return Journal.open(os.dup(journal.descriptor))


@contextmanager
def making(size: int, segment: int = PAGE) -> Iterator[Journal]:
    journal = Journal.make(size, segment)
    journal.take()
    try:
        yield journal
    finally:
        journal.close()


def patterned(size: int, seed: int) -> bytes:
    """Bytes that show when they are at the wrong place."""
    return bytes((seed + 7 * number) % 251 for number in range(size))


# --- any order of calls


class AgainstList(RuleBasedStateMachine):
    """What was appended and not trimmed is there, whoever opens it, and as much as fits is taken."""

    @initialize(pages=st.integers(1, 8), start=st.sampled_from([0, 1, 5]))
    def make(self, pages: int, start: int) -> None:
        self.journal = Journal.make(pages * PAGE, PAGE)
        self.journal.take()
        self.content: Content = []
        self.ends = [0]

    @rule(size=SIZES, kind=st.sampled_from(Kind), seq=st.integers(0, 2**64 - 1))
    def append(self, size: int, kind: Kind, seq: int) -> None:
        payload = patterned(size, len(self.content))
        fits = size + HEADER <= self.journal.free
        try:
            frame = self.journal.append(kind, seq, 5, payload)
        except LogFull:
            assert not fits
            return
        assert fits
        assert frame.position == self.ends[-1]
        self.content.append((kind, seq, 5, payload))
        self.ends.append(frame.end)

    @rule(count=st.integers(0, 5))
    def trim(self, count: int) -> None:
        count = min(count, len(self.content))
        self.journal.trim(self.ends[count])
        del self.content[:count], self.ends[:count]

    @rule()
    def succeed(self) -> None:
        successor = reopen(self.journal)
        self.journal.close()
        self.journal = successor
        self.journal.take()

    @rule()
    def compare(self) -> None:
        assert content(self.journal) == self.content
        assert (self.journal.tail, self.journal.head) == (self.ends[0], self.ends[-1])
        assert 0 <= self.journal.free <= self.journal.size

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.compare()
            self.journal.close()


TestAgainstList = AgainstList.TestCase


def test_a_full_journal_refuses_and_goes_on_when_it_is_trimmed() -> None:
    with making(2 * PAGE) as journal:
        first = journal.append(Kind.RECORD, 1, 0, bytes(PAGE - HEADER))
        journal.append(Kind.RECORD, 2, 0, bytes(PAGE - HEADER))
        assert journal.free == 0
        for size in (0, 100, 10 * PAGE):
            with pytest.raises(LogFull):
                journal.append(Kind.RECORD, 3, 0, bytes(size))
        assert len(content(journal)) == 2
        journal.trim(first.end)
        journal.append(Kind.RECORD, 3, 0, bytes(PAGE - HEADER))
        assert [frame.seq for frame in journal.frames()] == [2, 3]


def test_only_frames_that_are_there_can_be_trimmed() -> None:
    with making(2 * PAGE) as journal:
        frame = journal.append(Kind.RECORD, 1, 0, b"x")
        journal.trim(frame.end)
        for position in (0, frame.end + 1):
            with pytest.raises(ValueError, match="position"):
                journal.trim(position)


# --- the writer is killed


class Killed(BaseException):
    """What happens to the writer."""


LONG_LIFE = 1 << 30


class Mortal:
    """Memory of which the writer is killed after so many bytes, or words: those are stored as a whole."""

    def __init__(self, memory: Any, life: list[int], *, words: bool) -> None:
        self._memory = memory
        self._life = life
        self._words = words

    def __getitem__(self, key: Any) -> Any:
        return self._memory[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._words:
            self._spend(1)
            self._memory[key] = value
            return
        for at, byte in zip(range(key.start, key.stop), value, strict=True):
            self._spend(1)
            self._memory[at] = byte

    def madvise(self, *arguments: int) -> None:
        self._spend(1)
        self._memory.madvise(*arguments)

    def _spend(self, cost: int) -> None:
        if self._life[0] < cost:
            raise Killed
        self._life[0] -= cost


def live(journal: Journal, life: int, step: Callable[[Journal], object]) -> int | None:
    """Let the journal's writer do this; how much of its life is left, or None when it was killed."""
    memory, words, left = journal._memory, journal._words, [life]
    journal._memory = Mortal(memory, left, words=False)  # type: ignore[assignment]
    journal._words = Mortal(words, left, words=True)  # type: ignore[assignment]
    try:
        step(journal)
    except Killed:
        return None
    finally:
        journal._memory, journal._words = memory, words
    return left[0]


def fill(journal: Journal) -> None:
    """All around nearly twice, with frames over borders."""
    for number in range(1, 30):
        while journal.free < 400 + HEADER:
            journal.trim(next(journal.frames()).end)
        journal.append(Kind.RECORD, number, number, patterned(200 + number, number))
    journal.append(Kind.SNAPSHOT, 29, 29, b"state")


def frame_after(journal: Journal, count: int) -> int:
    """The position behind so many frames."""
    return [frame.end for frame in journal.frames()][count - 1]


STEPS: dict[str, Callable[[Journal], object]] = {
    "append": lambda journal: journal.append(Kind.RECORD, 30, 99, patterned(500, 3)),
    "append over borders": lambda journal: journal.append(Kind.RECORD, 30, 99, patterned(PAGE + 300, 3)),
    "append a large one": lambda journal: journal.append(Kind.SNAPSHOT, 29, 99, patterned(journal.free - HEADER, 3)),
    "trim": lambda journal: journal.trim(frame_after(journal, 3)),
    "trim over borders": lambda journal: journal.trim(frame_after(journal, 12)),
    "trim all": lambda journal: journal.trim(journal.head),
    "take": lambda journal: journal.take(),
}


@pytest.mark.parametrize("warm", [0, WARM])
@pytest.mark.parametrize("join", [0, 1 << 14])
@pytest.mark.parametrize("name", STEPS)
def test_a_writer_killed_at_any_store_leaves_the_old_or_the_new(
    monkeypatch: pytest.MonkeyPatch, name: str, join: int, warm: int
) -> None:
    monkeypatch.setattr(journal_module, "WARM", warm)
    monkeypatch.setattr(journal_module, "_JOIN", join)
    with making(4 * PAGE) as journal:
        make_ready(journal, name)
        old = content(journal)
        left = live(journal, LONG_LIFE, STEPS[name])
        assert left is not None
        new, cost = content(journal), LONG_LIFE - left
    # In the middle of a long payload, every byte is like the one before.
    lives = [life for life in range(cost + 1) if life < 120 or life > cost - 60 or life % 37 == 0]
    found = [check_death(name, life, old, new) for life in lives]
    assert found == sorted(found)
    assert found[0] is (old == new) and found[-1]


def make_ready(journal: Journal, name: str) -> None:
    fill(journal)
    if "append" in name:
        journal.trim(frame_after(journal, 8))


def check_death(name: str, life: int, old: Content, new: Content) -> bool:
    """Kill the writer there; whether what it did is in the journal."""
    with making(4 * PAGE) as journal:
        make_ready(journal, name)
        killed = live(journal, life, STEPS[name]) is None
        successor = reopen(journal)
        after = content(successor)
        assert after in (old, new)
        assert after == new or killed
        # And whoever goes on from there finds everything in order.
        successor.take()
        more: Content = []
        for number in range(5):
            while successor.free < 700 + HEADER:
                successor.trim(next(successor.frames()).end)
            more.append((Kind.RECORD, 50 + number, 100, patterned(700, number)))
            successor.append(Kind.RECORD, 50 + number, 100, patterned(700, number))
        left = content(successor)
        assert left == [*after, *more][-len(left) :]
        successor.close()
        return after == new


# --- memory


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")


def memory_in_use(journal: Journal) -> int:
    assert journal.descriptor is not None
    return os.fstat(journal.descriptor).st_blocks * 512  # stat(2): in units of 512 bytes


@linux_only
def test_memory_follows_what_is_kept() -> None:
    with making(200 * SEGMENT, SEGMENT) as journal:
        assert memory_in_use(journal) <= 2 * PAGE
        for number in range(1, 101):
            journal.append(Kind.RECORD, number, 0, bytes(SEGMENT))
        assert memory_in_use(journal) >= 100 * SEGMENT
        frames = list(journal.frames())
        journal.trim(frames[90].position)
        assert memory_in_use(journal) <= 12 * SEGMENT + WARM
        # Also when it goes around; and all that was given back can be used again.
        for number in range(101, 500):
            journal.trim(list(journal.frames())[-10].position)
            journal.append(Kind.RECORD, number, 0, bytes(SEGMENT))
            assert memory_in_use(journal) <= 13 * SEGMENT + WARM
        journal.trim(journal.head)
        assert memory_in_use(journal) <= 2 * SEGMENT + WARM


@linux_only
def test_room_that_is_made_ready_is_used_or_given_back() -> None:
    """Segment by segment: what is written then finds its memory there."""
    with making(64 * SEGMENT, SEGMENT) as journal:
        for size in range(SEGMENT, 40 * SEGMENT + 1, SEGMENT):
            before = memory_in_use(journal)
            journal.warm_up(size)
            assert memory_in_use(journal) - before <= SEGMENT
        warm = memory_in_use(journal)
        assert warm >= 40 * SEGMENT
        journal.append(Kind.SNAPSHOT, 1, 0, bytes(40 * SEGMENT - HEADER))
        assert memory_in_use(journal) == warm
        journal.warm_up(20 * SEGMENT)
        for _ in range(30):
            journal.warm_up(20 * SEGMENT)
        assert memory_in_use(journal) > warm + WARM
        journal.trim(journal.head)
        assert memory_in_use(journal) <= WARM + 2 * SEGMENT
        journal.warm_up(1000 * SEGMENT)  # there are no more


def test_a_successor_gives_back_what_a_killed_writer_had_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    with making(50 * SEGMENT, SEGMENT) as journal:
        journal.append(Kind.RECORD, 1, 0, b"x")
        before = memory_in_use(journal)
        monkeypatch.setattr(journal, "_words", Mortal(journal._words, [20], words=True))  # of 21 segments
        with pytest.raises(Killed):
            journal.append(Kind.SNAPSHOT, 1, 0, bytes(20 * SEGMENT))
        monkeypatch.undo()
        assert memory_in_use(journal) > 20 * SEGMENT
        successor = reopen(journal)
        successor.take()
        assert memory_in_use(successor) <= before + SEGMENT
        assert len(content(successor)) == 1
        successor.close()


def test_a_system_that_takes_nothing_back_is_served_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_MADV_REMOVE", None)
    monkeypatch.setattr(journal_module, "WARM", 0)
    with making(4 * PAGE) as journal:
        fill(journal)
        assert content(journal)[-1] == (Kind.SNAPSHOT, 29, 29, b"state")


def test_a_private_journal_has_no_descriptor() -> None:
    journal = Journal.make_private(PAGE)
    journal.take()
    journal.append(Kind.RECORD, 1, 0, b"x")
    assert content(journal) == [(Kind.RECORD, 1, 0, b"x")]
    assert journal.descriptor is None
    with pytest.raises(TypeError, match="private"):
        journal.__reduce__()
    journal.close()


# --- in a file


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(journal_module, "RESERVE", 2 * PAGE)
    return tmp_path / "log"


def test_a_file_has_the_frames_of_a_writer_that_is_gone(file: Path) -> None:
    journal = Journal.make_file(file, 8 * PAGE, boot=7, segment=PAGE)
    journal.take()
    fill(journal)
    before, identity = content(journal), journal.identity
    journal.close()
    again = Journal.open_file(file)
    assert (content(again), again.boot, again.identity) == (before, 7, identity)
    again.take()
    fill(again)
    again.close()


def test_each_log_has_an_identity_of_its_own_unless_it_goes_on(file: Path) -> None:
    one, two = Journal.make_private(PAGE), Journal.make_private(PAGE)
    assert one.identity != two.identity
    three = Journal.make_file(file, PAGE, 7, identity=one.identity, segment=PAGE)
    assert three.identity == one.identity
    for journal in (one, two, three):
        journal.close()


def test_a_file_that_is_there_is_not_made_again(file: Path) -> None:
    file.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        Journal.make_file(file, PAGE, 7, segment=PAGE)
    assert file.read_bytes() == b"mine"
    with pytest.raises(LogError):
        Journal.open_file(file)


def test_the_reserve_is_on_the_disk_from_the_start(file: Path) -> None:
    journal = Journal.make_file(file, 64 * PAGE, 7, segment=PAGE)
    assert file.stat().st_blocks * 512 >= 2 * PAGE
    journal.close()


def test_a_full_disk_leaves_no_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_allocate", no_room)
    with pytest.raises(OSError, match="No space"):
        Journal.make_file(file, 8 * PAGE, 7, segment=PAGE)
    assert not file.exists()


def test_a_full_disk_refuses_a_frame_and_harms_none(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.make_file(file, 8 * PAGE, 7, segment=PAGE)
    journal.take()
    first = journal.append(Kind.RECORD, 1, 1, b"x" * PAGE)
    with monkeypatch.context() as full:
        full.setattr(journal_module, "_allocate", no_room)
        with pytest.raises(LogFull, match="no room"):
            journal.append(Kind.RECORD, 2, 2, b"x" * 2 * PAGE)
        journal.warm_up(4 * PAGE)
        assert content(journal) == [(Kind.RECORD, 1, 1, b"x" * PAGE)]
        # What is left can be used again.
        journal.trim(first.end)
        journal.append(Kind.RECORD, 2, 2, b"y" * (PAGE // 2))
    journal.append(Kind.RECORD, 3, 3, b"z" * 3 * PAGE)
    assert [frame[1] for frame in content(journal)] == [2, 3]
    journal.close()


def no_room(*_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- other memories


def test_a_seed_is_for_empty_journals() -> None:
    with making(4 * PAGE) as journal:
        with pytest.raises(LogFull):
            journal.seed(Snapshot(7, bytes(5 * PAGE)))
        journal.seed(Snapshot(7, b"state"), 1000)
        assert content(journal) == [(Kind.SNAPSHOT, 7, 1000, b"state")]
        with pytest.raises(LogError, match="in use"):
            journal.seed(Snapshot(8, b"other"))


WORDS = struct.Struct("=11Q")


def damage(word: int, value: int) -> Callable[[mmap.mmap], None]:
    def change(memory: mmap.mmap) -> None:
        words = list(WORDS.unpack_from(memory))
        words[word] = value
        WORDS.pack_into(memory, 0, *words)

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (damage(0, 0), "something else"),
        (damage(1, 2), "format 2; .* reads format 4"),
        (damage(2, 0), "segments"),
        (damage(3, 3), "segments"),
        (damage(3, 2**60), "segments"),
        (damage(4, 5 * PAGE), "damaged: from"),
        (damage(5, 1000), "damaged: from"),
        (damage(10, 4), "table"),
    ],
)
def test_what_is_no_journal_of_ours_is_refused(change: Callable[[mmap.mmap], None], complaint: str) -> None:
    with making(4 * PAGE) as journal:
        journal.append(Kind.RECORD, 1, 0, b"x")
        change(journal._memory)
        assert journal.descriptor is not None
        with pytest.raises(LogError, match=complaint):
            Journal.open(journal.descriptor)
        os.fstat(journal.descriptor)  # is the caller's still


@pytest.mark.parametrize("size", [1, 8, PAGE, 10 * PAGE])
def test_memory_without_a_journal_is_refused(size: int) -> None:
    descriptor = make_memory(size, "test")
    try:
        with pytest.raises(LogError, match="no journal"):
            Journal.open(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("at", [0, 24], ids=["kind", "length"])
def test_damaged_frames_are_noticed(at: int) -> None:
    with making(4 * PAGE) as journal:
        journal.append(Kind.RECORD, 1, 0, b"x")
        journal._memory[PAGE + at : PAGE + at + 8] = bytes([9] * 8)
        with pytest.raises(LogError, match="damaged"):
            content(journal)


# --- the latest snapshot, for one who has no log on the journal ---------------------------------------------


def test_the_snapshot_that_was_written_last_is_read() -> None:
    with making(64 * PAGE) as journal:
        with pytest.raises(LogError, match="no snapshot"):
            journal.read_snapshot()
        journal.append(Kind.RECORD, 1, 0, b"x")
        with pytest.raises(LogError, match="no snapshot"):
            journal.read_snapshot()
        for seq in (1, 2):
            journal.append(Kind.SNAPSHOT, seq, 0, bytes([seq]) * PAGE)
            journal.append(Kind.RECORD, seq + 1, 0, b"y")
            assert journal.read_snapshot() == Snapshot(seq, bytes([seq]) * PAGE)
        journal.trim(journal.head)
        with pytest.raises(LogError, match="no snapshot"):
            journal.read_snapshot()


def test_a_seeded_journal_has_its_snapshot() -> None:
    with making(64 * PAGE) as journal:
        journal.seed(Snapshot(7, b"state"))
        assert journal.read_snapshot() == Snapshot(7, b"state")
