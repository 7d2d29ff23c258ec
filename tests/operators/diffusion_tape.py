"""A recorder of work that stands in for CUDA graphs on a CPU, as unforgiving as they are.

A capture notes every operation that reaches the dispatcher, with the tensors it read and wrote; a replay does the same operations again on
the memory where those tensors lay, and runs no Python of the body. So numbers and branches are baked in as on a device. Memory from outside
the capture is held weakly: a replay that needs what has gone raises `Dangling`, where a GPU would read whatever lies there now. Asking for a
value on the host fails, as on a capturing stream.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

HOST = ("item", "_local_scalar_dense", "nonzero", "is_nonzero", "equal")


class Dangling(RuntimeError):
    """A replay went to memory that had been given back."""


class Outside:
    """A tensor that was there before the capture: where it lies, not the thing itself."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.ref = StorageWeakRef(tensor.untyped_storage())
        self.dtype, self.offset = tensor.dtype, tensor.storage_offset()
        self.size, self.stride = tensor.size(), tensor.stride()

    def tensor(self) -> torch.Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.ref.cdata)
        if storage is None:
            raise Dangling(f"a replay needs {tuple(self.size)} {self.dtype} that is gone")
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.size, self.stride)


class _Mode(TorchDispatchMode):
    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name in HOST:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        result = func(*args, **(kwargs or {}))
        self.tape.note(func, args, kwargs or {}, result)
        return result


class Tape:
    """One capture."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, list[Any], Any, list[Any]]] = []
        self.inside: set[int] = set()  # storages made by the capture, which it keeps
        self.replays = 0

    def note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        flat, form = tree_flatten((args, kwargs))
        known = [x.untyped_storage()._cdata for x in flat if isinstance(x, torch.Tensor)]
        given = [Outside(x) if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in self.inside else x for x in flat]
        made = []
        for x in tree_flatten(result)[0]:
            fresh = isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in known
            if fresh:
                self.inside.add(x.untyped_storage()._cdata)
            made.append(x if fresh else None)
        self.steps.append((func, given, form, made))

    def replay(self) -> None:
        self.replays += 1
        for func, given, form, made in self.steps:
            args, kwargs = tree_unflatten([x.tensor() if isinstance(x, Outside) else x for x in given], form)
            found = tree_flatten(func(*args, **kwargs))[0]
            for place, value in zip(made, found, strict=True):
                if place is not None and place.untyped_storage()._cdata != value.untyped_storage()._cdata:
                    place.copy_(value)


class Recorder:
    """A capturer. `fail`: raise this instead of the next capture."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.released = 0
        self.fail: BaseException | None = None

    def capture(self, body: Any) -> Tape:
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        tape = Tape()
        with _Mode(tape):
            body()
        self.tapes.append(tape)
        return tape

    def release(self) -> None:
        self.released += 1

    def held(self) -> int:
        return 0

    @property
    def replays(self) -> int:
        return sum(tape.replays for tape in self.tapes)


def settle(bench: Any) -> None:
    """Let the lane be idle until nothing is left to do."""
    for _ in range(200):
        if not bench.operator.idle():
            return
    raise AssertionError("there is always more to do")


def events(bench: Any, what: str) -> list[dict[str, Any]]:
    return [facts for name, facts in bench.events if name == what]


def recording(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """What every stream with graphs = "on" records on from now on."""
    from operators.diffusion.steps import quick

    found, real = Recorder(), quick.capturer_for
    monkeypatch.setattr(quick, "capturer_for", lambda device, wanted: (found, "") if wanted == "on" else real(device, wanted))
    return found
