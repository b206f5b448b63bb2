"""Strangers: clients of other protocols that connect here by mistake, told by the first thing that they send.

Owns how they are recognised and what each is told, in its own protocol where that has a way to say so. Never guesses
about anything but the very first line or bytes of a connection.
"""

import enum
import re

__all__ = ["Stranger", "explain_to", "recognise_bytes", "recognise_line", "recognise_long"]


class Stranger(enum.StrEnum):
    """Which protocol it speaks, in the word by which the log says so."""

    HTTP = "http"
    IRC = "irc"
    SSH = "ssh"
    TLS = "tls"


_LINES = (
    # A request line (RFC 9112, 3), also that of HTTP/2's preface.
    (Stranger.HTTP, re.compile(r"[A-Z]{3,20} \S{1,8000} HTTP/\d(\.\d)?\s*$")),
    (Stranger.SSH, re.compile(r"SSH-\d\.\d+-")),  # RFC 4253, 4.2
    # What clients register with (RFC 2812, 3.1; IRCv3 capability negotiation).
    # In any case where nobody would begin so who types.
    (Stranger.IRC, re.compile(r"(?i:CAP (LS|LIST|REQ|END)\b|USER \S+ \S+ \S+ :)")),
    (Stranger.IRC, re.compile(r"(USER \S+ \S+ \S+ |(NICK|PASS) \S+ ?$)")),
)

# A TLS record: handshake, version 3.0 to 3.4 (RFC 8446, 5.1).
_TLS = re.compile(rb"\x16\x03[\x00-\x04]")

# A request line of which the end is not looked for. Only for lines that are too long for a name.
_HTTP = re.compile(rb"[A-Z]{3,20} (/|https?://)")
_HTTP_MOST = 32

_HERE = "This is mpchat, a chat of plain lines"
_HOW = "Connect with nc, telnet or mpchat-client."

_WORDS = {
    Stranger.HTTP: f"HTTP/1.1 400 {_HERE}, and no web server. {_HOW}\r\n\r\n",
    Stranger.IRC: f"ERROR :{_HERE}, and no IRC server. {_HOW}\r\n",
    Stranger.SSH: f"! {_HERE}, and no SSH server. {_HOW}\r\n",
    Stranger.TLS: f"! {_HERE}, without TLS. {_HOW}\r\n",
}


def recognise_line(text: str) -> Stranger | None:
    """Whose first line this is. None: it may be somebody's name."""
    for stranger, pattern in _LINES:
        if pattern.match(text):
            return stranger
    return None


def recognise_bytes(data: bytes | bytearray) -> Stranger | None:
    """Whose first bytes these are, for protocols that have no lines."""
    return Stranger.TLS if _TLS.match(data) else None


def recognise_long(data: bytes | bytearray) -> Stranger | None:
    """Whose first line this is, which is too long to be looked at as a whole."""
    return Stranger.HTTP if _HTTP.match(data[:_HTTP_MOST]) else None


def explain_to(name: str) -> bytes:
    """What the stranger of this value is told."""
    return _WORDS[Stranger(name)].encode()
