"""The client for people and the real server, which is killed and started again."""

from __future__ import annotations

import socket

from drawnclient import drawn
from server import running_server, starting_server


def find_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def test_a_server_that_is_killed_and_started_again_finds_everybody_where_he_was() -> None:
    port = str(find_port())
    with starting_server("--port", port, "--workers", "1") as server:
        server.wait_ready()
        with drawn("127.0.0.1", port, "--name", "bot", columns=120) as terminal:
            terminal.see("#lobby, 1 member ")
            terminal.type(b"/join tea\r")
            terminal.see("#tea, 1 member ")
            terminal.type(b"/join python\r")
            terminal.see("#python, 1 member ")
            terminal.type(b"/leave lobby\r")
            terminal.see("You have left #lobby.")
            terminal.type(b"/away at lunch\r")
            terminal.see("* You are away (at lunch).")
            terminal.type(b"/timestamp on\r")
            terminal.see("* Timestamps are on.")
            terminal.type(b"half a line")
            terminal.see_line("> half a line")
            server.end()
            terminal.see("trying again in")
            with running_server("--port", port, "--workers", "1") as second:
                terminal.see("what was said meanwhile is missing")
                terminal.see("#python, 1 member ")
                alice = second.chat("alice")
                alice.say("/join python")
                terminal.see("#python, 2 members")
                alice.say("welcome back, bot")
                terminal.see("alice: welcome back, bot")
                alice.say("/whois bot")
                whois = alice.expect_start("* bot: ")
                assert "in #tea, #python;" in whois
                assert whois.endswith("; away: at lunch")
                terminal.type(b"\r")
                alice.expect("bot: half a line")
                terminal.type(b"\x04")
                assert terminal.wait() == 0
