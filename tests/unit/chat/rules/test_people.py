"""People: names, away, and what each wants to see of others."""

from party import Party

from mpchat.chat.state.state import Limits

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


def test_nick_to_a_name_that_looks_like_that_of_somebody_else() -> None:
    party = Party()
    alice, bob, *_ = party.enter("alice", "bob", "Paul", "сосо")
    alice.types("/nick PauI", "/nick COC0", "/nick а1ice", "/nick B0B", "/nick a1ice")
    alice.types("/nick admin", "/nick [alice]", "/nick -")
    alice.sees(
        "! PauI is taken.",
        "! COC0 is taken.",
        "! A name cannot mix Latin and Cyrillic letters: some of them look the same.",
        "* You are now called B0B.",
        "* You are now called a1ice.",
        "! admin cannot be a name here: it would look like a word of the server.",
        "! [alice] cannot be a name here: it would look like a word of the server.",
        "! A name needs at least one letter or digit.",
    )
    bob.types("/nick alice")
    bob.sees("* alice is now called B0B", "* B0B is now called a1ice", "* You are now called alice.")
    alice.hangs_up("")
    bob.types("/nick alice")
    bob.sees("* a1ice left the chat", "* You are now called alice.")


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
        "* bob: in #lobby, #python; here since 2026-03-01 12:00 UTC; idle 1 d 1 h; away: lunch at\tone",
        "! No one here is called dave.",
        "! Usage: /whois NAME",
        "* alice: in #lobby; here since 2026-03-01 12:00 UTC; idle 0 s",
    )


def test_an_error_shows_only_the_beginning_of_what_was_typed() -> None:
    [alice] = Party().enter("alice")
    alice.types("/whois " + "x" * 4000, "/" + "y" * 4000)
    alice.sees(
        f"! No one here is called {'x' * 60}.",
        f"! There is no command /{'y' * 60}. /help lists the commands.",
    )


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
    bob.types("one", "/nick robert", "one")
    carol.types("two")
    carol.types("three")
    party.clear()
    alice.types("/history")
    alice.sees("* The last 2 lines of #lobby:", "carol: two", "carol: three", "* Now.")


def test_history_counts_what_is_shown() -> None:
    party = Party()
    alice, bob, carol = party.enter("alice", "bob", "carol")
    carol.types("one", "two")
    bob.types("/nick robert", *["flood"] * 100)
    alice.types("/ignore robert")
    party.clear()
    alice.types("/history 1", "/history", "/join a", "/leave lobby", "/join lobby")
    assert alice.shown[:2] == ["* The last 1 line of #lobby:", "carol: two"]
    assert alice.shown[3:6] == ["* The last 2 lines of #lobby:", "carol: one", "carol: two"]
    assert alice.shown[-3:] == ["carol: one", "carol: two", "* Now."]


def test_ignoring_ends_with_the_session() -> None:
    party = Party()
    alice, bob, carol = party.enter("alice", "bob", "carol")
    alice.types("/ignore bob", "/ignore carol")
    party.clear()
    bob.types("/quit")
    alice.sees()
    [stranger] = party.enter("bob")
    stranger.types("hello", "/nick robert", "/msg alice hello")
    alice.sees("bob: hello", "* bob is now called robert", "[robert] hello")
    alice.types("/ignore")
    alice.sees("* You ignore carol.")
    alice.hangs_up("")
    carol.types("/quit")


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
    alice.sees("! You do not ignore bob.", "* You ignore nobody.")


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
        "2026-03-01 12:00 bob: early",
        "13:01 bob: one",
        "13:01 bob: two",
        "* Now.",
        "13:01 * Timestamps are on.",
        "* Timestamps are off.",
        "! Usage: /timestamp [on/off]",
    )
