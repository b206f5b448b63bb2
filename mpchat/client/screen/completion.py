"""What Tab offers: commands, names, rooms.

Pure: the text before the cursor and what is known come in, the ways to go on come out, the best first.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from mpchat.wire.line.commands import COMMANDS, find_command


class Known(Protocol):
    """What there is to complete; `roster.Roster` is one."""

    @property
    def speakers(self) -> list[str]: ...

    @property
    def others(self) -> list[str]: ...

    @property
    def known_rooms(self) -> list[str]: ...


class Offer(NamedTuple):
    """Each of `texts` can stand in the place of what is before the cursor, from position `start` on."""

    start: int
    texts: tuple[str, ...]


def complete(before: str, known: Known) -> Offer:
    """What can follow `before`, the text up to the cursor."""
    start = max(before.rfind(" "), before.rfind("\t")) + 1
    word = before[start:]
    bare = before.lstrip()
    if bare.startswith("/") and not bare.startswith("//"):
        if bare == word:
            return Offer(start, _matching(word, (f"/{command.name} " for command in COMMANDS)))
        return Offer(start, _complete_argument(bare, word, known))
    return Offer(start, _complete_word(word, known, is_first=bare == word))


def _complete_argument(line: str, word: str, known: Known) -> tuple[str, ...]:
    name, *words = line[1:].split(" ")
    command = find_command(name)
    wanted = command.arguments.replace("[", "").replace("]", "").split(" ") if command else []
    place = wanted[len(words) - 1] if len(words) <= len(wanted) else ""
    if place == "ROOM":
        rooms = [f"#{room} " for room in known.known_rooms]
        return _matching(word if word.startswith("#") else f"#{word}", rooms)
    if place == "COMMAND":
        return _matching(word, (f"{command.name} " for command in COMMANDS))
    if place == "NAME":
        return _matching(word, (f"{name} " for name in (*known.speakers, *known.others)))
    return _complete_word(word, known, is_first=False)


def _complete_word(word: str, known: Known, *, is_first: bool) -> tuple[str, ...]:
    if word.startswith("#"):
        return _matching(word, (f"#{room} " for room in known.known_rooms))
    behind = ": " if is_first else " "
    return _matching(word, (f"{name}{behind}" for name in (*known.speakers, *known.others)))


def _matching(word: str, texts: Iterable[str]) -> tuple[str, ...]:
    folded = word.casefold()
    return tuple(dict.fromkeys(text for text in texts if text.casefold().startswith(folded)))
