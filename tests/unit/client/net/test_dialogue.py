"""The client's side of the conversation, without sockets or clocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.client.net.dialogue import Dialogue, Line, Mode, Phase, Refusal
from mpchat.client.timing import Timing

TIMING = Timing()
QUESTION = b"* Welcome to mpchat. What is your name?\n"
HELLO = b"* Hello, bot. You are in #lobby. /help lists the commands.\n"


def start(segments: bool = False) -> Dialogue:
    return Dialogue(TIMING, segments=segments, now=0.0)


def ask(*, segments: bool = False) -> Dialogue:
    """A dialogue that an mpchat server has asked for the name."""
    dialogue = start(segments)
    dialogue.receive(QUESTION, 0.1)
    dialogue.take_events()
    return dialogue


def silence(*, segments: bool = False) -> Dialogue:
    """A dialogue with a server that greets nobody."""
    dialogue = start(segments)
    dialogue.wake(TIMING.greeting)
    return dialogue


def texts(dialogue: Dialogue) -> list[str]:
    return [event.text for event in dialogue.take_events()]


def test_signing_on() -> None:
    dialogue = start()
    dialogue.receive(QUESTION, 0.1)
    assert (dialogue.phase, dialogue.greeted, dialogue.mode) == (Phase.NAME, True, Mode.LINES)
    assert dialogue.deadline is None
    assert dialogue.claim("bot", 1.0) == b"bot\n"
    assert dialogue.phase is Phase.CLAIM
    dialogue.receive(b"* bot is taken.\n" + HELLO + b"ann: hi\n", 1.1)
    assert dialogue.phase is Phase.READY
    assert dialogue.deadline is None
    assert dialogue.say("hello") == b"hello\n"
    assert dialogue.quit() == b"/quit\n"
    assert texts(dialogue)[-1] == "ann: hi"


@given(cuts=st.lists(st.integers(0, len(QUESTION)), max_size=5))
def test_the_question_is_known_in_every_chunking(cuts: list[int]) -> None:
    dialogue = start()
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(QUESTION)], strict=True):
        dialogue.receive(QUESTION[begin:end], 0.5)
        dialogue.wake(0.9)  # a pause in its middle is no end of it
    dialogue.claim("bot", 1.0)
    assert dialogue.deadline == 1.0 + TIMING.claim


def test_a_taken_name_is_known() -> None:
    dialogue = ask()
    dialogue.claim("bot", 1.0)
    dialogue.receive(b"* bot is taken; you are bot-2.\n", 1.1)
    dialogue.receive(HELLO.replace(b"bot", b"bot-2"), 1.2)
    assert (dialogue.phase, dialogue.taken, dialogue.is_mpchat) == (Phase.READY, "bot", True)
    dialogue.receive(b"* ann is taken; you are ann-2.\n", 2.0)  # no answer to a name of ours
    assert dialogue.taken == "bot"


def test_a_refused_name_can_be_followed_by_another() -> None:
    dialogue = ask()
    dialogue.claim("b d", 1.0)
    dialogue.receive(b"! No blanks.\n* What is your name?\n", 1.1)
    assert dialogue.take_events() == [Refusal("! No blanks."), Line("* What is your name?")]
    assert (dialogue.phase, dialogue.refusal) == (Phase.NAME, "No blanks.")
    dialogue.claim("bd", 2.0)
    dialogue.receive(HELLO, 2.1)
    assert dialogue.phase is Phase.READY
    dialogue.receive(b"! No such command.\n", 3.0)
    assert dialogue.take_events()[-1] == Line("! No such command.")


def test_a_name_that_is_never_answered_counts_as_refused() -> None:
    dialogue = ask()
    dialogue.claim("bot", 1.0)
    dialogue.wake(1.0 + TIMING.claim)
    assert dialogue.phase is Phase.NAME
    assert isinstance(dialogue.take_events()[-1], Refusal)


def test_a_silent_server_gets_segments() -> None:
    dialogue = start()
    assert dialogue.deadline == TIMING.greeting
    dialogue.wake(TIMING.greeting - 0.01)
    assert dialogue.phase is Phase.GREETING
    dialogue.wake(TIMING.greeting)
    assert (dialogue.phase, dialogue.greeted, dialogue.mode) == (Phase.NAME, False, Mode.SEGMENTS)
    assert dialogue.claim("bot", 2.0) == b"bot"
    assert dialogue.phase is Phase.READY
    assert dialogue.say("hello") == b"hello"
    assert dialogue.quit() == b""
    dialogue.receive(b"ann: hi", 3.0)
    dialogue.receive(b"ann: ho", 3.0)
    assert texts(dialogue) == ["ann: hi", "ann: ho"]


def test_a_late_question_counts_until_the_name_is_sent() -> None:
    dialogue = silence()
    dialogue.receive(QUESTION, 5.0)
    assert (dialogue.greeted, dialogue.mode) == (True, Mode.LINES)
    assert dialogue.claim("bot", 6.0) == b"bot\n"
    assert dialogue.phase is Phase.CLAIM


@pytest.mark.parametrize("message", [b"ann: hi", b"ann: hi\n"])
def test_other_peoples_messages_are_no_late_greeting(message: bytes) -> None:
    dialogue = silence()
    dialogue.receive(message, 5.0)
    assert (dialogue.greeted, dialogue.mode) == (False, Mode.SEGMENTS)


def test_forced_segments_stay_but_the_answer_is_waited_for() -> None:
    dialogue = ask(segments=True)
    assert dialogue.claim("bot", 1.0) == b"bot"
    assert dialogue.phase is Phase.CLAIM
    dialogue.receive(HELLO, 1.1)
    assert (dialogue.phase, dialogue.say("hello"), dialogue.quit()) == (Phase.READY, b"hello", b"")


def test_a_prompt_without_line_end_is_a_greeting() -> None:
    dialogue = start()
    dialogue.receive(b"Your name: ", 0.1)
    dialogue.wake(TIMING.greeting)
    assert texts(dialogue) == ["Your name: "]
    assert (dialogue.greeted, dialogue.claim("bot", 2.0)) == (True, b"bot\n")


def test_a_server_that_is_no_mpchat_has_a_moment_to_answer() -> None:
    dialogue = start()
    dialogue.receive(b"220 hello\n", 0.1)
    dialogue.claim("bot", 1.0)
    dialogue.receive(b"! is how this one greets\n", 1.1)
    assert dialogue.phase is Phase.CLAIM
    dialogue.wake(1.0 + TIMING.stranger)
    assert dialogue.phase is Phase.READY
    assert Refusal not in map(type, dialogue.take_events())


def test_what_a_stranger_does_not_end_is_shown_after_a_pause() -> None:
    dialogue = start()
    dialogue.receive(b"hello\nPassword: ", 1.0)
    assert dialogue.deadline == 1.0 + TIMING.quiet
    dialogue.wake(1.0 + TIMING.quiet)
    assert texts(dialogue) == ["hello", "Password: "]
    assert dialogue.deadline is None


def test_a_line_of_mpchat_is_never_torn_by_a_pause() -> None:
    dialogue = ask()
    dialogue.receive(b"* Ser", 1.0)
    assert dialogue.deadline is None
    dialogue.receive(b"ver full.\n", 100.0)
    assert texts(dialogue) == ["* Server full."]


def test_the_end_shows_what_is_held() -> None:
    dialogue = ask()
    dialogue.receive(b"* By", 1.0)
    dialogue.receive_eof()
    assert texts(dialogue) == ["* By"]
    assert dialogue.deadline is None


def test_a_message_is_one_line_of_utf_8() -> None:
    dialogue = silence()
    with pytest.raises(ValueError, match="one line"):
        dialogue.claim("a\nb", 2.0)
    dialogue = silence()
    assert dialogue.claim("a\udcffé", 2.0) == "a?é".encode()


@given(chunks=st.lists(st.binary() | st.sampled_from([QUESTION, HELLO, b"! no\n"])), segments=st.booleans())
def test_any_input_is_only_data(chunks: list[bytes], segments: bool) -> None:
    dialogue = start(segments)
    now = 0.0
    for chunk in chunks:
        now += 0.3
        dialogue.receive(chunk, now)
        dialogue.wake(now)
        if dialogue.phase is Phase.NAME:
            dialogue.claim("bot", now)
        assert dialogue.deadline is None or now < dialogue.deadline <= now + TIMING.claim
    dialogue.receive_eof()
    assert dialogue.deadline is None
    assert not any("\x1b" in text or "\n" in text for text in texts(dialogue))
