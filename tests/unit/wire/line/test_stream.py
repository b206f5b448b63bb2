"""What people's terminals and programs send, and what the server takes it for: tables of bytes in and requests out.

Each row holds in one chunk, byte by byte, cut in two at every place, and when a worker is killed at every cut: another
one carries on from what the log has applied. Rows are read by whole streams, from the first byte to the end.
"""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.chat.requests import Act, Mistake, Negotiate, Private, Quit, Rename, Request, Say
from mpchat.config import Config
from mpchat.wire.line.dialect import LineDialect
from mpchat.wire.line.telnet import write_answer

DIALECT = LineDialect(Config(max_line=100, segment_timeout=0))

ESC, BEL, DEL, BS, KILL, WORD, BOM = b"\x1b", b"\x07", b"\x7f", b"\x08", b"\x15", b"\x17", b"\xef\xbb\xbf"


class Reader:
    """What a worker makes of one connection, and the part of the log that tells the next one how to carry on."""

    def __init__(self) -> None:
        self.asked: list[Request | str] = []
        self.answered = b""
        self.position, self.mode, self.noted, self.manner = 0, "", 0, ""
        self._received = b""
        self._begin()

    def _begin(self) -> None:
        self._framing = DIALECT.framing(self.position, self.mode, self.noted, self.manner)

    def receive(self, chunk: bytes) -> None:
        self._received += chunk
        self._framing.receive(chunk, 0.0)
        self._take()

    def die(self) -> None:
        """Another worker reads again what came of no frame."""
        self._begin()
        if rest := self._received[self.position :]:
            self._framing.receive(rest, 0.0)
            self._take()

    def finish(self) -> None:
        self._framing.receive_eof()
        self._take()

    def _take(self) -> None:
        frames = self._framing.take(1000)
        if note := self._framing.take_note():
            at, negotiation = note
            assert at > self.noted
            self.noted, self.manner = at, negotiation.manner
            self.answered += write_answer(negotiation.answer)
        within, last = self._framing.modes
        for end, request in DIALECT.read(frames):
            assert end > self.position
            self.position, self.mode = end, last if end == frames[-1][0] else within
            self.asked += request.texts if isinstance(request, Say) else [request]


def split_everywhere(stream: bytes) -> Iterable[list[bytes]]:
    yield [stream]
    yield [stream[at : at + 1] for at in range(len(stream))]
    for at in range(1, len(stream)):
        yield [stream[:at], stream[at:]]


def read(chunks: Iterable[bytes], death: bool) -> Reader:
    reader = Reader()
    for chunk in chunks:
        reader.receive(chunk)
        if death:
            reader.die()
    reader.finish()
    return reader


def check(stream: bytes, asked: list[Request | str]) -> None:
    for chunks in split_everywhere(stream):
        for death in (False, True):
            reader = read(chunks, death)
            assert reader.asked == asked, (chunks, death)


Row = tuple[bytes, list[Request | str]]

LINE_ENDS: list[Row] = [
    # bytes in                              what is asked for (a text is said)
    (b"a\nb\n",                             ["a", "b"]),
    (b"a\r\nb\r\n",                         ["a", "b"]),
    (b"a\r\0b\r\0",                         ["a", "b"]),
    (b"macuser\rhello\r",                   ["macuser", "hello"]),
    (b"a\r\r\nb\n\rc",                      ["a", "b", "c"]),
    (b"a\0b\n",                             ["ab"]),
    (b"no end",                             ["no end"]),
    (b"x" * 101 + b"\r\nok\r",              [DIALECT._refuse_line(), "ok"]),
]  # fmt: skip

EDITING: list[Row] = [
    (b"helo" + DEL + b"lo\n",               ["hello"]),
    (b"helo" + BS + b"lo\r\n",              ["hello"]),
    (DEL * 3 + b"hi\n",                     ["hi"]),
    (b"ab" + DEL * 5 + b"c\n",              ["c"]),
    (b"abc" + DEL * 3 + b"\n",              []),
    (b"one\n" + DEL + b"two\n",             ["one", "two"]),
    ("caf\u00e9".encode() + DEL + b"e\n",   ["cafe"]),
    ("cafe\u0301".encode() + DEL + b"\n",   ["caf"]),
    ("李雷".encode() + DEL + b"\n",          ["李"]),
    ("a👩\u200d💻".encode() + DEL + b"\n",    ["a"]),
    ("a👍🏽".encode() + DEL + b"\n",           ["a"]),
    ("a🇩🇪🇫🇷".encode() + DEL + b"\n",         ["a🇩🇪"]),
    ("\u1112\u1161\u11ab한".encode() + DEL + b"\n", ["\u1112\u1161\u11ab"]),
    (b"one two" + WORD + b"three\n",        ["one three"]),
    (b"one two  " + WORD * 2 + b"x\n",      ["x"]),
    (b"one two" + KILL + b"three\n",        ["three"]),
    (b"/nick bog" + DEL + b"b\n",           [Rename("bob")]),
    (b"x" + DEL + b"/quit\n",               [Quit("")]),
    (b"/quit" + KILL + b"hi\n",             ["hi"]),
    (b"helo\xff\xf7lo\r\n",                 ["hello"]),  # IAC EC
    (b"junk\xff\xf8hi\r\n",                 ["hi"]),  # IAC EL
    (b"\xff\xf7\xff\xf8hi\r\n",             ["hi"]),
    (b"x" * 99 + DEL * 5 + b"\n",           [DIALECT._refuse_line()]),  # what was typed counts
]  # fmt: skip

SEQUENCES: list[Row] = [
    (b"a" + ESC + b"[Ab\n",                 ["ab"]),  # cursor up
    (b"a" + ESC + b"OAb\n",                 ["ab"]),  # the same in application mode
    (b"a" + ESC + b"[1;5Cb\n",              ["ab"]),
    (b"a" + ESC + b"[3~b\n",                ["ab"]),
    (b"a" + ESC + b"[[Ab\n",                ["ab"]),  # F1 of the Linux console
    (ESC + b"[200~pasted" + ESC + b"[201~\n", ["pasted"]),
    (ESC + b"[31mred" + ESC + b"(B" + ESC + b"[m\n", ["red"]),
    (ESC + b"]0;title" + BEL + b"hi\n",     ["hi"]),
    (ESC + b"]0;title" + ESC + b"\\hi\n",   ["hi"]),
    (ESC + b"Pq#0;2" + ESC + b"\\hi\n",     ["hi"]),
    (ESC + b"_apc" + ESC + b"\\hi\n",       ["hi"]),
    (ESC + b"ktitle" + ESC + b"\\hi\n",     ["hi"]),
    ("a\u009bAb\n".encode(),                ["ab"]),  # 8 bits, in UTF-8
    ("\u009d0;title\u009chi\n".encode(),    ["hi"]),
    ("\u0090q\u009chi\n".encode(),          ["hi"]),
    ("a\u008fAb\n".encode(),                ["ab"]),
    (b"a\x9b1;5Cb\n",                       ["ab"]),  # 8 bits, and no UTF-8
    (b"\x9d0;title\x9chi\n",                ["hi"]),
    (b"\x90q\x9chi\n",                      ["hi"]),
    ("曛\n".encode(),                        ["曛"]),  # E6 9B 9B
    (b"a" + ESC + b"[12\nb\n",              ["a", "b"]),  # never finished
    (b"a" + ESC + b"]0;title\nb\n",         ["a", "b"]),
    (b"a" + ESC + b"\nb\n",                 ["a", "b"]),
    (b"a" + ESC + b"b\n",                   ["ab"]),  # a key of its own
    (b"a" + ESC + b"_b\n",                  ["a_b"]),  # no end, and so no sequence
    (b"a" + ESC + b"]0;" + b"x" * 101 + b"\nb\n", [DIALECT._refuse_line(), "b"]),
]  # fmt: skip

MARKS: list[Row] = [
    (BOM + b"alice\r\n",                    ["alice"]),
    (BOM + b"/nick bob\r\n",                [Rename("bob")]),
    (b"a\n" + BOM + b"/quit\n",             ["a", Quit("")]),
    (BOM * 2 + b"a\n" + BOM + b"b\n",       ["a", "b"]),
    (BOM + b"\n",                           []),
    ("\u2069\ufeff/me x\n".encode(),         [Act("x")]),
    ("\u202egnip\u202c\n".encode(),         ["gnip"]),
    ("\u2066a\n".encode(),                  ["\u2066a\u2069"]),
    ("a\u2069b\u2067c\u2069\n".encode(),    ["ab\u2067c\u2069"]),
    ("\u2066\u2067a\u2069\nb\u2069\n".encode(), ["\u2066\u2067a\u2069\u2069", "b"]),
    ("a\u2028b\u2029c\n".encode(),          ["a b c"]),
    (b"caf\xe9\n",                          ["caf\ufffd"]),
    ("李雷 🙂\n".encode(),                    ["李雷 🙂"]),
]  # fmt: skip

TEXTS: list[Row] = [
    (b"  two spaces\n",                     ["  two spaces"]),
    (b"/msg bea a\tb\n",                    [Private("bea", "a\tb")]),
    (b"/msg bea  a  b \n",                  [Private("bea", " a  b ")]),
    (b"  /msg  bob hi\n",                   [Private("bob", "hi")]),
    (b"/msg bob, hi\n",                     [Private("bob", "hi")]),
    (b"/msg @bob hi\n",                     [Private("bob", "hi")]),
    (b"/me\twaves \n",                      [Act("waves ")]),
    (b"//text\n",                           ["/text"]),
    (b"//\n",                               ["/"]),
    (b"/say /help\n",                       ["/help"]),
]  # fmt: skip

STRANGERS: list[Row] = [
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",  [Mistake("http")]),
    (b"POST /x HTTP/1.1 \r\n\r\nhello\r\n", [Mistake("http")]),
    (b"POST /x HTTP/1.1\r\n\r\nhello\r\n",  [Mistake("http")]),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",   [Mistake("http")]),
    (b"GET /" + b"x" * 200 + b" HTTP/1.1\r\n\r\nhello\r\n", [Mistake("http")]),  # longer than a line may be
    (b"GET http://a/" + b"x" * 200,         [Mistake("http")]),
    (b"NICK alice \r\nUSER a 0 * :A\r\n",   [Mistake("irc")]),
    (b"SSH-2.0-OpenSSH_9.2\r\n",            [Mistake("ssh")]),
    (b"CAP LS 302\r\nNICK a\r\n",           [Mistake("irc")]),
    (b"NICK alice\r\nUSER a 0 * :A\r\n",    [Mistake("irc")]),
    (b"cap ls 302\r\nnick a\r\n",           [Mistake("irc")]),
    (b"user a 0 * :A\r\nnick a\r\n",        [Mistake("irc")]),
    (b"PASS secret\r\n",                    [Mistake("irc")]),
    (b"USER a 0 * :A\r\n",                  [Mistake("irc")]),
]  # fmt: skip

NO_STRANGERS: list[Row] = [
    (b"GETHTTP\n",                          ["GETHTTP"]),
    (b"alice\nGET / HTTP/1.1\n",            ["alice", "GET / HTTP/1.1"]),
    (b"nick alice\n",                       ["nick alice"]),
    (b"NICK\n",                             ["NICK"]),
    (b"user of the cap\n",                  ["user of the cap"]),
    (b"cap\n",                              ["cap"]),
    (b"alice\n\x16\x03\x01\n",              ["alice"]),
]  # fmt: skip

TABLES = {
    "line ends": LINE_ENDS,
    "editing": EDITING,
    "sequences": SEQUENCES,
    "marks": MARKS,
    "texts": TEXTS,
    "no strangers": NO_STRANGERS,
}


@pytest.mark.parametrize(
    ("stream", "asked"),
    [pytest.param(*row, id=f"{name}: {row[0]!r}") for name, table in TABLES.items() for row in table],
)
def test_what_is_asked_for(stream: bytes, asked: list[Request | str]) -> None:
    check(stream, asked)


@pytest.mark.parametrize(("stream", "asked"), STRANGERS, ids=repr)
def test_strangers(stream: bytes, asked: list[Request | str]) -> None:
    """What they send behind that goes to a session that has ended."""
    for chunks in split_everywhere(stream):
        assert read(chunks, death=False).asked[:1] == asked, chunks


def test_tls_is_known_by_its_first_bytes() -> None:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\xff\xfd\x06 and so on"
    for chunks in split_everywhere(hello):
        reader = Reader()
        for chunk in chunks:
            reader.receive(chunk)
        assert reader.asked[:1] == [Mistake("tls")], chunks


# --- telnet: bytes in, and the bytes of the answers -----------------------------------------------------------

IAC, DONT, DO, WONT, WILL, SB, AYT, IP, DM, SE = (
    bytes([code]) for code in (255, 254, 253, 252, 251, 250, 246, 244, 242, 240)
)
ECHO, SGA, TM, TTYPE, NAWS, BINARY = b"\x01", b"\x03", b"\x06", b"\x18", b"\x1f", b"\0"
THERE = b"* Yes, mpchat is here.\r\n"

NEGOTIATION: list[tuple[bytes, bytes, list[Request | str]]] = [
    # bytes in                                    answer                             what is asked for
    (IAC + DO + TM,                               IAC + WONT + TM,                   []),
    (IAC + IP + IAC + DM + IAC + DO + TM,         IAC + WONT + TM,                   []),  # GNU telnet's Ctrl-C
    (b"hel" + IAC + DO + TM + b"lo\r\n",          IAC + WONT + TM,                   ["hello"]),
    (b"a\r\n" + IAC + DO + TM + b"b\r\n",         IAC + WONT + TM,                   ["a", "b"]),
    ((IAC + DO + TM) * 2,                         (IAC + WONT + TM) * 2,             []),
    (IAC + DO + ECHO,                             IAC + WONT + ECHO,                 []),
    (IAC + WILL + NAWS,                           IAC + DONT + NAWS,                 []),
    (IAC + DO + SGA + IAC + WILL + TTYPE,         IAC + WONT + SGA + IAC + DONT + TTYPE, []),
    (IAC + DONT + ECHO + IAC + WONT + NAWS,       b"",                               []),
    (IAC + WILL + BINARY,                         IAC + DO + BINARY,                 []),
    (IAC + DO + BINARY,                           IAC + WILL + BINARY,               []),
    (IAC + WILL + BINARY + b"x\r\n" + IAC + WILL + BINARY, IAC + DO + BINARY,        ["x"]),
    (IAC + WILL + BINARY + b"x\n" + IAC + WONT + BINARY, IAC + DO + BINARY + IAC + DONT + BINARY, ["x"]),
    (IAC + DONT + BINARY + IAC + WONT + BINARY,   b"",                               []),
    (IAC + WILL + BINARY + "李雷\r\n".encode(),    IAC + DO + BINARY,                 ["李雷"]),
    (b"who" + IAC + AYT + b"?\r\n",               THERE,                             ["who?"]),
    (IAC + SB + TTYPE + b"\0xterm" + IAC + SE + b"a\r\n", b"",                        ["a"]),
    (IAC + SB + b"x" * 600 + IAC + DO + TM + b"\r\na\r\n" + IAC + DO + ECHO, IAC + WONT + TM + IAC + WONT + ECHO,
     [DIALECT._refuse_line(), "a"]),
    (b"x" * 101 + IAC + DO + TM + b"x\r\na\r\n",  IAC + WONT + TM,                   [DIALECT._refuse_line(), "a"]),
    (IAC + DM + b"good morning\r\n",              b"",                               ["good morning"]),
    (b"a" + IAC + IAC + b"b\r\n",                 b"",                               ["a\ufffdb"]),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "answer", "asked"), NEGOTIATION, ids=repr)
def test_negotiation(stream: bytes, answer: bytes, asked: list[Request | str]) -> None:
    for chunks in split_everywhere(stream):
        for death in (False, True):
            reader = read(chunks, death)
            assert (reader.answered, reader.asked) == (answer, asked), (chunks, death)
            assert reader.manner.startswith("telnet")


def test_a_request_is_refused_once_in_one_answer() -> None:
    reader = Reader()
    reader.receive((IAC + WILL + ECHO + IAC + DO + SGA) * 1000 + IAC + AYT * 3 + (IAC + AYT) * 9)
    assert reader.answered.count(IAC + DONT + ECHO) == 1
    assert reader.answered.count(IAC + WONT + SGA) == 1
    assert reader.answered.count(THERE) == 1
    reader.receive(IAC + WILL + ECHO)
    assert reader.answered.count(IAC + DONT + ECHO) == 2


def test_a_flood_of_requests_has_a_bounded_answer() -> None:
    reader = Reader()
    options = [bytes([option]) for option in range(256)]
    reader.receive(b"".join(IAC + verb + option for verb in (DO, WILL, DONT, WONT) for option in options) * 20)
    reader.receive((IAC + DO + TM) * 100_000)
    assert len(reader.answered) < 3 * (2 * 256 + 2 * 64 + 2)


PARTS = st.sampled_from(
    [
        *[b"a", b" ", b"\r", b"\n", b"\0", b"/me x", DEL, BS, KILL, WORD, ESC, b"[A", b"]0;t", BEL, BOM, "é".encode()],
        *[IAC + DO + TM, IAC + DO + ECHO, IAC + WILL + BINARY, IAC + WONT + BINARY, IAC + AYT, IAC + b"\xf7"],
        *[IAC + IAC],
        *[IAC + SB + b"x", IAC + SE, b"y" * 60, "\u2066".encode(), b"\xc3", b"\x9b", IAC],
    ]
)
STREAMS = st.lists(PARTS, max_size=14).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 200), max_size=8))
def test_a_death_between_any_two_chunks_changes_nothing(stream: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[start:end] for start, end in pairwise(places)]
    calm, troubled = read(chunks, death=False), read(chunks, death=True)
    assert troubled.asked == calm.asked == read([stream], death=False).asked
    assert troubled.answered == calm.answered
    assert troubled.manner == calm.manner


def test_what_nothing_is_asked_for_needs_no_note() -> None:
    framing = DIALECT.framing(manner="telnet", noted=3, position=3)
    framing.receive(IAC + DM + b"a\r\n", 0.0)
    assert framing.take_note() is None
    assert [text for _, text in framing.take(9)] == ["a"]
    assert framing.take_note() is None


def test_the_first_note_says_that_it_is_telnet() -> None:
    framing = DIALECT.framing()
    framing.receive(IAC + DM, 0.0)
    assert framing.take_note() == (2, Negotiate("", "telnet"))
