"""What was said earlier: from memory, and from the archive."""

from __future__ import annotations

import pytest
from party import NOON, Party

from mpchat.chat.entries import Answered
from mpchat.chat.rules.recall import FOUND_LINES, FOUND_PAGES, HISTORY_MOST, Lookup
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import Limits, Question

WITH_ARCHIVE = Limits(archived=True, rooms_stay=True)


def line(
    text: str, room: str = "lobby", name: str = "bob", time: int = NOON - 86_400_000
) -> tuple[str, int, str, bool, str]:
    return room, time, name, False, text


def asked(party: Party) -> Lookup:
    lookup = party.replica.next_lookup()
    assert lookup is not None
    return lookup


def answer(party: Party, *lines: tuple[str, int, str, bool, str], failed: bool = False) -> None:
    lookup = asked(party)
    party.apply(Answered(lookup.sid, lookup.question.number, lines, failed))


# --- search -------------------------------------------------------------------------------------------------


def test_a_search_is_a_question_and_its_answer_comes_once() -> None:
    party = Party(WITH_ARCHIVE)
    alice, bob = party.enter("alice", "bob")
    alice.types('/search "tea leaves" pot in #Kitchen from BOB 2')
    alice.sees()
    question = Question(1, ("tea leaves", "pot"), "kitchen", "bob", FOUND_LINES, 0, FOUND_LINES)
    assert asked(party) == Lookup(alice.sid, question, ())
    entry = Answered(alice.sid, 1, (line("cold", "kitchen"), ("kitchen", NOON, "bob", True, "drinks")))
    party.apply(entry)
    alice.sees(
        "* Found, page 2, the newest last:",
        "2026-02-28 12:00 #kitchen bob: cold",
        "2026-03-01 12:00 #kitchen ** bob drinks",
        "* That is all.",
    )
    assert party.replica.next_lookup() is None
    party.apply(entry)
    alice.sees()
    bob.sees()


def test_a_full_page_has_another_one() -> None:
    party = Party(WITH_ARCHIVE)
    [alice] = party.enter("alice")
    alice.types("/search tea")
    answer(party, *(line(str(number)) for number in range(FOUND_LINES)))
    assert alice.shown[-1] == "* Page 2 has older ones."
    alice.shown.clear()
    alice.types(f"/search tea {FOUND_PAGES}")
    answer(party, *(line(str(number)) for number in range(FOUND_LINES)))
    assert alice.shown[-1] == "* That is all."
    alice.shown.clear()
    for page, words in ((1, "* Nothing found."), (2, "* Nothing more found.")):
        alice.types(f"/search tea {page}")
        answer(party)
        alice.sees(words)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (f"/search tea {FOUND_PAGES + 1}", f"! The last page is {FOUND_PAGES}."),
        (f"/search {'x' * 301}", "! That is too long: 300 characters at most."),
        ("/search tea in #a!", "! The name of a room cannot contain '!': letters, digits and _ - . [ ] { } | ^ only."),
        ("/search *", "! Usage: /search WORDS [in #ROOM] [from NAME] [PAGE]"),
    ],
)
def test_what_cannot_be_searched_for(typed: str, shown: str) -> None:
    party = Party(WITH_ARCHIVE)
    [alice] = party.enter("alice")
    alice.types(typed)
    alice.sees(shown)
    assert party.replica.next_lookup() is None


def test_a_server_without_an_archive_says_so() -> None:
    [alice] = Party().enter("alice")
    alice.types("/search tea")
    alice.sees("! This server keeps no messages to search in: it runs without --data.")


def test_an_archive_that_cannot_answer_says_so() -> None:
    party = Party(WITH_ARCHIVE)
    [alice] = party.enter("alice")
    alice.types("/search tea")
    answer(party, failed=True)
    alice.sees("! The archive of this server cannot be read at the moment. Try again later.")


def test_whoever_is_ignored_is_named_to_the_archive() -> None:
    party = Party(WITH_ARCHIVE)
    alice, bob = party.enter("alice", "Bob")
    alice.types("/ignore bob")
    bob.types("/nick Bobby")
    alice.types("/search tea")
    assert asked(party).hidden == ("bobby",)


# --- questions ----------------------------------------------------------------------------------------------


def test_five_questions_may_wait_and_people_take_turns() -> None:
    party = Party(WITH_ARCHIVE)
    alice, bob = party.enter("alice", "bob")
    alice.types(*(f"/search a{number}" for number in range(6)))
    alice.sees("! 5 of your questions wait for their answers already. Wait for one.")
    bob.types("/search b")
    order = []
    while (lookup := party.replica.next_lookup()) is not None:
        order.append(lookup.question.terms[0])
        answer(party)
    assert order == ["a0", "b", "a1", "a2", "a3", "a4"]
    alice.types("/search a6")
    assert asked(party).question.number == 6


def test_who_leaves_takes_the_questions_along() -> None:
    party = Party(WITH_ARCHIVE)
    alice, bob = party.enter("alice", "bob")
    alice.types("/search a")
    bob.types("/search b")
    entry = Answered(alice.sid, 1, (line("late"),))
    alice.types("/quit")
    assert asked(party).sid == bob.sid
    party.apply(entry)
    bob.sees("* alice left the chat")
    answer(party)
    assert party.replica.next_lookup() is None


def test_questions_are_in_the_snapshot() -> None:
    party = Party(WITH_ARCHIVE)
    alice, bob = party.enter("alice", "bob")
    alice.types("/search a", "/search c", "/history 30 before 2026-01-01")
    bob.types("/search b")
    loaded = Replica.load(party.replica.dump(), WITH_ARCHIVE)
    assert loaded.dump() == party.replica.dump()
    lookups = [loaded.next_lookup()]
    session = loaded.session(alice.sid)
    assert session is not None
    assert session.questions == party.replica.session(alice.sid).questions  # type: ignore[union-attr]
    assert [type(each) for each in session.questions] == [Question] * 3
    assert lookups == [party.replica.next_lookup()]


# --- history ------------------------------------------------------------------------------------------------


def test_what_memory_has_is_shown_at_once() -> None:
    party = Party(WITH_ARCHIVE)
    alice, bob = party.enter("alice", "bob")
    bob.types("one", "two", "three")
    alice.shown.clear()
    alice.types("/history 2")
    alice.sees("* The last 2 lines of #lobby:", "bob: two", "bob: three", "* Now.")
    assert party.replica.next_lookup() is None


def test_what_memory_has_not_is_asked_of_the_archive() -> None:
    party = Party(WITH_ARCHIVE)
    alice, bob = party.enter("alice", "bob")
    bob.types("one")
    alice.shown.clear()
    alice.types("/history 30000")
    question = asked(party).question
    assert (question.terms, question.room, question.lines, question.skip) == ((), "lobby", HISTORY_MOST, 0)
    bob.types("meanwhile")
    answer(party, line("zero"), line("one", time=NOON))
    alice.sees(
        "bob: meanwhile",
        *("* The last 2 lines of #lobby:", "2026-02-28 12:00 bob: zero", "bob: one", "* Now."),
    )


def test_more_goes_back_from_what_was_shown_through_memory_into_the_archive() -> None:
    party = Party(WITH_ARCHIVE)
    alice, bob = party.enter("alice", "bob")
    bob.types(*map(str, range(5)))  # all at one moment
    alice.shown.clear()
    alice.types("/history 2", "/history 2 more")
    alice.sees(
        *("* The last 2 lines of #lobby:", "bob: 3", "bob: 4", "* Now."),
        *("* The last 2 lines of #lobby before that:", "bob: 1", "bob: 2", "* Now."),
    )
    alice.types("/history 2 more")
    question = asked(party).question
    shown_at = party.replica.session(alice.sid).recalled  # type: ignore[union-attr]
    assert (question.before, question.skip, question.earlier) == (shown_at[1], 4, True)
    answer(party, line("-1"), ("lobby", shown_at[1] - 1, "bob", False, "0"))
    alice.sees("* The last 2 lines of #lobby before that:", "2026-02-28 12:00 bob: -1", "bob: 0", "* Now.")
    alice.types("/history more")
    question = asked(party).question
    assert (question.before, question.skip) == (NOON - 86_400_000 + 1, 1)
    answer(party)
    alice.sees("* #lobby: nothing is kept from before that.")


def test_another_room_is_shown_from_its_end() -> None:
    party = Party()
    alice, bob = party.enter("alice", "bob")
    bob.types("one", "two", "/join b", "three")
    alice.shown.clear()
    alice.types("/history 1", "/join b")
    alice.shown.clear()
    alice.types("/history 1 more")
    alice.sees("! This server keeps the last 500 lines of a room at most: it runs without --data.")
    alice.types("/join lobby")
    alice.shown.clear()
    alice.types("/history 1 more", "/history before 2020-01-01", "/history 1 before 2100-01-01")
    alice.sees(
        *("* The last 1 line of #lobby before that:", "bob: two", "* Now."),
        "! This server keeps the last 500 lines of a room at most: it runs without --data.",
        *("* The last 1 line of #lobby before that:", "bob: two", "* Now."),
    )


def test_when_the_archive_cannot_answer_memory_does() -> None:
    party = Party(WITH_ARCHIVE)
    alice, bob = party.enter("alice", "bob")
    bob.types("one")
    alice.shown.clear()
    alice.types("/history")
    answer(party, failed=True)
    alice.sees(
        "! The archive of this server cannot be read at the moment. Try again later.",
        *("* The last 1 line of #lobby:", "bob: one", "* Now."),
    )
