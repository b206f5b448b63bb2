"""The kept input line: prompt_toolkit, and what it needs to stay whole under what comes in.

Owns the terminal while it runs: its modes, the cursor, the rows at the bottom with the input line and the status line.
The only module that knows prompt_toolkit. Promises: what is shown scrolls by above the input line, and remains in the
terminal's own scrollback; a redraw loses nothing that is being typed; the event loop never waits for the terminal.

When the width changes, terminals break the old rows anew, each in its own way, and nobody can tell where the input line
is by then. So the screen is painted again from what was shown last. Terminals are never asked where the cursor is: an
answer that comes late would be input for the shell.
"""

import asyncio
import bisect
import io
import os
import signal
import termios
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TextIO, cast

from prompt_toolkit.application import Application
from prompt_toolkit.application.run_in_terminal import in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, is_searching
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import BufferControl, Dimension, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.layout.processors import (
    BeforeInput,
    HighlightIncrementalSearchProcessor,
    Processor,
    Transformation,
    TransformationInput,
)
from prompt_toolkit.layout.utils import explode_text_fragments
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.utils import get_cwidth
from prompt_toolkit.widgets import SearchToolbar

from mpchat.client.errors import ClientError
from mpchat.client.screen.completion import Offer
from mpchat.client.screen.glyphs import list_visible
from mpchat.client.screen.outgoing import Paste, read_paste
from mpchat.client.screen.painting import Painted, Piece, lay_out
from mpchat.client.terminal import Output

KEPT = 1000
"""Lines that can be painted again: more than the rows of any screen."""

LAST_FLUSH = 1.0
"""Seconds that a terminal has at the end to take what is left. One that is stuck must not keep us."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the terminal can do: its name (TERM), and whether colours are wanted."""

    term: str
    has_color: bool = True


class Listener(Protocol):
    """Whoever the person talks to."""

    def enter(self, text: str) -> bool:
        """A line was typed. False keeps it in the input line."""

    def paste(self, paste: Paste) -> None:
        """Several lines were pasted. The input line is as it was."""

    def leave(self) -> None:
        """The person wants to go."""

    def complete(self, before: str) -> Offer:
        """What Tab may put in the place of the end of `before`."""

    def describe(self) -> str:
        """What the status line says."""


class Editor:
    """The input line and all above it, at one terminal. Belongs to the event loop in which it is made."""

    def __init__(self, listener: Listener, source: int, output: Output, look: Look) -> None:
        self.prompt = ""
        self._listener = listener
        self._source = source
        self._output = output
        self._sink = Sink(output)
        self._pending: list[Painted] = []
        self._shown: deque[Painted] = deque(maxlen=KEPT)
        self._columns = 0
        self._drawn = asyncio.Event()
        self._question = ""
        self._answer: Callable[[bool], None] | None = None
        self._cycle: Cycle | None = None
        self._buffer = Buffer(history=InMemoryHistory(), multiline=False)
        self._app: Application[None] = Application(
            layout=self._lay_out(),
            key_bindings=self._bind_keys(),
            color_depth=None if look.has_color else ColorDepth.DEPTH_1_BIT,
            include_default_pygments_style=False,
            erase_when_done=True,
            before_render=lambda _: self._draw_pending(),
            input=Keyboard(cast(TextIO, io.TextIOWrapper(io.FileIO(source, closefd=False), encoding="utf-8"))),
            output=Vt100_Output(cast(TextIO, self._sink), self._measure, term=look.term, enable_cpr=False),
        )

    async def run(self) -> None:
        """Until stop(), or until the terminal is gone. Raises OutputClosed, TerminalFailed."""
        writer = asyncio.create_task(self._sink.write_out())
        drawer = asyncio.create_task(self._app.run_async(set_exception_handler=False, handle_sigint=False))
        try:
            await asyncio.wait({writer, drawer}, return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            await drawer
        except EOFError:  # hung up
            return
        finally:
            self.stop()
            drawer.cancel()
            writer.cancel()
            _, wrote = await asyncio.gather(drawer, writer, return_exceptions=True)
        if isinstance(wrote, ClientError):
            raise wrote
        try:
            async with asyncio.timeout(LAST_FLUSH):
                await self._output.flush()
        except TimeoutError:
            return

    def stop(self) -> None:
        """End run(), with the input line gone from the screen and all else left on it."""
        if self._app.is_running and not self._app.is_done:
            self._app.exit()

    @property
    def text(self) -> str:
        """What stands in the input line."""
        return self._buffer.text

    def clear(self) -> None:
        """Empty the input line, but keep what was in it for Up."""
        self._buffer.reset(append_to_history=bool(self._buffer.text))

    def show(self, painted: Painted) -> None:
        """Show a line above the input line, at the next redraw."""
        self._pending.append(painted)
        self._app.invalidate()

    async def shown(self) -> None:
        """Wait until the terminal has taken what was shown. Raises OutputClosed, TerminalFailed."""
        while self._pending and self._app.is_running:
            self._drawn.clear()
            self._app.invalidate()
            await self._drawn.wait()
        await self._output.flush()

    def refresh(self) -> None:
        """The status line or the prompt has changed."""
        self._app.invalidate()

    def ring(self) -> None:
        """Ring the terminal's bell."""
        self._app.output.bell()
        self._app.invalidate()

    def ask(self, question: str, answer: Callable[[bool], None]) -> None:
        """Put a question that is answered with y or n. A question that was open is answered with n."""
        self._settle(False)
        self._question, self._answer = question, answer
        self.ring()

    def _measure(self) -> Size:
        size = self._output.get_size()
        return Size(rows=size.lines, columns=size.columns)

    # -- drawing --------------------------------------------------------------------------------------------

    def _lay_out(self) -> Layout:
        search = SearchToolbar(ignore_case=True)
        control = BufferControl(
            buffer=self._buffer,
            input_processors=[HighlightIncrementalSearchProcessor(), Parts(), BeforeInput(lambda: self.prompt)],
            search_buffer_control=search.control,
            preview_search=True,
        )
        line = Window(control, wrap_lines=True, dont_extend_height=True, height=self._limit_height)
        # No style of its own: a bar over the full width would be broken into two rows when the window is made narrower.
        status = Window(FormattedTextControl(self._describe), height=1, dont_extend_height=True)
        return Layout(HSplit([line, search, status]), focused_element=line)

    def _limit_height(self) -> Dimension:
        return Dimension(min=1, max=max(1, self._output.get_size().lines // 2))

    def _describe(self) -> StyleAndTextTuples:
        if self._question:
            return [("bold reverse", f" {self._question} ")]
        pieces: StyleAndTextTuples = [("reverse", f" {self._listener.describe()} ")]
        if self._cycle is not None and len(self._cycle.offer.texts) > 1:
            for number, text in enumerate(self._cycle.offer.texts):
                pieces += [("", " "), ("bold" if number == self._cycle.number else "", text.strip(" :"))]
        return pieces

    def _draw_pending(self) -> None:
        """Before each redraw: put what is new above the input line, or all of it on a screen of another width."""
        size = self._app.output.get_size()
        pending, self._pending = self._pending, []
        self._shown += pending
        if self._columns not in (0, size.columns):
            self._paint_again(size)
        elif pending:
            self._app.renderer.erase()
            self._print([row for painted in pending for row in lay_out(painted, size.columns, get_cwidth)])
        self._columns = size.columns
        self._drawn.set()

    def _paint_again(self, size: Size) -> None:
        self._app.renderer.reset()
        output = self._app.output
        for row in range(size.rows, 0, -1):  # row by row: terminals put a screen that is cleared into the scrollback
            output.cursor_goto(row, 1)
            output.erase_end_of_line()
        height = self._app.layout.container.preferred_height(size.columns, size.rows).preferred
        room = max(size.rows - height, 0)
        rows: deque[list[Piece]] = deque()
        for painted in reversed(self._shown):
            laid = lay_out(painted, size.columns, get_cwidth)
            room -= sum(max(1, -(-get_cwidth("".join(text for _, text in row)) // size.columns)) for row in laid)
            if room < 0:
                break
            rows.extendleft(reversed(laid))
        self._print(list(rows))

    def _print(self, rows: list[list[Piece]]) -> None:
        self._app.print_text([piece for row in rows for piece in (*row, ("", "\n"))])

    # -- keys -----------------------------------------------------------------------------------------------

    def _bind_keys(self) -> KeyBindings:
        keys = KeyBindings()
        asking = Condition(lambda: bool(self._question))
        typing = ~is_searching & ~asking
        keys.add("enter", filter=typing)(lambda _: self._enter())
        keys.add("tab", filter=typing)(lambda _: self._complete(1))
        keys.add("s-tab", filter=typing)(lambda _: self._complete(-1))
        keys.add(Keys.BracketedPaste, filter=typing)(self._paste)
        keys.add("c-c", filter=typing)(lambda _: self._clear_or_leave())
        keys.add("c-d", filter=typing & Condition(lambda: not self.text))(lambda _: self._listener.leave())
        keys.add("c-\\")(lambda _: self._listener.leave())
        keys.add("c-l")(lambda _: self._clean())
        keys.add("c-z")(lambda event: event.app.create_background_task(self._suspend()))
        for key in ("y", "Y"):
            keys.add(key, filter=asking)(lambda _: self._settle(True))
        for key in ("n", "N", "c-c", "c-d", "c-g"):
            keys.add(key, filter=asking)(lambda _: self._settle(False))
        for key in (Keys.Any, Keys.BracketedPaste, "enter", "tab", "backspace"):
            keys.add(key, filter=asking)(lambda _: self.ring())  # nothing else is done before the answer
        return keys

    def _enter(self) -> None:
        self._cycle = None
        if self._listener.enter(self.text.replace("\n", " ")):
            self.clear()

    def _clear_or_leave(self) -> None:
        if self.text:
            self.clear()
        else:
            self._listener.leave()

    def _clean(self) -> None:
        self._app.renderer.clear()
        self._shown.clear()

    def _paste(self, event: KeyPressEvent) -> None:
        document = self._buffer.document
        pasted = read_paste(event.data, document.text_before_cursor, document.text_after_cursor)
        if isinstance(pasted, Paste):
            self._listener.paste(pasted)
        else:
            self._buffer.insert_text(pasted)

    def _settle(self, is_yes: bool) -> None:
        answer, self._question, self._answer = self._answer, "", None
        if answer is not None:
            answer(is_yes)
        self._app.invalidate()

    def _complete(self, step: int) -> None:
        """Put in what fits; again, and again, what else fits."""
        document = self._buffer.document
        cycle = self._cycle
        if cycle is None or cycle.after != document:
            offer = self._listener.complete(document.text_before_cursor)
            if not offer.texts:
                self._cycle = None
                self.ring()
                return
            cycle = Cycle(offer, document, -1 if step > 0 else 0, document)
        number = (cycle.number + step) % len(cycle.offer.texts)
        text = cycle.before.text_before_cursor[: cycle.offer.start] + cycle.offer.texts[number]
        rest = cycle.before.text_after_cursor
        after = Document(text + rest.removeprefix(" " if text.endswith(" ") else ""), len(text))
        self._cycle = Cycle(cycle.offer, cycle.before, number, after)
        self._buffer.document = after

    async def _suspend(self) -> None:
        """Stop, as Ctrl-Z does to a program that leaves its terminal alone. What was typed stays with us."""
        async with in_terminal():
            await self._output.flush()
            termios.tcflush(self._source, termios.TCIFLUSH)
            os.kill(0, signal.SIGTSTP)


@dataclass(frozen=True, slots=True)
class Cycle:
    """Where Tab is: the offer for `before`, the number of the text that was put in, and what that has made of it."""

    offer: Offer
    before: Document
    number: int
    after: Document


class Parts(Processor):
    """Shows the parts of pictures that are made of several characters; see `glyphs`."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        fragments = explode_text_fragments(transformation_input.fragments)
        visible = list_visible("".join(fragment[1] for fragment in fragments))
        if len(visible) == len(fragments):
            return Transformation(list(fragments))
        return Transformation(
            [fragments[at] for at in visible],
            source_to_display=lambda at: bisect.bisect_left(visible, at),
            display_to_source=lambda at: visible[at] if at < len(visible) else len(fragments),
        )


class Keyboard(Vt100Input):
    """A terminal whose end is noticed: prompt_toolkit takes the error of a terminal that was hung up for no input."""

    def read_keys(self) -> list[object]:  # type: ignore[override]
        keys = super().read_keys()
        if not keys and not os.isatty(self.fileno()):
            self.stdin_reader.closed = True
        return cast(list[object], keys)


class Sink(io.TextIOBase):
    """What prompt_toolkit writes to: holds all of it for an Output, which never blocks."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._has_more = asyncio.Event()

    def write(self, text: str) -> int:
        self._output.hold(text)
        return len(text)

    def flush(self) -> None:
        self._has_more.set()

    async def write_out(self) -> None:
        """Write as it comes; ends only by an exception: OutputClosed, TerminalFailed."""
        while True:
            await self._has_more.wait()
            self._has_more.clear()
            await self._output.flush()
