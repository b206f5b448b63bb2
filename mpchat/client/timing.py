"""How long a client waits for what, in seconds, and where each number comes from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Every wait of the client. Tests hand in shorter ones; nobody else should need to."""

    connect: float = 10.0
    """To find the host and get an answer from one of its addresses, all together."""

    silence: float = 120.0
    """Of the network, with something of ours under way that nobody acknowledges (TCP_USER_TIMEOUT in tcp(7)). Without
    it Linux tries for 15 minutes and more (tcp_retries2). As long as keep-alive takes without anything under way."""

    greeting: float = 1.0
    """For the server's first line. A server that is silent for longer takes messages without line ends."""

    quiet: float = 0.2
    """After which text without a line end, like a prompt, is shown as it is. The server side of mpchat waits as
    long for a line end before it takes what came for a message (docs/reference/line-protocol.md, "Framing")."""

    claim: float = 30.0
    """For an mpchat server's answer to a name. It has to survive a restart of the server's sequencer, and end
    before the server gives up on us (60 s: docs/reference/line-protocol.md, "Signing on")."""

    stranger: float = 1.0
    """For what a server that greets, but is no mpchat, has to say to a name: it cannot be understood."""

    segment_gap: float = 0.05
    """Between two messages without line ends, so that the server's recv() returns them one by one. More than the
    40 ms for which Linux delays an acknowledgement (TCP_DELACK_MIN, include/net/tcp.h), the longest that a
    kernel on the way holds small segments together."""

    name_gap: float = 0.3
    """After a name without a line end. An mpchat server needs 200 ms of silence to see that no line end comes
    (docs/reference/line-protocol.md, "Framing")."""

    idle: float = 5.0
    """For the server to close when our piped input has ended; begins again whenever something moves."""

    farewell: float = 1.0
    """The same when a person leaves, who wants the prompt of his shell back."""

    line: float = 1.0
    """A server that throttles has taken a line this long after the one before, at the latest. What it holds back
    cannot be seen from here, so `idle` begins only when it must have caught up."""
