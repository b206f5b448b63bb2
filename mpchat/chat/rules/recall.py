"""What was said earlier: shown from memory, or asked of the archive.

Owns the questions of sessions to the archive, and `may_read`: which rooms a session may read. A question is part of the
state until the archive's answer is in the log (`entries.Answered`). So each question is answered once, whichever
process is killed between the two. A session that ends takes its questions with it.

Memory answers at once when it has all the lines that were asked for. Without an archive it answers what it has.
"""

from typing import NamedTuple

from mpchat.chat.entries import Answered, SessionId
from mpchat.chat.events import Effect, Failed, Found, FoundLine, History, Told, ToSession
from mpchat.chat.problems import Problem, Refusal
from mpchat.chat.requests import Search, ShowEarlier, ShowHistory
from mpchat.chat.state.history import NEWEST, HistoryPlace, Line
from mpchat.chat.state.names import check_room, name_key
from mpchat.chat.state.state import Question, Session, State

HISTORY_ON_JOIN = 20
"""How many lines a session is shown when it enters a room."""

HISTORY_MOST = 2000
"""How many lines one answer of the archive has at most."""

FOUND_LINES = 20
"""How many lines a page of matches has."""

FOUND_PAGES = 50
"""How many pages of matches there are. The archive passes over all pages before the one that is shown."""


class Lookup(NamedTuple):
    """A question for the archive, and the keys of the names whose lines are hidden from the session."""

    sid: SessionId
    question: Question
    hidden: tuple[str, ...]


def may_read(state: State, session: Session, room: str) -> bool:
    """Whether the session may read what was said in `room`. All rooms are public."""
    return True


# --- history ------------------------------------------------------------------------------------------------


def recall_history(state: State, session: Session, room: str) -> list[Effect]:
    """Show the session the last lines of `room`, which it enters, without those of people whom it ignores."""
    if not session.recall:
        return []
    lines = state.history.last(room, HISTORY_ON_JOIN, state.limits.history_shown, session.ignores)
    return _show(session, History(room, tuple(lines), asked=False), NEWEST) if lines else []


def show_history(state: State, session: Session, request: ShowHistory, time: int) -> list[Effect]:
    # What is said while the archive is looking does not belong to the answer.
    question = Question(0, (), session.current, "", request.count, time + 1)
    effects = _recall(state, session, question)
    if not state.limits.archived and request.count > state.limits.history:
        effects.append(_fail(session, Problem.HISTORY_KEPT, str(state.limits.history)))
    return effects


def show_earlier(state: State, session: Session, request: ShowEarlier, time: int) -> list[Effect]:
    place = HistoryPlace(time + 1)
    if request.before is not None:
        place = HistoryPlace(min(request.before, time + 1))
    elif session.recalled[0] == session.current:
        place = HistoryPlace(*session.recalled[1:])
    return _recall(state, session, Question(0, (), session.current, "", request.count, *place, earlier=True))


def _recall(state: State, session: Session, question: Question) -> list[Effect]:
    """Show the lines that are asked for, or ask the archive if memory does not have all of them."""
    lines, complete = _find_lines(state, session, question)
    if complete:
        return _show_asked(session, question, lines)
    if state.limits.archived:
        return _ask(state, session, question._replace(lines=min(question.lines, HISTORY_MOST)))
    if question.earlier and not lines:
        raise Refusal(Problem.HISTORY_KEPT, str(state.limits.history))
    return _show_asked(session, question, lines)


def _find_lines(state: State, session: Session, question: Question) -> tuple[list[Line], bool]:
    place = HistoryPlace(question.before, question.skip)
    most = state.limits.history_shown
    return state.history.find(question.room, question.lines, most, session.ignores, place)


def _show_asked(session: Session, question: Question, lines: list[Line]) -> list[Effect]:
    history = History(question.room, tuple(lines), asked=True, earlier=question.earlier)
    return _show(session, history, HistoryPlace(question.before, question.skip))


def _show(session: Session, history: History, place: HistoryPlace) -> list[Effect]:
    """Show lines, which are the last ones from before `place`. `ShowEarlier` goes on from there."""
    session.recalled = (history.room, *place.move(history.lines))
    return [Told(ToSession(session.sid), history)]


# --- search -------------------------------------------------------------------------------------------------


def search(state: State, session: Session, request: Search, time: int) -> list[Effect]:
    if not state.limits.archived:
        raise Refusal(Problem.NOTHING_KEPT)
    if sum(map(len, request.terms)) > state.limits.topic:
        raise Refusal(Problem.TEXT_LONG, str(state.limits.topic))
    if not 1 <= request.page <= FOUND_PAGES:
        raise Refusal(Problem.NO_SUCH_PAGE, str(FOUND_PAGES))
    room = "" if request.room is None else check_room(request.room)
    if room and not may_read(state, session, room):
        raise Refusal(Problem.NO_SUCH_ROOM, room)
    name = "" if request.name is None else name_key(request.name)
    skip = (request.page - 1) * FOUND_LINES
    return _ask(state, session, Question(0, request.terms, room, name, FOUND_LINES, 0, skip))


# --- questions ----------------------------------------------------------------------------------------------


def _ask(state: State, session: Session, question: Question) -> list[Effect]:
    if len(session.questions) >= state.limits.questions:
        raise Refusal(Problem.QUESTIONS, str(state.limits.questions))
    state.ask(session, question)
    return []


def make_lookup(state: State) -> Lookup | None:
    """The question that the archive is to answer next; None when none waits."""
    found = state.next_question()
    if found is None:
        return None
    session, question = found
    return Lookup(session.sid, question, tuple(state.sessions[sid].key for sid in session.ignores))


def take_answer(state: State, entry: Answered) -> list[Effect]:
    """Show the session what the archive has found. Nothing, if the question is answered or the session is over."""
    session = state.sessions.get(entry.sid)
    question = None if session is None else state.take_question(session, entry.number)
    if session is None or question is None:
        return []
    if entry.failed:
        failed = _fail(session, Problem.ARCHIVE_FAILED)
        return [failed] if question.terms else [failed, *_recall_without_archive(state, session, question)]
    lines = [FoundLine(*line) for line in entry.lines if may_read(state, session, line[0])]
    if not question.terms:
        found = [Line(line.time, line.name, line.action, line.text) for line in lines]
        return _show_asked(session, question, found)
    page = question.skip // FOUND_LINES + 1
    full = len(entry.lines) == FOUND_LINES and page < FOUND_PAGES
    return [Told(ToSession(session.sid), Found(tuple(lines), page, full))]


def _recall_without_archive(state: State, session: Session, question: Question) -> list[Effect]:
    lines, _ = _find_lines(state, session, question)
    return _show_asked(session, question, lines) if lines else []


def _fail(session: Session, problem: Problem, about: str = "") -> Effect:
    return Told(ToSession(session.sid), Failed(problem, about))
