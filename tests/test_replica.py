"""The replica: dialogues of several people with it, and what holds whatever they do.

`View` and `Party` stand in for the server: they find out who receives what from nothing but effects and the public face
of a session, as a worker does, and look at a session anew only when an effect says that it has changed. `View` serves
the simulation too.
"""

import os
import random
import subprocess
import sys
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.commands import COMMANDS
from mpchat.chat.entries import (
    Commanded,
    Ended,
    Entry,
    Misread,
    Opened,
    Said,
    SessionId,
    Skipped,
    Stopped,
    decode_entries,
    encode_entries,
)
from mpchat.chat.events import (
    Audience,
    Changed,
    Effect,
    Event,
    Gone,
    Message,
    NameAsked,
    NameGiven,
    Stalled,
    Stopping,
    ToEverybody,
    Told,
    ToPeers,
    ToRoom,
    ToSession,
    Welcome,
)
from mpchat.chat.problems import Problem
from mpchat.chat.replica import Replica
from mpchat.chat.snapshot import SNAPSHOT_VERSION
from mpchat.chat.state import LOBBY, Limits, Session
from mpchat.wire.framing import LineFraming
from mpchat.wire.line import Style, encode_event, read_frames

NOON = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1000)
MAX_LINE = 4096


# --- the harness --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class View:
    """What a worker remembers of one of its sessions to know what it receives, and how it is shown."""

    sid: SessionId
    key: str
    rooms: tuple[str, ...]
    current: str
    ignores: frozenset[str]
    quiet: bool
    timestamps: bool

    @classmethod
    def take(cls, session: Session) -> typing.Self:
        return cls(
            session.sid,
            session.key,
            tuple(session.rooms),
            session.current,
            frozenset(session.ignores),
            session.quiet,
            session.timestamps,
        )

    def receives(self, audience: Audience) -> bool:
        match audience:
            case ToSession():
                return audience.sid == self.sid
            case ToRoom():
                return audience.room in self.rooms and self._hears(audience.author, audience.noise)
            case ToPeers():
                shared = any(room in self.rooms for room in audience.rooms)
                return shared and self._hears(audience.author, audience.noise)
            case ToEverybody():
                return True

    def style(self, event: Event) -> Style:
        elsewhere = isinstance(event, Message) and event.room != self.current
        return Style(elsewhere, self.timestamps)

    def _hears(self, author: str, noise: bool) -> bool:
        return author not in (self.key, *self.ignores) and not (noise and self.quiet)


class Party:
    """Several people at one replica. Each entry is applied twice: the second time nothing may come of it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.replica = Replica(limits)
        self.now = NOON
        self.guests: dict[SessionId, Guest] = {}

    def connect(self) -> "Guest":
        """Somebody who has connected and not said a name yet."""
        guest = Guest(self, len(self.guests).to_bytes(16))
        self.guests[guest.sid] = guest
        self.apply(Opened(guest.sid, "127.0.0.1"))
        return guest

    def enter(self, *names: str) -> "list[Guest]":
        """People who are all in the lobby, and have read what they were shown on the way there."""
        entered = []
        for name in names:
            entered.append(self.connect())
            entered[-1].types(name)
        self.clear()
        return entered

    def clear(self) -> None:
        """Everybody has read what there was."""
        for guest in self.guests.values():
            guest.shown.clear()

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * 1000)

    def apply(self, entry: Entry) -> None:
        [entry] = decode_entries(encode_entries([entry]))
        for effect in self.replica.apply(entry, self.now):
            self._take(effect)
        assert self.replica.apply(entry, self.now + 1) == []

    def _take(self, effect: Effect) -> None:
        match effect:
            case Told():
                for guest in self.guests.values():
                    guest.receive(effect)
            case Changed():
                session = self.replica.session(effect.sid)
                assert session is not None
                self.guests[effect.sid].view = View.take(session)
            case Gone():
                self.guests[effect.sid].gone = True


class Guest:
    """Somebody at a party: a byte stream in, lines out."""

    def __init__(self, party: Party, sid: SessionId) -> None:
        self.sid = sid
        self.view = View.take(Session(sid, "", since=0))
        self.gone = False
        self.shown: list[str] = []
        self._party = party
        self._framing = LineFraming(max_line=MAX_LINE, segment_timeout=0)

    def types(self, *lines: str) -> None:
        """All in one chunk."""
        self._framing.receive("".join(line + "\n" for line in lines).encode(), 0.0)
        for entry in read_frames(self.sid, self._framing.take(len(lines)), MAX_LINE):
            self._party.apply(entry)

    def hangs_up(self, reason: str) -> None:
        self._party.apply(Ended(self.sid, reason))

    def receive(self, told: Told) -> None:
        if not self.gone and self.view.receives(told.audience):
            block = encode_event(told.event, self._party.now, self.view.style(told.event))
            self.shown += block.decode().removesuffix("\n").split("\n")

    def sees(self, *lines: str) -> None:
        """These lines and no others have been shown since it was asked last."""
        shown, self.shown = self.shown, []
        assert shown == [*lines]


# --- signing on ---------------------------------------------------------------------------------------------


def test_the_first_one_in() -> None:
    alice = Party().connect()
    alice.sees("* Welcome to mpchat. What is your name?")
    alice.types("alice")
    alice.sees("* Hello, alice. You are in #lobby, alone. /help lists the commands.")


def test_who_comes_later_is_announced_and_told_who_is_there() -> None:
    party = Party()
    bob, carol = party.enter("bob", "carol")
    alice = party.connect()
    bob.sees()
    alice.types("alice")
    alice.sees(
        "* Welcome to mpchat. What is your name?",
        "* Hello, alice. You are in #lobby with bob, carol. /help lists the commands.",
    )
    bob.sees("* alice joined #lobby")
    carol.sees("* alice joined #lobby")


def test_a_name_with_spaces() -> None:
    john = Party().connect()
    john.types("  John Smith ")
    john.sees(
        "* Welcome to mpchat. What is your name?",
        "* Hello, John_Smith. You are in #lobby, alone. /help lists the commands.",
    )


def test_a_name_that_is_taken_gets_a_number_and_it_is_said() -> None:
    party = Party()
    [alice] = party.enter("alice")
    second, third = party.connect(), party.connect()
    party.clear()
    second.types("ALICE")
    second.sees(
        "* ALICE is taken; you are ALICE-2.",
        "* Hello, ALICE-2. You are in #lobby with alice. /help lists the commands.",
    )
    third.types("alice")
    third.sees(
        "* alice is taken; you are alice-3.",
        "* Hello, alice-3. You are in #lobby with alice, ALICE-2. /help lists the commands.",
    )
    alice.sees("* ALICE-2 joined #lobby", "* alice-3 joined #lobby")


def test_a_name_is_free_again_when_its_holder_has_gone() -> None:
    party = Party()
    [alice] = party.enter("alice")
    alice.hangs_up("connection lost")
    again = party.connect()
    again.types("alice")
    again.sees(
        "* Welcome to mpchat. What is your name?",
        "* Hello, alice. You are in #lobby, alone. /help lists the commands.",
    )


def test_names_that_are_not_acceptable() -> None:
    party = Party(Limits(name_tries=5))
    guest = party.connect()
    guest.types("x" * 33, "a/b", "a\u202eb", "//a", "\N{IDEOGRAPHIC SPACE}")
    guest.sees(
        "* Welcome to mpchat. What is your name?",
        "! A name has 32 characters at most.",
        "* What is your name?",
        "! A name cannot contain '/': letters, digits and _ - . [ ] { } | ^ only.",
        "* What is your name?",
        "! A name cannot contain 'U+202E': letters, digits and _ - . [ ] { } | ^ only.",
        "* What is your name?",
        "! A name cannot contain '/': letters, digits and _ - . [ ] { } | ^ only.",
        "* What is your name?",
        "! A name needs at least one character.",
        "! You are disconnected: no acceptable name.",
    )
    assert guest.gone


def test_no_more_is_read_of_who_was_sent_away_for_the_name() -> None:
    party = Party(Limits(name_tries=2))
    guest = party.connect()
    party.clear()
    guest.types("a/b", "c/d", "alice", "hello")
    guest.sees(
        "! A name cannot contain '/': letters, digits and _ - . [ ] { } | ^ only.",
        "* What is your name?",
        "! A name cannot contain '/': letters, digits and _ - . [ ] { } | ^ only.",
        "! You are disconnected: no acceptable name.",
    )
    assert party.replica.sessions == 0


def test_the_name_and_what_follows_it_in_one_chunk() -> None:
    party = Party()
    [bob] = party.enter("bob")
    alice = party.connect()
    alice.types("a/b", "alice", "hello", "", "again", "/me waves")
    bob.sees("* alice joined #lobby", "alice: hello", "alice: again", "** alice waves")


def test_commands_before_the_name() -> None:
    guest = Party().connect()
    guest.types("/join python", "/help quit", "/nonsense")
    guest.sees(
        "* Welcome to mpchat. What is your name?",
        "! A name first, commands later.",
        "* What is your name?",
        "* /quit [REASON] (short: /exit)",
        "* Leave the chat. So does quit alone on a line.",
        "! There is no command /nonsense. Did you mean /who?",
    )
    guest.types("quit")
    guest.sees("* Bye.")
    assert guest.gone


def test_the_history_on_sign_on_is_20_lines() -> None:
    party = Party()
    [bob] = party.enter("bob")
    bob.types(*map(str, range(30)), "/me waves")
    alice = party.connect()
    party.clear()
    alice.types("alice")
    alice.sees(
        "* Hello, alice. You are in #lobby with bob. /help lists the commands.",
        *(f"bob: {number}" for number in range(11, 30)),
        "** bob waves",
    )


def test_the_topic_of_the_lobby_is_shown_on_sign_on() -> None:
    party = Party()
    [bob] = party.enter("bob")
    bob.types("/topic Be kind")
    alice = party.connect()
    party.clear()
    alice.types("alice")
    alice.sees("* Hello, alice. You are in #lobby with bob. /help lists the commands.", "* Topic: Be kind")


def test_of_many_others_the_first_20_are_named() -> None:
    party = Party()
    party.enter(*(f"g{number}" for number in range(23)))
    alice = party.connect()
    party.clear()
    alice.types("alice")
    first = ", ".join(f"g{number}" for number in range(20))
    alice.sees(f"* Hello, alice. You are in #lobby with {first} and 3 more. /help lists the commands.")


# --- talking ------------------------------------------------------------------------------------------------


def test_what_is_said_goes_to_the_others_and_not_back() -> None:
    alice, bob, carol = Party().enter("alice", "bob", "carol")
    alice.types("hello")
    alice.sees()
    bob.sees("alice: hello")
    carol.sees("alice: hello")


def test_lines_of_one_chunk_stay_in_order_with_the_commands_between_them() -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types("one", "two", "/me waves", "three", "/nick al", "four")
    bob.sees(
        "alice: one",
        "alice: two",
        "** alice waves",
        "alice: three",
        "* alice is now called al",
        "al: four",
    )


def test_a_double_slash_says_a_slash() -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types("//join is a command", "//")
    bob.sees("alice: /join is a command", "alice: /")


def test_a_colon_is_not_special() -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types(":waves", "me: hi")
    bob.sees("alice: :waves", "alice: me: hi")


def test_blank_lines_are_nothing() -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types("", "   ", "\t")
    bob.sees()


def test_an_action() -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types("/me waves", "/me")
    bob.sees("** alice waves")
    alice.sees("! Usage: /me TEXT")


def test_a_line_that_is_too_long_is_refused_to_its_sender_only() -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types("x" * 4097, "y" * 4096)
    alice.sees("! That line is too long: 4096 bytes at most. It was not sent.")
    bob.sees("alice: " + "y" * 4096)


@pytest.mark.parametrize("word", ["/joim python", "/joim"])
def test_an_unknown_command_never_reaches_the_room(word: str) -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types(word)
    alice.sees("! There is no command /joim. Did you mean /join?")
    bob.sees()


# --- rooms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["/join #Python", "/join python", "/j PYTHON", "/JOIN  #python "])
def test_join(line: str) -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types(line)
    alice.sees("* You are in #python, alone.")
    bob.sees()
    bob.types("/join python")
    bob.sees("* You are in #python with alice.")
    alice.sees("* bob joined #python")
    bob.types("hello")
    alice.sees("bob: hello")


def test_what_is_typed_goes_to_the_current_room_and_others_see_which_it_was() -> None:
    party = Party()
    alice, bob, carol = party.enter("alice", "bob", "carol")
    alice.types("/join python")
    bob.types("/join python", "/join lobby")
    party.clear()
    alice.types("in python", "/me codes")
    bob.sees("#python alice: in python", "#python ** alice codes")
    carol.sees()
    bob.types("in the lobby")
    alice.sees("#lobby bob: in the lobby")
    carol.sees("bob: in the lobby")


def test_join_again_makes_the_room_current() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/join python", "/join lobby")
    alice.sees("* You are in #python, alone.", "* You talk in #lobby now.")
    bob.sees()


def test_who_joins_sees_topic_and_history_before_the_others_see_the_join() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/join python", "/topic Snakes", "hiss")
    party.clear()
    bob.types("/join python", "hi")
    bob.sees("* You are in #python with alice.", "* Topic: Snakes", "alice: hiss")
    alice.sees("* bob joined #python", "bob: hi")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("/join", "! Usage: /join ROOM"),
        ("/join #", "! A name needs at least one character."),
        ("/join a b", ""),
        ("/join a/b", "! A name cannot contain '/': letters, digits and _ - . [ ] { } | ^ only."),
        ("/join " + "x" * 33, "! A name has 32 characters at most."),
        ("/join " + "ß" * 17, "! A name has 32 characters at most."),
    ],
)
def test_room_names(line: str, error: str) -> None:
    [alice] = Party().enter("alice")
    alice.types(line)
    alice.sees(error or "* You are in #a_b, alone.")


def test_the_rooms_of_one_session_are_bounded() -> None:
    [alice] = Party(Limits(rooms_of_session=2)).enter("alice")
    alice.types("/join a", "/join b", "/join a", "/leave a", "/join b")
    alice.sees(
        "* You are in #a, alone.",
        "! You can be in 2 rooms at most.",
        "* You talk in #a now.",
        "* You have left #a. You talk in #lobby now.",
        "* You are in #b, alone.",
    )


def test_the_rooms_of_the_server_are_bounded() -> None:
    party = Party(Limits(rooms_of_server=2))
    alice, bob = party.enter("alice", "bob")
    alice.types("/join a")
    party.clear()
    bob.types("/join b", "/join a")
    bob.sees("! There are 2 rooms already, and no more can be made.", "* You are in #a with alice.")


def test_who_joins_ten_thousand_rooms_gets_the_default_bound() -> None:
    [alice] = Party().enter("alice")
    alice.types(*(f"/join r{number}" for number in range(200)))
    assert alice.shown[48:] == ["* You are in #r48, alone."] + ["! You can be in 50 rooms at most."] * 151


@pytest.mark.parametrize("line", ["/leave", "/part", "/leave #python", "/leave PYTHON"])
def test_leave(line: str) -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/join python")
    bob.types("/join python")
    party.clear()
    alice.types(line)
    alice.sees("* You have left #python. You talk in #lobby now.")
    bob.sees("* alice left #python")
    alice.types("in the lobby")
    bob.sees("#lobby alice: in the lobby")


@pytest.mark.parametrize("line", ["/leave python so long", "/leave so long", "/leave #python  so long "])
def test_leave_with_a_reason(line: str) -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/join python")
    bob.types("/join python")
    party.clear()
    alice.types(line)
    bob.sees("* alice left #python (so long)")


def test_leave_another_room_than_the_current_one() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/join python")
    party.clear()
    alice.types("/leave lobby")
    alice.sees("* You have left #lobby. You talk in #python now.")
    bob.sees("* alice left #lobby")


def test_the_last_room_left_you_are_back_in_the_lobby_and_it_is_told_there() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/join python", "/leave lobby")
    party.clear()
    alice.types("/leave")
    alice.sees("* You have left #python. You talk in #lobby now.")
    bob.sees("* alice joined #lobby")


def test_leave_does_not_take_a_room_of_others_for_a_reason() -> None:
    alice, bob = Party().enter("alice", "bob")
    bob.types("/join python")
    alice.types("/join arts", "/leave python")
    alice.sees("* You are in #arts, alone.", "! You are not in #python.")


def test_nick_to_the_same_name_is_told_to_nobody_else() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    party.clear()
    alice.types("/nick alice")
    alice.sees("* You are now called alice.")
    bob.sees()


def test_leave_errors() -> None:
    [alice] = Party().enter("alice")
    alice.types("/leave", "/leave #python", "/leave #a/b")
    alice.sees(
        "! You are only in the lobby; /quit leaves the chat.",
        "! You are not in #python.",
        "! A name cannot contain '/': letters, digits and _ - . [ ] { } | ^ only.",
    )


def test_a_room_is_gone_with_its_last_member_and_its_history_too() -> None:
    [alice] = Party().enter("alice")
    alice.types("/join python", "/topic Snakes", "hiss", "/leave", "/join python", "/history")
    assert alice.shown[2:] == [
        "* You have left #python. You talk in #lobby now.",
        "* You are in #python, alone.",
        "* #python: no history.",
    ]


@pytest.mark.parametrize("line", ["/rooms", "/list"])
def test_rooms(line: str) -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/join zoo", "/topic Animals")
    bob.types("/join arts", "/leave lobby")
    party.clear()
    alice.types(line)
    alice.sees("* #arts: 1 member", "* #lobby: 1 member", "* #zoo: 1 member, Animals")


def test_rooms_come_in_pages_fullest_first() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types(*(f"/join r{number:02}" for number in range(24)))
    bob.types("/join r23")
    party.clear()
    alice.types("/rooms")
    alice.sees(
        "* #lobby: 2 members",
        "* #r23: 2 members",
        *(f"* #r{number:02}: 1 member" for number in range(18)),
        "* Page 1 of 2; /rooms 2 shows the next.",
    )
    alice.types("/rooms 2", "/rooms 3", "/rooms 0", "/rooms x", "/rooms " + "9" * 5000, "/rooms ²")
    alice.sees(
        *(f"* #r{number:02}: 1 member" for number in range(18, 23)),
        "! The last page is 2.",
        "! The last page is 2.",
        "! Usage: /rooms [PAGE]",
        "! That line is too long: 4096 bytes at most. It was not sent.",
        "! Usage: /rooms [PAGE]",
    )


def test_who() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    bob.types("/away", "/join python")
    alice.types("/who", "/names #Python", "/who python", "/who nowhere", "/who lobby 2", "/who lobby x")
    alice.sees(
        "* 2 in #lobby: alice, bob (away)",
        "* 1 in #python: bob (away)",
        "* 1 in #python: bob (away)",
        "! There is no room #nowhere.",
        "! The last page is 1.",
        "! Usage: /who [ROOM] [PAGE]",
    )


def test_who_comes_in_pages_and_a_number_is_a_page_unless_a_room_is_called_so() -> None:
    party = Party()
    [alice, *_] = party.enter("alice", *(f"g{number}" for number in range(100)))
    alice.types("/who")
    alice.sees(
        "* 101 in #lobby: " + ", ".join(["alice", *(f"g{number}" for number in range(99))]),
        "* Page 1 of 2; /who #lobby 2 shows the next.",
    )
    alice.types("/who 2", "/who #lobby 2", "/join 2", "/who 2")
    alice.sees("* 101 in #lobby: g99", "* 101 in #lobby: g99", "* You are in #2, alone.", "* 1 in #2: alice")


def test_topic() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/topic", "/topic Be kind", "/topic")
    alice.sees("* #lobby has no topic.", "* alice set the topic of #lobby: Be kind", "* Topic: Be kind")
    bob.sees("* alice set the topic of #lobby: Be kind")
    alice.types("/topic " + "x" * 301)
    alice.sees("! That is too long: 300 characters at most.")


# --- names --------------------------------------------------------------------------------------------------


def test_nick_is_told_once_to_each_who_shares_a_room() -> None:
    party = Party()
    alice, bob, carol = party.enter("alice", "bob", "carol")
    alice.types("/join python")
    bob.types("/join python")
    carol.types("/join zoo", "/leave lobby")
    party.clear()
    alice.types("/nick Al")
    alice.sees("* You are now called Al.")
    bob.sees("* alice is now called Al")
    carol.sees()


def test_nick_errors_and_the_own_name_in_another_case() -> None:
    alice, _ = Party().enter("alice", "bob")
    alice.types("/nick", "/nick BOB", "/nick a/b", "/nick ALICE")
    alice.sees(
        "! Usage: /nick NAME",
        "! BOB is taken.",
        "! A name cannot contain '/': letters, digits and _ - . [ ] { } | ^ only.",
        "* You are now called ALICE.",
    )


def test_the_old_name_is_free_at_once() -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types("/nick al")
    bob.types("/nick alice")
    bob.sees("* alice is now called al", "* You are now called alice.")


def test_whois() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    bob.types("/join python", "/away lunch at\tone")
    party.wait(90_061)
    alice.types("/whois BOB", "/whois dave", "/whois", "/whois alice")
    alice.sees(
        "* bob: in #lobby, #python; here since 2026-03-01 12:00 UTC; idle 1 d 1 h; away: lunch at one",
        "! No one here is called dave.",
        "! Usage: /whois NAME",
        "* alice: in #lobby; here since 2026-03-01 12:00 UTC; idle 0 s",
    )


def test_an_error_shows_only_the_beginning_of_what_was_typed() -> None:
    [alice] = Party().enter("alice")
    alice.types("/whois " + "x" * 4000, "/" + "y" * 4000)
    alice.sees(
        f"! No one here is called {'x' * 60}.",
        f"! There is no command /{'y' * 60}. Did you mean /away?",
    )


# --- private messages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["/msg", "/w", "/tell", "/MSG"])
def test_a_private_message(command: str) -> None:
    alice, bob, carol = Party().enter("alice", "bob", "carol")
    alice.types(f"{command} BOB hello there")
    alice.sees("[to bob] hello there")
    bob.sees("[alice] hello there")
    carol.sees()


def test_message_errors() -> None:
    [alice] = Party().enter("alice")
    alice.types("/msg dave hello", "/msg", "/msg alice", "/reply hello", "/reply")
    alice.sees(
        "! No one here is called dave.",
        "! Usage: /msg NAME TEXT",
        "! Usage: /msg NAME TEXT",
        "! Nobody has written to you privately.",
        "! Usage: /reply TEXT",
    )


@pytest.mark.parametrize("command", ["/reply", "/r"])
def test_reply_goes_to_who_wrote_last(command: str) -> None:
    party = Party()
    alice, bob, carol = party.enter("alice", "bob", "carol")
    bob.types("/msg alice one")
    carol.types("/msg alice two")
    party.clear()
    alice.types(f"{command} hello")
    alice.sees("[to carol] hello")
    carol.sees("[alice] hello")
    carol.hangs_up("")
    party.clear()
    alice.types("/reply hello?")
    alice.sees("! Whoever wrote to you last has left the chat.")


def test_reply_follows_a_rename_and_never_goes_to_who_took_the_name() -> None:
    party = Party()
    alice, bob, mallory = party.enter("alice", "bob", "mallory")
    bob.types("/msg alice my secret?", "/nick robert")
    mallory.types("/nick bob")
    party.clear()
    alice.types("/reply the secret")
    alice.sees("[to robert] the secret")
    bob.sees("[alice] the secret")
    mallory.sees()


def test_reply_does_not_go_to_who_took_the_name_of_somebody_gone() -> None:
    party = Party()
    alice, bob, mallory = party.enter("alice", "bob", "mallory")
    bob.types("/msg alice my secret?")
    bob.hangs_up("")
    mallory.types("/nick bob")
    party.clear()
    alice.types("/reply the secret")
    alice.sees("! Whoever wrote to you last has left the chat.")
    mallory.sees()


def test_rooms_stay_ranked_whatever_happens() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/join b", "/join a", "/join a", "/leave lobby")
    bob.types("/join a", "/join c", "/leave c")
    party.clear()
    bob.types("/rooms")
    bob.sees("* #a: 2 members", "* #b: 1 member", "* #lobby: 1 member")


# --- away ---------------------------------------------------------------------------------------------------


def test_away_is_said_to_who_writes_privately_until_back() -> None:
    alice, bob = Party().enter("alice", "bob")
    bob.types("/away lunch")
    bob.sees("* You are away (lunch). /back ends it.")
    alice.types("/msg bob hello")
    alice.sees("[to bob] hello", "* bob is away (lunch).")
    bob.sees("[alice] hello")
    bob.types("/away", "/back")
    bob.sees("* You are away. /back ends it.", "* You are back.")
    alice.types("/msg bob hello")
    alice.sees("[to bob] hello")


def test_the_reason_for_being_away_is_bounded() -> None:
    [alice] = Party().enter("alice")
    alice.types("/away " + "x" * 301)
    alice.sees("! That is too long: 300 characters at most.")


# --- history ------------------------------------------------------------------------------------------------


def test_history() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/history")
    alice.sees("* #lobby: no history.")
    bob.types(*map(str, range(600)))
    alice.shown.clear()
    alice.types("/history 2", "/history 1")
    alice.sees("* The last 2 lines of #lobby:", "bob: 598", "bob: 599", "* The last 1 line of #lobby:", "bob: 599")
    alice.types("/history")
    assert alice.shown[0] == "* The last 20 lines of #lobby:"
    assert len(alice.shown) == 21
    alice.shown.clear()
    alice.types("/history 999999")
    alice.sees("* The last 500 lines of #lobby:", *(f"bob: {number}" for number in range(100, 600)))


@pytest.mark.parametrize("argument", ["0", "x", "-1", "1.5", "²", "1 2", "1" * 4000])
def test_history_errors(argument: str) -> None:
    [alice] = Party().enter("alice")
    alice.types(f"/history {argument}")
    alice.sees("! Usage: /history [N]")


def test_ones_own_lines_are_in_the_history_under_the_name_of_then() -> None:
    [alice] = Party().enter("alice")
    alice.types("hello", "/nick al", "/history 5")
    alice.sees("* You are now called al.", "* The last 1 line of #lobby:", "alice: hello")


# --- crowds -------------------------------------------------------------------------------------------------


def test_in_rooms_over_100_members_who_comes_and_goes_is_not_told() -> None:
    party = Party()
    [alice, *_, last] = party.enter("alice", *(f"g{number}" for number in range(98)))
    hundredth, one_more = party.connect(), party.connect()
    hundredth.types("hundredth")
    alice.sees("* hundredth joined #lobby")
    one_more.types("one_more")
    alice.sees()
    one_more.types("/join a", "/leave lobby")
    alice.sees()
    one_more.types("/join lobby", "quit")
    alice.sees()
    last.types("quit")
    alice.sees("* g97 left the chat")
    hundredth.types("/join a", "/leave lobby")
    alice.sees("* hundredth left #lobby")


def test_a_crowd_in_one_room_does_not_hide_a_leaver_from_a_small_one() -> None:
    party = Party()
    [alice, bob, *_] = party.enter("alice", "bob", *(f"g{number}" for number in range(100)))
    alice.types("/join small")
    bob.types("/join small")
    party.clear()
    bob.types("quit")
    alice.sees("* bob left the chat")


def test_renames_and_messages_are_told_in_crowds() -> None:
    party = Party()
    [alice, bob, *_] = party.enter("alice", "bob", *(f"g{number}" for number in range(100)))
    bob.types("/nick robert", "hello")
    alice.sees("* bob is now called robert", "robert: hello")


# --- quiet, ignore, timestamps ------------------------------------------------------------------------------


def test_quiet_hides_joins_leaves_and_renames_and_nothing_else() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/quiet")
    alice.sees("* Notices are hidden.")
    [carol] = party.enter("carol")
    bob.types("/nick robert", "/join a", "/leave lobby", "/join lobby", "/topic News", "hello")
    carol.types("quit")
    alice.sees("* robert set the topic of #lobby: News", "robert: hello")
    alice.types("/quiet off", "/quiet on", "/quiet", "/quiet maybe")
    alice.sees(
        "* Notices are shown.",
        "* Notices are hidden.",
        "* Notices are shown.",
        "! Usage: /quiet [on/off]",
    )
    bob.types("/nick bob")
    alice.sees("* robert is now called bob")


def test_ignore_hides_everything_that_somebody_does() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/ignore BOB")
    alice.sees("* You ignore bob.")
    bob.types("hello", "/me waves", "/topic Me", "/join a", "/leave lobby", "/join lobby", "/msg alice psst")
    alice.sees()
    assert bob.shown[-1] == "[to alice] psst"
    alice.types("/reply who?")
    alice.sees("! Nobody has written to you privately.")


def test_ignore_follows_a_rename_and_does_not_hit_who_takes_the_name() -> None:
    party = Party()
    alice, bob, carol = party.enter("alice", "bob", "carol")
    alice.types("/ignore bob")
    bob.types("/nick robert")
    carol.types("/nick bob")
    party.clear()
    bob.types("hello")
    carol.types("hi")
    alice.sees("bob: hi")
    alice.types("/ignore")
    alice.sees("* You ignore robert.")


def test_ignore_holds_for_the_history() -> None:
    party = Party()
    alice, bob, carol = party.enter("alice", "bob", "carol")
    alice.types("/ignore bob")
    bob.types("one")
    carol.types("two")
    bob.hangs_up("")
    [bob] = party.enter("BOB")
    bob.types("three")
    party.clear()
    alice.types("/history")
    alice.sees("* The last 1 line of #lobby:", "carol: two")


def test_unignore() -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types("/ignore bob", "/unignore BOB")
    alice.sees("* You ignore bob.", "* You no longer ignore bob.")
    bob.types("hello")
    alice.sees("bob: hello")


def test_unignore_somebody_who_has_left() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/ignore bob")
    bob.hangs_up("")
    party.clear()
    alice.types("/unignore bob", "/ignore")
    alice.sees("* You no longer ignore bob.", "* You ignore nobody.")


def test_ignore_errors() -> None:
    party = Party(Limits(ignores=1))
    alice, *_ = party.enter("alice", "bob", "carol")
    alice.types("/ignore", "/ignore dave", "/ignore alice", "/unignore", "/unignore bob")
    alice.sees(
        "* You ignore nobody.",
        "! No one here is called dave.",
        "! You cannot ignore yourself.",
        "! Usage: /unignore NAME",
        "! You do not ignore bob.",
    )
    alice.types("/ignore bob", "/ignore bob", "/ignore carol")
    alice.sees("* You ignore bob.", "* You ignore bob.", "! You can ignore 1 people at most.")


def test_timestamps() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    bob.types("early")
    party.clear()
    alice.types("/timestamp")
    alice.sees("12:00 * Timestamps are on.")
    party.wait(3660)
    bob.types("/join a", "hello")
    bob.types("/join lobby", "one", "two")
    alice.sees("13:01 bob: one", "13:01 bob: two")
    alice.types("/history", "/timestamp on", "/timestamp off", "/timestamp maybe")
    alice.sees(
        "* The last 3 lines of #lobby:",
        "12:00 bob: early",
        "13:01 bob: one",
        "13:01 bob: two",
        "13:01 * Timestamps are on.",
        "* Timestamps are off.",
        "! Usage: /timestamp [on/off]",
    )


# --- help and leaving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["/help", "/?", "/HELP"])
def test_help_fits_in_24_lines_of_80(line: str) -> None:
    [alice] = Party().enter("alice")
    alice.types(line)
    assert len(alice.shown) <= 24
    assert max(map(len, alice.shown)) <= 80
    for command in COMMANDS:
        assert any(shown.startswith(f"* /{command.name} ") for shown in alice.shown)


@pytest.mark.parametrize("name", ["join", "/join", "J", "/j"])
def test_help_explains_one(name: str) -> None:
    [alice] = Party().enter("alice")
    alice.types(f"/help {name}")
    heading, details = alice.shown
    assert heading == "* /join ROOM (short: /j)"
    assert details.startswith("* Enter a room and make it current. The room is made when")


def test_help_for_what_is_no_command() -> None:
    [alice] = Party().enter("alice")
    alice.types("/help joim")
    alice.sees("! There is no command /joim. Did you mean /join?")


@pytest.mark.parametrize("line", ["quit", "QUIT", " Quit ", "/quit", "/exit", "/QUIT"])
def test_quit(line: str) -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types(line, "is never said")
    alice.sees("* Bye, alice.")
    assert alice.gone
    bob.sees("* alice left the chat")


def test_quit_with_a_reason() -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types("/quit  gone fishing ")
    bob.sees("* alice left the chat (gone fishing)")


def test_quit_is_told_once_to_each_who_shared_a_room() -> None:
    party = Party()
    alice, bob, carol = party.enter("alice", "bob", "carol")
    alice.types("/join a")
    bob.types("/join a")
    carol.types("/join b", "/leave lobby")
    party.clear()
    alice.types("quit")
    bob.sees("* alice left the chat")
    carol.sees()


@pytest.mark.parametrize("line", ["quit it", "quitting", "exit", "q"])
def test_only_quit_alone_on_a_line_quits(line: str) -> None:
    alice, bob = Party().enter("alice", "bob")
    alice.types(line)
    bob.sees(f"alice: {line}")


def test_a_connection_that_ends() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    guest = party.connect()
    alice.hangs_up("send queue exceeded")
    alice.sees("! You are disconnected: send queue exceeded.")
    bob.sees("* alice left the chat (send queue exceeded)")
    guest.hangs_up("connection lost")
    bob.sees()
    assert alice.gone
    assert guest.gone


def test_an_opening_that_comes_behind_the_end_is_void() -> None:
    """The worker that published it was killed, and another has ended its sessions already."""
    party = Party()
    sid = b"x" * 16
    party.apply(Ended(sid, "lost"))
    party.apply(Opened(sid, "127.0.0.1"))
    assert party.replica.sessions == 0


def test_when_the_server_stops_everybody_is_told_and_nothing_counts_any_more() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    guest = party.connect()
    party.clear()
    party.apply(Stopped("new version"))
    for each in (alice, bob, guest):
        each.sees("! The server is stopping (new version).")
        assert each.gone
    assert party.replica.stopped
    assert party.replica.apply(Opened(b"x" * 16, "127.0.0.1"), NOON) == []


# --- properties ---------------------------------------------------------------------------------------------

TIGHT = Limits(
    history=3,
    history_bytes=1500,
    rooms_of_session=3,
    rooms_of_server=4,
    ignores=2,
    name_tries=2,
    topic=10,
    tombstones=50,
)
SIDS = [bytes([number]) * 16 for number in range(4)]
# What has a meaning now and then, and everything that clean text may hold and more.
WORDS = st.sampled_from(["ann", "ANN", "bob", "ann-2", "#a", "b", "lobby", "#ß", "ſs", "2", "0", "on", "off", ""])
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TEXTS = st.one_of(WORDS, WORDS, ANY_TEXT)
ARGUMENTS = st.one_of(WORDS, WORDS, st.builds("{} {}".format, WORDS, TEXTS), ANY_TEXT)
POSITIONS = st.integers(1, 50)

SAYINGS = st.builds(Said, st.sampled_from(SIDS), POSITIONS, st.lists(TEXTS, min_size=1, max_size=4).map(tuple))
COMMANDINGS = st.builds(
    Commanded, st.sampled_from(SIDS), POSITIONS, st.sampled_from([command.name for command in COMMANDS]), ARGUMENTS
)
MISREADINGS = st.builds(
    Misread, st.sampled_from(SIDS), POSITIONS, st.sampled_from([problem.name for problem in Problem]), TEXTS, TEXTS
)
OPENINGS = st.builds(Opened, st.sampled_from(SIDS), ANY_TEXT)
ENDINGS = st.builds(Ended, st.sampled_from(SIDS), TEXTS)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    SAYINGS, COMMANDINGS, COMMANDINGS, COMMANDINGS, MISREADINGS, OPENINGS, ENDINGS, st.builds(Stopped, TEXTS)
)


def number_ends(entries: Iterable[Entry]) -> list[Entry]:
    """The same entries, each input behind those before it, as a stream gives them."""
    return [
        entry._replace(end=100 + number) if isinstance(entry, Said | Commanded | Misread) else entry
        for number, entry in enumerate(entries)
    ]


# Logs as workers write them: sessions are opened before they say anything, and most of them have a name. Only the
# end of a session may stand before its beginning, where a killed worker's last publication came late.
GREETINGS: list[Entry] = [
    *(Opened(sid, "127.0.0.1") for sid in SIDS),
    *(Said(sid, 60, (name,)) for sid, name in zip(SIDS[:3], ("ann", "bob", "Ann"), strict=True)),
]
LOGS = st.builds(
    lambda early, entries: [*early, *GREETINGS, *number_ends(entries)],
    st.lists(ENDINGS, max_size=1),
    st.lists(st.one_of(SAYINGS, COMMANDINGS, COMMANDINGS, COMMANDINGS, MISREADINGS, ENDINGS), max_size=30),
)


def picture(replica: Replica) -> bytes:
    """All that the replica depends on, in order."""
    return replica.dump()


def assert_consistent(replica: Replica) -> None:
    state = replica._state
    named = [session for session in state.sessions.values() if session.name]
    assert state.names == {session.key: session.sid for session in named}
    for session in state.sessions.values():
        assert len(session.rooms) <= TIGHT.rooms_of_session
        assert len(session.ignores) <= TIGHT.ignores
        assert session.current in session.rooms if session.name else not session.rooms
        assert all(session.sid in state.rooms[name].members for name in session.rooms)
    assert len(state.rooms) <= TIGHT.rooms_of_server
    for room in state.rooms.values():
        assert room.members or room.name == LOBBY
        assert all(room.name in state.sessions[sid].rooms for sid in room.members)
        assert len(state.history.last(room.name, 1000, 1 << 30)) <= TIGHT.history
        assert len(room.topic) <= TIGHT.topic
    assert state.history.size <= TIGHT.history_bytes
    assert not state.history._rooms.keys() - state.rooms.keys()


@given(st.one_of(LOGS, st.lists(ENTRIES, max_size=40)))
def test_it_never_raises_stays_consistent_and_says_what_has_changed(log: list[Entry]) -> None:
    replica, views = Replica(TIGHT), {sid: View.take(Session(sid, "", since=0)) for sid in SIDS}
    for time, entry in enumerate(log):
        effects = replica.apply(entry, time)
        before = picture(replica)
        assert replica.apply(entry, time + 1) == []
        assert picture(replica) == before
        assert_consistent(replica)
        for effect in effects:
            match effect:
                case Told():
                    assert encode_event(effect.event, time, Style(True, True)).endswith(b"\n")
                case Changed():
                    session = replica.session(effect.sid)
                    assert session is not None
                    views[effect.sid] = View.take(session)
                case Gone():
                    assert replica.stopped or replica.session(effect.sid) is None
        for session in filter(None, map(replica.session, SIDS)):
            assert views[session.sid] == View.take(session)


@given(LOGS, st.integers(0, 40))
def test_what_is_published_again_changes_nothing(log: list[Entry], doubt: int) -> None:
    replica, again = Replica(TIGHT), Replica(TIGHT)
    expected = [replica.apply(entry, time) for time, entry in enumerate(log)]
    effects = [again.apply(entry, time) for time, entry in enumerate(log[:doubt])]
    assert [again.apply(entry, doubt) for entry in log[:doubt]] == [[] for _ in log[:doubt]]
    effects += [again.apply(entry, time) for time, entry in enumerate(log[doubt:], doubt)]
    assert effects == expected
    assert [again.apply(entry, len(log)) for entry in log] == [[] for _ in log]
    assert picture(again) == picture(replica)


@given(LOGS, st.integers(0, 40), st.booleans())
def test_one_that_starts_from_a_snapshot_goes_on_alike(log: list[Entry], start: int, stopped: bool) -> None:
    if stopped:
        log = [*log, Stopped("")]
    replica = Replica(TIGHT)
    for time, entry in enumerate(log[:start]):
        replica.apply(entry, time)
    loaded = Replica.load(replica.dump(), TIGHT)
    assert picture(loaded) == picture(replica)
    for time, entry in enumerate(log[start:], start):
        assert loaded.apply(entry, time) == replica.apply(entry, time)
    assert picture(loaded) == picture(replica)
    assert loaded.stopped == replica.stopped


def test_a_snapshot_of_another_version_is_refused() -> None:
    version = SNAPSHOT_VERSION.to_bytes(4)
    snapshot = Replica().dump()
    assert snapshot[8:12] == version
    with pytest.raises(ValueError, match=f"version {SNAPSHOT_VERSION + 1}"):
        Replica.load(snapshot[:8] + (SNAPSHOT_VERSION + 1).to_bytes(4) + snapshot[12:])


def test_tombstones_are_bounded() -> None:
    replica = Replica(Limits(tombstones=3))
    sids = [bytes([number]) * 16 for number in range(10)]
    for sid in sids:
        replica.apply(Opened(sid, ""), NOON)
        replica.apply(Ended(sid, ""), NOON)
    assert [bool(replica.apply(Opened(sid, ""), NOON)) for sid in sids] == [True] * 7 + [False] * 3


DIGEST = """
import hashlib, sys
from mpchat.chat.entries import decode_entries
from mpchat.chat.replica import Replica
replica = Replica()
effects = [replica.apply(entry, time) for time, entry in enumerate(decode_entries(sys.stdin.buffer.read()))]
print(hashlib.sha256(repr(effects).encode() + replica.dump()).hexdigest())
"""


def compose_scenario(seed: int) -> list[Entry]:
    """Much that happens between a few people who all share rooms, ignore each other and rename themselves."""
    chance = random.Random(seed)
    sids = [bytes([number]) * 16 for number in range(20)]
    words = ["n1", "n2", "n3 hi", "m1", "m2", "m3", "#a", "#b", "#c", "lobby", ""]
    log: list[Entry] = [Opened(sid, "127.0.0.1") for sid in sids]
    log += [Said(sid, 1, (f"n{number}",)) for number, sid in enumerate(sids)]
    for end in range(2, 1000):
        command = chance.choice([*COMMANDS, *(each for each in COMMANDS if each.name in ("join", "ignore", "nick"))])
        if command.name != "quit" or end % 10 == 0:
            log.append(Commanded(chance.choice(sids), end, command.name, chance.choice(words)))
        log.append(Said(chance.choice(sids), end, ("hello",)))
    return log


def digest_with(hash_seed: str, payload: bytes) -> bytes:
    return subprocess.run(
        [sys.executable, "-c", DIGEST],
        input=payload,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=Path(__file__).parents[1],
        timeout=60,
        check=True,
    ).stdout


def test_replicas_in_processes_with_other_hash_seeds_agree() -> None:
    scenario, replica = compose_scenario(seed=7), Replica()
    effects = [effect for entry in scenario for effect in replica.apply(entry, NOON)]
    happened = {type(effect.event) for effect in effects if isinstance(effect, Told)}
    assert {*typing.get_args(Event)} - happened <= {Welcome, NameAsked, NameGiven, Stopping, Stalled}
    payload = encode_entries(scenario)
    assert digest_with("1", payload) == digest_with("2", payload)


# --- epochs: a connection that goes from worker to worker ---------------------------------------------------

HOST = b"h" * 16
GUEST = b"g" * 16


def carried_on(epoch: int = 2) -> Replica:
    """Two in the lobby; the host has been handed over `epoch` times, and 10 bytes of its input are applied."""
    replica = Replica()
    for sid, name in ((HOST, "host"), (GUEST, "guest")):
        replica.apply(Opened(sid, "::1"), NOON)
        replica.apply(Said(sid, 6, (name,)), NOON)
    replica.apply(Opened(HOST, "::1", epoch), NOON)
    replica.apply(Said(HOST, 10, ("hi",), epoch, "line"), NOON)
    return replica


@pytest.mark.parametrize("epoch", [0, 1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda epoch: Said(HOST, 20, ("late",), epoch, "skip"),
        lambda epoch: Commanded(HOST, 20, "nick", "other", epoch, "skip"),
        lambda epoch: Commanded(HOST, 20, "quit", "", epoch, "skip"),
        lambda epoch: Misread(HOST, 20, Problem.LINE_LONG.name, "10", "", epoch, "skip"),
        lambda epoch: Skipped(HOST, 20, epoch, "skip"),
        lambda epoch: Ended(HOST, "late", epoch),
    ],
)
def test_what_is_of_another_epoch_changes_nothing(make: typing.Callable[[int], Entry], epoch: int) -> None:
    replica = carried_on()
    before = replica.dump()
    assert replica.apply(make(epoch), NOON + 1) == []
    assert replica.dump() == before
    # And of its own epoch it would have changed something.
    replica.apply(make(2), NOON + 1)
    assert replica.dump() != before


def test_a_later_opening_fences_and_shows_nothing() -> None:
    replica = carried_on(1)
    assert replica.apply(Opened(HOST, "::1", 5), NOON) == []
    session = replica.session(HOST)
    assert session is not None
    assert (session.epoch, session.position, session.mode, session.name) == (5, 10, "line", "host")
    assert replica.apply(Said(HOST, 20, ("late",), 1), NOON) == []
    # The successor reads the same input again.
    (told,) = replica.apply(Said(HOST, 20, ("again",), 5), NOON)
    assert isinstance(told, Told)
    assert told.event == Message(LOBBY, "host", ("again",))


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_an_opening_that_comes_late_changes_nothing(epoch: int) -> None:
    replica = carried_on(2)
    before = replica.dump()
    assert replica.apply(Opened(HOST, "::1", epoch), NOON + 1) == []
    assert replica.dump() == before


def test_the_first_opening_may_be_of_a_later_epoch() -> None:
    """The first worker died before it published its own; when that comes after all, it counts no more."""
    replica = Replica()
    assert replica.apply(Opened(HOST, "::1", 3), NOON) == [Told(ToSession(HOST), Welcome())]
    assert replica.apply(Opened(HOST, "::1", 0), NOON) == []
    assert replica.apply(Said(HOST, 5, ("host",), 0), NOON) == []
    assert replica.apply(Ended(HOST, "", 0), NOON) == []
    replica.apply(Said(HOST, 5, ("host",), 3), NOON)
    session = replica.session(HOST)
    assert session is not None
    assert session.name == "host"


def test_who_has_ended_is_not_opened_again_by_a_later_epoch() -> None:
    replica = carried_on(2)
    replica.apply(Ended(HOST, "", 2), NOON)
    assert replica.apply(Opened(HOST, "::1", 3), NOON) == []
    assert replica.apply(Said(HOST, 30, ("ghost",), 3), NOON) == []
    assert replica.session(HOST) is None


def test_an_end_fences_a_session_that_has_not_begun() -> None:
    replica = Replica()
    assert replica.apply(Ended(HOST, "", 1), NOON) == []
    assert replica.apply(Opened(HOST, "::1", 0), NOON) == []
    assert replica.session(HOST) is None


def test_what_was_skipped_moves_the_position_only() -> None:
    replica = carried_on(2)
    assert replica.apply(Skipped(HOST, 50, 2, "skip"), NOON) == []
    session = replica.session(HOST)
    assert session is not None
    assert (session.position, session.mode) == (50, "skip")
    assert replica.apply(Said(HOST, 50, ("before",), 2), NOON) == []
    assert replica.apply(Skipped(HOST, 40, 2, "line"), NOON) == []
    assert (session.position, session.mode) == (50, "skip")


def test_a_snapshot_knows_epochs_and_modes() -> None:
    replica = Replica.load(carried_on(2).dump())
    session = replica.session(HOST)
    assert session is not None
    assert (session.epoch, session.position, session.mode) == (2, 10, "line")
