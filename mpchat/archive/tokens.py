"""What the full-text index is given, and what it is asked: text and queries as tokens. Pure.

SQLite's tokenizer `unicode61` cuts text at spaces and punctuation, folds case and takes accents off. Some scripts put
no spaces between words. Their characters become tokens of their own here, and several of them in a query become a
phrase. So `雷` finds `李雷`, and `李雷` finds it too.

Promises that no input makes a query that FTS5 cannot parse: each term is a quoted string (sqlite.org/fts5.html, 3.1).
"""

import re
from dataclasses import dataclass

_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u3040-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
"""Blocks of scripts that are written without spaces between words (Unicode Standard Annex 14, classes SA and ID)."""

_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")


@dataclass(frozen=True)
class Query:
    """What is searched for: all of `terms`, each a word or a phrase; perhaps only in one room, or from one name."""

    terms: tuple[str, ...]
    room: str = ""
    """The key of a room, or "" for all."""
    name: str = ""
    """The key of a name, or "" for everybody."""
    hidden: tuple[str, ...] = ()
    """The keys of names whose lines do not match."""


def segment(text: str) -> str:
    """The text as the index gets it: with spaces around the characters of scripts that have none."""
    if text.isascii():
        return text
    return _UNSPACED_CHARACTER.sub(lambda found: f" {found[0]} ", text)


def mark(key: str) -> str:
    """One token for a key that may have any characters: the index finds it as a whole."""
    return "k" + key.encode("utf-8", "surrogatepass").hex()


def write_match(query: Query) -> str:
    """The query in the language of FTS5, for an index with the columns text, room and name."""
    parts = [f"text : {_quote(segment(term))}" for term in query.terms]
    if query.room:
        parts.append(f"room : {_quote(mark(query.room))}")
    if query.name:
        parts.append(f"name : {_quote(mark(query.name))}")
    match = " AND ".join(parts)
    if query.hidden:
        match = f"({match}) NOT name : ({' OR '.join(_quote(mark(name)) for name in query.hidden)})"
    return match


def _quote(text: str) -> str:
    doubled = text.replace('"', '""').replace("\0", " ")
    return f'"{doubled}"'
