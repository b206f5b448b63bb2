"""What Tab offers."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.client.screen.completion import complete


@dataclass
class Known:
    speakers: list[str] = field(default_factory=lambda: ["zoe", "ann", "Ada"])
    others: list[str] = field(default_factory=lambda: ["aldo", "bea"])
    known_rooms: list[str] = field(default_factory=lambda: ["lobby", "python", "perl"])


@pytest.mark.parametrize(
    ("before", "offered"),
    [
        ("a", ["ann: ", "Ada: ", "aldo: "]),
        ("A", ["ann: ", "Ada: ", "aldo: "]),
        ("hello a", ["hello ann ", "hello Ada ", "hello aldo "]),
        ("  z", ["  zoe: "]),
        ("", ["zoe: ", "ann: ", "Ada: ", "aldo: ", "bea: "]),
        ("x", []),
        ("/wh", ["/who ", "/whois "]),
        ("/WHOI", ["/whois "]),
        ("  /qui", ["  /quiet ", "  /quit "]),
        ("//wh", []),
        ("/join p", ["/join #python ", "/join #perl "]),
        ("/join #pe", ["/join #perl "]),
        ("/j l", ["/j #lobby "]),
        ("/who l", ["/who #lobby "]),
        ("/whois b", ["/whois bea "]),
        ("/msg z", ["/msg zoe "]),
        ("/msg zoe and b", ["/msg zoe and bea "]),
        ("/help whoi", ["/help whois "]),
        ("/nosuch b", ["/nosuch bea "]),
        ("see #p", ["see #python ", "see #perl "]),
    ],
)
def test_offers(before: str, offered: list[str]) -> None:
    offer = complete(before, Known())
    assert [before[: offer.start] + text for text in offer.texts] == offered


@given(st.text(st.sampled_from("/# \tjoinmsgwhoa") | st.characters(), max_size=20))
def test_every_offer_goes_on_with_what_was_typed(before: str) -> None:
    offer = complete(before, Known())
    word = before[offer.start :].casefold()
    assert all(text.casefold().lstrip("#").startswith(word.lstrip("#")) for text in offer.texts)
