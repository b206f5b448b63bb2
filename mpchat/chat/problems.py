"""Problems: why a request is refused, and the exception that says so.

Only the session that made the request is told. The dialect chooses the words.
"""

import enum

ROOM_NAME = "room"
"""What `more` is when a problem with a name is one with the name of a room."""


class Problem(enum.Enum):
    """Why a request was refused. The comments say what `about` holds."""

    NAME_EMPTY = enum.auto()
    NAME_LONG = enum.auto()  # the most characters
    NAME_CHARACTER = enum.auto()  # the first unacceptable character
    NAME_MIXED = enum.auto()  # the scripts
    NAME_PUNCTUATION = enum.auto()  # the name, which has no letter and no digit
    NAME_RESERVED = enum.auto()  # the name
    NAME_TAKEN = enum.auto()  # the name: another session has it, or one that looks the same
    NAME_FIRST = enum.auto()  # the session has no name yet
    NO_SUCH_NAME = enum.auto()  # the name
    NO_SUCH_ROOM = enum.auto()  # the room
    ROOM_ALIKE = enum.auto()  # the room; `more` is another one that looks the same
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
    PAGE_NUMBER = enum.auto()  # the page is not a number
    UNKNOWN_COMMAND = enum.auto()  # the nearest command, if one is near; `more` is what was typed
    USAGE = enum.auto()  # the topic of `requests.Misuse`
    TEXT_EMPTY = enum.auto()
    TEXT_LONG = enum.auto()  # the most characters
    LINE_LONG = enum.auto()  # the most bytes
    SERVER_FULL = enum.auto()  # the most clients
    ADDRESS_FULL = enum.auto()  # the most connections from one address
    SERVER_STOPPING = enum.auto()
    NOTHING_KEPT = enum.auto()  # the server has no archive
    HISTORY_KEPT = enum.auto()  # the server has no archive; the most lines of a room in memory
    QUESTIONS = enum.auto()  # the most questions of a session that may wait for the archive
    ARCHIVE_FAILED = enum.auto()  # the archive cannot read or write its database


class Refusal(Exception):
    """A request is refused because of the client that made it. The client is shown `about` and `more`."""

    def __init__(self, problem: Problem, about: str = "", more: str = "") -> None:
        super().__init__(problem, about, more)
        self.problem = problem
        self.about = about
        self.more = more
