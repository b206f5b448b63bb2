"""Requests: each kind has one number, one rule, and a way into the log and out of it."""

import typing

import pytest
from hypothesis import given
from strategies import REQUESTS

from mpchat.chat import requests
from mpchat.chat.problems import Problem
from mpchat.chat.requests import (
    KINDS,
    Act,
    Explain,
    Join,
    Misread,
    Mistake,
    Negotiate,
    Quit,
    Request,
    Say,
    SetRecall,
    list_values,
    pack_request,
)
from mpchat.chat.requests import unpack_request as unpack
from mpchat.chat.rules.table import RULES

NUMBER = {kind: number for number, kind in enumerate(KINDS)}


def test_each_kind_is_in_the_table_of_kinds_and_in_the_table_of_rules() -> None:
    # Not Request.__subclasses__(): a dataclass with slots leaves the class behind that it was made from.
    defined = {value for value in vars(requests).values() if isinstance(value, type) and issubclass(value, Request)}
    assert {*KINDS, Say} == defined - {Request}
    assert len(KINDS) == len({*KINDS})
    assert {*RULES} == {*KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_rule_takes_the_kind_that_it_is_for(kind: type[Request]) -> None:
    assert typing.get_type_hints(RULES[kind])["request"] is kind


def test_what_may_be_asked_before_there_is_a_name() -> None:
    kinds: list[type[Request]] = [*KINDS, Say]
    nameless = {kind for kind in kinds if not kind.NEEDS_NAME}
    assert nameless == {Say, Explain, Misread, Quit, Negotiate, Mistake, SetRecall}


@given(REQUESTS)
def test_it_comes_out_as_it_went_in(request_: Request) -> None:
    packed = pack_request(request_)
    assert unpack(packed) == request_
    number, values = packed
    assert type(number) is int
    assert {type(value) for value in values} <= {str, int, bool, tuple, type(None)}, "nothing that has to be imported"


def test_values_come_in_the_order_of_the_fields() -> None:
    assert list_values(Misread(Problem.LINE_LONG, "a", "b")) == (Problem.LINE_LONG, "a", "b")


@pytest.mark.parametrize(
    "packed",
    [
        None,
        (),
        7,
        "ab",
        (NUMBER[Act],),
        (NUMBER[Act], ()),
        (NUMBER[Act], ("a", "b")),
        (NUMBER[Act], (7,)),
        (NUMBER[Act], (None,)),
        (NUMBER[Act], 7),
        (NUMBER[Misread], ("NO_SUCH_PROBLEM", "", "")),
        (NUMBER[Misread], (7, "", "")),
        (len(KINDS), ("a",)),
        (-len(KINDS), ("a",)),
        ("Act", ("a",)),
        (None, ("a",)),
    ],
)
def test_what_is_no_request_is_refused(packed: typing.Any) -> None:
    with pytest.raises(ValueError, match="no request"):
        unpack(packed)


def test_equal_fields_do_not_make_equal_requests() -> None:
    assert Act("a") != Join("a")
