"""The handlers of main's signals: nothing of them is left behind, and none is taken away while its signal may come."""

from __future__ import annotations

import signal

import pytest

from mpchat.lifeline import MAINS_SIGNALS
from mpchat.server.main.signals import Signals
from mpchat.server.main.waitloop import WaitLoop


def test_restore_resets_handlers_and_mask() -> None:
    before = {number: signal.getsignal(number) for number in MAINS_SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    loop = WaitLoop()
    Signals(loop, lambda number: None).restore(ending=False)
    loop.close()
    assert {number: signal.getsignal(number) for number in MAINS_SIGNALS} == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_signals_are_blocked_while_handlers_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython would complain of a signal that came just before: on a quiet machine, of one in 100,000."""
    loop = WaitLoop()
    caught = Signals(loop, lambda number: None)
    taken_away: dict[int, bool] = {}
    change = signal.signal

    def watch(number: int, handler: object) -> object:
        taken_away[number] = number in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return change(number, handler)  # type: ignore[arg-type]

    monkeypatch.setattr(signal, "signal", watch)
    caught.restore(ending=False)
    loop.close()
    assert taken_away == dict.fromkeys(MAINS_SIGNALS, True)
