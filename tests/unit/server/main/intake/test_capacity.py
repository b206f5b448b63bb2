"""The capacity: what a configuration becomes on a machine with less room, and what the log says of it."""

from __future__ import annotations

import logging
import resource

import pytest

from mpchat.config import Config
from mpchat.server.ledger import Shape, ring_size
from mpchat.server.main.intake.capacity import (
    ROOM,
    SLOTS,
    SPARE_DESCRIPTORS,
    fit,
    plan_shape,
    raise_descriptor_limit,
)


class Limits:
    """The resource limits of a process: a soft one for open files, whose hard one stays, and one for addresses."""

    def __init__(self, soft: int, hard: int, addresses: int = resource.RLIM_INFINITY) -> None:
        self.files = (soft, hard)
        self.addresses = addresses
        self.fails = False

    def getrlimit(self, which: int) -> tuple[int, int]:
        return self.files if which == resource.RLIMIT_NOFILE else (self.addresses, self.addresses)

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        if self.fails:
            raise ValueError("not allowed to raise maximum limit")
        self.files = limits


def limited(patch: pytest.MonkeyPatch, soft: int, hard: int, addresses: int = resource.RLIM_INFINITY) -> Limits:
    limits = Limits(soft, hard, addresses)
    patch.setattr(resource, "getrlimit", limits.getrlimit)
    patch.setattr(resource, "setrlimit", limits.setrlimit)
    return limits


def test_the_limit_on_open_files_is_raised_to_the_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = limited(monkeypatch, 1024, 4096)
    assert raise_descriptor_limit() == 4096
    assert limits.files == (4096, 4096)


def test_an_unlimited_number_of_open_files_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 1024, resource.RLIM_INFINITY)
    assert raise_descriptor_limit() is None


def test_a_limit_that_cannot_be_raised_is_logged_and_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = limited(monkeypatch, 1024, 4096)
    limits.fails = True
    assert raise_descriptor_limit() == 1024
    assert caplog.messages == [
        "limit on open files not raised limit=1024 reason=not allowed to raise maximum limit",
    ]


@pytest.mark.parametrize(
    ("hard", "addresses", "wanted", "pages"),
    [
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 10, ROOM),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 2 * ROOM, 2 * ROOM),
        (resource.RLIM_INFINITY, 1 << 32, 10, 10),
        (1000, resource.RLIM_INFINITY, 10, 1000 - SPARE_DESCRIPTORS - 4 * 2),
        (50, resource.RLIM_INFINITY, 10, 1),
    ],
    ids=["room for more", "more than that", "addresses are limited", "files are limited", "hardly any files"],
)
def test_a_new_ledger_has_room_for_more_clients(
    monkeypatch: pytest.MonkeyPatch, hard: int, addresses: int, wanted: int, pages: int
) -> None:
    limited(monkeypatch, hard, hard, addresses)
    config = Config(workers=2, max_clients=wanted, max_line=512)
    assert plan_shape(config) == Shape(pages, SLOTS, ring_size(512))


def test_a_configuration_that_fits_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limited(monkeypatch, 4096, 4096)
    config = Config(workers=2, max_clients=100)
    assert fit(config, Shape(100, SLOTS, ring_size(config.max_line))) == config
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("files", "pages", "clients", "message"),
    [
        (1000, 1000, 864, "max_clients lowered wanted=5000 to=864 reason=limit of 1000 open files"),
        (1000, 500, 500, "max_clients lowered wanted=5000 to=500 reason=room made at the first start"),
        (9000, 500, 500, "max_clients lowered wanted=5000 to=500 reason=room made at the first start"),
    ],
)
def test_clients_are_lowered_to_the_smaller_limit_and_the_log_names_it(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    files: int,
    pages: int,
    clients: int,
    message: str,
) -> None:
    limited(monkeypatch, files, files)
    config = Config(workers=2, max_clients=5000)
    caplog.set_level(logging.WARNING)
    assert fit(config, Shape(pages, SLOTS, ring_size(config.max_line))).max_clients == clients
    assert caplog.messages == [message]


def test_lines_are_no_longer_than_the_ledger_can_keep(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limited(monkeypatch, 4096, 4096)
    shape = Shape(100, SLOTS, ring_size(1024))
    fitted = fit(Config(max_clients=100, max_line=65_536), shape)
    assert ring_size(fitted.max_line) <= shape.ring
    assert fitted.max_line >= 1024
    assert caplog.messages == [
        f"max_line lowered wanted=65536 to={fitted.max_line} reason=room made at the first start",
    ]
