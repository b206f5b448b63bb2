"""Logging: one line for each event, on standard error or in a file.

Owns the format and the destination. Promises, in every process:

* Logging never raises, and never waits for a reader (`output`).
* Lines that cannot be written are counted, and the log gets the count as soon as there is room.
* A line contains no control character but its own end, whatever is logged.

Callers promise to log no text of a client.

A forked child logs to its parent's destination, and needs nothing from the disk for that. When main reopens the log
file (`reopen_log`), a counter in shared memory tells its children, and each of them reopens it before its next line.
The only state is the handler of the logger "mpchat".
"""

import logging
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpchat.errors import ConfigError, in_words
from mpchat.output import Outlet

log = logging.getLogger(__name__)

STANDARD_ERROR = 2

DEFAULT_LEVEL = "INFO"

FILE_MODE = 0o640
"""The mode of a log file that is created. It is private, since lines contain the addresses of clients."""

_COUNTER = struct.Struct("Q")


class _Escaping(logging.Formatter):
    """A formatter that escapes unprintable characters as Python does. A traceback keeps its line ends."""

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
    """A log file, open as `descriptor`. If the file was moved away, reopening it creates another one."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        # Memory shared with all processes that are forked from here on.
        self._memory = mmap.mmap(-1, _COUNTER.size)
        self._seen = self._count()

    @property
    def was_reopened(self) -> bool:
        """Whether main has reopened it and this process has not."""
        return self._count() != self._seen

    def reopen(self) -> None:
        """Open the file that the path leads to now. If that fails, raise OSError and keep the old file."""
        self._seen = self._count()
        opened = _open_file(self.path)
        # The number stays the same, since children keep this descriptor by its number.
        os.dup2(opened, self.descriptor, inheritable=False)
        os.close(opened)

    def announce(self) -> None:
        """Have the processes that were forked from this one reopen the file, too."""
        self._seen += 1
        _COUNTER.pack_into(self._memory, 0, self._seen)

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)

    def _count(self) -> int:
        (count,) = _COUNTER.unpack_from(self._memory)
        return int(count)


def _open_file(path: str) -> int:
    # O_APPEND, since several processes write to it. O_NONBLOCK, since it may be a FIFO (open(2)).
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY, FILE_MODE)


class _Handler(logging.Handler):
    """Writes lines to standard error, or to a file."""

    def __init__(self, file: _LogFile | None) -> None:
        super().__init__()
        self.file = file
        self.lost = 0
        """How many lines could not be written that the log does not account for yet."""
        self._outlet = self._make_outlet()

    def name_process(self, process: str) -> None:
        """Log under this name from now on. The lines that the parent has lost are the parent's to report."""
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
        """Reopen the log file if main has, and log how many lines were lost if there is room for that line."""
        if self.file is not None and self.file.was_reopened:
            self.reopen()
        if self.lost:
            with self._locked():
                if self._write(_make_record(logging.WARNING, "log lines lost count=%d", self.lost)):
                    self.lost = 0

    def reopen(self) -> bool:
        """Reopen the log file. If that fails, log it to the old file and return False."""
        assert self.file is not None
        with self._locked():
            try:
                self.file.reopen()
            except OSError as error:
                message = "log file cannot be reopened: the destination stays reason=%s"
                self.lost += not self._write(_make_record(logging.ERROR, message, in_words(error)))
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
        except Exception as error:  # noqa: BLE001 - a mistake in a log call must not end the process
            where, kind = f"{record.pathname}:{record.lineno}", type(error).__name__
            line = self.format(_make_record(logging.ERROR, "log line cannot be formatted error=%s at=%s", kind, where))
        return f"{line}\n".encode(errors="backslashreplace")


def _make_record(level: int, message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord(__name__, level, __file__, 0, message, arguments, None)


def _find_handler() -> _Handler | None:
    """Return the handler that `start_logging` has made, in this process or in its parent before the fork."""
    for handler in logging.getLogger("mpchat").handlers:
        if isinstance(handler, _Handler):
            return handler
    return None


def start_logging(process: str, level: str | None = None, file: str = "", insist: bool = True) -> None:
    """Log from `level` on, under the name `process`, to `file` or standard error.

    In a process that logs already, or whose parent did before the fork, the destination stays as it is. So does the
    level if none is given. If the file cannot be opened, raise ConfigError; without `insist`, log that to standard
    error, which stays the destination until `reopen_log` succeeds.
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
        # Log records of libraries, such as asyncio's. They would go through the buffer of sys.stderr.
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
    """Raise ConfigError if `path` is not empty and cannot be opened as a log file."""
    if path:
        _make_handler(path, insist=True).close()


def set_log_level(level: str) -> None:
    """Log from this level on."""
    logging.getLogger("mpchat").setLevel(level.upper())


def log_descriptors() -> list[int]:
    """Return the descriptors that a forked child needs for logging, beside the standard ones."""
    handler = _find_handler()
    return [] if handler is None or handler.file is None else [handler.file.descriptor]


def report_lost_lines() -> None:
    """Log how many lines were lost, if any were and there is room for this one.

    To be called from time to time, since there may be nothing else to log for long.
    """
    handler = _find_handler()
    if handler is not None:
        handler.report()


def reopen_log() -> None:
    """Reopen the log file, in this process and in those that were forked from it: the old one may have been moved away.

    If that fails, log it and keep the old file. Does nothing without a log file.
    """
    handler = _find_handler()
    if handler is not None and handler.file is not None and handler.reopen():
        handler.file.announce()
        log.info("log file reopened")
