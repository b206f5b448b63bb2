"""Sessions: how they begin, get a name, and end."""

import pytest
from party import NOON, Party

from mpchat.chat.entries import ENDING, KEEPING, WAITING, Ended, Opened, Restarted, Slowed, Stopped
from mpchat.chat.state.state import Limits

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


def test_a_name_that_looks_like_one_that_is_taken_is_taken() -> None:
    party = Party()
    party.enter("coco", "mary")
    for typed, given in (("сосо", "сосо-2"), ("СОСО", "СОСО-3"), ("MARY", "MARY-2"), ("mary\ufe0f", "mary-3")):
        guest = party.connect()
        party.clear()
        guest.types(typed)
        guest.sees(
            f"* {given[:-2]} is taken; you are {given}.",
            *[line for line in guest.shown if not line.startswith("* " + given[:-2])],
        )


def test_names_that_are_not_acceptable() -> None:
    party = Party(Limits(name_tries=5))
    guest = party.connect()
    guest.types("x" * 33, "a/b", "a😀b", "//a", "a!b")
    guest.sees(
        "* Welcome to mpchat. What is your name?",
        "! A name has 32 characters at most.",
        "* What is your name?",
        "! A name cannot contain '/': letters, digits and _ - . [ ] { } | ^ only.",
        "* What is your name?",
        "! A name cannot contain '😀': letters, digits and _ - . [ ] { } | ^ only.",
        "* What is your name?",
        "! A name cannot contain '/': letters, digits and _ - . [ ] { } | ^ only.",
        "* What is your name?",
        "! A name cannot contain '!': letters, digits and _ - . [ ] { } | ^ only.",
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
        "! There is no command /nonsense. /help lists the commands.",
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
        "* Earlier in #lobby (since 12:00 UTC):",
        *(f"bob: {number}" for number in range(11, 30)),
        "** bob waves",
        "* Now.",
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


# --- leaving ------------------------------------------------------------------------------------------------


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


def test_a_server_that_starts_again_ends_all_sessions_and_tells_nobody() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    bob.types("/topic Names", "hello")
    party.apply(Stopped(""))
    party.clear()
    party.apply(Restarted())
    assert alice.gone and bob.gone and not party.replica.sessions and not party.replica.stopped
    alice.sees()
    # Nobody meets his own ghost.
    again = party.connect()
    again.types("alice")
    session = party.replica.session(again.sid)
    assert session is not None and session.name == "alice"
    assert party.replica._state.rooms["lobby"].topic == "Names"


# --- the rate -------------------------------------------------------------------------------------------------

FAST = "* That is more than 10 lines a second. The rest is read at that pace; what you type now comes behind it."
LEFT = "* You have ended your side. What is left of what you sent is read at 10 lines a second while you stay."


@pytest.mark.parametrize(
    ("paces", "told"),
    [
        ([(10, WAITING)], [FAST]),
        ([(10, WAITING), (20, WAITING)], [FAST]),  # another worker does not know that it was told
        ([(10, WAITING), (10, ENDING)], [FAST, LEFT]),
        ([(10, WAITING), (20, ENDING), (30, WAITING), (40, ENDING)], [FAST, LEFT]),
        ([(10, ENDING)], [LEFT]),
        ([(10, WAITING), (20, KEEPING), (30, WAITING)], [FAST, FAST]),
        ([(10, WAITING), (10, KEEPING), (30, WAITING)], [FAST, FAST]),
        ([(30, KEEPING), (10, WAITING)], []),  # published late
        ([(30, KEEPING)], []),
    ],
)
def test_who_is_over_the_rate_is_told_once(paces: list[tuple[int, int]], told: list[str]) -> None:
    party = Party()
    [alice] = party.enter("alice")
    for position, pace in paces:
        party.apply(Slowed(alice.sid, position, pace, 10.0))
    alice.sees(*told)


def test_the_pace_of_another_epoch_or_of_nobody_is_not_told() -> None:
    party = Party()
    [alice] = party.enter("alice")
    party.apply(Slowed(alice.sid, 10, WAITING, 10.0, epoch=1))
    party.apply(Slowed(b"nobody", 10, WAITING, 10.0))
    alice.sees()
