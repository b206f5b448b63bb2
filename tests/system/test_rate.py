"""The rate of one client: it is told when its input begins to wait, and what waits ends with it."""

from __future__ import annotations

import time

from server import Chatter, Server, running_server, survivable

RATE, BURST = 20, 5
OPTIONS = ("--workers", "2", "--rate", str(RATE), "--burst", str(BURST))
FAST = f"* That is more than {RATE} lines a second. The rest is read at that pace; what you type now comes behind it."
LEFT = f"* You have ended your side. What is left of what you sent is read at {RATE} lines a second while you stay."


def paste(chatter: Chatter, count: int, word: str = "line") -> list[str]:
    """Send so many lines at once; give them."""
    lines = [f"{word} {number}" for number in range(count)]
    chatter.send("".join(f"{line}\n" for line in lines).encode())
    return lines


def test_who_is_over_the_rate_is_told_once_when_the_waiting_begins() -> None:
    with running_server(*OPTIONS) as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        lines = paste(alice, 30)
        alice.expect(FAST)
        bob.expect(f"alice: {lines[-1]}")
        alice.ask("/topic", "* #lobby has no topic.")
        assert alice.seen.count(FAST) == 1
        # Kept to for a whole burst, so the next paste is another one.
        time.sleep(2 * BURST / RATE)
        paste(alice, 30, "more")
        alice.expect(FAST)
        bob.expect("alice: more 29")


def test_a_paste_ends_with_its_sender_who_is_gone() -> None:
    with running_server(*OPTIONS) as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        paste(alice, 1500)
        # Not read, so that its system breaks the connection.
        alice.wait_unread()
        alice.close()
        bob.expect_start("* alice left the chat")
        assert "alice: line 1499" not in bob.seen
        assert server.chat("alice")


def test_a_paste_ends_with_its_sender_who_is_gone_and_had_read_everything() -> None:
    """Nobody says anything, so nothing but what the server says shows that it is gone."""
    with running_server(*OPTIONS) as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        paste(alice, 1500)
        alice.expect(FAST)
        alice.close()
        bob.expect("* alice left the chat (connection lost)")
        assert "alice: line 1499" not in bob.seen


def test_a_sender_who_has_only_ended_its_side_is_read_to_the_end() -> None:
    with running_server(*OPTIONS) as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        lines = paste(alice, 60)
        alice.end_sending()
        assert bob.lines_until("* alice left the chat")[-60:] == [f"alice: {line}" for line in lines]
        seen = alice.expect_end()
        assert seen[-1] == "* Bye, alice."
        assert seen.count(LEFT) == 1
        assert seen.count(FAST) <= 1  # none if it had ended by the time that the server looked


@survivable
def test_a_client_whose_worker_dies_is_not_told_again() -> None:
    with running_server(*OPTIONS) as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        lines = paste(alice, 60)
        alice.expect(FAST)
        kill_worker_of(server, alice)
        assert [line for line in bob.lines_until(f"alice: {lines[-1]}") if line.startswith("alice: ")] == [
            f"alice: {line}" for line in lines[:-1]
        ]
        alice.ask("/topic", "* #lobby has no topic.")
        assert alice.seen.count(FAST) == 1


def kill_worker_of(server: Server, chatter: Chatter) -> None:
    server.worker_of(chatter).kill()
