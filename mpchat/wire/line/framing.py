r"""Line framing: from the bytes of one connection to messages.

Owns what has been received of one connection and not been taken yet, and the decision whether the peer sends
lines or segments. Promises that the same bytes give the same texts in every chunking (in line mode), that
`end` only ever grows, and that it never raises, whatever the peer sends. Never does I/O, reads no clock (it asks
to be woken through `deadline`), and never drops or joins messages because the caller is slow to take them, up to
one bound (MAX_SEGMENTS).

**Lines.** `\n`, `\r\n` and `\r\0` end a line; any other `\r` is a control character. A `\r` at the end of what
has come waits for the next byte. Text is cleaned by `mpchat.wire.text`.

**Telnet** (RFC 854, 855). `IAC WILL/WONT/DO/DONT x`, `IAC SB ... IAC SE` and `IAC x` are swallowed wherever they
stand; `IAC IAC` is a data byte 0xFF. Telnet does not count against `max_line`, but has bounds of its own, so that
nobody makes us hold bytes for ever: a line is refused as well when a subnegotiation in it or before it has more
than TELNET_LIMIT bytes, or when it takes more than 2 * `max_line` + TELNET_LIMIT bytes with all its telnet.
Sequences before a line belong to no line: they are gone as soon as nothing older waits to be taken. The two
bytes of `\r\n` and `\r\0` stand side by side: a `\r` followed by IAC is a control character.

**Modes.**

    UNDECIDED --line end, over a limit, or end of stream-------> LINE
    UNDECIDED --deadline passed without a line end-------------> SEGMENT
    SEGMENT   --chunk with a line end or over TELNET_LIMIT,
                or end of stream-------------------------------> LINE
    LINE      --line over a limit is taken, its end not here---> SKIP
    SKIP      --line end, or end of stream---------------------> LINE

**Carrying on elsewhere.** The `end` of a frame is where the next message starts. Only a refused line that is the
last one of its `take` may end in the middle of a line, and then `mode` is SKIP until the line end comes: who
records `end` must record that mode with it. Chunk boundaries are not in the stream, so messages of segment mode
that were not taken become one.
"""

import enum
import re
from itertools import accumulate

from mpchat.wire.text import clean_lines, clean_message

__all__ = ["MAX_SEGMENTS", "TELNET_LIMIT", "Frame", "LineFraming", "Mode"]

Frame = tuple[int, str | None]
"""(end, text): the stream position just after this message and its line end, and the clean text.

Positions count raw bytes since the connection began. The text is None for a message over the limits, which is
refused; its `end` is just after its line end if that has come, else as far as it had come when that was noticed.
"""

TELNET_LIMIT = 512
"""Bytes in one subnegotiation, an escaped one counted once. Real ones (terminal type, environment) have tens."""

MAX_SEGMENTS = 256
"""Chunks whose boundaries are remembered until they are taken; further ones join the last."""

# A chunk each time bytes trickle in moves the deadline, at most to this many timeouts after the first byte.
_PATIENCE = 5

# So many bytes are looked at for each wanted message (at least max_line), so that taking few messages from a full
# buffer does not copy all of it. Several times a usual chat line.
_WINDOW = 256

_IAC = 0xFF

# The grammar. The alternatives of each repetition start differently, and _LINE matches anything: so there is one
# way to match and nothing to go back for, whatever a peer sends.
_UNIT = rb"(?:[^\xff]|\xff[^\xf0])"
_SEQUENCE = rb"\xff(?:[\xfb-\xfe].|[^\xfa-\xff]|\xfa%b{0,%d}\xff\xf0)" % (_UNIT, TELNET_LIMIT)
_SEQUENCES = re.compile(rb"(?:%b)*" % _SEQUENCE, re.DOTALL)
_ENDLESS = re.compile(rb"\xff\xfa%b{%d}" % (_UNIT, TELNET_LIMIT + 1), re.DOTALL)
_LINE = re.compile(rb"((?:[^\xff\r\n]+|%b|\xff\xff|\r(?=[^\n\0]))*)(?:\r?\n|\r\0)?" % _SEQUENCE, re.DOTALL)
_TELNET = re.compile(rb"%b|\xff(\xff)" % _SEQUENCE, re.DOTALL)


class Mode(enum.Enum):
    """What the bytes received next are taken for."""

    UNDECIDED = "undecided"
    """Nothing tells yet whether the peer ends its lines."""
    LINE = "line"
    """Lines; for good, but for SKIP."""
    SKIP = "skip"
    """The rest of a refused line, dropped as it comes."""
    SEGMENT = "segment"
    """Every chunk is a message, until the first line end."""


_MODES = {mode: (mode.value, mode.value) for mode in Mode} | {Mode.SKIP: (Mode.LINE.value, Mode.SKIP.value)}


class LineFraming:
    """The bytes of one connection, turned into messages.

    Bytes go in by `receive`, messages come out of `take`, in the order of the stream. Time is in seconds of any
    clock that never goes back. Bytes stay inside until they are taken, so a caller that throttles takes few, and
    bounds `buffered` by not calling `receive` while it is large. A line whose end has not come is bounded here: the
    next `take` refuses it once it is over a limit.
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
    """When `wake` wants to be called; None when it does not."""
    mode: Mode
    """The mode at the end of what has been received; segments received earlier may still wait to be taken."""
    modes: tuple[str, str]
    """`mode` as the log records it: behind all frames of the last take but the last one, and behind that one."""
    position: int
    """The stream position of the first raw byte not yet taken, swallowed or skipped. Only ever grows."""

    def __init__(self, *, max_line: int, segment_timeout: float, position: int = 0, mode: Mode | None = None) -> None:
        """Start, or carry on, a stream.

        `max_line` is in bytes, without line end and telnet; `segment_timeout` in seconds, 0 turns segment mode
        off. To carry on, `position` is that of the byte received next and `mode` the mode there.

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
        # The raw bytes from `position` on. Deleting at the front of a bytearray moves nothing until half is gone.
        self._data = bytearray()
        # The line whose end has not come, so that bytes which trickle in are not read again from its start:
        self._scanned = 0  # how many bytes of `_data` have been looked at, up to the last whole sequence
        self._content = bytearray()  # these without telnet
        self._plain_from = position  # the stream position after the last IAC or NUL received
        # The stream positions where the waiting segments end. No deque, which takes 600 bytes with nothing in it.
        self._cuts: list[int] = []
        self._first: float | None = None  # when the first byte came while undecided
        self._eof = False

    @property
    def buffered(self) -> int:
        """Raw bytes held and not yet taken."""
        return len(self._data)

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Take in one received chunk.

        A deadline that has passed by `now` counts as passed, whether or not `wake` was called: what comes of a
        stream depends on when its chunks came, not on how timers and chunks were interleaved.
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
        r"""The peer has sent all: what remains without a line end is a last message, also while undecided.

        A trailing `\r` counts as a line end, half a telnet sequence as nothing.
        Nothing may be received after this.
        """
        self._eof = True
        if self.mode is Mode.SKIP:
            self._skip()
        if self.mode is Mode.UNDECIDED:
            self._cuts.clear()
        self._settle(Mode.LINE)

    def wake(self, now: float) -> None:
        """Tell the time; does something only when `deadline` is reached."""
        if self.deadline is not None and now >= self.deadline:
            self._settle(Mode.SEGMENT)

    def take(self, limit: int) -> list[Frame]:
        """Return the next messages in order, at most `limit`; an empty list when none is complete."""
        frames: list[Frame] = []
        while len(frames) < limit and self._take_some(frames, limit - len(frames)):
            pass
        return frames

    def _take_some(self, frames: list[Frame], limit: int) -> bool:
        """Append one or more messages, at most `limit`; False when nothing is left that is complete."""
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
        """Take lines from where no IAC and no NUL stands: all at once, at the speed of `split`."""
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
        """Take the line whose end has not come: refused if it is over a limit already, a message if it is the last.

        May also be called for a line that has its end, if it is over a limit.
        """
        if not self._eof and len(self._data) <= min(self._max_line, TELNET_LIMIT):
            return False
        self._scan_line()
        endless = _ENDLESS.match(self._data, self._scanned)
        if endless or self._is_over():
            self._drop(endless.end() if endless else self._scanned)
            self._settle(Mode.SKIP)
            # Skipped before `end` is read: that is then where a line starts, or all that has come.
            self._skip()
            frames.append((self.position, None))
            return True
        return self._eof and self._take_last(frames)

    def _take_last(self, frames: list[Frame]) -> bool:
        """Take what came before the end of the stream without a line end; False when it was nothing but telnet."""
        content = bytes(self._content)
        is_message = bool(content) or self._data == b"\r"
        self._drop(len(self._data))
        if is_message:
            frames.append((self.position, clean_message(content)))
        return is_message

    def _scan_line(self) -> int:
        """Look at what has come of the line since the last time; return where its line end ends, or `_scanned`."""
        body, end = _scan(self._data, self._scanned)
        if body <= self._max_raw:  # else it is over that limit, and its content is of no interest
            self._content += _strip(self._data[self._scanned : body])
        self._scanned = body
        return end

    def _is_over(self) -> bool:
        return len(self._content) > self._max_line or self._scanned > self._max_raw

    def _skip(self) -> None:
        """Drop the rest of a refused line, as far as it has come."""
        body, end = _scan(self._data)
        while end == body and (endless := _ENDLESS.match(self._data, body)):
            self._drop(endless.end())
            body, end = _scan(self._data)
        if end > body or self._eof:
            self._drop(end if end > body else len(self._data))
            self._settle(Mode.LINE)
        else:
            # What is left is half a line end or half a telnet sequence: its other half decides.
            self._drop(body)

    def _swallow(self) -> None:
        """Drop the telnet sequences before a message: they belong to none."""
        if self._data and self._data[0] == _IAC and not self._scanned and not self._cuts:
            sequences = _SEQUENCES.match(self._data)
            self._drop(sequences.end() if sequences else 0)

    # Segments

    def _decide(self, now: float) -> None:
        """Look for a line end while undecided, and put the deadline off when there is none."""
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
        """Remember the chunk just received as a message; the first one with a line end ends segment mode."""
        self._swallow()
        start = self._cuts[-1] - self.position if self._cuts else 0
        body, end = _scan(self._data, start)
        if end > body or _ENDLESS.match(self._data, body):
            self._settle(Mode.LINE)
        else:
            self._cut(start, body)

    def _cut(self, start: int, body: int) -> bool:
        r"""Remember the end of a chunk that starts at `start`; False when half a telnet sequence is all there is.

        Half a telnet sequence waits for the next chunk. Half a line end does not: a `\n` to come is a blank line.
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
        """Take the oldest segment; one of nothing but telnet is no message."""
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
    """Return where the line that is at `start` ends, without and with its line end; the same if that is not here.

    A line without its end reaches up to half a line end, half a telnet sequence, or an endless one.
    """
    line = _LINE.match(data, start)
    assert line is not None  # all of its parts may be empty
    return line.end(1), line.end()


def _strip(raw: bytearray) -> bytes:
    """Return `raw` without telnet sequences, escaped bytes as what they stand for."""
    return _TELNET.sub(rb"\1", raw) if _IAC in raw else bytes(raw)
