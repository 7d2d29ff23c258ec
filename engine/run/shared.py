"""Messages between two processes of this program, with their arrays in shared memory beside them.

A message is pickled without its arrays; these are written to a block once and copied out of it once, into buffers of the reader's choice, so
that the block can be used again at once. Only for pipes whose both ends are ours: pickle is never read from outside.
The one who makes a block also removes it. Knows nothing of operators.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any

SMALL = 4096  # bytes; smaller arrays ride in the message


class Block:
    """A block of shared memory; the parent makes it with `fit`, the child looks at it with `attach`."""

    def __init__(self) -> None:
        self._memory: SharedMemory | None = None

    @property
    def name(self) -> str:
        return self._memory.name if self._memory else ""

    @property
    def size(self) -> int:
        return self._memory.size if self._memory else 0

    @property
    def view(self) -> Any:
        return self._memory.buf if self._memory else None

    def fit(self, size: int) -> None:
        if size > self.size:
            self.free()
            self._memory = SharedMemory(create=True, size=max(size + size // 4, 1 << 20))

    def attach(self, name: str) -> None:
        if name != self.name:
            if self._memory is not None:
                self._memory.close()
            self._memory = SharedMemory(name)

    def free(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory.unlink()
            self._memory = None

    def write(self, arrays: list[tuple[int, Any]]) -> None:
        import numpy as np

        for offset, array in arrays:
            if array.size:
                np.ndarray(array.shape, array.dtype, self.view, offset)[...] = array


class _Pickler(pickle.Pickler):
    """Leaves arrays and tensors out of the message and says where they will stand."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.arrays: list[tuple[int, Any]] = []
        self.size = 0

    def persistent_id(self, obj: Any) -> Any:
        numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
        if numpy is not None and type(obj) is numpy.ndarray and obj.nbytes >= SMALL and obj.dtype.names is None and not obj.dtype.hasobject:
            return ("numpy", self._place(obj), obj.shape, obj.dtype.str, "")
        if torch is not None and isinstance(obj, torch.Tensor):
            raw = obj.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            return ("torch", self._place(raw), tuple(obj.shape), str(obj.dtype).rpartition(".")[2], str(obj.device))
        return None

    def _place(self, array: Any) -> int:
        offset = self.size
        self.arrays.append((offset, array))
        self.size += -(-array.nbytes // 64) * 64
        return offset


class _Unpickler(pickle.Unpickler):
    """Copies arrays out of the block into buffers of this side."""

    def __init__(self, file: io.BytesIO, block: Block, empty: Callable[..., Any]) -> None:
        super().__init__(file)
        self._block, self._empty = block, empty

    def persistent_load(self, pid: Any) -> Any:
        import numpy as np

        kind, offset, shape, dtype, device = pid
        if kind == "numpy":
            array = self._empty(shape, np.dtype(dtype))
            array[...] = np.ndarray(shape, dtype, self._block.view, offset)
            return array
        import torch

        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        raw = tensor.reshape(-1).view(torch.uint8).numpy()
        if raw.size:
            raw[...] = np.ndarray(raw.shape, "uint8", self._block.view, offset)
        return tensor.to(device)


def pack(value: Any) -> tuple[bytes, list[tuple[int, Any]], int]:
    """A message, the arrays that belong beside it, and the bytes they need."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    return file.getvalue(), pickler.arrays, pickler.size


def unpack(message: bytes, block: Block, empty: Callable[..., Any]) -> Any:
    return _Unpickler(io.BytesIO(message), block, empty).load()
