"""The steps of an upgrade: each follows the one before, and any trouble on the way gives it up once.

The workers, the sequencer and the journal are played; tests/system/test_upgrade.py has the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mpchat.log.port import LogLost, Snapshot
from mpchat.server.main.upgrade import upgrade as steps
from mpchat.server.main.upgrade.upgrade import Upgrade

SNAPSHOT = Snapshot(9, b"state")
BY = 10.0


class PlayedTrial:
    """A version on trial, until it is told to `end`."""

    pid = 5
    version = "2"
    deadline = 3.0

    def __init__(self, loop: object, program: object, done: Callable[[str], None]) -> None:
        self.end = done
        self.closed = False

    def check(self, now: float) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Office:
    """An upgrade, and all around it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, program: object = "mpchat-server") -> None:
        monkeypatch.setattr(steps, "Trial", self._try)
        self.did: list[object] = []
        self.silent = False
        self.snapshot: Snapshot | Exception = SNAPSHOT
        self.refused = False
        self.workforce = SimpleNamespace(
            workers={0: "worker"}, paused_at=None, worker_lost=False, pause=lambda: self.did.append("pause"),
            conclude=lambda seq: self.did.append(("conclude", seq)), kill_all=lambda: self.did.append("kill"),
        )  # fmt: skip
        self.sequencing = SimpleNamespace(
            release=self._release, read_snapshot=self._read_snapshot, resume=lambda: self.did.append("resume")
        )
        self.archiving = SimpleNamespace(
            done=True,
            conclude=lambda seq: self.did.append(("archive", seq)),
            resume=lambda: self.did.append("archives"),
        )
        supervision = SimpleNamespace(is_silent=lambda now: self.silent)
        self.upgrade = Upgrade(
            cast(Any, None), cast(Any, program),  cast(Any, self.workforce), cast(Any, supervision),
            cast(Any, self.sequencing), cast(Any, self.archiving), self.did.append, lambda: self.did.append("given up"),
        )  # fmt: skip

    def _try(self, *arguments: Any) -> PlayedTrial:
        if self.refused:
            raise OSError("no process")
        self.trial = PlayedTrial(*arguments)
        return self.trial

    def _release(self, then: Callable[[], None]) -> None:
        self.did.append("release")
        self.released = then

    def _read_snapshot(self) -> Snapshot:
        if isinstance(self.snapshot, Exception):
            raise self.snapshot
        return self.snapshot

    def pause(self) -> None:
        self.upgrade.try_program()
        self.trial.end("")
        self.upgrade.begin(BY)

    def conclude(self, seq: int = SNAPSHOT.seq) -> None:
        self.pause()
        self.workforce.paused_at = seq
        self.upgrade.advance(0.0)

    def release(self, seq: int = SNAPSHOT.seq) -> None:
        self.conclude(seq)
        self.workforce.workers.clear()
        self.workforce.paused_at = None
        self.upgrade.advance(0.0)


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    return Office(monkeypatch)


def test_an_upgrade_goes_from_the_trial_to_the_snapshot(office: Office) -> None:
    assert office.upgrade.may_try
    office.upgrade.try_program()
    assert not office.upgrade.may_try
    assert (office.upgrade.trial_pid, office.upgrade.deadline()) == (5, 3.0)
    office.trial.end("")
    assert office.upgrade.waiting
    assert office.upgrade.tried == "2"
    office.upgrade.begin(BY)
    assert office.upgrade.deadline() == BY
    office.upgrade.advance(0.0)
    assert office.did == ["pause"]
    office.workforce.paused_at = 9
    office.upgrade.advance(0.0)
    office.upgrade.advance(0.0)
    assert office.did == ["pause", ("conclude", 9), ("archive", 9)]
    office.workforce.workers.clear()
    office.workforce.paused_at = None
    office.upgrade.advance(0.0)
    office.upgrade.advance(0.0)
    assert office.did == ["pause", ("conclude", 9), ("archive", 9), "release"]
    office.released()
    assert office.did[4:] == [SNAPSHOT]


def test_the_archive_is_waited_for_but_not_for_ever(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.archiving.done = False
    office.release()
    assert (office.did[-1], office.upgrade.deadline()) == (("archive", 9), BY / 2)
    office.upgrade.advance(BY / 2)
    assert office.did[-1] == "release"
    assert "archive is late" in caplog.text
    office.upgrade.advance(BY / 2)
    assert office.did.count("release") == 1


def test_an_archive_that_has_written_everything_ends_the_wait(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.archiving.done = False
    office.release()
    office.archiving.done = True
    office.upgrade.advance(0.1)
    assert office.did[-1] == "release"
    assert not caplog.records


def test_a_version_that_fails_its_trial_changes_nothing(office: Office) -> None:
    office.upgrade.try_program()
    office.trial.end("it is older")
    assert office.did == []
    assert not office.upgrade.waiting
    assert office.upgrade.may_try


def test_a_trial_that_cannot_be_started_changes_nothing(office: Office) -> None:
    office.refused = True
    office.upgrade.try_program()
    assert office.did == []
    assert office.upgrade.may_try
    assert office.upgrade.deadline() == float("inf")


def test_without_a_program_there_is_no_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Office(monkeypatch, program=None).upgrade.may_try


@pytest.mark.parametrize("reach", [Office.pause, Office.conclude, Office.release])
@pytest.mark.parametrize("trouble", ["late", "lost", "silent"])
def test_any_failure_ends_the_upgrade(office: Office, reach: Callable[[Office], None], trouble: str) -> None:
    reach(office)
    done = len(office.did)
    if trouble == "silent":
        office.silent, office.workforce.workers = True, {0: "worker"}
    office.workforce.worker_lost = trouble == "lost"
    office.upgrade.advance(BY if trouble == "late" else 0.0)
    assert office.did[done:] == ["resume", "archives", "kill", "given up"]
    assert not office.upgrade.waiting
    assert office.upgrade.may_try
    assert office.upgrade.deadline() == float("inf")


@pytest.mark.parametrize("snapshot", [LogLost("gone"), Snapshot(8, b"older")])
def test_without_the_right_snapshot_the_upgrade_is_given_up(office: Office, snapshot: Snapshot | Exception) -> None:
    office.snapshot = snapshot
    office.release()
    office.released()
    assert office.did[-4:] == ["resume", "archives", "kill", "given up"]


def test_an_empty_log_needs_no_snapshot(office: Office) -> None:
    office.snapshot = LogLost("there is none")
    office.release(seq=0)
    office.released()
    assert office.did[-1] == Snapshot(0, b"")


def test_a_trial_that_is_under_way_is_closed_with_the_server(office: Office) -> None:
    office.upgrade.close()
    office.upgrade.try_program()
    office.upgrade.close()
    assert office.trial.closed
