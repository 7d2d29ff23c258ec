"""Pictures on their way to the host while the next frame is computed: a copy on a stream of its own, and an event that readers wait for.

The lane that paints never waits for its own picture. Whether a frame was finite is known when it has landed; until then the device shows the
last good picture in place of a broken one, and the frame after next starts anew. The lane does wait, when a frame is submitted, for the one
before it to land: so the device always has a frame to do, never more than two, and a call takes as long as a frame does.
Invariant: the device does not write again to what a copy still reads. It knows pixels and copies, not frames or steps.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from engine.payload import Image
    from engine.site import Site

SLOTS = 4  # flags under way; no more than two frames are


class Download(Protocol):
    """Copies from the device to pinned memory beside the lane's own work."""

    def __call__(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        """Copy each (from, to) after what the lane has submitted; an event that has happened when they are whole."""
        ...

    def wait(self, event: Any) -> None:
        """What the lane submits from now on happens after `event`."""
        ...


class CudaDownload:
    """By a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self.device, self.stream = device, torch.cuda.Stream(device)

    def __call__(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        import torch

        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for source, target in pairs:
                target.copy_(source, non_blocking=True)
                source.record_stream(self.stream)
            event: Any = torch.cuda.Event(blocking=True)
            event.record(self.stream)
        return event

    def wait(self, event: Any) -> None:
        import torch

        torch.cuda.current_stream(self.device).wait_event(event)


class Later:
    """Emits pictures that land later."""

    def __init__(self, download: Download) -> None:
        self.download = download
        self.shown: torch.Tensor | None = None  # the last good picture, uint8 (H, W, 3)
        self.flags: list[torch.Tensor] = []
        self.flights: deque[tuple[Any, torch.Tensor, Any]] = deque()
        self.count = 0
        self.anew = False  # whether the next frame has to start from noise

    def emit(self, raw: torch.Tensor, total: torch.Tensor, site: Site, note: Any) -> Image:
        """Send `raw`, uint8 (H, W, 3) on the device, or the last good picture where `total` (0-d float32) is not finite; `landed` then gives
        back `note`."""
        import torch

        from engine.payload import Image

        if self.shown is None or self.shown.shape != raw.shape:
            self.shown = torch.zeros_like(raw)
            self.flag, self.fine = torch.zeros_like(total), torch.zeros((), dtype=torch.bool, device=total.device)
            self.none = torch.zeros_like(total)
        if self.flights:
            self.download.wait(self.flights[-1][0])
        self.flag.copy_(total)
        torch.sub(self.flag, self.flag, out=self.none)  # zero, but for what is not finite
        torch.eq(self.none, 0.0, out=self.fine)
        torch.where(self.fine, raw, self.shown, out=self.shown)
        picture = site.empty(tuple(raw.shape), pinned=True)
        while len(self.flags) < SLOTS:
            self.flags.append(torch.zeros((), pin_memory=raw.is_cuda))
        flag = self.flags[self.count % SLOTS]
        self.count += 1
        event = self.download([(self.shown, torch.from_numpy(picture)), (self.flag, flag)])
        site.landing(event)
        self.flights.append((event, flag, note))
        return Image(picture)

    def landed(self) -> list[Any]:
        """Wait for all frames but the newest; the notes of those that were not finite, whereupon the next frame has to start `anew`."""
        import math

        bad = []
        while len(self.flights) > 1:
            event, flag, note = self.flights.popleft()
            event.synchronize()
            if note is not None and not math.isfinite(float(flag)):
                bad.append(note)
                self.anew = True
                # What was submitted since came from it: nobody has to be told again.
                self.flights = deque((event, flag, None) for event, flag, _ in self.flights)
        return bad


def later_for(device: torch.device, site: Site) -> Later | None:
    """How a node's pictures leave: later on a GPU under the live clock, where readers wait for them; None: with the call. Offline a frame that
    is not finite is painted again before anything goes on."""
    return Later(CudaDownload(device)) if device.type == "cuda" and site.later and site.live else None
