"""Payloads that are plain values (`enc` = `msgpack`): poses, prompts, numbers, texts, named values.

Invariant: what `read` returns has the form that its type promises; whatever is wrong raises WireError. Knows no sockets and no arrays but a
pose's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from .fields import Fields, WireError, unpack
from .wire import MAX_PLAIN, MAX_SIDE, Frame


def pack(value: Any) -> bytes:
    """The bytes of a MessagePack payload. Raises WireError where a value is not plain, or is too long."""
    try:
        packed = msgpack.packb(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError("payload", f"holds a value that MessagePack does not know: {error}") from error
    if len(packed) > MAX_PLAIN:
        raise WireError("payload", f"{len(packed)} bytes of plain values are more than {MAX_PLAIN}")
    return bytes(packed)


def read(header: Frame, payload: Sequence[Any]) -> Any:
    """The value of a `msgpack` payload, checked against its type.

    Pose: a map whose `people` is an array (n, 18, 3) float32, `size` (height, width), `stability` float or None. Prompt: a map of `text`,
    `negative`, `blend`. Scalar: float. Text: str. Data: a map. Raises WireError."""
    value = unpack(payload[0])
    if header.type == "Pose":
        return _pose(value)
    if header.type == "Prompt":
        get = Fields(_a_map(value), "payload.")
        return {"text": get.text("text", MAX_PLAIN), "negative": get.text("negative", MAX_PLAIN), "blend": get.int("blend", 0, 1 << 31)}
    if header.type == "Scalar":
        return Fields({"value": value}, "payload.").number("value")
    if header.type == "Text":
        return Fields({"value": value}, "payload.").text("value", MAX_PLAIN)
    return dict(_a_map(value))


def pose_map(people: Any, size: Sequence[int], stability: float | None) -> dict[str, Any]:
    """A pose as its payload's map; `people` (n, 18, 3)."""
    array = np.ascontiguousarray(people, "<f4")
    if array.ndim != 3 or array.shape[1:] != (18, 3):
        raise WireError("payload.people", f"has the shape {array.shape}, not (n, 18, 3)")
    return {"people": array.tobytes(), "n": len(array), "size": [int(size[0]), int(size[1])], "stability": stability}


def _pose(value: Any) -> dict[str, Any]:
    raw = _a_map(value)
    get = Fields(raw, "payload.")
    count, people = get.int("n", 0, 4096), raw.get("people")
    if not isinstance(people, bytes) or len(people) != count * 18 * 3 * 4:
        raise WireError("payload.people", f"is not {count} x 18 x 3 float32")
    size = get.ints("size", MAX_SIDE, most=2)
    if len(size) != 2:
        raise WireError("payload.size", "is not [height, width]")
    stability = None if raw.get("stability") is None else get.number("stability")
    return {"people": np.frombuffer(people, "<f4").reshape(count, 18, 3), "size": size, "stability": stability}


def _a_map(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise WireError("payload", f"is no map but {type(value).__name__}")
    return value


