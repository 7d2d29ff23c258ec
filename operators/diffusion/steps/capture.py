"""Work recorded once and submitted again as a whole: CUDA graphs behind an interface of two methods, so that everything about them but the
device can be tested without one.

A body may be captured when all that it reads and writes lies in tensors that stay, and when it asks the host nothing; what it allocates comes
from one pool that all captures of a capturer share, which is right only because none of them ever runs beside another: a body must leave its
results in tensors from outside. Invariant: a capture that fails leaves lane and device as they were.
It knows streams and pools, not what a body computes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from engine.errors import DeviceError

if TYPE_CHECKING:
    import torch

Wanted = Literal["auto", "off", "on"]
ONE = threading.Lock()  # a process can be in one capture at a time


class Replayable(Protocol):
    """Captured work. It runs on the stream that is current when it is replayed."""

    def replay(self) -> None: ...


class Capturer(Protocol):
    """Records bodies. `release` gives back their memory, which is free when the last of its captures is."""

    def capture(self, body: Callable[[], None]) -> Replayable: ...

    def release(self) -> None: ...

    def held(self) -> int:
        """Bytes that captures hold beside the tensors they were given; 0 where that is not known."""
        ...


class CudaCapturer:
    """Records on a stream of its own, in the priority of the lane that asks: a graph's kernels keep the priority that they were captured with.

    Other threads go on as they are meanwhile ("thread_local"): a VLM may allocate while the painter's lane captures.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self.device = device
        with torch.cuda.device(device):
            self.stream: Any = torch.cuda.Stream(priority=getattr(torch.cuda.current_stream(), "priority", 0))
        self.pool: Any = torch.cuda.graph_pool_handle()
        self.bytes = 0

    def capture(self, body: Callable[[], None]) -> Replayable:
        """Record `body` without running it. It must have run before, so that whatever is made on first use is there."""
        import torch

        with ONE:
            current = torch.cuda.current_stream(self.device)
            self.stream.wait_stream(current)  # what `body` reads may still be on its way, and so may be what the pool is used for
            before = torch.cuda.memory_reserved(self.device)
            graph = torch.cuda.CUDAGraph()
            # Not torch.cuda.graph: it waits for the whole device and empties every cache, which frames that fly would feel.
            with torch.cuda.stream(self.stream):
                graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
                try:
                    body()
                except BaseException:
                    try:
                        graph.capture_end()
                    except RuntimeError:
                        pass  # the first error says more
                    raise
                graph.capture_end()
            current.wait_stream(self.stream)
            self.bytes += max(0, torch.cuda.memory_reserved(self.device) - before)
        return graph  # type: ignore[no-any-return]

    def release(self) -> None:
        import torch

        self.pool, self.bytes = torch.cuda.graph_pool_handle(), 0
        torch.cuda.empty_cache()

    def held(self) -> int:
        return self.bytes


def capturer_for(device: torch.device, wanted: Wanted) -> tuple[Capturer | None, str]:
    """What records on `device`, or None and the reason why. Raises DeviceError where graphs are "on" and the device has none."""
    if wanted == "off":
        return None, "graphs = \"off\""
    if device.type == "cuda":
        import torch

        if getattr(torch.version, "hip", None) is None:
            return CudaCapturer(device), ""
        why = "graphs are tried on NVIDIA cards only"
    else:
        why = f"{device.type} has no graphs"
    if wanted == "on":
        fix = 'write graphs = "auto", or run on an NVIDIA card'
        raise DeviceError(f'graphs: expected a device that records work, found {device}: {why}', fix=fix)
    return None, why
