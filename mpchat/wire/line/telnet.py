"""Telnet: what a client's program asks for between its lines, and what it is answered.

Owns what the server and one telnet program have agreed on. Promises that every request is answered (RFC 854; for each
option the automaton of RFC 1143, without its queue since we never ask first), so that no program waits for ever:

* BINARY (RFC 856) is agreed to in both directions, since lines are UTF-8. It is answered when it changes.
* Every other option is refused, each time it is asked for. DO TIMING-MARK too (RFC 860): the refusal is the mark.
* ARE YOU THERE is answered with a line.
* WONT and DONT need no answer, since what they end was never begun. Subnegotiation and all other commands ask nothing.

The answers go through the log like everything that a client is sent. There they are words, such as ``wont 6, ayt``;
only `write_answer` knows the bytes. What was agreed on is words, too, the *manner* of the client.
"""

__all__ = ["PROGRAM", "TYPED", "Telnet", "is_telnet", "write_answer"]

TYPED = "typed"
"""In the manner: somebody types at a terminal without telnet, key by key."""

PROGRAM = "telnet"
"""In the manner: the client has sent IAC."""

_READS = "reads-binary"
_WRITES = "writes-binary"

_IAC, _DONT, _DO, _WONT, _WILL, _AYT = 255, 254, 253, 252, 251, 246
_BINARY, _TIMING_MARK = 0, 6

_CODES = {"will": _WILL, "wont": _WONT, "do": _DO, "dont": _DONT}
_THERE = "ayt"
_THERE_LINE = b"* Yes, mpchat is here.\r\n"

MOST_MARKS = 64
"""How many timing marks are answered at once, at most. Whoever sends more has no use for them."""


class Telnet:
    """What one client's program has asked for, and what is to be answered."""

    __slots__ = ("_answers", "_manner", "_marks", "changed")

    def __init__(self, manner: str = "") -> None:
        self._manner = dict.fromkeys(manner.split())
        self._answers: dict[str, None] = {}  # in the order in which they were first asked for
        self._marks = 0
        self.changed = False
        """Whether there is something to tell since the last `take_answer`."""

    @property
    def manner(self) -> str:
        return " ".join(self._manner)

    def add(self, word: str) -> None:
        """Say this of the client from now on."""
        if word not in self._manner:
            self._manner[word] = None
            self.changed = True

    def hear(self, command: int, option: int | None = None) -> None:
        """Take in one command that the client has sent, with its option if it has one."""
        self.add(PROGRAM)
        if command == _AYT:
            self._answer(_THERE)
        elif command == _DO and option == _TIMING_MARK:
            self._marks = min(self._marks + 1, MOST_MARKS)
            self._answer(f"wont {_TIMING_MARK}")
        elif command in (_DO, _DONT) and option == _BINARY:
            self._switch(_WRITES, command == _DO, "will", "wont")
        elif command in (_WILL, _WONT) and option == _BINARY:
            self._switch(_READS, command == _WILL, "do", "dont")
        elif command == _DO:
            self._answer(f"wont {option}")
        elif command == _WILL:
            self._answer(f"dont {option}")

    def take_answer(self) -> str:
        """What is to be answered, in words. Empty: nothing."""
        mark = f"wont {_TIMING_MARK}"
        words = [", ".join([word] * self._marks) if word == mark else word for word in self._answers]
        self._answers.clear()
        self._marks = 0
        self.changed = False
        return ", ".join(words)

    def _switch(self, word: str, on: bool, yes: str, no: str) -> None:
        """Do as we are asked with BINARY, in one direction."""
        if on == (word in self._manner):
            return
        if on:
            self._manner[word] = None
        else:
            del self._manner[word]
        answer = f"{yes if on else no} {_BINARY}"
        # To the end: if it changes its mind before it is answered, the last one counts.
        self._answers.pop(answer, None)
        self._answer(answer)

    def _answer(self, word: str) -> None:
        # An answer that waits to be sent answers the same question again.
        self._answers[word] = None
        self.changed = True


def is_telnet(manner: str) -> bool:
    """Whether a client of this manner has a telnet program: its lines end in CR LF (RFC 854, "The NVT printer")."""
    return PROGRAM in manner.split()


def write_answer(answer: str) -> bytes:
    """The bytes of what `Telnet.take_answer` gave."""
    return b"".join(map(_write_word, answer.split(", "))) if answer else b""


def _write_word(word: str) -> bytes:
    if word == _THERE:
        return _THERE_LINE
    verb, option = word.split()
    return bytes((_IAC, _CODES[verb], int(option)))
