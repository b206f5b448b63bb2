"""A reload: what is fixed stays, what there is no room for is lowered, and what is invalid changes nothing."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from mpchat.config import FIXED, Config
from mpchat.server.ledger import Shape
from mpchat.server.main.reload import keep, reread

CONFIG = Config(max_clients=10, history=7)
SHAPE = Shape(pages=20, workers=4, ring=1 << 14)


def test_options_that_are_fixed_keep_their_values(caplog: pytest.LogCaptureFixture) -> None:
    new = replace(CONFIG, history=8, port=1, rate=3)
    assert reread(lambda: new, CONFIG, SHAPE) == replace(CONFIG, rate=3)
    assert "cannot be changed while the server runs options=port,history" in caplog.text


def test_nothing_is_logged_when_nothing_fixed_has_changed(caplog: pytest.LogCaptureFixture) -> None:
    fixed = {name: getattr(CONFIG, name) for name in FIXED}
    assert keep(replace(CONFIG, rate=3), fixed) == replace(CONFIG, rate=3)
    assert not caplog.records


def test_options_without_room_are_lowered() -> None:
    config = reread(lambda: replace(CONFIG, max_clients=21), CONFIG, SHAPE)
    assert config is not None
    assert config.max_clients == 20


def test_an_invalid_configuration_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    assert reread(lambda: Config(workers=0), CONFIG, SHAPE) is None
    assert "reload rejected: nothing is changed reason=workers = 0" in caplog.text


def test_other_errors_are_not_taken_for_configuration_errors() -> None:
    def read() -> Config:
        raise OSError

    with pytest.raises(OSError):
        reread(read, CONFIG, SHAPE)
