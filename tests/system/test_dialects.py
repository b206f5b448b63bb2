"""Clients of two dialects in one chat, through real workers that are killed, moved and replaced.

The second dialect (support/framed.py) shares nothing with lines; what it is sent is the `repr` of each event.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from framed import HEADER, pack
from server import (
    ROOT,
    WELCOME,
    Chatter,
    Server,
    expect_next,
    kill_sequencer,
    kill_worker_of,
    running_server,
    survivable,
    wait_arrived,
)

from mpchat.chat.events import (
    Entered,
    Event,
    Failed,
    Goodbye,
    Joined,
    Message,
    PrivateIn,
    PrivateOut,
    Quit,
    SignedOn,
    Welcome,
)
from mpchat.chat.problems import ROOM_NAME, Problem

COMMAND = (sys.executable, str(ROOT / "tests" / "support" / "framed_server.py"))


class FramedChatter(Chatter):
    """A client that speaks frames: in `seen` is what is in each."""

    def asks(self, *words: str) -> None:
        self.send(pack(*words))

    def expect_events(self, *events: Event) -> None:
        """Wait for the last of these, and see that just these have come since the last look."""
        expect_next(self, *map(repr, events))

    def split(self, data: bytes) -> tuple[list[str], bytes]:
        found: list[str] = []
        while len(data) >= HEADER.size:
            (size,) = HEADER.unpack_from(data)
            if len(data) < HEADER.size + size:
                break
            found.append(data[HEADER.size : HEADER.size + size].decode())
            data = data[HEADER.size + size :]
        return found, data


@contextmanager
def running(*options: str) -> Iterator[Server]:
    with running_server(*options, command=COMMAND) as server:
        yield server


def meet(server: Server) -> tuple[Chatter, FramedChatter]:
    """Alice, who types lines, and fred, who sends frames; they know of each other."""
    alice = server.chat("alice")
    fred = server.connect_as(FramedChatter)
    fred.expect_events(Welcome())
    fred.asks("say", "fred")
    fred.expect_events(SignedOn("fred", "lobby", ("alice",), 0, ""))
    expect_next(alice, "* fred joined #lobby")
    return alice, fred


def message(name: str, *texts: str, action: bool = False, room: str = "lobby") -> Message:
    return Message(room, name, texts, action)


def test_clients_of_two_dialects_chat() -> None:
    with running("--workers", "2") as server:
        alice, fred = meet(server)
        alice.say("hello")
        fred.expect_events(message("alice", "hello"))
        fred.asks("say", "hello\nto you")
        fred.asks("act", "waves")
        expect_next(alice, "fred: helloto you", "** fred waves")
        alice.say("/msg fred psst")
        fred.expect_events(PrivateIn("alice", "psst"))
        fred.asks("private", "alice", "what?")
        expect_next(alice, "[to fred] psst", "[fred] what?")
        fred.asks("join", "den")
        fred.expect_events(PrivateOut("alice", "what?"), Entered("den", (), 0, "", True))
        alice.say("/join den")
        fred.expect_events(Joined("alice", "den"))
        fred.asks("say", "in here")
        expect_next(alice, "* You are in #den with fred.", "fred: in here")
        fred.asks("quit", "")
        expect_next(alice, "* fred left the chat")
        assert fred.expect_end() == [repr(Goodbye("fred", ""))]


def test_an_error_is_told_in_the_dialect_of_its_sender() -> None:
    with running("--workers", "2", "--max-line", "64") as server:
        alice, fred = meet(server)
        fred.asks("say", "x" * 61)
        fred.asks("dance")
        fred.asks("join", "a", "b")
        fred.asks("join", "a/b")
        fred.asks("")
        fred.asks("say", "fine")
        fred.expect_events(
            Failed(Problem.LINE_LONG, "64"),
            Failed(Problem.UNKNOWN_COMMAND, "say", "dance"),
            Failed(Problem.UNKNOWN_COMMAND, "say", "join"),
            Failed(Problem.NAME_CHARACTER, "/", ROOM_NAME),
        )
        expect_next(alice, "fred: fine")


def test_a_refused_client_is_told_why_in_its_dialect() -> None:
    with running("--workers", "1", "--max-clients", "1") as server:
        server.chat("alice")
        assert server.connect_as(FramedChatter).expect_end() == ["SERVER_FULL 1"]
        assert server.connect().expect_end() == ["! The server is full: 1 client. Try again later."]


@survivable
def test_nobody_notices_that_workers_and_the_sequencer_are_killed() -> None:
    with running("--workers", "3", "--rate", "0") as server:
        alice, fred = meet(server)
        for number in range(400):
            alice.say(f"a {number}")
            fred.asks("say", f"f {number}")
            if number in (100, 250):
                server.worker_of(fred).kill()
            if number == 180:
                server.worker_of(alice).kill()
            if number == 320:
                kill_sequencer(server)
        expect_next(alice, *(f"fred: f {number}" for number in range(400)))
        said: list[str] = []
        while len(said) < 400:
            shown = fred.expect_start("Message(")
            assert shown.startswith("Message(room='lobby', name='alice', texts=('a "), shown
            said += eval(shown, {"Message": Message}).texts
        assert said == [f"a {number}" for number in range(400)]
        assert fred.seen == [line for line in fred.seen if line.startswith(("Welcome", "SignedOn", "Message"))]


@survivable
def test_a_frame_is_carried_on_in_its_middle() -> None:
    with running("--workers", "2") as server:
        alice, fred = meet(server)
        frame = pack("say", "one and the same")
        fred.send(frame[:1])
        for part in (frame[1:5], frame[5:9], frame[9:] + pack("say", "more")[:4]):
            wait_arrived(server, fred)
            kill_worker_of(server, fred)
            fred.send(part)
        expect_next(alice, "fred: one and the same")


@survivable
def test_a_frame_that_is_being_refused_is_still_refused() -> None:
    """The line framing has a word for it, this one a number: the server does not know what a mode means."""
    with running("--workers", "2", "--max-line", "64") as server:
        alice, fred = meet(server)
        fred.send(HEADER.pack(60_000) + b"x" * 1000)
        fred.expect_events(Failed(Problem.LINE_LONG, "64"))
        for _ in range(2):
            fred.send(b"x" * 20_000)
            wait_arrived(server, fred)
            kill_worker_of(server, fred)
        fred.send(b"x" * 19_000 + pack("say", "heard"))
        expect_next(alice, "fred: heard")


def test_each_keeps_its_dialect_when_workers_are_replaced() -> None:
    with running("--workers", "2", "--rate", "0") as server:
        alice, fred = meet(server)
        server.process.send_signal(signal.SIGHUP)
        for number in range(300):
            alice.say(f"a {number}")
            fred.asks("say", f"f {number}")
        server.expect_log(" retired", count=2)
        expect_next(alice, *(f"fred: f {number}" for number in range(300)))
        alice.say("quit")
        fred.expect(repr(Quit("alice", "")))


def test_each_keeps_its_dialect_when_the_program_is_replaced() -> None:
    with running("--workers", "2") as server:
        alice, fred = meet(server)
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("the program is replaced")
        alice.say("still there?")
        fred.expect_events(message("alice", "still there?"))
        fred.asks("say", "yes")
        expect_next(alice, "fred: yes")
        # Who comes now speaks lines again: the new program counts from the start.
        server.connect().expect(WELCOME)
