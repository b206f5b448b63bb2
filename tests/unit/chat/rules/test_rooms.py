"""Rooms: entering, leaving, lists, topics, history, crowds."""

import pytest
from party import Party

from mpchat.chat.entries import Forgot
from mpchat.chat.state.state import Limits


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
    bob.sees(
        "* You are in #python with alice.",
        "* Topic: Snakes",
        "* Earlier in #python (since 12:00 UTC):",
        "alice: hiss",
        "* Now.",
    )
    alice.sees("* bob joined #python", "bob: hi")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("/join", "! Usage: /join ROOM"),
        ("/join #", "! The name of a room needs at least one character."),
        ("/join a b", ""),
        ("/join a/b", "! The name of a room cannot contain '/': letters, digits and _ - . [ ] { } | ^ only."),
        ("/join " + "x" * 33, "! The name of a room has 32 characters at most."),
        ("/join " + "ß" * 17, "! The name of a room has 32 characters at most."),
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
        "! The name of a room cannot contain '/': letters, digits and _ - . [ ] { } | ^ only.",
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
    alice.types("/topic -", "/topic")
    alice.sees("* alice cleared the topic of #lobby", "* #lobby has no topic.")
    bob.sees("* alice cleared the topic of #lobby")


LACKING = "! This server keeps the last 500 lines of a room at most: it runs without --data."

# --- history ------------------------------------------------------------------------------------------------


def test_history() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/history")
    alice.sees("* #lobby: no history.")
    bob.types(*map(str, range(600)))
    alice.shown.clear()
    alice.types("/history 2", "/history 1")
    alice.sees(
        *("* The last 2 lines of #lobby:", "bob: 598", "bob: 599", "* Now."),
        *("* The last 1 line of #lobby:", "bob: 599", "* Now."),
    )
    alice.types("/history")
    assert alice.shown[0] == "* The last 20 lines of #lobby:"
    assert len(alice.shown) == 22
    alice.shown.clear()
    alice.types("/history 999999")
    alice.sees("* The last 500 lines of #lobby:", *(f"bob: {number}" for number in range(100, 600)), "* Now.", LACKING)


@pytest.mark.parametrize("argument", ["0", "x", "-1", "1.5", "²", "1 2", "1" * 4000])
def test_history_errors(argument: str) -> None:
    [alice] = Party().enter("alice")
    alice.types(f"/history {argument}")
    alice.sees("! Usage: /history [N/on/off] [more/before DATE]")


def test_who_does_not_want_earlier_lines_is_shown_them_only_when_asking() -> None:
    party = Party()
    [bob] = party.enter("bob")
    bob.types("one")
    alice = party.connect()
    party.clear()
    alice.types("/history off", "alice", "/history", "/history on", "/join a", "/leave lobby", "/join lobby")
    alice.sees(
        "* Hello, alice. You are in #lobby with bob. /help lists the commands.",
        *("* The last 1 line of #lobby:", "bob: one", "* Now."),
        "* On entering a room you are shown what was said earlier.",
        "* You are in #a, alone.",
        "* You have left #lobby. You talk in #a now.",
        "* You are in #lobby with bob.",
        *("* Earlier in #lobby (since 12:00 UTC):", "bob: one", "* Now."),
    )


def test_ones_own_lines_are_in_the_history_under_the_name_of_then() -> None:
    [alice] = Party().enter("alice")
    alice.types("hello", "/nick al", "/history 5")
    alice.sees("* You are now called al.", "* The last 1 line of #lobby:", "alice: hello", "* Now.")


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


def test_no_room_is_made_that_looks_like_another() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    alice.types("/join сосо", "/join |obby", "/join lоbby", "/join 10", "/join lo")
    alice.sees(
        "* You are in #сосо, alone.",
        "! #|obby looks like #lobby, which exists.",
        "! The name of a room cannot mix Latin and Cyrillic letters: some of them look the same.",
        "* You are in #10, alone.",
        "* You are in #lo, alone.",
    )
    bob.types("/join coco", "/join СОСО")
    bob.sees("! #coco looks like #сосо, which exists.", "* You are in #сосо with alice.")
    alice.types("/leave сосо")
    bob.types("/leave сосо", "/join coco")
    assert bob.shown[-1] == "* You are in #coco, alone."


# --- rooms that live on -------------------------------------------------------------------------------------


def test_a_room_lives_on_while_it_has_lines_or_a_topic() -> None:
    party = Party(Limits(rooms_stay=True))
    alice, bob = party.enter("alice", "bob")
    alice.types("/join said", "hello", "/leave", "/join named", "/topic Names", "/leave", "/join nothing", "/leave")
    alice.types("/join lobby")
    party.clear()
    bob.types("/rooms")
    bob.sees("* #lobby: 2 members", "* #named: 0 members, Names", "* #said: 0 members")
    bob.types("/names said", "/join said")
    bob.sees(
        "* Nobody is in #said.",
        "* You are in #said, alone.",
        "* Earlier in #said (since 12:00 UTC):",
        "alice: hello",
        "* Now.",
    )


def test_without_that_it_ends_with_its_last_member() -> None:
    party = Party()
    [alice] = party.enter("alice")
    alice.types("/join said", "hello", "/topic Names", "/leave")
    party.clear()
    alice.types("/rooms", "/join said")
    alice.sees("* #lobby: 1 member", "* You are in #said, alone.")


def test_a_room_whose_last_line_is_forgotten_ends() -> None:
    party = Party(Limits(rooms_stay=True, history_bytes=1000))
    [alice] = party.enter("alice")
    alice.types("/join old", "hello", "/leave", *("x" * 500 for _ in range(2)))
    party.clear()
    alice.types("/rooms")
    alice.sees("* #lobby: 1 member")


def test_the_room_that_is_empty_for_the_longest_time_makes_way_and_one_without_a_topic_before_one_with() -> None:
    party = Party(Limits(rooms_stay=True, rooms_of_server=4))
    [alice] = party.enter("alice")
    alice.types("/join named", "/topic Names", "/leave", "/join first", "hello", "/leave")
    alice.types("/join second", "hi", "/leave")
    # Not the longest-empty any more.
    alice.types("/join first", "/leave")
    rooms = []
    for name in ("third", "fourth", "fifth"):
        party.clear()
        alice.types(f"/join {name}", "said", "/leave")
        rooms.append(list(party.replica._state.rooms))
    assert rooms == [
        ["lobby", "named", "first", "third"],
        ["lobby", "named", "third", "fourth"],
        ["lobby", "named", "fourth", "fifth"],
    ]


def test_without_an_empty_room_there_is_no_place_for_a_new_one() -> None:
    party = Party(Limits(rooms_stay=True, rooms_of_server=2))
    alice, bob = party.enter("alice", "bob")
    alice.types("/join a", "/topic T")
    bob.types("/join b")
    bob.sees("! There are 2 rooms already, and no more can be made.")
    alice.types("/leave")
    party.clear()
    bob.types("/join b")
    bob.sees("* You are in #b, alone.")


# --- forgetting ---------------------------------------------------------------------------------------------


def test_the_lines_of_a_name_are_forgotten_in_all_rooms() -> None:
    party = Party(Limits(rooms_stay=True))
    alice, bob = party.enter("Alice", "bob")
    alice.types("one", "/me two", "/join a", "three", "/leave")
    bob.types("four")
    party.apply(Forgot("name", "alice"))
    party.clear()
    bob.types("/history 9", "/rooms")
    bob.sees("* The last 1 line of #lobby:", "bob: four", "* Now.", "* #lobby: 2 members")


def test_a_room_is_forgotten_with_its_topic() -> None:
    party = Party(Limits(rooms_stay=True))
    alice, bob = party.enter("alice", "bob")
    alice.types("/join a", "/topic Names", "one")
    bob.types("/join b", "/topic Others", "two", "/leave")
    party.apply(Forgot("room", "a"))
    party.apply(Forgot("room", "b"))
    party.clear()
    alice.types("/history 9", "/topic", "/rooms")
    alice.sees("* #a: no history.", "* #a has no topic.", "* #lobby: 2 members", "* #a: 1 member")


def test_what_was_said_before_a_moment_is_forgotten() -> None:
    party = Party(Limits(rooms_stay=True))
    [alice] = party.enter("alice")
    alice.types("old")
    party.wait(10)
    alice.types("new")
    party.apply(Forgot("before", str(party.now)))
    party.clear()
    alice.types("/history 9")
    alice.sees("* The last 1 line of #lobby:", "alice: new", "* Now.")
