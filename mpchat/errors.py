"""The tree of errors, by whose fault they are.

    MpchatError
    ├── ConfigError      the operator's: the configuration is invalid
    │   └── UsageError   the operator's: it is the command line that is invalid
    ├── ListenError      the system's: the server cannot listen on the address
    ├── ArchiveError     the data directory cannot be used; its kinds are in `archive.errors`
    ├── BootError        mpchat's or the system's: the server does not start
    ├── ServeError       mpchat's or the system's: the server started and cannot go on
    ├── ForkError        the system's: there is no process, descriptor or memory for another child
    └── LogError         the log's; its kinds are in `log.port`

When the system refuses something (a limit, a permission, no memory), `blame_system` turns its error into one of these.
An OSError for a call that mpchat should not have made is a bug, and stays as it is, with its traceback.

A mistake of a client is no error of this tree. It is a `chat.problems.Refusal`, which that client is told.
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
"""The error numbers with which the system refuses something, whatever the program does (errno(3)). EAGAIN is not among
them, since a non-blocking socket raises it too."""


class MpchatError(Exception):
    """The base of all errors of mpchat."""


class ConfigError(MpchatError):
    """The configuration is invalid. Exit code 78 (sysexits.h, EX_CONFIG)."""


class UsageError(ConfigError):
    """A value on the command line is invalid. Exit code 2."""


class ListenError(MpchatError):
    """The server cannot listen on the address. Exit code 4."""


class ArchiveError(MpchatError):
    """The data directory cannot be used. Exit code 5."""


class BootError(MpchatError):
    """The sequencer or the workers do not start, or the system refuses something that a start needs. Exit code 3."""


class ServeError(MpchatError):
    """The server started and cannot go on. Exit code 1."""


class ForkError(MpchatError):
    """No child process can be started now, since the system is out of something. A later try may succeed."""


def is_refusal(error: BaseException) -> bool:
    """Whether the system has refused something, so that this error is no bug of mpchat."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in REFUSALS)


def in_words(error: BaseException) -> str:
    """Return what went wrong without the number of the error: ``Permission denied``, ``x.toml: No such file or
    directory``. Every message to a person takes the words for an OSError from here."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if isinstance(error.filename, str) else error.strerror
    if isinstance(error, MemoryError):
        return "out of memory"
    return str(error) or type(error).__name__


@contextmanager
def blame_system(kind: Callable[[str], MpchatError], what: str) -> Iterator[None]:
    """Translate a refusal of the system in this block to an error of this kind, which says ``cannot WHAT: REASON``."""
    try:
        yield
    except (OSError, MemoryError) as error:
        if is_refusal(error):
            raise kind(f"cannot {what}: {in_words(error)}") from error
        raise
