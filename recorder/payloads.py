"""Payloads as plain values and back, their digests, and how far two of them are apart.

Invariant: `unpacked(packed(p))` has the same digest as `p`, to the bit, for every payload that consists of arrays, other payloads and plain
values, wherever its arrays lie. It knows nothing of files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from engine.errors import ReplayError
from engine.payload import PAYLOADS, Payload

if TYPE_CHECKING:
    import numpy as np

LISTED = 4096  # arrays of at most so many finite numbers are written as numbers, which people and plots can read
MAX_BYTES = 1 << 32  # no array of a recording is larger
SMALL = ("Prompt", "Scalar", "Text", "Data", "Pose")  # kinds that are written whole wherever they are met


def host(array: Any) -> np.ndarray[Any, Any]:
    """A NumPy array or a torch tensor as contiguous bytes on the host; bfloat16, which NumPy lacks, as int16."""
    import numpy as np

    if hasattr(array, "data_ptr"):
        array = array.detach()
        if str(array.dtype) == "torch.bfloat16":
            array = array.view(sys.modules["torch"].int16)
        array = array.cpu().numpy()
    return np.ascontiguousarray(array)


def dtype_of(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def parts(payload: Payload) -> list[tuple[str, Any]]:
    """The fields of a payload, with their values."""
    return [(f.name, getattr(payload, f.name)) for f in fields(cast("Any", payload))]


def nbytes(value: Any) -> int:
    """How many bytes of arrays a payload or a plain structure holds."""
    if is_array(value):
        return int(value.nbytes)
    if isinstance(value, Payload):
        return sum(nbytes(part) for _, part in parts(value))
    if isinstance(value, Mapping):
        return sum(nbytes(v) for v in value.values())
    return sum(nbytes(v) for v in value) if isinstance(value, (list, tuple)) else 0


# ---------------------------------------------------------------- digests


def digest(*values: Any) -> str:
    """BLAKE2b-128 of payloads, arrays and plain values: their types, shapes and bytes; 32 hexadecimal digits."""
    made = hashlib.blake2b(digest_size=16)
    for value in values:
        _feed(made, value)
    return made.hexdigest()


def _feed(made: Any, value: Any) -> None:
    if is_array(value):
        made.update(f"[{dtype_of(value)} {tuple(int(n) for n in value.shape)}]".encode())
        flat = host(value)
        made.update(flat.reshape(-1).view("uint8").data if flat.size else b"")
    elif isinstance(value, Payload):
        made.update(f"<{type(value).__name__}>".encode())
        for name, part in parts(value):
            made.update(f".{name}".encode())
            _feed(made, part)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            made.update(f"{key!r}:".encode())
            _feed(made, value[key])
    elif isinstance(value, (list, tuple)):
        made.update(f"({len(value)}".encode())
        for item in value:
            _feed(made, item)
    else:
        made.update(f"{type(value).__name__}={value!r};".encode())


# ---------------------------------------------------------------- plain values


def packed(value: Any) -> Any:
    """Payloads, arrays and what holds them as values that JSON can hold without loss."""
    if isinstance(value, Payload):
        return {"type": type(value).__name__, **{name: packed(part) for name, part in parts(value)}}
    if is_array(value):
        return _packed_array(value)
    if isinstance(value, Mapping):
        plain = all(isinstance(key, str) and not key.startswith("#") for key in value) and not {"dtype", "type"} & set(value)
        return {k: packed(v) for k, v in value.items()} if plain else {"#map": [[packed(k), packed(v)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"#tuple": [packed(v) for v in value]}
    if isinstance(value, (list, set, frozenset)):
        return [packed(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"#float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return {"#bytes": base64.b64encode(value).decode()}
    raise ReplayError(f"a {type(value).__name__} cannot be recorded", fix="keep plain values and arrays in payloads and in snapshots")


def _packed_array(value: Any) -> dict[str, Any]:
    import numpy as np

    flat = host(value)
    made: dict[str, Any] = {"dtype": dtype_of(value), "shape": [int(n) for n in value.shape]}
    if hasattr(value, "data_ptr"):
        made["lib"] = "torch"
    if flat.size <= LISTED and flat.dtype.kind in "iuf" and (flat.dtype.kind != "f" or bool(np.isfinite(flat).all())):
        return made | {"values": flat.reshape(-1).tolist()}
    return made | {"base64": base64.b64encode(flat.tobytes()).decode()}


def unpacked(value: Any, device: str = "cpu") -> Any:
    """What `packed` was given; tensors lie on `device`. Raises ReplayError where it is nothing of the kind."""
    try:
        return _unpacked(value, device)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReplayError(f"a value in the recording cannot be read: {type(error).__name__}: {error}") from error


def _unpacked(value: Any, device: str) -> Any:
    if isinstance(value, list):
        return [_unpacked(v, device) for v in value]
    if not isinstance(value, dict):
        return value
    if "dtype" in value and "shape" in value:
        return _unpacked_array(value, device)
    if "type" in value:
        kind = kind_of(value["type"])
        return kind(**{name: _unpacked(v, device) for name, v in value.items() if name != "type"})
    if len(value) == 1:
        (mark, inner), = value.items()
        match mark:
            case "#tuple":
                return tuple(_unpacked(v, device) for v in inner)
            case "#map":
                return {_unpacked(k, device): _unpacked(v, device) for k, v in inner}
            case "#float":
                return float(inner)
            case "#bytes":
                return base64.b64decode(inner, validate=True)
    return {k: _unpacked(v, device) for k, v in value.items()}


def _unpacked_array(value: dict[str, Any], device: str) -> Any:
    import numpy as np

    name, shape = value["dtype"], tuple(int(n) for n in value["shape"])
    stored = np.dtype("int16" if name == "bfloat16" else name)
    if stored.kind not in "biuf" or min(shape, default=0) < 0 or math.prod(shape) * stored.itemsize > MAX_BYTES:
        raise ValueError(f"an array of {name} {shape}")
    if "values" in value:
        array = np.array(value["values"], stored).reshape(shape)
    else:
        array = np.frombuffer(base64.b64decode(value["base64"], validate=True), stored).reshape(shape).copy()
    if value.get("lib") != "torch":
        return array
    import torch

    tensor = torch.from_numpy(array)
    return (tensor.view(torch.bfloat16) if name == "bfloat16" else tensor).to(device)


def kind_of(name: str) -> type[Payload]:
    """The payload type called `name`, third parties' included where their module is imported."""
    if name in PAYLOADS:
        return PAYLOADS[name]
    todo = list(Payload.__subclasses__())
    while todo:
        kind = todo.pop()
        if kind.__name__ == name:
            return kind
        todo += kind.__subclasses__()
    raise ReplayError(f"the recording holds a payload of an unknown type {name!r}", fix="install the package that defines it")


# ---------------------------------------------------------------- distance


def deviation(one: Any, other: Any) -> tuple[float, float] | None:
    """The largest and the mean absolute difference of two payloads of one type, over all their numbers; None where they cannot be compared
    (other types, shapes or texts)."""
    import numpy as np

    if type(one) is not type(other):
        return None
    if isinstance(one, Payload):
        found = [(is_array(a), deviation(a, b)) for (_, a), (_, b) in zip(parts(one), parts(other), strict=True)]
        if any(pair is None for _, pair in found):
            return None
        arrays = [pair for whether, pair in found if whether and pair is not None]  # beside an array its layout or size counts for nothing
        real = arrays or [pair for _, pair in found if pair is not None]
        return (max(p[0] for p in real), max(p[1] for p in real)) if real else (0.0, 0.0)
    if is_array(one):
        if tuple(one.shape) != tuple(other.shape):
            return None
        way = np.abs(host(one).astype(np.float64) - host(other).astype(np.float64))
        return (float(way.max()), float(way.mean())) if way.size else (0.0, 0.0)
    if isinstance(one, (int, float)) and not isinstance(one, bool):
        return abs(float(one) - float(other)), abs(float(one) - float(other))
    return (0.0, 0.0) if json.dumps(packed(one)) == json.dumps(packed(other)) else None


def blank(kind: type[Payload]) -> Payload | None:
    """The smallest payload of a type of ours: stands for what nobody reads. None for other types."""
    import numpy as np

    empty: dict[str, tuple[Any, ...]] = {
        "Image": (np.zeros((1, 1, 3), np.uint8),), "Mask": (np.zeros((1, 1), np.uint8),), "Pose": (np.zeros((0, 18, 3), np.float32),),
        "Latent": (np.zeros((1, 4, 1, 1), np.float32),), "Prompt": ("",), "Scalar": (0.0,), "Text": ("",),
        "Mesh": (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)), "Data": (),
    }  # fmt: skip
    return kind(*empty[kind.__name__]) if PAYLOADS.get(kind.__name__) is kind else None
