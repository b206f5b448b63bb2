"""The handlers of main's signals: nothing of them is left behind, and none is taken away while its signal may come."""

from __future__ import annotations

import signal

import pytest

from mpchat.lifeline import MAINS_SIGNALS
from mpchat.server.main.signals import Signals
from mpchat.server.main.waitloop import WaitLoop


def test_handlers_and_mask_are_as_before_when_it_is_over() -> None:
    before = {number: signal.getsignal(number) for number in MAINS_SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    loop = WaitLoop()
    Signals(loop, lambda number: None).restore(ending=False)
    loop.close()
    assert {number: signal.getsignal(number) for number in MAINS_SIGNALS} == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_no_handler_is_taken_away_while_its_signal_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
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
