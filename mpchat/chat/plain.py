"""Plain values as bytes: tuples, strings, numbers, bytes, True, False and None, and nothing else.

Promises that equal values give the same bytes, in every process: a pickle without a memo, since what a memo does
depends on which strings are the same object. What is read can import and call nothing, whoever has written it.
"""

import io
import pickle
from typing import Any, NoReturn


def encode_plain(value: object) -> bytes:
    """`value` as bytes."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=5)
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()


def decode_plain(data: bytes | memoryview) -> Any:
    """The value that gave `data`. Raises ValueError when there is none."""
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except ValueError:
        raise
    except Exception as error:  # whatever pickle makes of it: it promises no certain ones
        raise ValueError(f"no plain value: {error!r}") from error


class _Unpickler(pickle.Unpickler):
    """Knows no names, so that a pickle has nothing to call (the documentation of pickle, "Restricting Globals")."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise ValueError(f"no plain value: it asks for {module}.{name}")
