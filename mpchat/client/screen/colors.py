"""A colour for each name: the same in every session, readable on dark and on light.

Pure. The palette is of middle brightness: each colour has a contrast of at least 3.5 to 1 with black and with white, by
the formula of WCAG 2.2 ("contrast ratio"). A test computes it.
"""

import unicodedata
import zlib

PALETTE = (
    "#d7005f",
    "#d75f00",
    "#af5f00",
    "#878700",
    "#5f8700",
    "#008700",
    "#00875f",
    "#008787",
    "#0087af",
    "#0087d7",
    "#5f87d7",
    "#875fff",
    "#af5fd7",
    "#d75f87",
    "#af5f87",
    "#af5f5f",
)
"""All of them are in the 256 colours of xterm, so no terminal shows another one."""

QUIET = "#808080"
"""For times and notices, which stand behind what people say."""

ALARM = "#d70000"
"""For errors."""


def color_of(name: str) -> str:
    """The colour of `name`. Names that are the same for the server have the same."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return PALETTE[zlib.crc32(folded.encode(errors="replace")) % len(PALETTE)]


def contrast(color: str, other: str) -> float:
    """The contrast ratio of two colours `#rrggbb`, from 1 to 21 (WCAG 2.2)."""
    darker, lighter = sorted((_luminance(color), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    red, green, blue = (_linear(int(color[at : at + 2], 16) / 255) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)
