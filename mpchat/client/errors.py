"""What can go wrong for a client, as a person is told it.

MpchatError
└── ClientError            str() is one line for the person, without "! "
    ├── AddressError       HOST:PORT is not an address (usage: exit code 2)
    ├── ConnectFailed      there was never a connection
    ├── ConnectionEnded    there was one; it was lost, or is used after its end
    │   └── ServerClosed   the server ended it in an orderly way, unasked
    ├── Stalled            the server has stopped reading
    ├── NameRefused        the server does not want this name
    ├── LineRefused        the server did not take a line of ours
    └── TerminalFailed     our own input or output fails
        └── OutputClosed   nobody reads our output any more, as with `| head -1`
"""

from mpchat.errors import MpchatError


class ClientError(MpchatError):
    """The base; the message is one line for a person."""


class AddressError(ClientError):
    """What was given is no HOST[:PORT]."""


class ConnectFailed(ClientError):
    """The name is unknown, nobody listens there, or nobody answers in time."""


class ConnectionEnded(ClientError):
    """The connection is over."""


class ServerClosed(ConnectionEnded):
    """The server has closed, and we had not yet said all."""


class Stalled(ClientError):
    """The connection stands and the server does not read, for longer than throttling explains."""


class NameRefused(ClientError):
    """The message is the server's reason."""


class LineRefused(ClientError):
    """A program cannot look at every answer, so it is told at the end; the message has the first reason."""


class TerminalFailed(ClientError):
    """Standard input cannot be read, or standard output cannot be written."""


class OutputClosed(TerminalFailed):
    """The reader of our output is gone."""
