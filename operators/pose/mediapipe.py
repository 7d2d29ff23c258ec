"""`pose.mediapipe`: body poses by MediaPipe's pose landmarker (BlazePose GHUM), on the CPU.

Invariant: the landmarker sees strictly rising times for as long as it lives, whatever the stream's clock does. It fetches nothing: the
model must be there (`engine models pull pose`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from engine.errors import DeviceError, MediaError, MissingError, ReplayError
from engine.operator import HOST_RGB, Live, Operator, Range, operator
from engine.payload import Image, Pose, Scalar
from engine.site import Site
from operators.pose.follow import Follow
from operators.pose.joints import FROM_MEDIAPIPE, to_openpose
from operators.pose.quiet import quiet

if TYPE_CHECKING:
    import numpy as np


class Tracked(NamedTuple):
    """The people of a frame, and how steady they are."""

    pose: Pose
    stability: Scalar


@operator("pose.mediapipe")
class MediaPipePose(Operator):
    """Find and follow people with MediaPipe's pose landmarker in its video mode, in OpenPose-18 order.

    model: "lite", "full" or "heavy" (fetch with `engine models pull pose`, `pose-lite`, `pose-heavy`), or the path of a .task file.
    num_people: the most people to look for; more than one costs a detection on every frame in which fewer are found.
    min_detection, min_presence, min_tracking: confidences (0..1) below which a person is not found, not there, or looked for again.
    smoothing: 0 leaves the joints as they are found, 1 is very calm: a 1-euro filter on top of the landmarker's own.
    hold_ms, fade_ms: a person who is lost stays for `hold_ms`, then loses visibility over `fade_ms`, then is gone.

    Outputs: `pose`, and `stability` as `pose.stability` defines it. A person's right stays right. Raises MissingError without the model.
    """

    def __init__(
        self,
        *,
        model: str = "full",
        num_people: Annotated[int, Range(1, 10)] = 1,
        min_detection: Annotated[float, Range(0, 1)] = 0.5,
        min_presence: Annotated[float, Range(0, 1)] = 0.5,
        min_tracking: Annotated[float, Range(0, 1)] = 0.5,
        smoothing: Annotated[float, Live(0, 1)] = 0.3,
        hold_ms: Annotated[float, Live(0, 60_000)] = 400.0,
        fade_ms: Annotated[float, Live(0, 60_000)] = 600.0,
    ) -> None:
        self.model = model
        self.num_people = num_people
        self.confidences = (min_detection, min_presence, min_tracking)
        self.smoothing, self.hold_ms, self.fade_ms = smoothing, hold_ms, fade_ms
        self._landmarker: Any = None
        self._image: Any = None
        self._follow = Follow(num_people)
        self._stamp = -1  # ms: the last time the landmarker was given
        self._shift: int | None = None  # ms: from the stream's clock to the landmarker's
        self._remarks = 50  # calls that may still bring a remark: the landmarker's last one comes with the first person it finds

    def open(self, site: Site) -> None:
        super().open(site)
        from operators.models import find

        path = find(f"pose-{self.model}" if self.model in ("lite", "full", "heavy") else self.model)
        with quiet():
            try:
                import mediapipe
                from mediapipe.tasks.python import BaseOptions, vision
            except ImportError as error:
                raise MissingError(f"pose.mediapipe needs the package mediapipe: {error}", fix="pip install mediapipe") from error
            options = vision.PoseLandmarkerOptions(
                base_options=BaseOptions(model_asset_path=str(path)),
                running_mode=vision.RunningMode.VIDEO,
                num_poses=self.num_people,
                min_pose_detection_confidence=self.confidences[0],
                min_pose_presence_confidence=self.confidences[1],
                min_tracking_confidence=self.confidences[2],
            )
            try:
                self._landmarker = vision.PoseLandmarker.create_from_options(options)
            except (RuntimeError, ValueError) as error:
                raise MediaError(f"{path} is no pose landmarker that MediaPipe can load: {error}", fix="engine models pull pose") from error
            self._image = lambda data: mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=data)
            self._blank()

    def __call__(self, image: Annotated[Image, HOST_RGB]) -> Tracked:
        import numpy as np

        picture = np.ascontiguousarray(image.data)
        height, width = picture.shape[:2]
        with quiet() if self._remarks else contextlib.nullcontext():
            people = self._detect(picture, self.site.pts // 1_000_000).pose_landmarks
        self._remarks = 0 if people else max(0, self._remarks - 1)
        found = np.array([[(p.x, p.y, min(p.visibility or 0, p.presence or 0)) for p in person] for person in people], np.float32)
        found = to_openpose(found.reshape(-1, 33, 3), FROM_MEDIAPIPE)
        joints, stability = self._follow(
            found, self.site.pts, height, width, smoothing=self.smoothing, hold_ms=self.hold_ms, fade_ms=self.fade_ms
        )
        return Tracked(Pose(joints, (height, width), stability), Scalar(stability))

    def _detect(self, picture: np.ndarray[Any, Any], now: int) -> Any:
        if self._shift is None:
            self._shift = self._stamp + 1 - now
        self._stamp = max(now + self._shift, self._stamp + 1)
        try:
            return self._landmarker.detect_for_video(self._image(picture), self._stamp)
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"MediaPipe failed on a {picture.shape[1]}x{picture.shape[0]} picture: {error}") from error

    def _blank(self) -> None:
        """Show the landmarker an empty picture: it loads what it loads late, and lets go of whomever it followed.

        That takes 20 ms where a new landmarker takes 200; positions come out as from a new one, and only its average of visibility over
        some ten frames goes on.
        """
        import numpy as np

        self._shift = None
        self._detect(np.zeros((256, 256, 3), np.uint8), 0)
        self._shift = None

    def reset(self) -> None:
        self._follow.reset()
        if self._landmarker is not None:
            self._blank()

    def snapshot(self) -> Any:
        """Our smoothing could be said, the landmarker's tracks and averages cannot; half a state would give other poses than the run had."""
        raise ReplayError(
            "whom MediaPipe follows, and its own smoothing, lie within its landmarker, which hands nothing out", fix="use pose.onnx"
        )

    def close(self) -> None:
        landmarker, self._landmarker = self._landmarker, None
        if landmarker is not None:
            landmarker.close()
