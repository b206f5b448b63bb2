"""What can be wrong with what somebody asked for: one word for each, and the exception that carries it.

A problem is told to the one it concerns, never to anybody else. The wording is the dialect's.
"""

import enum


class Problem(enum.Enum):
    """Why a request was refused. The comment says what `about` holds."""

    NAME_EMPTY = enum.auto()
    NAME_LONG = enum.auto()  # the most characters
    NAME_CHARACTER = enum.auto()  # the first character that is not acceptable
    NAME_TAKEN = enum.auto()  # the name
    NAME_FIRST = enum.auto()  # a command before there is a name
    NO_SUCH_NAME = enum.auto()  # the name
    NO_SUCH_ROOM = enum.auto()  # the room
    NOT_IN_ROOM = enum.auto()  # the room
    ONLY_LOBBY = enum.auto()
    ROOMS_OF_SESSION = enum.auto()  # the most rooms one session may be in
    ROOMS_OF_SERVER = enum.auto()  # the most rooms there may be
    IGNORES = enum.auto()  # the most names one session may ignore
    IGNORE_SELF = enum.auto()
    NOT_IGNORED = enum.auto()  # the name
    NOBODY_TO_REPLY_TO = enum.auto()
    REPLY_TO_GONE = enum.auto()
    NO_SUCH_PAGE = enum.auto()  # the number of pages
    PAGE_NUMBER = enum.auto()  # something else than a number was given
    UNKNOWN_COMMAND = enum.auto()  # the nearest command; `more` is what was typed
    USAGE = enum.auto()  # the topic of `requests.Misuse`
    TEXT_EMPTY = enum.auto()
    TEXT_LONG = enum.auto()  # the most characters
    LINE_LONG = enum.auto()  # the most bytes
    SERVER_FULL = enum.auto()  # the most clients
    ADDRESS_FULL = enum.auto()  # the most connections from one address
    SERVER_STOPPING = enum.auto()


class Refusal(Exception):
    """A request cannot be done, by the fault of who asked. `about` and `more` are shown to that person."""

    def __init__(self, problem: Problem, about: str = "", more: str = "") -> None:
        super().__init__(problem, about, more)
        self.problem = problem
        self.about = about
        self.more = more
