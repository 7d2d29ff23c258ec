"""Weights that live on the host and cross to the device layer by layer, each while the one before it computes.

Two places on the device hold a layer each. Taking a layer makes computing wait for its copy, on the device, and sends for the layer that came
after it the last time; giving it back marks when its place is free. All waiting is by events between two streams: the host only submits.
Invariants: never more than two layers are on the device; a place is written only when what was computed from it is done, and read only when
its copy is; a layer that was not expected is sent for when it is taken, so that any order gives the same result.
It knows weights and streams, not what is computed or which layers there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Streams(Protocol):
    """Two queues of work, one that computes and one that copies, and events that order them."""

    def mark(self, event: Any) -> Any:
        """An event after all that was submitted to compute so far: `event` anew, or a new one for None."""
        ...

    def wait(self, event: Any) -> None:
        """What is submitted to compute from now on comes after `event`."""
        ...

    def copy(self, into: torch.Tensor, weight: torch.Tensor, after: Any, event: Any) -> Any:
        """Copy when `after` has come. An event after that: `event` anew, or a new one for None."""
        ...

    def settle(self) -> None:
        """Return when nothing is being copied any more."""
        ...


class One:
    """A device with a single queue, as the host is: everything comes in the order in which it is submitted."""

    def mark(self, event: Any) -> Any:
        return event

    def wait(self, event: Any) -> None:
        pass

    def copy(self, into: torch.Tensor, weight: torch.Tensor, after: Any, event: Any) -> Any:
        into.copy_(weight)
        return event

    def settle(self) -> None:
        pass


class Cuda:
    """The lane's stream, and one beside it that copies from pinned memory."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self.device = device
        self.stream: Any = torch.cuda.Stream(device)

    def mark(self, event: Any) -> Any:
        import torch

        event = torch.cuda.Event() if event is None else event
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self, event: Any) -> None:
        import torch

        torch.cuda.current_stream(self.device).wait_event(event)

    def copy(self, into: torch.Tensor, weight: torch.Tensor, after: Any, event: Any) -> Any:
        import torch

        event = torch.cuda.Event() if event is None else event
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(after)
            into.copy_(weight, non_blocking=True)
            event.record(self.stream)
        into.record_stream(self.stream)  # whoever gets this memory after us waits for the copy
        return event

    def settle(self) -> None:
        self.stream.synchronize()


class Place:
    """Room for one layer. `copied`, `done`: events after the copy into it, and after what was computed from it."""

    __slots__ = ("buffer", "copied", "done", "layer", "weight")

    def __init__(self) -> None:
        self.buffer: torch.Tensor | None = None
        self.layer: Any = None
        self.weight: torch.Tensor | None = None
        self.copied: Any = None
        self.done: Any = None


class Ferry:
    """What brings the weights of layers to `device`: modules whose `weight` is on the host, pinned where the device reads it directly."""

    def __init__(self, device: torch.device, streams: Streams | None = None) -> None:
        self.device = device
        self.streams: Streams = streams or (Cuda(device) if device.type == "cuda" else One())
        self.places = (Place(), Place())
        self.used = 0  # the place of the layer taken last
        self.last: Any = None
        self.after: dict[int, Any] = {}  # id of a layer: the one that was taken after it
        self.most = 0  # bytes of the largest

    def add(self, layer: Any) -> None:
        """One more layer that may be taken."""
        self.most = max(self.most, layer.weight.nbytes)

    def take(self, layer: Any) -> torch.Tensor:
        """The weight of `layer` on the device, for what is submitted until it is given back."""
        if self.last is not None:
            self.after[id(self.last)] = layer
        self.last = layer
        at = next((n for n, place in enumerate(self.places) if place.layer is layer), None)
        if at is None:
            at = 1 - self.used
            self._send(layer, at)
        self.used = at
        place = self.places[at]
        self.streams.wait(place.copied)
        follows = self.after.get(id(layer))
        if follows is not None and all(each.layer is not follows for each in self.places):
            self._send(follows, 1 - at)
        assert place.weight is not None
        return place.weight

    def give(self, layer: Any) -> None:
        """What is computed from `layer` has been submitted."""
        place = self.places[self.used]
        assert place.layer is layer
        place.done = self.streams.mark(place.done)

    def written(self, layer: Any) -> None:
        """The weight of `layer` is about to be written on the host."""
        for place in self.places:
            if place.layer is layer:
                self.streams.settle()
                place.layer = place.weight = None

    def _send(self, layer: Any, at: int) -> None:
        import torch

        place, weight = self.places[at], layer.weight
        if place.buffer is None or place.buffer.nbytes < weight.nbytes:
            place.layer = place.weight = None
            place.buffer = torch.empty(max(self.most, weight.nbytes), dtype=torch.uint8, device=self.device)
            place.done = self.streams.mark(place.done)  # the memory may have been something else's until now
        place.layer = None  # should the copy fail, nothing is there
        place.weight = place.buffer[: weight.nbytes].view(weight.dtype).as_strided(weight.shape, weight.stride())
        place.copied = self.streams.copy(place.weight, weight, place.done, place.copied)
        place.layer = layer
