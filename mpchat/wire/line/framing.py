r"""Line framing: from the bytes of one connection to messages.

Owns the bytes that were received and not taken yet, and decides whether the peer sends lines or segments. Promises:

* in line mode, the same bytes give the same texts however they are cut into chunks;
* it never raises, whatever the peer sends;
* it never drops or joins messages because the caller takes them slowly, with one exception (MAX_SEGMENTS).

It never does I/O and reads no clock; it asks to be woken through `deadline`.

**Lines.** `\n`, `\r\n`, `\r\0` and a bare `\r` end a line. A `\r` that is the last byte so far ends its line at once;
if a `\n` or `\0` follows, that belongs to it. A line is edited as it was typed (`editing`) and cleaned
(`mpchat.wire.text`).

**Telnet** (RFC 854, 855). `IAC WILL/WONT/DO/DONT x`, `IAC SB ... IAC SE` and `IAC x` are taken out wherever they stand;
`IAC IAC` is the data byte 0xFF, `IAC EC` is DEL and `IAC EL` is ^U. Telnet does not count against `max_line`, but it
has limits of its own, so that no peer can make us hold bytes for ever. A line is also refused if it has, or follows, a
subnegotiation of more than TELNET_LIMIT bytes, or if it takes more than 2 * `max_line` + TELNET_LIMIT bytes with all
its telnet. Sequences before a line belong to no line, and are dropped as soon as nothing older waits to be taken. What
they ask for, wherever they stand, is answered through `take_note`.

**Modes.**

    UNDECIDED --line end, over a limit, IAC, or end of stream--> LINE
    UNDECIDED --a single character to begin with---------------> LINE
    UNDECIDED --deadline passed without a line end-------------> SEGMENT
    SEGMENT   --chunk with a line end or IAC, or end of stream-> LINE
    LINE      --line over a limit is taken, its end not here---> SKIP
    SKIP      --line end, or end of stream---------------------> LINE
    LINE      --a bare \r is the last byte so far--------------> BROKEN
    BROKEN    --next byte, or end of stream--------------------> LINE

**Segments.** A chunk that ends within a character or a key's sequence waits for the rest of it, for one timeout. After
that, what is whole is the message, and what is not begins the next one.

**Carrying on elsewhere.** The next message starts at the `end` of a frame. A refused line that is the last one of its
`take` may end in the middle of the line, and then the mode there is SKIP; a line that ends in `\r` may have the other
half of its line end to come, and then it is BROKEN. So the mode has to be recorded with `end` (`modes`). Everything
else within a line is found again in its bytes. What was answered already is recorded by `noted`: sequences up to there
are not answered again. Chunk boundaries are not in the stream, so segments that were not taken become one message.
"""

import enum
import re
from itertools import accumulate

from mpchat.chat.requests import Negotiate
from mpchat.wire.line.editing import DELETE, KEYS, KILL_LINE, edit_line
from mpchat.wire.line.strangers import recognise_bytes, recognise_line, recognise_long
from mpchat.wire.line.telnet import TYPED, Telnet
from mpchat.wire.text import clean_lines

__all__ = ["MAX_SEGMENTS", "TELNET_LIMIT", "Frame", "LineFraming", "Mode"]

Frame = tuple[int, str | None]
"""(end, text): the stream position just after this message and its line end, and the clean text.

Positions count raw bytes since the connection began. The text is None for a message over a limit, which is refused. The
`end` of such a message is just after its line end if that has come, and otherwise after its last byte so far. It is a
Stranger when the first line, or what stands in its place, is of another protocol.
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

_IAC, _CR, _LF, _NUL = 0xFF, 0x0D, 0x0A, 0x00
_ERASE_CHARACTER, _ERASE_LINE = 0xF7, 0xF8

# The grammar. The alternatives of each repetition start with different bytes, and _LINE matches anything. So there is
# only one way to match, and the engine never backtracks, whatever a peer sends.
_UNIT = rb"(?:[^\xff]|\xff[^\xf0])"
_SEQUENCE = rb"\xff(?:[\xfb-\xfe].|[^\xfa-\xff]|\xfa%b{0,%d}\xff\xf0)" % (_UNIT, TELNET_LIMIT)
_SEQUENCES = re.compile(rb"(?:%b)*" % _SEQUENCE, re.DOTALL)
_ENDLESS = re.compile(rb"\xff\xfa%b{%d}" % (_UNIT, TELNET_LIMIT + 1), re.DOTALL)
_LINE = re.compile(rb"((?:[^\xff\r\n]+|%b|\xff\xff)*)(?:\r[\n\0]?|\n)?" % _SEQUENCE, re.DOTALL)
_TELNET = re.compile(rb"%b|\xff\xff" % _SEQUENCE, re.DOTALL)

_BARE_CR = re.compile(rb".*\r(?!\n)", re.DOTALL)
"""Up to the last one."""

# A character of UTF-8 that is not whole, or the beginning of a key's sequence, at the end of a chunk.
_UNFINISHED = re.compile(
    rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2}|\x1b(?:O|\[[0-?]{0,24})?)\Z"
)
_UNFINISHED_MOST = 32

_MARKS = bytes([_IAC]) + KEYS.encode()
"""Bytes that need care, apart from a bare CR."""

_MEANT = {_IAC: b"\xff", _ERASE_CHARACTER: DELETE.encode(), _ERASE_LINE: KILL_LINE.encode()}
"""The data that commands stand for."""


class Mode(enum.Enum):
    """What the next bytes received mean."""

    UNDECIDED = "undecided"
    """It is not known yet whether the peer ends its lines."""
    LINE = "line"
    """Lines, for good, apart from SKIP and BROKEN."""
    SKIP = "skip"
    """The rest of a refused line, which is dropped as it comes."""
    BROKEN = "broken"
    """A line has ended with a carriage return, and a line feed or NUL that follows belongs to it."""
    SEGMENT = "segment"
    """Every chunk is a message, until the first line end."""


_MODES = {mode: (mode.value, mode.value) for mode in Mode} | {
    mode: (Mode.LINE.value, mode.value) for mode in (Mode.SKIP, Mode.BROKEN)
}


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
        "_noted",
        "_plain_from",
        "_scanned",
        "_segment_timeout",
        "_telnet",
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

    def __init__(
        self,
        *,
        max_line: int,
        segment_timeout: float,
        position: int = 0,
        mode: Mode | None = None,
        noted: int = 0,
        manner: str = "",
    ) -> None:
        """Start a stream, or carry one on.

        `max_line` is in bytes, without line end and telnet. `segment_timeout` is in seconds; 0 turns segment mode off.
        To carry on, pass the `position` of the byte received next and the `mode` there, and of the last note its
        position (`noted`) and its `manner`.

        Raises ValueError for a `max_line` under 1, a negative `segment_timeout` or a negative `position`.
        """
        if max_line < 1 or segment_timeout < 0 or position < 0:
            raise ValueError(f"out of range: {max_line=}, {segment_timeout=}, {position=}")
        if mode is None:
            mode = Mode.UNDECIDED
        if mode is Mode.UNDECIDED and (manner or not segment_timeout):
            mode = Mode.LINE
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
        self._plain_from = position  # the stream position after the last IAC, editing key or bare CR received
        # The stream positions where the waiting segments end. Not a deque: an empty one takes 600 bytes.
        self._cuts: list[int] = []
        self._first: float | None = None  # when the first byte came while undecided
        self._eof = False
        self._noted = noted  # telnet up to here is heard
        self._telnet = Telnet(manner) if manner else None  # nearly nobody has any

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
        if self.mode is Mode.LINE:
            self._swallow()
        else:
            self._receive_otherwise(now)

    def receive_eof(self) -> None:
        r"""The peer has sent everything. What remains without a line end is a last message, also while undecided.

        Half a telnet sequence counts as nothing. Nothing may be received after this.
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
            self._cut(self._find_unfinished())

    def take(self, limit: int) -> list[Frame]:
        """Return the next messages in order, at most `limit`. Empty when none is complete."""
        frames: list[Frame] = []
        if not self.position and self._data:
            self._take_first(frames, limit)
        while len(frames) < limit and self._take_some(frames, limit - len(frames)):
            pass
        return frames

    def take_note(self) -> tuple[int, Negotiate] | None:
        """What the client's program has asked for since the last note, among the bytes that were looked at, and the
        position up to which this is all. To be published in front of the frames of the last `take`."""
        telnet = self._telnet
        if telnet is None or not telnet.changed:
            return None
        answer = telnet.take_answer()
        return self._noted, Negotiate(answer, telnet.manner)

    def _receive_otherwise(self, now: float) -> None:
        if self.mode is Mode.BROKEN and self._data:
            self._settle(Mode.LINE)
            if self._data[0] in (_LF, _NUL):
                self._drop(1)
            self._swallow()
        elif self.mode is Mode.SKIP:
            self._skip()
        elif self.mode is Mode.UNDECIDED:
            self._decide(now)
        elif self.mode is Mode.SEGMENT:
            self._mark_segment(now)

    def _take_first(self, frames: list[Frame], limit: int) -> None:
        """Take the first message of the stream, which may be that of a stranger."""
        if self.mode is Mode.LINE and (stranger := recognise_bytes(self._data)) and limit:
            self._drop(len(self._data))
            frames.append((self.position, stranger))
            return
        long = recognise_long(self._data)
        if limit and self._take_some(frames, 1):
            [(end, text)] = frames
            frames[:] = [(end, long if text is None else recognise_line(text) or text)]

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
        """Take lines without IAC, editing key and bare CR: all of them at once, at the speed of `split`."""
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
        """Take one line that may have telnet, editing keys or bare CRs in it."""
        self._swallow()
        end = self._scan_line()
        if end == self._scanned:
            return self._take_unfinished(frames)
        text = None if self._is_over() else edit_line(bytes(self._content))
        self._drop_line(end)
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
        self._drop(len(self._data))
        if content:
            frames.append((self.position, edit_line(content)))
        return bool(content)

    def _scan_line(self) -> int:
        """Scan what has come of the line since the last scan. Return where its line end ends, or else `_scanned`."""
        body, end = _scan(self._data, self._scanned)
        content = self._hear(self._scanned, body)
        if body <= self._max_raw:  # otherwise the line is refused, whatever its content
            self._content += content
        self._scanned = body
        return end

    def _is_over(self) -> bool:
        return len(self._content) > self._max_line or self._scanned > self._max_raw

    def _skip(self) -> None:
        """Drop what has come of the rest of a refused line."""
        body, end = _scan(self._data)
        while end == body and (endless := _ENDLESS.match(self._data, body)):
            self._hear(0, body)
            self._drop(endless.end())
            body, end = _scan(self._data)
        self._hear(0, body)
        if end > body:
            self._settle(Mode.LINE)
            self._drop_line(end)
        elif self._eof:
            self._settle(Mode.LINE)
            self._drop(len(self._data))
        else:
            # Keep half a telnet sequence: its other half decides what it is.
            self._drop(body)

    def _swallow(self) -> None:
        """Drop the telnet sequences before a message. They belong to no message."""
        if self._data and self._data[0] == _IAC and not self._scanned and not self._cuts:
            sequences = _SEQUENCES.match(self._data)
            size = sequences.end() if sequences else 0
            self._hear(0, size)
            self._drop(size)

    def _hear(self, start: int, stop: int) -> bytes:
        """Take in the telnet in this part of the data, which begins and ends between two sequences. Return what is left
        of it: the data bytes, with the editing that telnet asks for."""
        raw = bytes(self._data[start:stop])
        if _IAC not in raw:
            return raw
        at = self.position + start
        telnet = self._telnet = self._telnet or Telnet()

        def take_out(found: re.Match[bytes]) -> bytes:
            command = raw[found.start() + 1]
            if at + found.end() > self._noted:
                self._noted = at + found.end()
                telnet.hear(command, raw[found.start() + 2] if 0xFB <= command <= 0xFE else None)
            return _MEANT.get(command, b"")

        return _TELNET.sub(take_out, raw)

    # Segments

    def _decide(self, now: float) -> None:
        """Look for what tells lines while undecided. If there is nothing, move the deadline."""
        end = self._scan_line()
        if end > self._scanned or self._is_over() or _IAC in self._data or recognise_bytes(self._data):
            self._cuts.clear()
            self._settle(Mode.LINE)
            if not self._content:
                self._scanned = 0
            self._swallow()
            return
        whole = self._find_unfinished()
        if not self._cuts:
            typed = edit_line(bytes(self._data[:whole]))
            if len(typed) == 1 and whole == len(self._data):
                self._settle(Mode.LINE)
                self._note_typing()
                return
            if not typed:
                # Nothing but keys, or a byte order mark: the name is still to come.
                return
        if whole == len(self._data):
            self._cut(whole)
        if self._first is None:
            self._first = now
        patience = self._first + _PATIENCE * self._segment_timeout
        self.deadline = min(now + self._segment_timeout, patience)

    def _note_typing(self) -> None:
        """A successor must know that somebody types: it would get several keys as one chunk."""
        self._telnet = Telnet()
        self._telnet.add(TYPED)
        self._noted = self.position + len(self._data)

    def _mark_segment(self, now: float) -> None:
        """Remember the chunk just received as a message. The first chunk with a line end or IAC ends segment mode."""
        start = self._cuts[-1] - self.position if self._cuts else 0
        body, end = _scan(self._data, start)
        if end > body or _IAC in self._data:
            self._settle(Mode.LINE)
            self._swallow()
            return
        whole = self._find_unfinished()
        if whole == len(self._data) or len(self._data) - start > self._max_line:
            self.deadline = None
            self._cut(len(self._data))
        elif self.deadline is None:
            self.deadline = now + self._segment_timeout

    def _find_unfinished(self) -> int:
        """Where in the data a character or a key's sequence starts that is not whole, or else the end of the data."""
        tail = max(0, len(self._data) - _UNFINISHED_MOST)
        found = _UNFINISHED.search(self._data, tail)
        return found.start() if found else len(self._data)

    def _cut(self, size: int) -> None:
        """Remember the end of a chunk, which has come up to here; not if nothing is in it."""
        if self.position + size <= (self._cuts[-1] if self._cuts else self.position):
            return
        if len(self._cuts) == MAX_SEGMENTS:
            self._cuts.pop()
        self._cuts.append(self.position + size)

    def _take_segment(self, frames: list[Frame]) -> None:
        """Take the oldest segment."""
        end = self._cuts.pop(0)
        size = end - self.position
        content = bytes(self._data[:size])
        self._drop(size)
        frames.append((end, edit_line(content) if size <= self._max_line else None))

    # The buffer

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        before = len(self._data)
        self._data += data
        new = self._data[before:] if before else self._data
        last = -1
        if len(new.translate(None, _MARKS)) != len(new):
            last = max(map(new.rfind, _MARKS))
        if _CR in new and new.count(b"\r") != new.count(b"\r\n"):
            bare = _BARE_CR.match(new)
            assert bare is not None
            last = max(last, bare.end() - 1)
        if last >= 0:
            self._plain_from = self.position + before + last + 1

    def _drop(self, count: int) -> None:
        self._scanned = 0
        self._content.clear()
        del self._data[:count]
        self.position += count

    def _drop_line(self, end: int) -> None:
        """Drop a line up to behind its line end, of which the other half may still come."""
        broken = end == len(self._data) and self._data[end - 1] == _CR and not self._eof
        self._drop(end)
        if broken:
            self._settle(Mode.BROKEN)

    def _settle(self, mode: Mode) -> None:
        self.mode = mode
        self.modes = _MODES[mode]
        self.deadline = None


def _scan(data: bytearray, start: int = 0) -> tuple[int, int]:
    """Return where the line at `start` ends, without and with its line end; twice the same if there is no line end.

    A line without its end reaches up to half a telnet sequence, or an endless telnet sequence.
    """
    line = _LINE.match(data, start)
    assert line is not None  # all of its parts may be empty
    return line.end(1), line.end()
