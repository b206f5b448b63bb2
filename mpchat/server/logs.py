"""Logging: lines on standard error, one event each, that harm no terminal and tell no secrets.

Owns the format. Promises that whatever is logged, a line holds no control character but its own end. That no message of
a client is logged is the promise of those who log.
"""

import logging
import sys
import time
from typing import Any


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


def start_logging(process: str, level: str) -> None:
    """Log what this process has to say, from `level` on, under the name `process`."""
    handler = logging.StreamHandler(sys.stderr)
    line = f"%(asctime)s.%(msecs)03dZ {process} %(levelname)s %(message)s"
    handler.setFormatter(_Escaping(line, "%Y-%m-%dT%H:%M:%S"))
    root = logging.getLogger("mpchat")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
