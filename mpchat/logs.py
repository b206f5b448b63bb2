"""Logging: lines on standard error or in a file, one event each, that harm no terminal and tell no secrets.

Owns the format, and where the lines go. Promises: logging never raises and never waits for a reader (`output`), in any
process; lines that cannot be written are counted, and the log has the count as soon as it can be written; whatever is
logged, a line holds no control character but its own end. That no message of a client is logged is the promise of those
who log.

A forked child logs to where its parent does, and needs nothing from the disk for that. When main opens the log file
anew (`reopen_log`), a counter in shared memory tells its children, and each does the same before its next line. There
is no state here but the handler of the logger "mpchat".
"""

import logging
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpchat.errors import ConfigError
from mpchat.output import Outlet

log = logging.getLogger(__name__)

STANDARD_ERROR = 2

DEFAULT_LEVEL = "INFO"

FILE_MODE = 0o640
"""Of a log file that is made: lines tell who connects from where."""

_COUNTER = struct.Struct("Q")


class _Escaping(logging.Formatter):
    """A formatter whose lines are printable: what is not is written as Python does. A traceback keeps its lines."""

    converter = staticmethod(time.gmtime)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _escape(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return _escape_lines(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _escape_lines(super().formatStack(stack_info))


def _escape_lines(text: str) -> str:
    return "\n".join(map(_escape, text.split("\n")))


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class _LogFile:
    """A log file, open as `descriptor`. It can be moved away: opened anew, it is made anew."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        # Shared with all processes that are forked from here on; no file leads to it.
        self._memory = mmap.mmap(-1, _COUNTER.size)
        self._seen = self._count()

    @property
    def was_reopened(self) -> bool:
        """Whether main has opened it anew, and this process not yet."""
        return self._count() != self._seen

    def reopen(self) -> None:
        """Open it where the path leads now. Raises OSError when that fails, and stays what it was."""
        self._seen = self._count()
        opened = _open_file(self.path)
        # The number stays: it is what a child keeps of our descriptors.
        os.dup2(opened, self.descriptor, inheritable=False)
        os.close(opened)

    def announce(self) -> None:
        """Have the processes that were forked from this one reopen it, too."""
        self._seen += 1
        _COUNTER.pack_into(self._memory, 0, self._seen)

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)

    def _count(self) -> int:
        (count,) = _COUNTER.unpack_from(self._memory)
        return int(count)


def _open_file(path: str) -> int:
    # O_APPEND: several processes write to it. O_NONBLOCK: it can be a FIFO (open(2)).
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY, FILE_MODE)


class _Handler(logging.Handler):
    """Writes lines to standard error, or to a file."""

    def __init__(self, file: _LogFile | None) -> None:
        super().__init__()
        self.file = file
        self.lost = 0
        """Lines that could not be written, and that the log does not tell of yet."""
        self._outlet = self._make_outlet()

    def name_process(self, process: str) -> None:
        """Speak for this process from now on. What another has lost is for that one to tell."""
        line = f"%(asctime)s.%(msecs)03dZ {process} %(levelname)s %(message)s"
        with self._locked():
            self.setFormatter(_Escaping(line, "%Y-%m-%dT%H:%M:%S"))
            self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the lock held (logging.Handler.handle)."""
        self.report()
        if not self._write(record):
            self.lost += 1

    def report(self) -> None:
        """Follow main to a new log file; say how many lines could not be written, if that can be said now."""
        if self.file is not None and self.file.was_reopened:
            self.reopen()
        if self.lost:
            with self._locked():
                if self._write(_make_record(logging.WARNING, "%d log lines could not be written", self.lost)):
                    self.lost = 0

    def reopen(self) -> bool:
        """Go on in a new log file; False if it cannot be opened, and the log says so."""
        assert self.file is not None
        with self._locked():
            try:
                self.file.reopen()
            except OSError as error:
                message = "the log file cannot be opened, logging goes on where it was: %s"
                self.lost += not self._write(_make_record(logging.ERROR, message, error))
                return False
            self._outlet = self._make_outlet()
            return True

    def close(self) -> None:
        super().close()
        file, self.file = self.file, None
        if file is not None:
            file.close()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _make_outlet(self) -> Outlet:
        return Outlet(STANDARD_ERROR if self.file is None else self.file.descriptor)

    def _write(self, record: logging.LogRecord) -> bool:
        try:
            self._outlet.write(self._make_line(record))
        except OSError:
            return False
        return True

    def _make_line(self, record: logging.LogRecord) -> bytes:
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - a mistake in what is logged may end nobody
            where, kind = f"{record.pathname}:{record.lineno}", type(error).__name__
            line = self.format(_make_record(logging.ERROR, "a log line cannot be made: %s at %s", kind, where))
        return f"{line}\n".encode(errors="backslashreplace")


def _make_record(level: int, message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord(__name__, level, __file__, 0, message, arguments, None)


def _find_handler() -> _Handler | None:
    """The one that `start_logging` has made, in this process or in its parent before the fork."""
    for handler in logging.getLogger("mpchat").handlers:
        if isinstance(handler, _Handler):
            return handler
    return None


def start_logging(process: str, level: str | None = None, file: str = "", insist: bool = True) -> None:
    """Log what this process has to say, from `level` on, under the name `process`; to `file`, if it is named.

    In a process that logs already, or was forked from one that does, the destination stays as it is, and so does the
    level when none is given. Raises ConfigError when the file cannot be opened; unless `insist`: then the log says so,
    and goes to standard error until `reopen_log` succeeds.
    """
    root = logging.getLogger("mpchat")
    handler = _find_handler()
    if handler is not None:
        handler.name_process(process)
    else:
        handler = _make_handler(file, insist)
        handler.name_process(process)
        if file and not insist:
            handler.reopen()
        root.handlers[:] = [handler]
        root.setLevel(DEFAULT_LEVEL)
        root.propagate = False
        # What libraries have to say, asyncio for one: it would go through the buffer of sys.stderr.
        logging.lastResort = handler
    if level is not None:
        set_log_level(level)


def _make_handler(file: str, insist: bool) -> _Handler:
    if not file:
        return _Handler(None)
    try:
        return _Handler(_LogFile(file, _open_file(file) if insist else os.dup(STANDARD_ERROR)))
    except OSError as error:
        raise ConfigError(f"log_file = {file}: {error.strerror}") from error


def check_log_file(path: str) -> None:
    """Raise ConfigError if this is a log file that cannot be opened."""
    if path:
        _make_handler(path, insist=True).close()


def set_log_level(level: str) -> None:
    """Log from this level on."""
    logging.getLogger("mpchat").setLevel(level.upper())


def log_descriptors() -> list[int]:
    """What a forked child has to keep, beside the standard descriptors, to log where this process does."""
    handler = _find_handler()
    return [] if handler is None or handler.file is None else [handler.file.descriptor]


def report_lost_lines() -> None:
    """Log how many lines could not be written, if there are some and this one can be. To be called now and then, since
    there may be nothing else to log for long."""
    handler = _find_handler()
    if handler is not None:
        handler.report()


def reopen_log() -> None:
    """Go on in a new log file, in this process and in those that were forked from it, since the old one was moved away.
    When it cannot be opened, the log says so and stays where it is. Without a log file there is nothing to do."""
    handler = _find_handler()
    if handler is not None and handler.file is not None and handler.reopen():
        handler.file.announce()
        log.info("the log file is opened anew")
