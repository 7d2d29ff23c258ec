"""Where a lane computes: the host, or a stream of a GPU.

On a GPU every lane has a stream of its own. A result that crosses lanes carries an event recorded on its stream; the reader's stream waits for
it on the device, and only a reader on the host waits on the host. torch is imported only where a GPU was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Landing:
    """A copy to the host that may be under way, by its event: who reads what it brings waits on the host, whatever their lane computes on."""

    __slots__ = ("event",)

    def __init__(self, event: Any) -> None:
        self.event = event

    def synchronize(self) -> None:
        self.event.synchronize()


class Host:
    """A lane that computes on the host: results are ready when the call returns."""

    asynchronous = False

    def __init__(self, name: str = "cpu") -> None:
        self.name = name

    def enter(self) -> None:
        """Called once on the lane's thread, before its operators open."""

    def record(self, values: Iterable[tuple[str, Any]]) -> Any:
        return None

    def wait(self, ready: Any) -> None:
        """Wait for a packet from a lane on a GPU: the host has to see the bytes."""
        ready.synchronize()

    def finish(self) -> None:
        """Everything submitted has happened when this returns; called before operators close."""


class Cuda(Host):
    """A lane with a CUDA stream. `priority` -1 goes before 0 where both have kernels waiting."""

    asynchronous = True

    def __init__(self, name: str, priority: int) -> None:
        super().__init__(name)
        self.priority = priority
        self._torch: Any = None
        self._stream: Any = None

    def enter(self) -> None:
        import torch

        cuda: Any = torch.cuda
        self._torch = torch
        cuda.set_device(torch.device(self.name))
        self._stream = cuda.Stream(priority=self.priority)
        cuda.set_stream(self._stream)

    def record(self, values: Iterable[tuple[str, Any]]) -> Any:
        """An event after what was submitted so far; None where every result lies on the host, where it was complete when the call returned."""
        if not any(getattr(getattr(value, "data", None), "is_cuda", False) for _, value in values):
            return None
        event = self._torch.cuda.Event(blocking=True)
        event.record(self._stream)
        return event

    def wait(self, ready: Any) -> None:
        if type(ready) is Landing:
            ready.synchronize()
        else:
            self._stream.wait_event(ready)

    def finish(self) -> None:
        self._stream.synchronize()


def pick() -> str:
    """The device for a session: the first GPU that torch can use, else the host."""
    try:
        import torch
    except ImportError:
        return "cpu"
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def lane_device(device: str, priority: int) -> Host:
    """The device of one lane. On Apple's GPUs (mps) there is one stream, and copies to the host wait for it by themselves."""
    return Cuda(device, priority) if device.startswith("cuda") else Host(device)
