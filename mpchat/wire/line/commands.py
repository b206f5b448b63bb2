"""The table of commands: their names, what follows them, how `/help` explains them, and which requests they make.

The one place that knows what a command is called and how its arguments are split. A command never looks at the state of
the chat. Where only the state can tell what was meant, the request carries both meanings.

Words are parted by white space, as much as there is. A text that others are shown as a message is what was typed: it
begins behind one space or tab, and everything in it stays.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from mpchat.chat.problems import Problem
from mpchat.chat.requests import (
    Act,
    Away,
    Back,
    DescribeMember,
    Explain,
    Ignore,
    Join,
    Leave,
    ListIgnored,
    ListMembers,
    ListRooms,
    Misread,
    Misuse,
    Private,
    Quit,
    Rename,
    Reply,
    Request,
    Say,
    Search,
    SetQuiet,
    SetRecall,
    SetTimestamps,
    SetTopic,
    ShowEarlier,
    ShowHistory,
    ShowTopic,
    Unignore,
)

HISTORY_LINES = 20
"""How many lines `/history` shows without a number."""

_NUMBER_DIGITS = 9
"""How many digits a number may have. More would be slow to read, and no page or count needs them."""

NEAR = 0.7
"""How alike a word and a command must be for a suggestion, as `difflib` measures it. Two letters exchanged in a word of
four give 0.75."""

NO_TOPIC = "-"
"""What `/topic` takes for no topic."""

_MOMENTS = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S")
"""How `/history before` takes a moment, in UTC."""

_TERM = re.compile(r'"([^"]*)(?:"|$)|([^\s"]+)')
"""A phrase in quotes, or a word."""

_SEARCHED = re.compile(r"[^\W_]")
"""What a term must have, else there is nothing in it that can be found."""

_SPACE = re.compile(r"[ \t\u00a0\u3000]")
"""What parts two words."""

Parser = Callable[[str], Request | None]
"""From all that stands behind the command and one space, to a request; to None when it makes no sense."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `arguments` is what may follow it, in the notation of the help; `details` is one line or two."""

    name: str
    parse: Parser
    arguments: str
    summary: str
    details: str
    short: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.arguments}".rstrip()


# --- arguments ----------------------------------------------------------------------------------------------


def _bare(parse: Parser) -> Parser:
    """A parser that wants no white space around the argument."""
    return lambda argument: parse(argument.strip())


def _required(make: Callable[[str], Request]) -> Parser:
    """A parser for an argument that may not be left out."""
    return _bare(lambda argument: make(argument) if argument else None)


def _text(make: Callable[[str], Request]) -> Parser:
    """A parser for a message, which is kept as it was typed."""
    return lambda argument: None if _is_blank(argument) else make(argument)


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def _constant(request: Request) -> Parser:
    """A parser that ignores the argument."""
    return lambda argument: request


def _switch(make: Callable[[bool | None], Request]) -> Parser:
    """A parser for ``[on/off]``."""
    choices = {"": None, "on": True, "off": False}

    def parse(argument: str) -> Request | None:
        word = argument.lower()
        return make(choices[word]) if word in choices else None

    return _bare(parse)


def _parse_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _NUMBER_DIGITS else None


def _split(argument: str) -> tuple[str, str]:
    """The first word of `argument`, and what follows it behind one space or tab, as it is."""
    word, *rest = _SPACE.split(argument.lstrip(), maxsplit=1)
    return word, "".join(rest)


def _split_words(argument: str) -> tuple[str, str]:
    """The first word of `argument`, and what follows it without white space around it."""
    word, rest = _split(argument)
    return word, rest.strip()


def _bare_room(text: str) -> str:
    return text.removeprefix("#")


def _bare_name(text: str) -> str:
    """The name in what people write to address somebody, such as ``@bob`` or ``bob,``. No name has these characters."""
    return text.removeprefix("@").rstrip(",:") or text


def _named(make: Callable[[str], Request]) -> Callable[[str], Request]:
    return lambda argument: make(_bare_name(argument))


def _parse_leave(argument: str) -> Request:
    argument = argument.strip()
    word, rest = _split_words(argument)
    if not word:
        return Leave()
    return Leave(_bare_room(word), rest, otherwise=None if word.startswith("#") else argument)


def _parse_rooms(argument: str) -> Request | None:
    page = _parse_number(argument.strip() or "1")
    return None if page is None else ListRooms(page)


def _parse_who(argument: str) -> Request:
    word, rest = _split_words(argument)
    if not word:
        return ListMembers()
    if not rest and word.isascii() and word.isdigit():
        return ListMembers(word, _parse_number(word), either=True)
    return ListMembers(_bare_room(word), _parse_number(rest or "1"))


def _parse_history(argument: str) -> Request | None:
    recall = {"on": True, "off": False}.get(argument.strip().lower())
    if recall is not None:
        return SetRecall(recall)
    words = argument.split()
    count: int | None = HISTORY_LINES
    if words and words[0].isdigit():
        count = _parse_number(words.pop(0))
    if not count:
        return None
    match [word.lower() for word in words]:
        case []:
            return ShowHistory(count)
        case ["more"]:
            return ShowEarlier(count)
        case ["before", *moment]:
            before = _parse_moment(" ".join(moment))
            return None if before is None else ShowEarlier(count, before)
    return None


def _parse_moment(text: str) -> int | None:
    """Return the moment in ms since the epoch."""
    for form in _MOMENTS:
        try:
            return int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()) * 1000
        except ValueError:
            continue
    return None


def _parse_search(argument: str) -> Request | None:
    """The page, the name and the room stand behind the words. In quotes, all of them are words."""
    terms = [(phrase or word, not word) for phrase, word in _TERM.findall(argument)]
    page: int | None = 1
    if len(terms) > 1 and not terms[-1][1] and terms[-1][0].isdigit():
        page = _parse_number(terms.pop()[0])
    room = name = None
    while len(terms) > 2:
        (key, key_quoted), (value, value_quoted) = terms[-2:]
        if key_quoted or value_quoted:
            break
        if key.lower() == "in" and value.startswith("#") and room is None:
            room = _bare_room(value)
        elif key.lower() == "from" and name is None:
            name = _bare_name(value)
        else:
            break
        del terms[-2:]
    searched = tuple(term for term, _ in terms if _SEARCHED.search(term))
    return Search(searched, room, name, page) if searched and page else None


def _parse_private(argument: str) -> Request | None:
    name, text = _split(argument)
    if not name:
        return None
    return Private(_bare_name(name), "" if _is_blank(text) else text)


def _parse_topic(argument: str) -> Request:
    topic = argument.strip()
    if not topic:
        return ShowTopic()
    return SetTopic("" if topic == NO_TOPIC else topic)


def _parse_ignore(argument: str) -> Request:
    name = argument.strip()
    return Ignore(_bare_name(name)) if name else ListIgnored()


# --- the table ----------------------------------------------------------------------------------------------

COMMANDS: tuple[Command, ...] = (
    Command(
        "help",
        _bare(lambda argument: Explain(argument.removeprefix("/"))),
        "[COMMAND]",
        "list the commands, or explain one",
        "The slash may be left out.",
        ("?",),
    ),
    Command(
        "nick",
        _required(Rename),
        "NAME",
        "take another name",
        "Letters, digits and _ - . [ ] { } | ^ of any script, 32 at most; your rooms are told.",
    ),
    Command(
        "join",
        _required(lambda argument: Join(_bare_room(argument))),
        "ROOM",
        "enter a room and make it current",
        "The room is made when somebody enters it first, and gone with its last member. What you type goes to the "
        "current room; /join a room you are in to talk there.",
        ("j",),
    ),
    Command(
        "leave",
        _parse_leave,
        "[ROOM] [REASON]",
        "leave a room",
        "Without ROOM it leaves the current one. If it was your last room, you are back in the lobby.",
        ("part",),
    ),
    Command(
        "rooms",
        _parse_rooms,
        "[PAGE]",
        "the rooms, their members and topics",
        "The fullest first, 20 a page.",
        ("list",),
    ),
    Command(
        "who",
        _parse_who,
        "[ROOM] [PAGE]",
        "who is here",
        "Without ROOM it lists the current one. 100 names a page.",
        ("names",),
    ),
    Command("whois", _required(_named(DescribeMember)), "NAME", "rooms, since when, idle, away", "Times are UTC."),
    Command(
        "msg",
        _parse_private,
        "NAME TEXT",
        "a private message",
        "Only NAME sees it; you are told if NAME is away.",
        ("w", "tell"),
    ),
    Command(
        "reply",
        _text(Reply),
        "TEXT",
        "answer the last private message",
        "Goes to the last person who wrote to you privately.",
        ("r",),
    ),
    Command(
        "me", _text(Act), "TEXT", "an action: ** alice waves", "/me waves is shown as ** alice waves to the others."
    ),
    Command(
        "say",
        _text(lambda argument: Say((argument,))),
        "TEXT",
        "say TEXT just as it stands",
        "For a text that would be a command: /say quit. // says a text that starts with a slash.",
    ),
    Command(
        "topic",
        _parse_topic,
        "[TEXT]",
        "show or set the room's topic",
        "The topic of the current room; 300 characters at most. /topic - clears it.",
    ),
    Command(
        "history",
        _parse_history,
        "[N/on/off] [more/before DATE]",
        "the last N lines of the room",
        "Of the current room; 20 without N. more: those before the lines you were shown last; before: /history before "
        "2026-11-25 18:00 (UTC). With off you are not shown earlier lines when you enter a room.",
    ),
    Command(
        "search",
        _parse_search,
        'WORDS [in #ROOM] [from NAME] [PAGE]',
        "find what was said",
        "All WORDS are in each line that is found; \"words in quotes\" stand together. 20 lines a page, page 1 has the "
        "newest.",
    ),
    Command(
        "ignore",
        _parse_ignore,
        "[NAME]",
        "hide somebody from you",
        "Without NAME it lists the people you hide. They are not told.",
    ),
    Command("unignore", _required(_named(Unignore)), "NAME", "show somebody again", "The opposite of /ignore."),
    Command(
        "away",
        _bare(Away),
        "[REASON]",
        "say that you are away",
        "Shown by /whois and /who, and to anybody who writes to you privately.",
    ),
    Command("back", _constant(Back()), "", "say that you are back", "The opposite of /away."),
    Command(
        "timestamp",
        _switch(SetTimestamps),
        "[on/off]",
        "put the time before what you see",
        "UTC. Without an argument it toggles.",
    ),
    Command(
        "quiet",
        _switch(SetQuiet),
        "[on/off]",
        "hide join, leave and rename notices",
        "Without an argument it toggles.",
    ),
    Command("quit", _bare(Quit), "[REASON]", "leave the chat", "So does quit alone on a line.", ("exit",)),
)

_BY_WORD = {word: command for command in COMMANDS for word in (command.name, *command.short)}


def find_command(word: str) -> Command | None:
    """The command called `word` (name or short form, any case, without its slash)."""
    return _BY_WORD.get(word.lower())


def nearest_command(word: str) -> str:
    """The name of the known command that is most like `word`; empty when none is near."""
    # Cut: comparing takes time with the length of the word, which its sender chooses.
    nearest = difflib.get_close_matches(word[:20].lower(), _BY_WORD, n=1, cutoff=NEAR)
    return _BY_WORD[nearest[0]].name if nearest else ""


def read_command(line: str) -> Request:
    """The request of a line that starts with ``/``."""
    word, *rest = _SPACE.split(line[1:], maxsplit=1)
    command = find_command(word)
    if command is None:
        return Misread(Problem.UNKNOWN_COMMAND, nearest_command(word), word)
    return command.parse("".join(rest)) or Misuse(command.name)
