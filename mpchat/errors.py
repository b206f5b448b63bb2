"""The tree of errors, by whose fault they are.

    MpchatError
    ├── ConfigError      the operator's: what was configured cannot be
    ├── ListenError      the system's: the address cannot be listened on
    ├── BootError        ours or the system's: the processes do not come up
    ├── ServeError       ours or the system's: it came up and cannot go on
    ├── ForkError        the system's: there is no process, descriptor or memory for another child
    └── LogError         the log's; its kinds are in `bus.contract`

What the system refuses (a limit, a permission, want of memory) is one of these too, where `blame_system` says so; what
it says to a call that we should not have made is a fault of ours, and stays as it is, with its traceback.

What a client does wrong is no exception of this tree: it is a `chat.problems.Refusal`, told to that client.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

REFUSALS = frozenset(
    {
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EIO, errno.ENOSYS),
    }
)
"""What the system says when it has not got something or does not allow it, whatever we do (errno(3)). EAGAIN is not
among them: a socket says it to who did not wait."""


class MpchatError(Exception):
    """The base of all errors of mpchat."""


class ConfigError(MpchatError):
    """What was configured cannot be. Exit code 78 (sysexits.h, EX_CONFIG)."""


class ListenError(MpchatError):
    """The address cannot be listened on. Exit code 4."""


class BootError(MpchatError):
    """The sequencer or the workers do not come up, or the system refuses what a start needs. Exit code 3."""


class ServeError(MpchatError):
    """The server came up and cannot go on. Exit code 1."""


class ForkError(MpchatError):
    """No child process can be started now: the system is out of something. Worth trying again later."""


def is_refusal(error: BaseException) -> bool:
    """Whether it is the system that has not got something or does not allow it, and not a fault of ours."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in REFUSALS)


@contextmanager
def blame_system(kind: Callable[[str], MpchatError], what: str) -> Iterator[None]:
    """Raise what the system refuses in this block as an error of this kind, which says ``cannot WHAT: REASON``."""
    try:
        yield
    except (OSError, MemoryError) as error:
        if is_refusal(error):
            raise kind(f"cannot {what}: {str(error) or 'out of memory'}") from error
        raise
