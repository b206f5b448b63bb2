"""The table of commands: what they are called, what follows them, and how `/help` explains them.

The one place where a command's name, short forms and arguments stand. What a command does is in `handlers`; a test
holds the two against each other. Never looks at the state of the chat.
"""

import difflib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `arguments` is what may follow it, in the notation of the help; `details` one line or two."""

    name: str
    arguments: str
    summary: str
    details: str
    short: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.arguments}".rstrip()


COMMANDS: tuple[Command, ...] = (
    Command("help", "[COMMAND]", "list the commands, or explain one", "The slash may be left out.", ("?",)),
    Command(
        "nick",
        "NAME",
        "take another name",
        "Letters, digits and _ - . [ ] { } | ^ of any script, 32 at most; your rooms are told.",
    ),
    Command(
        "join",
        "ROOM",
        "enter a room and make it current",
        "The room is made when somebody enters it first, and gone with its last member. What you type goes to the "
        "current room; /join a room you are in to talk there.",
        ("j",),
    ),
    Command(
        "leave",
        "[ROOM] [REASON]",
        "leave a room",
        "Without ROOM: the current one. The last one left, you are back in the lobby.",
        ("part",),
    ),
    Command("rooms", "[PAGE]", "the rooms, their members and topics", "The fullest first, 20 a page.", ("list",)),
    Command("who", "[ROOM] [PAGE]", "who is here", "Without ROOM: the current one. 100 names a page.", ("names",)),
    Command("whois", "NAME", "rooms, since when, idle, away", "Times are UTC."),
    Command(
        "msg", "NAME TEXT", "a private message", "Only NAME sees it; you are told if NAME is away.", ("w", "tell")
    ),
    Command("reply", "TEXT", "answer the last private message", "Goes to whoever wrote to you last.", ("r",)),
    Command("me", "TEXT", "an action: ** alice waves", "/me waves is shown as ** alice waves to the others."),
    Command("topic", "[TEXT]", "show or set the room's topic", "Of the current room; 300 characters at most."),
    Command("history", "[N]", "the last N lines of the room", "Of the current room; 20 without N."),
    Command("ignore", "[NAME]", "hide somebody from you", "Alone it lists whom you hide. They are not told."),
    Command("unignore", "NAME", "show somebody again", "The opposite of /ignore."),
    Command("away", "[REASON]", "say that you are away", "Shown by /whois and /who, and to who writes you privately."),
    Command("back", "", "say that you are back", "The opposite of /away."),
    Command("timestamp", "[on/off]", "put the time before what you see", "UTC; alone it changes over."),
    Command("quiet", "[on/off]", "hide join, leave and rename notices", "Alone it changes over."),
    Command("quit", "[REASON]", "leave the chat", "So does quit alone on a line.", ("exit",)),
)

_BY_WORD = {word: command for command in COMMANDS for word in (command.name, *command.short)}


def find_command(word: str) -> Command | None:
    """The command called `word` (name or short form, any case, without its slash)."""
    return _BY_WORD.get(word.lower())


def nearest_command(word: str) -> Command:
    """The known command that `word` is most like; there always is one."""
    if not word:
        return _BY_WORD["help"]
    # Cut: comparing takes time with the length of the word, which its sender chooses.
    nearest = difflib.get_close_matches(word[:20].lower(), _BY_WORD, n=1, cutoff=0.0)
    return _BY_WORD[nearest[0]]
