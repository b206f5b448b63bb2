r"""Line framing: from the bytes of one connection to messages.

Owns the bytes that were received and not taken yet, and decides whether the peer sends lines or segments. Promises:

* in line mode, the same bytes give the same texts however they are cut into chunks;
* it never raises, whatever the peer sends;
* it never drops or joins messages because the caller takes them slowly, with one exception (MAX_SEGMENTS).

It never does I/O and reads no clock; it asks to be woken through `deadline`.

**Lines.** `\n`, `\r\n` and `\r\0` end a line; any other `\r` is a control character. A `\r` that is the last byte so
far waits for the next byte. `mpchat.wire.text` cleans the text.

**Telnet** (RFC 854, 855). `IAC WILL/WONT/DO/DONT x`, `IAC SB ... IAC SE` and `IAC x` are swallowed wherever they stand;
`IAC IAC` is the data byte 0xFF. Telnet does not count against `max_line`, but it has limits of its own, so that no peer
can make us hold bytes for ever. A line is also refused if it has, or follows, a subnegotiation of more than
TELNET_LIMIT bytes, or if it takes more than 2 * `max_line` + TELNET_LIMIT bytes with all its telnet. Sequences before a
line belong to no line, and are dropped as soon as nothing older waits to be taken. The two bytes of `\r\n` and `\r\0`
must be adjacent: a `\r` followed by IAC is a control character.

**Modes.**

    UNDECIDED --line end, over a limit, or end of stream-------> LINE
    UNDECIDED --deadline passed without a line end-------------> SEGMENT
    SEGMENT   --chunk with a line end or over TELNET_LIMIT,
                or end of stream-------------------------------> LINE
    LINE      --line over a limit is taken, its end not here---> SKIP
    SKIP      --line end, or end of stream---------------------> LINE

**Carrying on elsewhere.** The next message starts at the `end` of a frame. There is one exception: a refused line that
is the last one of its `take` may end in the middle of the line, and then `mode` is SKIP until the line end comes. So
the mode has to be recorded with `end` (`modes`). Chunk boundaries are not in the stream, so segments that were not
taken become one message.
"""

import enum
import re
from itertools import accumulate

from mpchat.wire.text import clean_lines, clean_message

__all__ = ["MAX_SEGMENTS", "TELNET_LIMIT", "Frame", "LineFraming", "Mode"]

Frame = tuple[int, str | None]
"""(end, text): the stream position just after this message and its line end, and the clean text.

Positions count raw bytes since the connection began. The text is None for a message over a limit, which is refused. The
`end` of such a message is just after its line end if that has come, and otherwise after its last byte so far.
"""

TELNET_LIMIT = 512
"""The most bytes in a subnegotiation; an escaped byte counts once. Real ones (terminal type, environment) have tens."""

MAX_SEGMENTS = 256
"""The most chunks whose boundaries are remembered until they are taken. Further chunks join the last one."""

# Each chunk without a line end moves the deadline, up to this many timeouts after the first byte.
_PATIENCE = 5

# How many bytes are looked at for each wanted message (but at least max_line), so that taking few messages from a full
# buffer does not copy all of it. Several times the length of a usual chat line.
_WINDOW = 256

_IAC = 0xFF

# The grammar. The alternatives of each repetition start with different bytes, and _LINE matches anything. So there is
# only one way to match, and the engine never backtracks, whatever a peer sends.
_UNIT = rb"(?:[^\xff]|\xff[^\xf0])"
_SEQUENCE = rb"\xff(?:[\xfb-\xfe].|[^\xfa-\xff]|\xfa%b{0,%d}\xff\xf0)" % (_UNIT, TELNET_LIMIT)
_SEQUENCES = re.compile(rb"(?:%b)*" % _SEQUENCE, re.DOTALL)
_ENDLESS = re.compile(rb"\xff\xfa%b{%d}" % (_UNIT, TELNET_LIMIT + 1), re.DOTALL)
_LINE = re.compile(rb"((?:[^\xff\r\n]+|%b|\xff\xff|\r(?=[^\n\0]))*)(?:\r?\n|\r\0)?" % _SEQUENCE, re.DOTALL)
_TELNET = re.compile(rb"%b|\xff(\xff)" % _SEQUENCE, re.DOTALL)


class Mode(enum.Enum):
    """What the next bytes received mean."""

    UNDECIDED = "undecided"
    """It is not known yet whether the peer ends its lines."""
    LINE = "line"
    """Lines, for good, apart from SKIP."""
    SKIP = "skip"
    """The rest of a refused line, which is dropped as it comes."""
    SEGMENT = "segment"
    """Every chunk is a message, until the first line end."""


_MODES = {mode: (mode.value, mode.value) for mode in Mode} | {Mode.SKIP: (Mode.LINE.value, Mode.SKIP.value)}


class LineFraming:
    """The bytes of one connection, turned into messages.

    A `wire.framing.Framing`. Bytes go in by `receive`, and messages come out of `take` in the order of the stream. Time
    is in seconds of any clock that never goes back. A caller that throttles takes few messages, and bounds `buffered`
    by not calling `receive` while it is large. A line whose end does not come is bounded here: the next `take` refuses
    it once it is over a limit.
    """

    __slots__ = (
        "_content",
        "_cuts",
        "_data",
        "_eof",
        "_first",
        "_max_line",
        "_max_raw",
        "_plain_from",
        "_scanned",
        "_segment_timeout",
        "deadline",
        "mode",
        "modes",
        "position",
    )

    deadline: float | None
    """When to call `wake`. None: never."""
    mode: Mode
    """The mode behind the last byte received. Segments received earlier may still wait to be taken."""
    modes: tuple[str, str]
    """`mode` as the log records it: behind the last frame of the last take (second), and behind all others (first)."""
    position: int
    """The stream position of the first raw byte that is not taken, swallowed or skipped. It only grows."""

    def __init__(self, *, max_line: int, segment_timeout: float, position: int = 0, mode: Mode | None = None) -> None:
        """Start a stream, or carry one on.

        `max_line` is in bytes, without line end and telnet. `segment_timeout` is in seconds; 0 turns segment mode off.
        To carry on, pass the `position` of the byte received next and the `mode` there.

        Raises ValueError for a `max_line` under 1, a negative `segment_timeout` or a negative `position`.
        """
        if max_line < 1 or segment_timeout < 0 or position < 0:
            raise ValueError(f"out of range: {max_line=}, {segment_timeout=}, {position=}")
        if mode is None or (mode is Mode.UNDECIDED and not segment_timeout):
            mode = Mode.UNDECIDED if segment_timeout else Mode.LINE
        self._max_line = max_line
        self._max_raw = 2 * max_line + TELNET_LIMIT  # twice: every byte of the content may be an escaped one
        self._segment_timeout = segment_timeout
        self.position = position
        self._settle(mode)
        # The raw bytes from `position` on. Deleting at the front of a bytearray moves nothing until half of it is gone.
        self._data = bytearray()
        # What is known of a line whose end has not come, so that it is not scanned from its start with every chunk:
        self._scanned = 0  # how many bytes of `_data` were looked at, up to the last whole sequence
        self._content = bytearray()  # these bytes without telnet
        self._plain_from = position  # the stream position after the last IAC or NUL received
        # The stream positions where the waiting segments end. Not a deque: an empty one takes 600 bytes.
        self._cuts: list[int] = []
        self._first: float | None = None  # when the first byte came while undecided
        self._eof = False

    @property
    def buffered(self) -> int:
        """How many raw bytes are held and not taken yet."""
        return len(self._data)

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Take in one received chunk.

        A deadline that is over by `now` counts as passed even if `wake` was not called. So the outcome depends on when
        the chunks came, and not on the order in which the caller runs timers and reads chunks.
        """
        self.wake(now)
        self._append(data)
        if self.mode is Mode.SKIP:
            self._skip()
        elif self.mode is Mode.UNDECIDED:
            self._decide(now)
        elif self.mode is Mode.SEGMENT:
            self._mark_segment()
        else:
            self._swallow()

    def receive_eof(self) -> None:
        r"""The peer has sent everything. What remains without a line end is a last message, also while undecided.

        A trailing `\r` counts as a line end, half a telnet sequence as nothing. Nothing may be received after this.
        """
        self._eof = True
        if self.mode is Mode.SKIP:
            self._skip()
        if self.mode is Mode.UNDECIDED:
            self._cuts.clear()
        self._settle(Mode.LINE)

    def wake(self, now: float) -> None:
        """Tell the time. Does something only when `deadline` is reached."""
        if self.deadline is not None and now >= self.deadline:
            self._settle(Mode.SEGMENT)

    def take(self, limit: int) -> list[Frame]:
        """Return the next messages in order, at most `limit`. Empty when none is complete."""
        frames: list[Frame] = []
        while len(frames) < limit and self._take_some(frames, limit - len(frames)):
            pass
        return frames

    def _take_some(self, frames: list[Frame], limit: int) -> bool:
        """Append one or more messages, at most `limit`. Return False if no message is complete."""
        if self.mode is Mode.UNDECIDED:
            return False
        if self._cuts:
            self._take_segment(frames)
            return True
        if self.mode is not Mode.LINE:
            return False
        if self._plain_from > self.position:
            return self._take_careful(frames)
        return self._take_plain(frames, limit)

    # Lines

    def _take_plain(self, frames: list[Frame], limit: int) -> bool:
        """Take lines without IAC and NUL: all of them at once, at the speed of `split`."""
        window = bytes(self._data[: max(limit * _WINDOW, self._max_line + len("\r\n"))])
        last = window.rfind(b"\n")
        if last < 0:
            return self._take_unfinished(frames)
        lines = window[:last].split(b"\n", limit)[:limit]
        sizes = [len(line) + 1 for line in lines]
        size = sum(sizes)
        texts: list[str | None] = [*clean_lines(window[: size - 1])]
        if max(sizes) > self._max_line + 1:
            for index, line in enumerate(lines):
                if len(line.removesuffix(b"\r")) > self._max_line:
                    texts[index] = None
        ends = accumulate(sizes[1:], initial=self.position + sizes[0])
        frames += zip(ends, texts, strict=True)
        self._drop(size)
        return True

    def _take_careful(self, frames: list[Frame]) -> bool:
        """Take one line that may have telnet or NULs in it."""
        self._swallow()
        end = self._scan_line()
        if end == self._scanned:
            return self._take_unfinished(frames)
        text = None if self._is_over() else clean_message(bytes(self._content))
        self._drop(end)
        frames.append((self.position, text))
        return True

    def _take_unfinished(self, frames: list[Frame]) -> bool:
        """Take the line whose end has not come: as refused if it is over a limit, as a message if the stream has ended.

        May also be called for a whole line, if it is over a limit.
        """
        if not self._eof and len(self._data) <= min(self._max_line, TELNET_LIMIT):
            return False
        self._scan_line()
        endless = _ENDLESS.match(self._data, self._scanned)
        if endless or self._is_over():
            self._drop(endless.end() if endless else self._scanned)
            self._settle(Mode.SKIP)
            # Before `end` is read, so that it is where the next line starts, or behind the last byte so far.
            self._skip()
            frames.append((self.position, None))
            return True
        return self._eof and self._take_last(frames)

    def _take_last(self, frames: list[Frame]) -> bool:
        """Take the rest of an ended stream, which has no line end. Return False if it was nothing but telnet."""
        content = bytes(self._content)
        is_message = bool(content) or self._data == b"\r"
        self._drop(len(self._data))
        if is_message:
            frames.append((self.position, clean_message(content)))
        return is_message

    def _scan_line(self) -> int:
        """Scan what has come of the line since the last scan. Return where its line end ends, or else `_scanned`."""
        body, end = _scan(self._data, self._scanned)
        if body <= self._max_raw:  # otherwise the line is refused, whatever its content
            self._content += _strip(self._data[self._scanned : body])
        self._scanned = body
        return end

    def _is_over(self) -> bool:
        return len(self._content) > self._max_line or self._scanned > self._max_raw

    def _skip(self) -> None:
        """Drop what has come of the rest of a refused line."""
        body, end = _scan(self._data)
        while end == body and (endless := _ENDLESS.match(self._data, body)):
            self._drop(endless.end())
            body, end = _scan(self._data)
        if end > body or self._eof:
            self._drop(end if end > body else len(self._data))
            self._settle(Mode.LINE)
        else:
            # Keep half a line end or half a telnet sequence: its other half decides what it is.
            self._drop(body)

    def _swallow(self) -> None:
        """Drop the telnet sequences before a message. They belong to no message."""
        if self._data and self._data[0] == _IAC and not self._scanned and not self._cuts:
            sequences = _SEQUENCES.match(self._data)
            self._drop(sequences.end() if sequences else 0)

    # Segments

    def _decide(self, now: float) -> None:
        """Look for a line end while undecided. If there is none, move the deadline."""
        self._swallow()
        end = self._scan_line()
        if end > self._scanned or _ENDLESS.match(self._data, end) or self._is_over():
            self._cuts.clear()
            self._settle(Mode.LINE)
        elif self._cut(0, end):
            if self._first is None:
                self._first = now
            patience = self._first + _PATIENCE * self._segment_timeout
            self.deadline = min(now + self._segment_timeout, patience)

    def _mark_segment(self) -> None:
        """Remember the chunk just received as a message. The first chunk with a line end ends segment mode."""
        self._swallow()
        start = self._cuts[-1] - self.position if self._cuts else 0
        body, end = _scan(self._data, start)
        if end > body or _ENDLESS.match(self._data, body):
            self._settle(Mode.LINE)
        else:
            self._cut(start, body)

    def _cut(self, start: int, body: int) -> bool:
        r"""Remember the end of a chunk that starts at `start`. Return False if it is only half a telnet sequence.

        Half a telnet sequence waits for the next chunk. Half a line end does not: a `\n` that follows is a blank line.
        """
        if self._data[body:] == b"\r":
            body += 1
        if body == start:
            return False
        if len(self._cuts) == MAX_SEGMENTS:
            self._cuts.pop()
        self._cuts.append(self.position + body)
        return True

    def _take_segment(self, frames: list[Frame]) -> None:
        """Take the oldest segment. A segment of nothing but telnet is not a message."""
        end = self._cuts.pop(0)
        size = end - self.position
        content = _strip(self._data[:size])
        self._drop(size)
        if content:
            frames.append((end, clean_message(content) if len(content) <= self._max_line else None))

    # The buffer

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        before = len(self._data)
        self._data += data
        special = max(self._data.rfind(b"\xff", before), self._data.rfind(b"\0", before))
        if special >= 0:
            self._plain_from = self.position + special + 1

    def _drop(self, count: int) -> None:
        self._scanned = 0
        self._content.clear()
        del self._data[:count]
        self.position += count

    def _settle(self, mode: Mode) -> None:
        self.mode = mode
        self.modes = _MODES[mode]
        self.deadline = None


def _scan(data: bytearray, start: int = 0) -> tuple[int, int]:
    """Return where the line at `start` ends, without and with its line end; twice the same if there is no line end.

    A line without its end reaches up to half a line end, half a telnet sequence, or an endless telnet sequence.
    """
    line = _LINE.match(data, start)
    assert line is not None  # all of its parts may be empty
    return line.end(1), line.end()


def _strip(raw: bytearray) -> bytes:
    """Return `raw` without telnet sequences, and with every escaped byte once."""
    return _TELNET.sub(rb"\1", raw) if _IAC in raw else bytes(raw)
