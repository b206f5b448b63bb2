"""Encode plain values as bytes, and decode them: the codec for everything that goes through the log.

Plain values are tuples, lists, dicts, strings, bytes, numbers, booleans and None. The bytes are a pickle, since that is
the fastest encoding in the standard library. The unpickler that reads it cannot look up classes or functions. So
reading can import nothing and call nothing, even if the bytes are hostile (Python's docs, "Restricting Globals" of
`pickle`).
"""

import io
import pickle
from typing import Any


def dump_plain(value: object) -> bytes:
    """Return the bytes of `value`. It must be plain: `load_plain` rejects anything else."""
    return pickle.dumps(value, protocol=5)


def dump_plain_alike(value: object) -> bytes:
    """Like `dump_plain`, but equal values give the same bytes in every process. Slower, and the bytes are more."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=5)
    # No memo: its output depends on which equal strings are the same object.
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()


def load_plain(data: bytes | memoryview) -> Any:
    """Return the value that was encoded as `data`. Raises ValueError if `data` encodes no plain value."""
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:
        # Broken bytes raise nearly anything ("Note that other exceptions may also be raised", docs of `pickle`).
        raise ValueError(f"not the bytes of a plain value: {error!r}") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise ValueError(f"{module_name}.{global_name} is not plain")
