"""The words of the line dialect: how each event is shown to a person at a terminal.

Owns every word that such a person reads, but for the help. Promises that each event becomes whole lines, each ending in
``\\n``, and that the same event in the same style gives the same bytes in every process. Never knows who reads them.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from mpchat.chat import events
from mpchat.chat.problems import ROOM_NAME, Problem
from mpchat.wire.line.help import explain, show_usage
from mpchat.wire.line.strangers import explain_to
from mpchat.wire.line.telnet import write_answer


class Style(NamedTuple):
    """How one session is shown what happens."""

    elsewhere: bool = False
    """In a room that is not its current one: messages begin with the room."""

    timestamps: bool = False
    """Every line begins with the time."""

    telnet: bool = False
    """Lines end in CR LF, as a telnet program in character mode needs it."""

    program: bool = False
    """It is shown what was said earlier only if it asks."""


PLAIN = Style()

_SHOWN = 60
"""How much of what somebody typed is shown back in an error, in characters."""


def encode_event(event: events.Event, time: int, style: Style = PLAIN) -> bytes:
    """The lines of `event`, which happened at `time` (ms since the epoch), in UTF-8. Empty if it is not shown."""
    if isinstance(event, events.History):
        if style.program and not event.asked:
            return b""
        lines = _history_lines(event, time, style)
    elif isinstance(event, events.Found) and event.lines:
        lines = _found_lines(event)
    elif isinstance(event, events.Negotiated):
        return write_answer(event.answer)
    elif isinstance(event, events.Mistaken):
        return explain_to(event.topic)
    else:
        lines = _WORDS[type(event)](event)
        if style.elsewhere and isinstance(event, events.Message):
            lines = [f"#{event.room} {line}" for line in lines]
        if style.timestamps:
            stamp = _stamp(time)
            lines = [stamp + line for line in lines]
    line_end = "\r\n" if style.telnet else "\n"
    return (line_end.join(lines) + line_end).encode()


_HOUR = 3600 * 1000


def _stamp(time: int) -> str:
    return datetime.fromtimestamp(time / 1000, UTC).strftime("%H:%M ")


def _date(time: int, now: int) -> str:
    """The time, with the date if that is not today."""
    moment, today = (datetime.fromtimestamp(each / 1000, UTC) for each in (time, now))
    return moment.strftime("%H:%M" if moment.date() == today.date() else "%Y-%m-%d %H:%M")


def _history_stamp(time: int, now: int, style: Style) -> str:
    """Date and time of what is older than an hour or of another day; of other lines, what the style says."""
    moment, today = (datetime.fromtimestamp(each / 1000, UTC) for each in (time, now))
    if now - time > _HOUR or moment.date() != today.date():
        return moment.strftime("%Y-%m-%d %H:%M ")
    return _stamp(time) if style.timestamps else ""


def _words(name: str, texts: Iterable[str], action: bool) -> list[str]:
    start = f"** {name} " if action else f"{name}: "
    return [start + text for text in texts]


def _history_lines(event: events.History, now: int, style: Style) -> list[str]:
    """What was said earlier stands between two lines that say so, so nobody takes it for what is said now."""
    if not event.lines:
        return [f"* #{event.room}: {'nothing is kept from before that' if event.earlier else 'no history'}."]
    if event.asked:
        what = f"The last {_count(len(event.lines), 'line')} of #{event.room}"
        heading = f"* {what} before that:" if event.earlier else f"* {what}:"
    else:
        heading = f"* Earlier in #{event.room} (since {_date(event.lines[0].time, now)} UTC):"
    lines = [
        _history_stamp(time, now, style) + _words(name, (text,), action)[0]
        for time, name, action, text in event.lines
    ]
    return [heading, *lines, "* Now."]


def _found_lines(event: events.Found) -> list[str]:
    """Each line has its date, so nobody takes it for what is said now."""
    lines = []
    for line in event.lines:
        moment = datetime.fromtimestamp(line.time / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        lines.append(f"{moment} #{line.room} {_words(line.name, (line.text,), line.action)[0]}")
    heading = f"* Found, page {event.page}, the newest last:"
    return [heading, *lines, f"* Page {event.page + 1} has older ones." if event.full else "* That is all."]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _reason(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _company(others: tuple[str, ...], more: int) -> str:
    if not others:
        return ", alone"
    return f" with {', '.join(others)}" + (f" and {more} more" if more else "")


def _topic(topic: str) -> list[str]:
    return [f"* Topic: {topic}"] if topic else []


def _page(event: events.RoomList | events.MemberList, command: str) -> list[str]:
    if event.page >= event.pages:
        return []
    return [f"* Page {event.page} of {event.pages}; {command} {event.page + 1} shows the next."]


def _span(milliseconds: int) -> str:
    """A span of time in its two largest units."""
    left = milliseconds // 1000
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        number, left = divmod(left, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])


def _signed_on(event: events.SignedOn) -> list[str]:
    where = f"You are in #{event.room}{_company(event.others, event.more)}."
    return [f"* Hello, {event.name}. {where} /help lists the commands.", *_topic(event.topic)]


def _entered(event: events.Entered) -> list[str]:
    if not event.new:
        return [f"* You talk in #{event.room} now."]
    return [f"* You are in #{event.room}{_company(event.others, event.more)}.", *_topic(event.topic)]


def _departed(event: events.Departed) -> list[str]:
    return [f"* You have left #{event.room}. You talk in #{event.current} now."]


def _room_list(event: events.RoomList) -> list[str]:
    lines = [
        f"* #{name}: {_count(members, 'member')}" + (f", {topic}" if topic else "")
        for name, members, topic in event.rooms
    ]
    return lines + _page(event, "/rooms")


def _member_list(event: events.MemberList) -> list[str]:
    if not event.total:
        return [f"* Nobody is in #{event.room}."]
    names = ", ".join(name + (" (away)" if away else "") for name, away in event.members)
    return [f"* {event.total} in #{event.room}: {names}", *_page(event, f"/who #{event.room}")]


def _whois(event: events.Whois) -> list[str]:
    rooms = ", ".join(f"#{room}" for room in event.rooms)
    since = datetime.fromtimestamp(event.since / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    line = f"* {event.name}: in {rooms}; here since {since}; idle {_span(event.idle)}"
    return [line if event.away is None else f"{line}; away" + (f": {event.away}" if event.away else "")]


def _ignoring(event: events.Ignoring) -> list[str]:
    return [f"* You ignore {', '.join(event.names)}." if event.names else "* You ignore nobody."]


def _away(event: events.AwaySet) -> list[str]:
    return ["* You are back." if event.reason is None else f"* You are away{_reason(event.reason)}. /back ends it."]


def _failed(event: events.Failed) -> list[str]:
    if event.problem is Problem.USAGE:
        return [f"! Usage: {show_usage(event.about)}"]
    words = _PROBLEMS[event.problem]
    if event.problem is Problem.UNKNOWN_COMMAND and not event.about:
        words = "There is no command /{more}. /help lists the commands."
    if event.more == ROOM_NAME:
        words = words.replace("A name ", "The name of a room ", 1)
    # `s` is the ending of a plural.
    s = "" if event.about == "1" else "s"
    return ["! " + words.format(about=event.about[:_SHOWN], more=event.more[:_SHOWN], s=s)]


def _explained(event: events.Explained) -> list[str]:
    explanation = explain(event.topic)
    return _failed(explanation) if isinstance(explanation, events.Failed) else explanation


def _slowed(event: events.Slowed) -> list[str]:
    rate = f"{event.rate:g} lines a second"
    if event.ended:
        return [f"* You have ended your side. What is left of what you sent is read at {rate} while you stay."]
    return [f"* That is more than {rate}. The rest is read at that pace; what you type now comes behind it."]


def _goodbye(event: events.Goodbye) -> list[str]:
    if event.reason:
        return [f"! You are disconnected: {event.reason}."]
    return [f"* Bye, {event.name}." if event.name else "* Bye."]


def _say(pattern: str, event: events.Event) -> list[str]:
    return [pattern.format(event=event)]


def _simple(pattern: str) -> Callable[[Any], list[str]]:
    return partial(_say, pattern)


_WORDS: dict[type[events.Event], Callable[[Any], list[str]]] = {
    events.Message: lambda event: _words(event.name, event.texts, event.action),
    events.Joined: _simple("* {event.name} joined #{event.room}"),
    events.Left: lambda event: [f"* {event.name} left #{event.room}{_reason(event.reason)}"],
    events.Quit: lambda event: [f"* {event.name} left the chat{_reason(event.reason)}"],
    events.Renamed: _simple("* {event.old} is now called {event.new}"),
    events.TopicSet: lambda event: [
        f"* {event.name} set the topic of #{event.room}: {event.topic}"
        if event.topic
        else f"* {event.name} cleared the topic of #{event.room}"
    ],
    events.Welcome: _simple("* Welcome to mpchat. What is your name?"),
    events.NameAsked: _simple("* What is your name?"),
    events.NameGiven: _simple("* {event.wanted} is taken; you are {event.given}."),
    events.SignedOn: _signed_on,
    events.Entered: _entered,
    events.Departed: _departed,
    events.NameChanged: _simple("* You are now called {event.name}."),
    events.PrivateIn: _simple("[{event.name}] {event.text}"),
    events.PrivateOut: _simple("[to {event.name}] {event.text}"),
    events.OtherAway: lambda event: [f"* {event.name} is away{_reason(event.reason)}."],
    events.Found: lambda event: ["* Nothing found." if event.page == 1 else "* Nothing more found."],
    events.RoomList: _room_list,
    events.MemberList: _member_list,
    events.Whois: _whois,
    events.Topic: lambda event: _topic(event.topic) or [f"* #{event.room} has no topic."],
    events.Ignoring: _ignoring,
    events.IgnoreSet: lambda event: [f"* You {'ignore' if event.on else 'no longer ignore'} {event.name}."],
    events.AwaySet: _away,
    events.TimestampsSet: lambda event: [f"* Timestamps are {'on' if event.on else 'off'}."],
    events.QuietSet: lambda event: [f"* Notices are {'hidden' if event.on else 'shown'}."],
    events.RecallSet: lambda event: [
        f"* On entering a room you are {'' if event.on else 'not '}shown what was said earlier."
    ],
    events.Explained: _explained,
    events.Failed: _failed,
    events.Slowed: _slowed,
    events.Goodbye: _goodbye,
    events.Stopping: lambda event: [f"! The server is stopping{_reason(event.reason)}."],
    # No "!": nobody did anything wrong, and a client that waits for an answer would take this for a refusal.
    events.Stalled: _simple(
        "* The server cannot deliver messages at the moment. What you send is kept and goes out as soon as it can."
    ),
}

_PROBLEMS = {
    Problem.NAME_EMPTY: "A name needs at least one character.",
    Problem.NAME_LONG: "A name has {about} characters at most.",
    Problem.NAME_CHARACTER: "A name cannot contain '{about}': letters, digits and _ - . [ ] {{ }} | ^ only.",
    Problem.NAME_MIXED: "A name cannot mix {about} letters: some of them look the same.",
    Problem.NAME_PUNCTUATION: "A name needs at least one letter or digit.",
    Problem.NAME_RESERVED: "{about} cannot be a name here: it would look like a word of the server.",
    Problem.NAME_TAKEN: "{about} is taken.",
    Problem.NAME_FIRST: "A name first, commands later.",
    Problem.NO_SUCH_NAME: "No one here is called {about}.",
    Problem.NO_SUCH_ROOM: "There is no room #{about}.",
    Problem.ROOM_ALIKE: "#{about} looks like #{more}, which exists.",
    Problem.NOT_IN_ROOM: "You are not in #{about}.",
    Problem.ONLY_LOBBY: "You are only in the lobby; /quit leaves the chat.",
    Problem.ROOMS_OF_SESSION: "You can be in {about} room{s} at most.",
    Problem.ROOMS_OF_SERVER: "There are {about} rooms already, and no more can be made.",
    Problem.IGNORES: "You can ignore {about} people at most.",
    Problem.IGNORE_SELF: "You cannot ignore yourself.",
    Problem.NOT_IGNORED: "You do not ignore {about}.",
    Problem.NOBODY_TO_REPLY_TO: "Nobody has written to you privately.",
    Problem.REPLY_TO_GONE: "Whoever wrote to you last has left the chat.",
    Problem.NO_SUCH_PAGE: "The last page is {about}.",
    # Only `/who` and `/msg` leave these to the rules; the other commands are found misused when they are read.
    Problem.PAGE_NUMBER: f"Usage: {show_usage('who')}",
    Problem.TEXT_EMPTY: f"Usage: {show_usage('msg')}",
    Problem.UNKNOWN_COMMAND: "There is no command /{more}. Did you mean /{about}?",
    Problem.TEXT_LONG: "That is too long: {about} characters at most.",
    Problem.LINE_LONG: "That line is too long: {about} bytes at most. It was not sent.",
    Problem.SERVER_FULL: "The server is full: {about} client{s}. Try again later.",
    Problem.ADDRESS_FULL: "Too many connections from your address: {about} at most.",
    Problem.SERVER_STOPPING: "The server is stopping.",
    Problem.NOTHING_KEPT: "This server keeps no messages to search in: it runs without --data.",
    Problem.HISTORY_KEPT: "This server keeps the last {about} line{s} of a room at most: it runs without --data.",
    Problem.QUESTIONS: "{about} of your questions wait for their answers already. Wait for one.",
    Problem.ARCHIVE_FAILED: "The archive of this server cannot be read at the moment. Try again later.",
}
