"""The conformance kit, run on every operator there is, and on some that are wrong on purpose."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import toys

from engine import Live, Operator, operator, registry
from engine.payload import Image, Scalar
from engine.site import Site
from engine.testing import Conformance, conform

HEAVY = ("diffusion", "vlm", "train", "mesh", "story", "matte")
"""Families that need models: each is held to the kit with a checkpoint of its own, in its own tests."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures: the smallest stream that every reader takes."""
    import cv2

    folder = tmp_path_factory.mktemp("pictures")
    dice = np.random.default_rng(1)
    for i in range(6):
        cv2.imwrite(str(folder / f"{i:03}.png"), dice.integers(0, 256, (48, 64, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import av

    path = tmp_path_factory.mktemp("movie") / "clip.mp4"
    dice = np.random.default_rng(2)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25, width=64, height=48, pix_fmt="yuv420p")
        for _ in range(8):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(dice.integers(0, 256, (48, 64, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode(None))
    return path


def needs(name: str, tmp_path: Path, clip: Path, movie: Path) -> dict[str, Any]:
    """Parameters for operators that need some."""
    count = iter(range(10**6))
    known: dict[str, dict[str, Any]] = {
        "image.crop": {"x": 4, "y": 4, "width": 32, "height": 24},
        "image.resize": {"width": 32, "height": 24},
        "sink.images": {"url": lambda: str(tmp_path / f"out{next(count)}")},
        "sink.rtsp": {"url": "rtsp://127.0.0.1:0/live"},
        "sink.video": {"url": lambda: str(tmp_path / f"out{next(count)}.mp4")},
        "sink.zmq": {"url": "tcp://127.0.0.1:*"},
        "source.images": {"url": str(clip)},
        "source.video": {"url": str(movie)},
    }
    return known.get(name, {})


NAMES = [name for name in registry.all_names() if name.partition(".")[0] not in (*HEAVY, "toy", "test", "engine")]


@pytest.mark.parametrize("name", NAMES)
def test_every_operator(name: str, tmp_path: Path, clip: Path, movie: Path) -> None:
    params = needs(name, tmp_path, clip, movie)
    spec = registry.find(name)
    wanted = {p.name for p in spec.params if p.required}
    absent = ("pose.mediapipe", "pose.onnx", "pose.detect", "sink.virtual_camera", "sink.webrtc", "source.webrtc")
    if not wanted <= set(params) or name in absent:
        kit = Conformance(name, params)
        assert spec.doc
        if wanted <= set(params):
            kit.refuses_bad_parameters()
        pytest.skip("needs a model: held to the kit in its own tests")
    conform(name, **params)


@pytest.mark.parametrize("name", [n for n in registry.all_names() if n.partition(".")[0] in HEAVY])
def test_heavy_operators_describe_themselves(name: str) -> None:
    spec = registry.find(name)
    assert spec.doc
    assert all(p.name.isidentifier() for p in spec.params)


@pytest.mark.parametrize("name", ["toy.count", "toy.film", "toy.add", "toy.memory", "toy.noise", "toy.copy", "toy.stamp", "toy.collect"])
def test_toys(name: str) -> None:
    picture = {"image": toys.picture(Site(node="sample"), 77)} if name in ("toy.copy", "toy.stamp") else None
    conform(name, ports=picture)


# ---------------------------------------------------------------- what it finds


def test_no_docstring() -> None:
    @operator("test.silent_op")
    def silent(a: Scalar) -> Scalar:
        return a

    with pytest.raises(AssertionError, match="no docstring"):
        conform("test.silent_op")


def test_inputs_written_to() -> None:
    @operator("test.writes")
    def writes(image: Image) -> Image:
        """Paints over what it was given."""
        image.data[:] = 0
        return image

    with pytest.raises(AssertionError, match="writes to its inputs"):
        conform("test.writes")


def test_no_repetition() -> None:
    state = np.random.default_rng()

    @operator("test.random")
    def random(a: Scalar) -> Scalar:
        """Random numbers of its own."""
        return Scalar(float(state.random()))

    with pytest.raises(AssertionError, match="does not repeat itself"):
        conform("test.random")


def test_memory_that_outlives_a_run() -> None:
    seen: list[float] = []

    @operator("test.remembers")
    def remembers(a: Scalar) -> Scalar:
        """Keeps state in the module."""
        seen.append(a.value)
        return Scalar(float(len(seen)))

    with pytest.raises(AssertionError, match="does not repeat itself"):
        conform("test.remembers")


def test_a_buffer_kept_beyond_its_call() -> None:
    """Poison shows it: the picture it hands out one frame late is not the one it was given."""

    @operator("test.keeps_buffer")
    class Keeps(Operator):
        """Draws into the buffer of its first frame for ever."""

        def __init__(self) -> None:
            self.canvas: Any = None

        def __call__(self, a: Scalar) -> Image:
            if self.canvas is None:
                self.canvas = self.site.empty((2, 2, 3))
                self.canvas[:] = 1
            return Image(self.canvas)

    kit = Conformance("test.keeps_buffer")
    frames = kit.plays()
    assert (frames[0].data == 1).all()
    assert (frames[1].data == 0xA5).all()


def test_a_thread_left_running() -> None:
    stop = threading.Event()

    @operator("test.threads")
    class Threads(Operator):
        """Starts a thread and forgets it."""

        def __init__(self) -> None: ...

        def open(self, site: Site) -> None:
            super().open(site)
            self.thread = threading.Thread(target=stop.wait, args=(20,), name="forgotten", daemon=True)
            self.thread.start()

        def __call__(self, a: Scalar) -> Scalar:
            return a

    threading.Timer(0.0, lambda: None).start()
    kit = Conformance("test.threads")
    original = threading.Thread.join
    try:
        threading.Thread.join = lambda self, timeout=None: original(self, 0.01)  # type: ignore[method-assign,assignment]
        with pytest.raises(AssertionError, match="leaves the thread 'forgotten' running"):
            kit.opens_and_closes()
    finally:
        threading.Thread.join = original  # type: ignore[method-assign]
        stop.set()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_a_file_left_open(tmp_path: Path) -> None:
    opened: list[Any] = []

    @operator("test.files")
    class Files(Operator):
        """Opens a file and forgets it."""

        def __init__(self) -> None: ...

        def open(self, site: Site) -> None:
            super().open(site)
            opened.append((tmp_path / "left.txt").open("w"))

        def __call__(self, a: Scalar) -> Scalar:
            return a

    with pytest.raises(AssertionError, match=r"leaves open: .*left\.txt"):
        conform("test.files")
    for file in opened:
        file.close()


def test_a_close_that_needs_an_open() -> None:
    @operator("test.closes")
    class Closes(Operator):
        """Closes what it never opened."""

        def __init__(self) -> None: ...

        def open(self, site: Site) -> None:
            super().open(site)
            self.file = [1]

        def __call__(self, a: Scalar) -> Scalar:
            return a

        def close(self) -> None:
            self.file.clear()

    with pytest.raises(AttributeError):
        conform("test.closes")


def test_a_result_in_another_format() -> None:
    @operator("test.floats_out")
    def floats_out(image: Image) -> Image:
        """Says 8 bit, gives floats."""
        return Image(image.data.astype("float32"))

    with pytest.raises(AssertionError, match="float32"):
        conform("test.floats_out")


def test_a_sink_that_returns_something() -> None:
    @operator("test.returns")
    def returns(a: Scalar) -> None:
        """A sink with a result."""
        return a  # type: ignore[return-value]

    with pytest.raises(AssertionError, match="is a sink and returns Scalar"):
        conform("test.returns")


def test_times_that_do_not_rise() -> None:
    with pytest.raises(AssertionError, match="pts do not rise"):
        conform("toy.count", pts=[0, 5, 5, 6])


def test_bounds_are_really_checked() -> None:
    """The kit tries each bound from the other side."""

    @operator("test.bounded")
    def bounded(a: Scalar, *, low: Annotated[int, Live(0, 5)] = 2) -> Scalar:
        """A number within bounds."""
        return a

    conform("test.bounded")
    kit = Conformance("test.bounded")
    kit.spec.model().model_fields["low"].metadata.clear()
    kit.spec.model().model_rebuild(force=True)
    with pytest.raises(AssertionError, match="takes low = "):
        kit.refuses_bad_parameters()


def test_a_live_parameter_under_another_name_is_seen() -> None:
    @operator("test.forgets")
    class Forgets(Operator):
        """A change of `level` would go nowhere."""

        def __init__(self, *, level: Annotated[float, Live(0, 1)] = 0.5) -> None:
            self.strength = level

        def __call__(self, image: Image) -> Image:
            return image

    with pytest.raises(AssertionError, match=r"does not keep its live parameter as self\.level"):
        conform("test.forgets")


def test_a_picture_of_two_channels_is_seen() -> None:
    @operator("test.two_channels")
    def two_channels(image: Image) -> Image:
        """Loses blue."""
        return Image(image.data[:, :, :2].copy())

    with pytest.raises(AssertionError, match=r"returned image of shape .*; a picture is \(H, W, 3\)"):
        conform("test.two_channels")
