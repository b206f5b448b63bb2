"""Plain values to bytes and back: the one way in which this program writes and reads what goes through the log.

Plain values are tuples, lists, dicts, strings, bytes, numbers, booleans and None. The bytes are a pickle, since that is
the fastest encoding in the standard library. It is read by an unpickler that can look up no class and no function, so
reading can import nothing and call nothing, whoever wrote the bytes (Python's docs, "Restricting Globals" of `pickle`).
"""

import io
import pickle
from typing import Any


def dump_plain(value: object) -> bytes:
    """The bytes of `value`, which must be plain: anything else cannot be read again."""
    return pickle.dumps(value, protocol=5)


def dump_plain_alike(value: object) -> bytes:
    """As `dump_plain`, but equal values give the same bytes in every process. Slower, and larger."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=5)
    # No memo: what it does depends on which equal strings are one object.
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()


def load_plain(data: bytes | memoryview) -> Any:
    """The value that gave `data`. Raises ValueError for anything that is not the bytes of a plain value."""
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:
        # Broken bytes raise nearly anything ("Note that other exceptions may also be raised", docs of `pickle`).
        raise ValueError(f"not the bytes of a plain value: {error!r}") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise ValueError(f"{module_name}.{global_name} is not plain")
