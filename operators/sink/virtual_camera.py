"""`sink.virtual_camera`: pictures as a camera that other programs open (OBS, browsers, conferences), through pyvirtualcam.

Invariant: under the live clock the graph never waits for the camera: a thread of its own sends the newest picture, and goes on at the camera's
rate when none comes. What can be found out without a picture is found out in open.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from engine.clock import RealClock
from engine.errors import DeviceError, EngineError, MissingError
from engine.operator import HOST_RGB, Operator, Range, operator
from engine.payload import Image
from engine.site import Site
from operators.media.geometry import parse_size
from operators.sink.canvas import Canvas
from operators.sink.pacing import AlwaysOn, Pacing, check_slate

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

PACKAGE = 'pip install "afterimage-engine[vcam]"'
SETUP = {
    "linux": "sudo apt install v4l2loopback-dkms && sudo modprobe v4l2loopback exclusive_caps=1 card_label=Afterimage",
    "darwin": "install OBS 30 or newer, start it once and press Start Virtual Camera; it may be closed then",
    "win32": "install OBS 26 or newer, or Unity Capture; both bring a camera",
}
"""What makes a virtual camera, by `sys.platform`."""


def setup_hint() -> str:
    return SETUP.get(sys.platform, "this system has no virtual camera that pyvirtualcam knows")


@operator("sink.virtual_camera")
class VirtualCamera(Operator):
    """Show pictures (H, W, 3) as a camera.

    Needs the extra `vcam` (pyvirtualcam) and a driver: v4l2loopback on Linux, OBS on macOS and Windows, or Unity Capture on Windows.
    `device`: which one, such as "/dev/video2"; "" takes the first. `backend`: "" tries all. `size`: "WIDTHxHEIGHT" of the camera; "" is that
    of the first picture; others are set into it between bars. `fps`: of the camera, 0: the source's.
    `always_on`, `slate`, `slate_after`: as in sink.video, here on by default, because programs take a camera that falls silent for broken.
    Under the live clock a slow camera gets the newest picture; offline it gets every one.
    Raises MissingError (package or driver not installed, with what to do) or DeviceError.
    """

    def __init__(
        self, *, device: str = "", backend: str = "", size: str = "", fps: Annotated[float, Range(0, 1000)] = 0.0, always_on: bool = True,
        slate: str = "last", slate_after: Annotated[float, Range(0)] = 2.0,
    ) -> None:  # fmt: skip
        self.device, self.backend, self.size, self.fps = device, backend, size, fps
        self.always_on, self.slate, self.slate_after = always_on, slate, slate_after
        self.camera: Any = None
        self.canvas: Canvas | None = None
        self.pump: Pump | None = None
        self.counts: Counter[str] = Counter()

    @classmethod
    def exclusive(cls, params: Mapping[str, Any]) -> str | None:
        return f"virtual camera {params['device']}"

    def open(self, site: Site) -> None:
        super().open(site)
        try:
            import pyvirtualcam
        except ImportError as error:
            raise MissingError(f"pyvirtualcam is not installed: {error}", fix=PACKAGE) from error
        known = list(pyvirtualcam.camera.BACKENDS)
        if self.backend and self.backend not in known:
            raise DeviceError(f'there is no virtual camera of kind "{self.backend}"', fix="there is " + (", ".join(known) or "none"))
        if known == ["v4l2loopback"] and not self.device:
            from operators.media.devices import virtual_cameras

            if not virtual_cameras():
                raise MissingError("there is no virtual camera on this machine", fix=setup_hint())
        if self.always_on:
            check_slate(self.slate)
        if want := parse_size(self.size):
            self._start((want[1], want[0]))

    def _start(self, size: tuple[int, int]) -> None:
        import pyvirtualcam

        site = self.site
        fps = self.fps or site.origin.fps or 25.0
        self.canvas = Canvas(site, size)
        try:
            self.camera = pyvirtualcam.Camera(
                size[1], size[0], fps, fmt=pyvirtualcam.PixelFormat.RGB, device=self.device or None, backend=self.backend or None
            )
        except Exception as error:  # each backend raises what it likes
            raise DeviceError(f"no virtual camera opens: {error}", fix=setup_hint()) from error
        site.event("camera", device=self.camera.device, backend=self.camera.backend, size=f"{size[1]}x{size[0]}", fps=fps)
        site.output(f"camera {self.camera.device}")
        if site.live and isinstance(site.clock, RealClock):
            on = AlwaysOn(fps, self.slate, self.slate_after) if self.always_on else None
            self.pump = Pump(self.camera.send, on, self.counts)

    def __call__(self, image: Annotated[Image, HOST_RGB]) -> None:
        if self.canvas is None:
            self._start((image.height, image.width))
        assert self.canvas is not None
        data: Any = image.data
        picture = self.canvas(data)
        self.counts["offered"] += 1
        if self.pump is not None:
            self.pump.offer(picture)
            return
        try:
            self.camera.send(picture)
        except Exception as error:
            raise DeviceError(f"the virtual camera takes no picture: {error}", fix=setup_hint()) from error
        self.counts["sent"] += 1

    def tally(self) -> dict[str, int]:
        return dict(self.counts)

    def close(self) -> None:
        pump, camera = self.pump, self.camera
        self.pump = self.camera = None
        if pump is not None and not pump.close():
            self.site.event("stalled", to="the virtual camera")
            return  # it hangs inside the driver: closing it from here would hang as well
        if camera is not None:
            camera.close()


class Pump:
    """A thread that sends the newest picture, and by `on` goes on without one."""

    def __init__(self, send: Any, on: AlwaysOn | None, counts: Counter[str]) -> None:
        self.send, self.counts = send, counts
        self.pacing = Pacing(on) if on else None
        self.error: EngineError | None = None
        self._changed = threading.Condition()
        self._picture: Array | None = None
        self._spare: list[Array] = []
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="virtual camera", daemon=True)
        self._thread.start()

    def offer(self, picture: Array) -> None:
        """Take a copy of `picture`; one that was not sent yet gives way. Raises the error that ended the camera."""
        import numpy as np

        with self._changed:
            if self.error is not None:
                raise self.error
            if self._picture is not None:
                self.counts["replaced"] += 1
                self._spare.append(self._picture)
            own = self._spare.pop() if self._spare else np.empty_like(picture)
            np.copyto(own, picture)
            self._picture = own
            self._changed.notify_all()

    def close(self) -> bool:
        """End the thread; False where it hangs."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._thread.join(2.0)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._one():
                pass
        except Exception as error:
            self.error = DeviceError(f"the virtual camera takes no picture: {error}", fix=setup_hint())

    def _one(self) -> bool:
        with self._changed:
            if self._picture is None and not self._stop:
                due = self.pacing.due() if self.pacing else None
                self._changed.wait(None if due is None else max(0.0, (due - time.monotonic_ns()) / 1e9))
            if self._stop:
                return False
            picture, self._picture = self._picture, None
        now = time.monotonic_ns()
        if picture is not None:
            if self.pacing:
                self.pacing.fresh(picture, now)
            self.send(picture)
            self.counts["sent"] += 1
            with self._changed:
                self._spare.append(picture)
        elif self.pacing is not None and (due := self.pacing.due()) is not None and now >= due:
            self.send(self.pacing.repeat(now))
            self.counts["repeated"] += 1
        return True
