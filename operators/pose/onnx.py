"""`pose.onnx`: body poses by DWPose- and RTMPose-class networks, through onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from engine.operator import HOST_RGB, Live, Operator, Range, operator
from engine.payload import Image, Pose, Scalar
from engine.site import Site
from operators.pose.follow import Follow
from operators.pose.joints import FROM_COCO, to_openpose
from operators.pose.mediapipe import Tracked

if TYPE_CHECKING:
    import numpy as np

    from operators.pose.networks import Detector, PoseNetwork


@operator("pose.onnx")
class OnnxPose(Operator):
    """Find and follow people with a SimCC pose network (RTMPose, DWPose: 17, 26 or 133 joints), in OpenPose-18 order.

    model: path of its ONNX file. detector: path of a YOLOX ONNX file that finds people; without one, the pose network looks at the whole
    picture first and then where it last found somebody, which suits one person. detect_every: frames between two runs of the detector; in
    between, and right after somebody is found, each person is looked for where they were. num_people: the most people to follow.
    min_detection: confidence (0..1) below which a box is no person. min_presence: mean confidence of the joints below which nobody is there.
    width, height: of the pose network's input in px, where its file leaves them open (0: 192 x 256).
    threads: of onnxruntime on the CPU (0: as many as there are cores). smoothing, hold_ms, fade_ms: as in pose.mediapipe.

    Outputs: `pose`, and `stability` as `pose.stability` defines it. Raises MissingError without the files or without onnxruntime.
    """

    def __init__(
        self,
        *,
        model: str,
        detector: str = "",
        detect_every: Annotated[int, Live(1, 1000)] = 5,
        num_people: Annotated[int, Range(1, 20)] = 1,
        min_detection: Annotated[float, Live(0, 1)] = 0.5,
        min_presence: Annotated[float, Live(0, 1)] = 0.3,
        width: Annotated[int, Range(0, 2048)] = 0,
        height: Annotated[int, Range(0, 2048)] = 0,
        threads: Annotated[int, Range(0, 256)] = 0,
        smoothing: Annotated[float, Live(0, 1)] = 0.3,
        hold_ms: Annotated[float, Live(0, 60_000)] = 400.0,
        fade_ms: Annotated[float, Live(0, 60_000)] = 600.0,
    ) -> None:
        self.model, self.detector, self.size, self.threads = model, detector, (width, height), threads
        self.detect_every, self.num_people = detect_every, num_people
        self.min_detection, self.min_presence = min_detection, min_presence
        self.smoothing, self.hold_ms, self.fade_ms = smoothing, hold_ms, fade_ms
        self._pose: PoseNetwork | None = None
        self._detector: Detector | None = None
        self._follow = Follow(num_people)
        self._boxes: list[np.ndarray[Any, Any]] = []  # where people were in the last frame
        self._since = 0  # frames since the detector ran

    def open(self, site: Site) -> None:
        super().open(site)
        from operators.models import find
        from operators.pose.networks import Detector, PoseNetwork

        self._pose = PoseNetwork(find(self.model), site.device, self.size, self.threads)
        if self.detector:
            self._detector = Detector(find(self.detector), site.device, self.threads)
        site.event("pose_network", provider=self._pose.provider, width=self._pose.width, height=self._pose.height)

    def __call__(self, image: Annotated[Image, HOST_RGB]) -> Tracked:
        import numpy as np

        assert self._pose is not None
        picture = np.ascontiguousarray(image.data)
        height, width = picture.shape[:2]
        joints = self._pose.find(picture, self._where(picture))
        joints = joints[joints[..., 2].mean(-1) >= self.min_presence]
        joints = self._distinct(joints)
        self._remember(joints)
        found = to_openpose(joints / np.array([width, height, 1], np.float32), FROM_COCO)
        people, stability = self._follow(
            found, self.site.pts, height, width, smoothing=self.smoothing, hold_ms=self.hold_ms, fade_ms=self.fade_ms
        )
        return Tracked(Pose(people, (height, width), stability), Scalar(stability))

    def _where(self, picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The boxes to look into, (n, 4) px."""
        import numpy as np

        self._since += 1
        if self._detector is not None and (not self._boxes or self._since >= self.detect_every):
            self._since = 0
            return self._detector.find(picture, sure=self.min_detection, limit=self.num_people)
        if self._boxes or self._detector is not None:
            return np.array(self._boxes, np.float32).reshape(-1, 4)
        return np.array([[0, 0, picture.shape[1], picture.shape[0]]], np.float32)

    def _remember(self, joints: np.ndarray[Any, Any]) -> None:
        from operators.pose.simcc import around

        self._boxes = [box for box in map(around, joints) if box is not None]

    def _distinct(self, joints: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Without those whom two boxes have found twice."""
        import numpy as np

        from operators.pose.simcc import around, suppress

        boxes = [around(person, sure=0.0) for person in joints]
        if len(joints) < 2:
            return joints
        kept = suppress(np.array(boxes), joints[..., 2].mean(-1), overlap=0.7)
        return np.asarray(joints[np.sort(kept)])

    def reset(self) -> None:
        self._follow.reset()
        self._boxes, self._since = [], 0

    def snapshot(self) -> Any:
        return {"follow": self._follow.snapshot(), "boxes": list(self._boxes), "since": self._since}

    def recall(self, state: Any) -> None:
        self._follow.recall(state["follow"])
        self._boxes, self._since = state["boxes"], state["since"]

    def close(self) -> None:
        self._pose = self._detector = None
