"""Line framing: the rules one by one, then any bytes in any chunking against a slow and obvious reference."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpchat.chat.requests import Negotiate
from mpchat.wire.line.editing import edit_line
from mpchat.wire.line.framing import MAX_SEGMENTS, TELNET_LIMIT, Frame, LineFraming, Mode

MAX_LINE = 8
TIMEOUT = 0.25  # and times in quarters, which floats hold exactly
EVERYTHING = 10**6

IAC, NOP, SB, SE, WILL = b"\xff", b"\xff\xf1", b"\xff\xfa", b"\xff\xf0", b"\xff\xfb\x01"


def lines(*, max_line: int = MAX_LINE, position: int = 0, mode: Mode | None = None) -> LineFraming:
    return LineFraming(max_line=max_line, segment_timeout=0, position=position, mode=mode)


def segments() -> LineFraming:
    return LineFraming(max_line=MAX_LINE, segment_timeout=TIMEOUT)


def feed(framing: LineFraming, *chunks: bytes, now: float = 0.0) -> list[Frame]:
    """Feed the chunks, taking all there is after each."""
    frames = []
    for chunk in chunks:
        framing.receive(chunk, now)
        frames += framing.take(EVERYTHING)
    return frames


def finish(framing: LineFraming) -> list[Frame]:
    framing.receive_eof()
    return framing.take(EVERYTHING)


def texts(frames: Iterable[Frame]) -> list[str | None]:
    return [text for _, text in frames]


def split(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut the stream at these places (modulo its length) into chunks, none of them empty."""
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in pairwise(places)]


def whole(stream: bytes) -> list[bytes]:
    return [stream] if stream else []


def by_byte(stream: bytes) -> list[bytes]:
    return [stream[index : index + 1] for index in range(len(stream))]


Chunking = Callable[[bytes], list[bytes]]
CHUNKINGS = pytest.mark.parametrize("chunking", [whole, by_byte])


# Lines


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"one\ntwo\n", [(4, "one"), (8, "two")]),
        (b"one\r\ntwo\r\n", [(5, "one"), (10, "two")]),
        (b"one\r\0two\r\0", [(5, "one"), (10, "two")]),
        (b"one\n\r\n\r\0\n", [(4, "one"), (6, ""), (8, ""), (9, "")]),
        (b"o\0n\0e\n", [(6, "one")]),
        (b"one\rtwo\n", [(4, "one"), (8, "two")]),
        (b"one\r\r\n", [(4, "one"), (6, "")]),
        (b"a\tb\x1bc\n", [(6, "a\tbc")]),
        ("\x9bé\u2028\n".encode(), [(8, "é ")]),
        (b"\xc3\n\xa9\n", [(2, "\ufffd"), (4, "\ufffd")]),
        (b"unfinished", []),
        (b"mac\r", [(4, "mac")]),
    ],
)
@CHUNKINGS
def test_lines(stream: bytes, expected: list[Frame], chunking: Chunking) -> None:
    framing = lines(max_line=100)
    frames = feed(framing, *chunking(stream))
    assert texts(frames) == texts(expected)
    # The second half of a line end that is cut in two comes behind the frame.
    assert frames == expected or chunking is by_byte
    assert framing.position == len(stream) - framing.buffered


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_copied(kind: type) -> None:
    framing, source = lines(), bytearray(b"one\n")
    framing.receive(kind(source), 0.0)
    source[:] = b"xxxx"
    assert framing.take(1) == [(4, "one")]


def test_take_leaves_the_rest_inside() -> None:
    framing = lines()
    framing.receive(b"one\ntwo\nthree\nfo", 0.0)
    assert framing.take(0) == []
    assert framing.take(2) == [(4, "one"), (8, "two")]
    assert (framing.position, framing.buffered) == (8, 8)
    assert framing.take(2) == [(14, "three")]
    assert (framing.position, framing.buffered) == (14, 2)
    assert feed(framing, b"ur\n") == [(19, "four")]


def test_position_to_carry_on_from() -> None:
    assert feed(lines(position=1000), b"one\n", NOP + b"two\n") == [(1004, "one"), (1010, "two")]


@pytest.mark.parametrize("bad", [{"max_line": 0}, {"segment_timeout": -1.0}, {"position": -1}])
def test_options_out_of_range(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        LineFraming(**{"max_line": 8, "segment_timeout": 0.0, **bad})  # type: ignore[arg-type]


# Lines over the limit


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r\0"])
def test_a_line_of_exactly_the_limit(line_end: bytes) -> None:
    stream = b"x" * MAX_LINE + line_end
    for chunks in ([stream], by_byte(stream)):
        assert texts(feed(lines(), *chunks)) == ["x" * MAX_LINE]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r\0"])
def test_a_line_over_the_limit_between_others(line_end: bytes) -> None:
    stream = b"one\n" + b"x" * (MAX_LINE + 1) + line_end + b"two\n"
    for chunks in ([stream], by_byte(stream)):
        assert texts(feed(lines(), *chunks)) == ["one", None, "two"]


def test_refused_without_waiting_for_the_line_end() -> None:
    framing = lines()
    assert feed(framing, b"x" * MAX_LINE) == []
    assert feed(framing, b"x") == [(9, None)]
    assert framing.mode is Mode.SKIP
    assert feed(framing, b"x" * 10_000, NOP, IAC) == []
    assert framing.buffered == 1  # half a sequence
    assert feed(framing, b"\xf1x\n") == []
    assert (framing.mode, framing.buffered) == (Mode.LINE, 0)
    assert texts(feed(framing, b"one\n")) == ["one"]


def test_a_refused_line_alone_ends_where_it_was_noticed() -> None:
    assert feed(lines(), b"x" * 20 + b"\none\n") == [(21, None), (25, "one")]
    assert feed(lines(), b"x" * 20, b"\none\n") == [(20, None), (25, "one")]


def test_a_limit_over_the_window_of_a_single_take() -> None:
    framing = lines(max_line=5000)
    framing.receive(b"x" * 5000 + b"\r\n" + b"y" * 5001 + b"\nz\n", 0.0)
    assert [framing.take(1) for _ in range(4)] == [[(5002, "x" * 5000)], [(10004, None)], [(10006, "z")], []]


# Telnet


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (WILL + b"one\n", ["one"]),
        (b"o" + WILL + NOP + b"ne\r" + b"\n", ["one"]),
        (b"one" + SB + b"\x18\0xterm\n" + SE + b"\r\n", ["one"]),
        (b"one" + SB + b"\xff\xff\xff\xf1 \xf0" + SE + b"\n", ["one"]),
        (b"one\r" + NOP + b"\n", ["one", ""]),
        (b"one\r" + NOP + b"\0two\n", ["one", "two"]),
        (b"one" + IAC + IAC + b"\n", ["one\ufffd"]),
        (IAC + IAC + IAC + IAC + NOP + b"\n", ["\ufffd\ufffd"]),
        (b"one" + IAC + b"\n" + b"\n", ["one"]),  # IAC x swallows any x
        (b"one" + b"\xff\xfd\n" + b"\n", ["one"]),  # DO option 10
        (b"one\n" + SE + b"\n", ["one", ""]),
        (b"x" * MAX_LINE + WILL * 3 + b"\n", ["x" * MAX_LINE]),
        (IAC * 2 * MAX_LINE + b"\n", ["\ufffd" * MAX_LINE]),
        (IAC * 2 * (MAX_LINE + 1) + b"\n", [None]),
    ],
)
def test_telnet_is_swallowed(stream: bytes, expected: list[str | None]) -> None:
    for chunks in ([stream], by_byte(stream), *(split(stream, [cut]) for cut in range(len(stream)))):
        assert texts(feed(lines(max_line=MAX_LINE), *chunks)) == expected


@pytest.mark.parametrize("mode", [Mode.LINE, Mode.UNDECIDED, Mode.SEGMENT, Mode.SKIP, Mode.BROKEN])
def test_a_flood_of_telnet_is_not_held(mode: Mode) -> None:
    framing = LineFraming(max_line=MAX_LINE, segment_timeout=TIMEOUT, mode=mode)
    flood = NOP * 1000 + WILL * 1000 + SB + b"\n" * 100 + SE
    for _ in range(20):
        framing.receive(flood + SB, 0.0)
        assert framing.buffered == len(SB)
        framing.receive(SE, 0.0)
        assert framing.buffered == 0
    assert framing.position == 20 * len(flood + SB + SE)
    after = Mode.SKIP if mode is Mode.SKIP else Mode.LINE
    assert (framing.mode, framing.deadline, framing.take(9)) == (after, None, [])


@CHUNKINGS
def test_a_subnegotiation_has_a_bound(chunking: Chunking) -> None:
    longest = b"\n" * (TELNET_LIMIT - 1) + IAC + IAC
    assert texts(feed(lines(), *chunking(SB + longest + SE + b"one\n"))) == ["one"]
    endless = b"." * TELNET_LIMIT + b"\n"  # the first byte too many still belongs to it
    assert texts(feed(lines(), *chunking(SB + endless + b"rest\none\n"))) == [None, "one"]
    assert texts(feed(lines(), *chunking(b"x" * 9 + SB + endless + b"rest\none\n"))) == [None, "one"]


def test_an_endless_subnegotiation_costs_no_memory() -> None:
    framing = lines(max_line=5000)
    assert feed(framing, b"one" + SB + b"." * TELNET_LIMIT) == []
    assert texts(feed(framing, b".")) == [None]
    assert feed(framing, *[b"." * 5000] * 5, (SB + b"." * (TELNET_LIMIT + 1)) * 3) == []
    assert (framing.mode, framing.buffered) == (Mode.SKIP, 0)


def test_telnet_within_a_line_has_a_bound() -> None:
    framing = lines()
    room = (2 * MAX_LINE + TELNET_LIMIT - len("one")) // 2
    assert texts(feed(framing, b"one" + NOP * room + b"\n")) == ["one"]
    assert texts(feed(framing, b"one" + NOP * (room + 1) + b"\n")) == [None]
    assert texts(feed(framing, b"one", *[NOP] * (room + 1))) == [None]
    assert (framing.mode, framing.buffered) == (Mode.SKIP, 0)


def test_telnet_between_lines_belongs_to_none() -> None:
    stream = b"one\n" + NOP * TELNET_LIMIT + b"two\n"
    for chunks in (whole(stream), by_byte(stream)):
        assert texts(feed(lines(), *chunks)) == ["one", "two"]


# The end of the stream


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", []),
        (b"one\n", ["one"]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r", ["one"]),
        (b"\r", [""]),
        (b"x" * MAX_LINE + b"\r", ["x" * MAX_LINE]),
        (b"one" + WILL[:2], ["one"]),
        (b"one\n" + SB + b"xterm", ["one"]),
        (b"one\n" + NOP, ["one"]),
        (b"x" * 9, [None]),
        (b"x" * 9 + b"\r", [None]),
        (b"\0", [""]),
    ],
)
@pytest.mark.parametrize("start", [lines, segments])
def test_end_of_stream(stream: bytes, expected: list[str | None], start: Callable[[], LineFraming]) -> None:
    for chunks in (whole(stream), by_byte(stream)):
        framing = start()
        frames = feed(framing, *chunks) + finish(framing)
        assert texts(frames) == expected
        assert (framing.position, framing.buffered, framing.deadline) == (len(stream), 0, None)
        assert framing.mode is Mode.LINE


def test_end_of_stream_leaves_what_is_throttled() -> None:
    framing = lines()
    framing.receive(b"one\ntwo\nthree", 0.0)
    framing.receive_eof()
    assert [framing.take(1) for _ in range(4)] == [[(4, "one")], [(8, "two")], [(13, "three")], []]


# Segment mode


def test_a_client_without_line_ends() -> None:
    framing = segments()
    assert feed(framing, b"alice", now=1.0) == []
    assert (framing.mode, framing.deadline) == (Mode.UNDECIDED, 1.25)
    framing.wake(1.0)
    assert framing.take(9) == []
    framing.wake(1.25)
    assert (framing.mode, framing.deadline) == (Mode.SEGMENT, None)
    assert framing.take(9) == [(5, "alice")]
    assert feed(framing, b"hello", b"there\0", b"\x01", b"x", now=2.0) == [
        (10, "hello"),
        (16, "there"),
        (17, ""),
        (18, "x"),
    ]


CUT = [
    # chunks in segment mode, each with the time that has gone by, in timeouts  messages
    ([(b"caf\xc3", 0.0), (b"\xa9", 0.5)],                                       ["café"]),
    ([(b"caf\xc3", 0.0), (b"\xa9", 1.0)],                                       ["caf", "é"]),
    ([(b"\xf0", 0.0), (b"\x9f", 0.0), (b"\x99\x82!", 0.0)],                     ["🙂!"]),
    ([(b"a\xf0", 0.0), (b"\x9f", 0.75), (b"\x99\x82!", 0.75)],                  ["a", "🙂!"]),
    ([(b"\xe6\x9d", 0.0), (b"\x8e", 9.0), (b"hi", 0.0)],                        ["李", "hi"]),
    ([(b"caf\xe9", 0.0), (b"hello", 9.0)],                                      ["caf", "\ufffdhello"]),
    ([(b"a\x1b", 0.0), (b"[Ab", 0.0)],                                          ["ab"]),
    ([(b"a\x1b[", 0.0), (b"1;5C", 9.0), (b"b", 0.0)],                           ["a", "", "b"]),
    ([(b"caf\xc3", 0.0)],                                                      ["caf"]),
]  # fmt: skip


@pytest.mark.parametrize(("chunks", "expected"), CUT)
def test_a_character_that_is_cut_stays_one(chunks: list[tuple[bytes, float]], expected: list[str]) -> None:
    framing, now = segments(), 1.0
    framing.receive(b"alice", 0.0)
    framing.wake(now)
    for chunk, timeouts in chunks:
        now += timeouts * TIMEOUT
        framing.receive(chunk, now)
    framing.wake(now + TIMEOUT)
    assert framing.deadline is None
    assert texts(framing.take(9)) == ["alice", *expected]


def test_a_client_with_line_ends_is_never_asked_for_time() -> None:
    framing = segments()
    assert feed(framing, b"alice\nhel", now=1.0) == [(6, "alice")]
    assert (framing.mode, framing.deadline) == (Mode.LINE, None)


def test_a_line_typed_a_byte_at_a_time() -> None:
    framing = segments()
    for count, byte in enumerate(by_byte(b"alice")):
        assert feed(framing, byte, now=count * 9.0) == []
        assert (framing.mode, framing.deadline) == (Mode.LINE, None)
    assert feed(framing, b"\r", now=60.0) == [(6, "alice")]
    assert framing.mode is Mode.BROKEN
    assert feed(framing, b"\nj", b"\n", now=61.0) == [(9, "j")]


@pytest.mark.parametrize("first", [b"j", b"\x1b[Aj", b"\xef\xbb\xbfj", "李".encode()], ids=ascii)
def test_who_types_is_known_by_a_single_character(first: bytes) -> None:
    framing = segments()
    assert feed(framing, first) == []
    framing.wake(9.0)
    assert (framing.mode, framing.deadline) == (Mode.LINE, None)
    note = framing.take_note()
    assert note == (len(first), Negotiate("", "typed"))
    # Who carries on gets what was typed so far in one chunk.
    after = LineFraming(max_line=MAX_LINE, segment_timeout=TIMEOUT, noted=note[0], manner=note[1].manner)
    assert feed(after, first + b"oe", now=9.0) == []
    after.wake(99.0)
    assert texts(feed(after, b"\n", now=99.0)) == [edit_line(first + b"oe")]


@pytest.mark.parametrize("first", [b"\x7f", b"\x1b[A", b"\xef\xbb\xbf", b"\xe6\x9d", b"\0"])
def test_who_has_sent_no_character_is_not_asked_for_time(first: bytes) -> None:
    framing = segments()
    assert feed(framing, first) == []
    assert (framing.mode, framing.deadline) == (Mode.UNDECIDED, None)


def test_the_deadline_does_not_move_for_ever() -> None:
    framing = LineFraming(max_line=100, segment_timeout=TIMEOUT)
    for count in range(10):
        assert feed(framing, b"xx", now=10.0 + count / 8) == []
    assert framing.deadline == 10.0 + 5 * TIMEOUT
    framing.wake(framing.deadline)
    assert texts(framing.take(99)) == ["xx"] * 10


def test_a_late_line_end_is_too_late() -> None:
    framing = segments()
    framing.receive(b"alice", 0.0)
    assert feed(framing, b"hello\nbob", now=TIMEOUT) == [(5, "alice"), (11, "hello")]
    assert framing.mode is Mode.LINE
    assert texts(feed(framing, b"\n")) == ["bob"]


def test_segment_mode_turned_off() -> None:
    assert feed(lines(), b"alice") == []
    for mode in (None, Mode.UNDECIDED):
        assert (lines(mode=mode).mode, lines(mode=mode).deadline) == (Mode.LINE, None)


def test_the_first_line_end_is_for_good() -> None:
    framing = segments()
    framing.receive(b"alice", 0.0)
    framing.wake(1.0)
    assert texts(feed(framing, b"one", b"two\r", b"\nth", b"ree", b"\n", now=9.0)) == ["alice", "one", "two", "three"]


def test_telnet_ends_the_guessing() -> None:
    for telnet in (WILL, NOP, WILL[:1], SB + b"\n" + SE, IAC + IAC):
        framing = segments()
        assert feed(framing, telnet) == []
        assert (framing.mode, framing.deadline) == (Mode.LINE, None)
        framing = segments()
        assert feed(framing, b"ali" + telnet) == []
        assert (framing.mode, framing.deadline) == (Mode.LINE, None)


def test_telnet_ends_segments() -> None:
    framing = segments()
    framing.receive(b"al", 0.0)
    framing.wake(1.0)
    assert texts(feed(framing, b"one", b"two", WILL[:1])) == ["al", "one", "two"]
    assert framing.mode is Mode.LINE
    assert texts(feed(framing, WILL[1:] + b"thr", NOP, b"ee\n")) == ["three"]


def test_an_endless_subnegotiation_ends_segment_mode() -> None:
    for wake in (0.0, 1.0):
        framing = segments()
        framing.receive(b"alice", 0.0)
        framing.wake(wake)
        framing.receive(SB + b"." * 2 * TELNET_LIMIT, wake)
        assert texts(framing.take(9)) == (["alice", None] if wake else [None])
        assert (framing.mode, framing.buffered) == (Mode.SKIP, 0)


def test_over_the_limit_while_undecided() -> None:
    framing = segments()
    assert feed(framing, b"x" * MAX_LINE) == []
    assert feed(framing, b"x") == [(9, None)]
    assert (framing.mode, framing.deadline) == (Mode.SKIP, None)
    assert texts(feed(framing, b"xxx\none\n")) == ["one"]
    assert framing.mode is Mode.LINE


def test_a_segment_over_the_limit() -> None:
    framing = segments()
    framing.receive(b"alice", 0.0)
    framing.wake(1.0)
    chunks = [b"x" * (MAX_LINE + 1), b"x" * MAX_LINE]
    assert feed(framing, *chunks) == [(5, "alice"), (14, None), (22, "x" * MAX_LINE)]
    assert framing.mode is Mode.SEGMENT


def test_throttled_segments_keep_their_boundaries() -> None:
    framing = segments()
    for chunk in (b"alice", b"one", b"two", b"three\nfour"):
        framing.receive(chunk, 1.0)
        framing.wake(9.0)
    assert [framing.take(1) for _ in range(4)] == [[(5, "alice")], [(8, "one")], [(11, "two")], [(17, "three")]]
    assert (framing.take(1), framing.mode) == ([], Mode.LINE)


@pytest.mark.parametrize("wake", [0.0, 9.0])
def test_remembered_boundaries_have_a_bound(wake: float) -> None:
    framing = LineFraming(max_line=100, segment_timeout=TIMEOUT)
    for _ in range(MAX_SEGMENTS - 1 if wake else 40):
        framing.receive(b"xx", 0.0)
        framing.wake(wake)
    framing.receive(b"yy", wake)
    framing.receive(b"zz", wake)
    framing.wake(9.0)
    last = ["xx", "yyzz"] if wake else ["yy", "zz"]
    assert texts(framing.take(EVERYTHING))[-2:] == last


# Any bytes in any chunking


ERASERS = {b"\xff\xf7": b"\x7f", b"\xff\xf8": b"\x15"}
Token = tuple[str, bytes, int]  # kind, data byte, position just after it


def tokens(stream: bytes) -> Iterable[Token]:
    """Walk over a whole stream: data bytes, line ends, telnet sequences; what is cut off by its end is left out."""
    at = 0
    while at < len(stream):
        two, kind, size = stream[at : at + 2], "data", 1
        if stream[at] == 0xFF:
            kind, size = ("eraser", 2) if two in ERASERS else telnet(stream, at)
        elif two in (b"\r\n", b"\r\0"):
            kind, size = "end", 2
        elif two[:1] in (b"\n", b"\r"):
            kind = "end"
        at += size
        if at > len(stream):
            return
        yield kind, ERASERS.get(two, stream[at - 1 : at]), at


def telnet(stream: bytes, at: int) -> tuple[str, int]:
    """Return the kind and the size of the telnet sequence at this place; over the end if it is cut off."""
    code = stream[at + 1 : at + 2]
    if code != b"\xfa":
        return ("data" if code == IAC else "telnet"), 3 if code and code[0] in range(0xFB, 0xFF) else 2
    here = at + 2
    for _ in range(TELNET_LIMIT + 1):
        if stream[here : here + 2] == SE:
            return "telnet", here + 2 - at
        here += 2 if stream[here : here + 1] == IAC else 1
    return "endless", here - at


def reference(stream: bytes) -> list[Frame]:
    """What a whole stream, closed at its end, says. Each `end` is 0: whether the second half of a line end, or how much
    of a refused line, is in front of it depends on how they come."""
    frames: list[Frame] = []
    content, start, refused = b"", 0, False
    for kind, byte, after in [*tokens(stream), ("eof", b"", len(stream))]:
        if kind in ("telnet", "eraser") and not content and not refused:
            start = after
        elif kind in ("data", "eraser"):
            content += byte
        if kind in ("data", "eraser", "telnet"):
            refused |= len(content) > MAX_LINE or after - start > 2 * MAX_LINE + TELNET_LIMIT
        refused |= kind == "endless"
        if kind == "end" or (kind == "eof" and (content or refused)):
            frames.append((0, None if refused else edit_line(content)))
            content, start, refused = b"", after, False
    return frames


PIECES: list[bytes] = [
    *[b"a", b"hello", b"\t", b"\n", b"\r", b"\r\n", b"\r\0", b"\0", b"\x1b[1m", b"\x7f", b"\x08", b"\x15", b"\x17"],
    *[IAC, IAC + IAC, NOP, WILL, b"\xff\xfe\n", SB, SE, SB + b"\x18\nxterm" + SE, b"\xfa", b"\xf0"],
    *[b"\xff\xf7", b"\xff\xf8", b"\xff\xf6", b"\xff\xfd\x06", b"\xff\xfb\0", b"\x1b[A", b"\x1b]0;t", b"\xef\xbb\xbf"],
    *["é\u2028😀\x9b".encode(), b"\xc3", b"\xa9", b"x" * (MAX_LINE - 1), b"x" * MAX_LINE, b"x" * 100],
    *[NOP * (TELNET_LIMIT // 2 + MAX_LINE - 2), SB + b"\n" * (TELNET_LIMIT - 1), SB + b"." * (TELNET_LIMIT + 1)],
]
STREAMS = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=12)), max_size=16).map(b"".join)
CUTS = st.one_of(st.lists(st.integers(0, 5000), max_size=12), st.just(range(5000)))
LIMITS = st.lists(st.integers(0, 3), min_size=1, max_size=8)


def anonymous(frames: Iterable[Frame]) -> list[Frame]:
    return [(0, text) for _, text in frames]


def check_frames(frames: Sequence[Frame], size: int) -> None:
    ends = [0, *(end for end, _ in frames)]
    assert all(before < after for before, after in pairwise(ends))
    assert ends[-1] <= size
    for text in texts(frames):
        assert not [char for char in text or "" if unicodedata.category(char) == "Cc" and char != "\t"]


@given(STREAMS, CUTS)
def test_any_chunking_gives_what_the_stream_says(stream: bytes, cuts: Sequence[int]) -> None:
    framing, frames, received = lines(), [], 0
    for chunk in split(stream, cuts):
        frames += feed(framing, chunk)
        received += len(chunk)
        assert framing.position + framing.buffered == received
        assert framing.buffered <= 2 * MAX_LINE + TELNET_LIMIT + 2 * (TELNET_LIMIT + 2)
    frames += finish(framing)
    assert (framing.position, framing.buffered) == (len(stream), 0)
    check_frames(frames, len(stream))
    assert anonymous(frames) == reference(stream)


@given(STREAMS, CUTS, LIMITS)
def test_any_limits_give_the_same_frames(stream: bytes, cuts: Sequence[int], limits: list[int]) -> None:
    framing, frames = lines(), []
    for count, chunk in enumerate(split(stream, cuts)):
        framing.receive(chunk, 0.0)
        limit = limits[count % len(limits)]
        taken = framing.take(limit)
        assert len(taken) <= limit
        frames += taken
    framing.receive_eof()
    while taken := framing.take(max(limits) or 1):
        frames += taken
    assert framing.buffered == 0
    check_frames(frames, len(stream))
    assert anonymous(frames) == reference(stream)


@given(STREAMS, CUTS, st.integers(0, 5000), st.integers(0, 4))
@example(b"x" * 9 + SB + b"." * (TELNET_LIMIT + 1) + b"y\nz\n", [], 9 + TELNET_LIMIT + 3, 4)
def test_another_process_carries_on(stream: bytes, cuts: Sequence[int], death: int, limit: int) -> None:
    chunks = split(stream, cuts)
    first, frames = lines(), []
    for chunk in chunks[: death % (len(chunks) + 1)]:
        first.receive(chunk, 0.0)
        frames += first.take(limit)
    second = LineFraming(max_line=MAX_LINE, segment_timeout=0, position=first.position, mode=first.mode)
    frames += feed(second, *split(stream[first.position :], cuts)) + finish(second)
    check_frames(frames, len(stream))
    assert anonymous(frames) == reference(stream)


@given(STREAMS, CUTS)
def test_every_end_is_a_place_to_carry_on(stream: bytes, cuts: Sequence[int]) -> None:
    framing, places = lines(), []
    for chunk in split(stream, cuts):
        frames = feed(framing, chunk)
        within, last = map(Mode, framing.modes)
        places += [(end, within) for end, _ in frames[:-1]]
        places += [(end, last) for end, _ in frames[-1:]]
    everything = reference(stream)
    for count, (end, mode) in enumerate(places, start=1):
        successor = lines(position=end, mode=mode)
        rest = feed(successor, *split(stream[end:], cuts)) + finish(successor)
        assert anonymous(rest) == everything[count:]


NO_SEGMENT = bytes([*b"\n\r\x1b", *range(0xC0, 0x100)])
"""Ends lines or segment mode, or may be the beginning of what is cut."""

STEPS = st.lists(st.tuples(st.one_of(st.sampled_from(PIECES), STREAMS), st.integers(0, 4)), max_size=30)


@given(STEPS, LIMITS)
def test_segments_do_not_depend_on_timers_or_limits(steps: list[tuple[bytes, int]], limits: list[int]) -> None:
    woken, late, now = segments(), segments(), 0.0
    frames: list[Frame] = []
    for count, (chunk, eighths) in enumerate(steps):
        now += eighths / 8
        if woken.deadline is not None:
            woken.wake(min(woken.deadline, now))
        frames += woken.take(limits[count % len(limits)])
        for framing in (woken, late) if chunk else ():
            framing.receive(chunk, now)
    late.wake(now)
    frames += finish(woken)
    size = sum(len(chunk) for chunk, _ in steps)
    assert (woken.position, woken.buffered) == (size, 0)
    check_frames(frames, size)
    assert anonymous(finish(late)) == anonymous(frames)


@given(STEPS)
def test_memory_is_bounded_in_every_mode(steps: list[tuple[bytes, int]]) -> None:
    framing, now = segments(), 0.0
    for chunk, eighths in steps:
        now += eighths / 8
        if chunk:
            feed(framing, chunk, now=now)
        assert framing.buffered <= 2 * MAX_LINE + TELNET_LIMIT + 2 * (TELNET_LIMIT + 2)


@given(
    st.lists(st.binary(min_size=1, max_size=MAX_LINE).map(lambda chunk: chunk.translate(None, NO_SEGMENT)), max_size=20)
)
def test_every_chunk_is_a_message(chunks: list[bytes]) -> None:
    framing = segments()
    framing.receive(b"name", 0.0)
    framing.wake(1.0)
    chunks = [chunk for chunk in chunks if chunk]
    for chunk in chunks:
        framing.receive(chunk, 2.0)
    assert texts(framing.take(EVERYTHING)) == ["name", *map(edit_line, chunks)]
