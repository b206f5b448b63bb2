"""The tree of errors, by whose fault they are.

    MpchatError
    ├── ConfigError      the operator's: what was configured cannot be
    ├── ListenError      the system's: the address cannot be listened on
    ├── BootError        ours or the system's: the processes do not come up
    ├── ServeError       ours or the system's: it came up and cannot go on
    ├── ForkError        the system's: there is no process, descriptor or memory for another child
    └── LogError         the log's; its kinds are in `bus.contract`

What a client does wrong is no exception of this tree: it is a `chat.problems.Refusal`, told to that client.
"""


class MpchatError(Exception):
    """The base of all errors of mpchat."""


class ConfigError(MpchatError):
    """What was configured cannot be. Exit code 78 (sysexits.h, EX_CONFIG)."""


class ListenError(MpchatError):
    """The address cannot be listened on. Exit code 4."""


class BootError(MpchatError):
    """The sequencer or the workers do not come up. Exit code 3."""


class ServeError(MpchatError):
    """The server came up and cannot go on. Exit code 1."""


class ForkError(MpchatError):
    """No child process can be started now: the system is out of something. Worth trying again later."""
