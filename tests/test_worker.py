"""What a worker does about the answers of the log; whole workers are tested with whole servers (test_server)."""

from __future__ import annotations

from typing import Any

import pytest

from mpchat.bus.contract import LogFull, LogTrimmed
from mpchat.server.worker import Worker


class Link:
    """A link to a log that answers with this."""

    def __init__(self, answer: Exception | None) -> None:
        self.calls: list[str] = []
        self._answer = answer

    def call(self, method: str, *arguments: Any) -> None:
        self.calls.append(method)

    def receive(self) -> None:
        if self._answer is not None:
            raise self._answer


def worker_with(link: Link) -> Worker:
    worker = Worker.__new__(Worker)
    worker._reading_link = link  # type: ignore[assignment]
    worker._position = 1
    return worker


@pytest.mark.parametrize("answer", [None, LogFull("no room")], ids=["taken", "refused"])
def test_a_worker_reads_on_whether_its_snapshot_is_taken_or_not(
    answer: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    link = Link(answer)
    worker_with(link)._snapshot_taken()
    assert link.calls == ["read"]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * (answer is not None)
    assert "no room" in caplog.text or answer is None


def test_a_worker_that_reads_another_log_than_its_own_does_not_go_on() -> None:
    with pytest.raises(LogTrimmed):
        worker_with(Link(LogTrimmed("no such record")))._snapshot_taken()
