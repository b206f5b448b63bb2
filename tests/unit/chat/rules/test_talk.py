"""Talking: to a room, and to one other person."""

import pytest
from party import Party

# --- in a room ----------------------------------------------------------------------------------------------


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
