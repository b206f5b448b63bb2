"""Colours of names."""

import pytest

from mpchat.client.screen.colors import ALARM, PALETTE, QUIET, color_of, contrast

XTERM = {f"#{red:02x}{green:02x}{blue:02x}" for red in (0, 95, 135, 175, 215, 255)
         for green in (0, 95, 135, 175, 215, 255) for blue in (0, 95, 135, 175, 215, 255)}  # fmt: skip
"""The cube of xterm's 256 colours (256colres.pl of xterm)."""


@pytest.mark.parametrize("color", [*PALETTE, QUIET, ALARM])
def test_each_colour_is_readable_on_dark_and_on_light(color: str) -> None:
    assert contrast(color, "#000000") >= 3.5
    assert contrast(color, "#ffffff") >= 3.5


@pytest.mark.parametrize("color", PALETTE)
def test_each_colour_is_one_of_xterm(color: str) -> None:
    assert color in XTERM


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_a_name_has_one_colour_and_names_have_many() -> None:
    assert color_of("alice") == color_of("ALICE") == color_of("ａlice")
    assert len({color_of(f"name{number}") for number in range(200)}) == len(PALETTE)


def test_the_colour_is_the_same_in_every_session() -> None:
    assert (color_of("alice"), color_of("bob")) == ("#008787", "#d7005f")
