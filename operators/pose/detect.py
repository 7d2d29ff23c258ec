"""`pose.detect`: people, by whichever pose detector this machine has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from engine.errors import MissingError
from engine.operator import HOST_RGB, Live, Operator, Range, operator
from engine.payload import Image
from engine.site import Site
from operators.pose.mediapipe import MediaPipePose, Tracked
from operators.pose.onnx import OnnxPose


@operator("pose.detect")
class Detect(Operator):
    """Find and follow people, in OpenPose-18 order, with the first detector that can be opened.

    backend: "mediapipe", "onnx", or "auto": MediaPipe where its package and model are there, else the ONNX network `onnx` where it is given,
    else an error that says what was looked for and how to get it. Which one it is, is logged. model: as in pose.mediapipe. onnx, detector:
    the files of pose.onnx. The others are those that both have in common.
    """

    def __init__(
        self,
        *,
        backend: Literal["auto", "mediapipe", "onnx"] = "auto",
        model: str = "full",
        onnx: str = "",
        detector: str = "",
        num_people: Annotated[int, Range(1, 10)] = 1,
        smoothing: Annotated[float, Live(0, 1)] = 0.3,
        hold_ms: Annotated[float, Live(0, 60_000)] = 400.0,
        fade_ms: Annotated[float, Live(0, 60_000)] = 600.0,
    ) -> None:
        common: dict[str, Any] = {"num_people": num_people, "smoothing": smoothing, "hold_ms": hold_ms, "fade_ms": fade_ms}
        self._candidates: list[tuple[str, Operator]] = []
        if backend != "onnx":
            self._candidates.append(("mediapipe", MediaPipePose(model=model, **common)))
        if backend == "onnx" or (backend == "auto" and onnx):
            self._candidates.append(("onnx", OnnxPose(model=onnx or "", detector=detector, **common)))
        self._inner: Any = None

    def open(self, site: Site) -> None:
        super().open(site)
        problems: list[MissingError] = []
        for name, candidate in self._candidates:
            try:
                candidate.open(site)
            except MissingError as error:
                candidate.close()
                problems.append(error)
                continue
            self._inner = candidate
            site.event("pose_backend", backend=name, passed_over=[e.message for e in problems])
            return
        fix = "; or ".join(e.fix for e in problems if e.fix)
        raise MissingError("no pose detector can be used: " + "; ".join(e.message for e in problems), fix=fix)

    def __call__(self, image: Annotated[Image, HOST_RGB]) -> Tracked:
        result: Tracked = self._inner(image)
        return result

    def update(self, **changes: Any) -> None:
        self._inner.update(**changes)

    def reset(self) -> None:
        self._inner.reset()

    def snapshot(self) -> Any:
        return self._inner.snapshot()

    def recall(self, state: Any) -> None:
        self._inner.recall(state)

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()
