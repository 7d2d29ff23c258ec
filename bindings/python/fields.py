"""Reading values that came from outside: MessagePack with bounds, and maps whose entries are asked for by type and range.

Invariant: whatever is wrong raises WireError and names the key; nothing of the size that the data claims is allocated first. Knows no header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgpack

INT64: Final = 1 << 63


class WireError(ValueError):
    """A message that does not follow the wire format, or exceeds the reader's limits. `key` names what is wrong."""

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(f"{key}: {message}" if key else message)


def unpack(data: Any) -> Any:
    """A MessagePack value; text keys, bounded by the length of the data, no extension types. Raises WireError."""
    view = memoryview(data)
    bound = max(view.nbytes, 1)
    try:
        return msgpack.unpackb(
            view, raw=False, strict_map_key=True, max_str_len=bound, max_bin_len=bound, max_array_len=bound, max_map_len=bound,
            max_ext_len=0, ext_hook=_no_extension, timestamp=0,
        )  # fmt: skip
    except WireError:
        raise
    except Exception as error:  # msgpack has a dozen ways to say that bytes are no MessagePack
        raise WireError("", f"this is no MessagePack: {type(error).__name__}: {str(error)[:120]}") from error


def _no_extension(code: int, data: bytes) -> Any:
    raise WireError("", f"extension type {code} is not part of the format")



class Fields:
    """Values of a map that came from outside, each asked for by type and range."""

    def __init__(self, raw: Mapping[str, Any], at: str = "") -> None:
        self.raw, self.at = raw, at

    def _found(self, key: str, value: Any, expected: str) -> WireError:
        shown = "nothing" if value is None else repr(value)[:80]
        return WireError(self.at + key, f"expected {expected}, found {shown}")

    def int(self, key: str, lo: int, hi: int = INT64 - 1) -> int:
        value = self.raw.get(key)
        if type(value) is not int or not lo <= value <= hi:
            raise self._found(key, value, f"a whole number of {lo} to {hi}")
        return value

    def number(self, key: str) -> float:
        value = self.raw.get(key)
        if type(value) not in (int, float):
            raise self._found(key, value, "a number")
        return float(value)

    def text(self, key: str, most: int = 256) -> str:
        value = self.raw.get(key)
        if not isinstance(value, str) or len(value) > most:
            raise self._found(key, value, f"a text of at most {most} characters")
        return value

    def one(self, key: str, choices: Sequence[str]) -> str:
        value = self.raw.get(key)
        if not isinstance(value, str) or value not in choices:
            raise self._found(key, value, "one of " + ", ".join(choices))
        return value

    def ints(self, key: str, hi: int, *, most: int) -> tuple[int, ...]:
        value = self.raw.get(key)
        if not isinstance(value, list) or len(value) > most or not all(type(v) is int and 0 <= v <= hi for v in value):
            raise self._found(key, value, f"at most {most} whole numbers up to {hi}")
        return tuple(value)

    def map(self, key: str, *, required: bool = False) -> dict[str, Any]:
        value = self.raw.get(key)
        if value is None and not required:
            return {}
        if not isinstance(value, dict):
            raise self._found(key, value, "a map")
        return value

    def times(self, key: str) -> dict[str, float]:
        found = self.map(key)
        if not all(type(value) in (int, float) for value in found.values()):
            raise self._found(key, found, "a map of numbers")
        return {name: float(value) for name, value in found.items()}
