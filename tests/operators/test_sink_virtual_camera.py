"""`sink.virtual_camera` through a backend registered with pyvirtualcam, which stands for a driver; and what it says where there is none."""

from __future__ import annotations

import builtins
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from media_clips import number_of, numbered

from engine.clock import RealClock
from engine.errors import DeviceError, MissingError
from engine.payload import Image
from engine.testing import Bench, conform

pyvirtualcam = pytest.importorskip("pyvirtualcam")


class Fake:
    """A camera that keeps what it is sent. `block`: holds a send up; `broken`: what it raises."""

    opened: list[Fake] = []
    block: threading.Event | None = None
    broken: Exception | None = None

    def __init__(self, *, width: int, height: int, fps: float, fourcc: int, device: str | None) -> None:
        if width > 4000:
            raise RuntimeError("too wide for this camera")
        self.shape, self.fps, self.name = (height, width, 3), fps, device or "fake 0"
        self.shown: list[tuple[float, np.ndarray]] = []
        self.closed = 0
        Fake.opened.append(self)

    def device(self) -> str:
        return self.name

    def native_fourcc(self) -> None:
        return None

    def send(self, frame: np.ndarray) -> None:
        if Fake.broken is not None:
            raise Fake.broken
        self.shown.append((time.monotonic(), frame.reshape(self.shape).copy()))
        if Fake.block is not None:
            Fake.block.wait(10)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Fake, "opened", [])
    pyvirtualcam.register_backend("fake", Fake)
    yield
    del pyvirtualcam.camera.BACKENDS["fake"]


def live(**params: Any) -> Bench:
    rate = params.pop("fps", 0.0)
    bench = Bench("sink.virtual_camera", backend="fake", site_live=True, site_clock=RealClock(), **params)
    bench.params["fps"] = rate  # `fps` is the bench's own word
    return bench


def until(what: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not what():
        assert time.monotonic() < limit
        threading.Event().wait(0.002)


def test_offline_every_picture_is_shown() -> None:
    with Bench("sink.virtual_camera", backend="fake", device="fake 3") as bench:
        for index in range(10):
            bench(Image(numbered(index, 90, 160)))
    (camera,) = Fake.opened
    assert [number_of(picture) for _, picture in camera.shown] == list(range(10))
    assert camera.closed == 1
    assert bench.outputs == ["camera fake 3"]
    assert bench.operator.tally() == {"offered": 10, "sent": 10}


def test_live_it_goes_on_without_pictures() -> None:
    with live(fps=50.0, slate="dim", slate_after=0.2) as bench:
        bench(Image(numbered(7, 90, 160)))
        (camera,) = Fake.opened
        until(lambda: len(camera.shown) >= 25)
        bench(Image(numbered(8, 90, 160)))
        until(lambda: number_of(camera.shown[-1][1]) == 8)
    light = [picture.mean() for _, picture in camera.shown]
    assert light[1] == light[0]
    assert light[20] < 0.5 * light[0]
    steps = np.diff([at for at, _ in camera.shown[2:20]])
    assert np.median(steps) == pytest.approx(0.02, abs=0.01)


def test_a_camera_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    block = threading.Event()
    monkeypatch.setattr(Fake, "block", block)
    start = time.monotonic()
    with live(always_on=False) as bench:
        bench(Image(numbered(0, 90, 160)))
        until(lambda: len(Fake.opened[0].shown) == 1)
        for index in range(1, 50):
            bench(Image(numbered(index, 90, 160)))
        assert time.monotonic() - start < 2
        block.set()
        until(lambda: len(Fake.opened[0].shown) == 2)
    assert number_of(Fake.opened[0].shown[-1][1]) == 49, "the newest"
    counts = bench.operator.tally()
    assert counts["offered"] == counts["sent"] + counts["replaced"] == 50


def test_other_sizes_are_set_into_it() -> None:
    with Bench("sink.virtual_camera", backend="fake", size="64x48") as bench:
        bench(Image(np.full((200, 100, 3), 200, np.uint8)))
    (camera,) = Fake.opened
    assert camera.shape == (48, 64, 3)
    assert camera.shown[0][1][24, 2].max() == 0
    assert camera.shown[0][1][24, 32].min() > 190


def test_a_camera_that_fails_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "broken", RuntimeError("unplugged"))
    with Bench("sink.virtual_camera", backend="fake") as bench, pytest.raises(DeviceError, match="unplugged"):
        bench(Image(numbered(0, 90, 160)))
    with live() as bench:
        bench(Image(numbered(0, 90, 160)))
        until(lambda: bench.operator.pump.error is not None)
        with pytest.raises(DeviceError, match="unplugged"):
            bench(Image(numbered(1, 90, 160)))
    with Bench("sink.virtual_camera", backend="fake") as bench, pytest.raises(DeviceError, match="too wide"):
        bench(Image(np.zeros((2, 4002, 3), np.uint8)))


def test_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="fake"), Bench("sink.virtual_camera", backend="nothing"):
        pass
    if sys.platform.startswith("linux"):
        monkeypatch.setattr(pyvirtualcam.camera, "BACKENDS", {"v4l2loopback": Fake, "fake": Fake})
        monkeypatch.setattr("operators.media.devices.virtual_cameras", list)
        monkeypatch.delitem(pyvirtualcam.camera.BACKENDS, "fake")
        with pytest.raises(MissingError) as caught, Bench("sink.virtual_camera"):
            pass
        assert "modprobe v4l2loopback" in caught.value.fix
        pyvirtualcam.camera.BACKENDS["fake"] = Fake
    real = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name == "pyvirtualcam":
            raise ImportError("No module named 'pyvirtualcam'")
        return real(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingError) as caught, Bench("sink.virtual_camera"):
        pass
    assert "[vcam]" in caught.value.fix


def test_conformance() -> None:
    conform("sink.virtual_camera", backend="fake")
