"""Runs ONNX pose networks and person detectors through onnxruntime, whichever build of it is installed.

Invariant: what a network's file says of its inputs and outputs is checked when it is loaded, so that a wrong file is refused by name before
the first frame. It knows arrays, not operators.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import MediaError, MissingError, UsageError
from operators.pose import simcc

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

# onnxruntime's names for what can compute, by kind of device, in order of preference; the CPU is always last.
PROVIDERS = {"cuda": ("CUDAExecutionProvider", "DmlExecutionProvider"), "mps": ("CoreMLExecutionProvider",), "cpu": ()}
BODY_17_FIRST = {17: "COCO", 26: "Halpe", 133: "COCO-WholeBody"}  # joint counts whose first 17 are COCO's
DEFAULT_POSE = (192, 256)  # width, height
DEFAULT_DETECTOR = (640, 640)


class Network:
    """One ONNX file, loaded. `width` and `height` of its input come from the file, or from `size` where the file leaves them open."""

    def __init__(self, path: Path, device: str, size: tuple[int, int], threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingError("pose.onnx needs onnxruntime", fix="pip install onnxruntime, or onnxruntime-gpu for a CUDA GPU") from error
        kind = device.partition(":")[0]
        if kind == "cuda" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # finds the CUDA libraries that came with torch
        there = onnxruntime.get_available_providers()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        wanted = [p for p in PROVIDERS.get(kind, ()) if p in there] + ["CPUExecutionProvider"]
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:  # onnxruntime has a class of its own for every status, all direct children of Exception
            raise MediaError(f"{path} is no ONNX network that onnxruntime can load: {' '.join(str(error).split())[:300]}") from error
        self.path = path
        self.provider = str(self.session.get_providers()[0])
        inputs, self.outputs = self.session.get_inputs(), [o.name for o in self.session.get_outputs()]
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise UsageError(f"{path} does not read one float picture (n, 3, height, width); it reads {found}")
        self.input = inputs[0].name
        batch, _, height, width = inputs[0].shape
        self.batches = not isinstance(batch, int) or batch < 1
        self.width = width if isinstance(width, int) and width > 0 else size[0]
        self.height = height if isinstance(height, int) and height > 0 else size[1]

    def run(self, pictures: Array) -> list[Array]:
        """Every output for `pictures` (n, 3, height, width); one by one where the file fixes a batch of one."""
        import numpy as np

        if self.batches or len(pictures) == 1:
            return [np.asarray(out) for out in self.session.run(None, {self.input: pictures})]
        each = [self.session.run(None, {self.input: picture[None]}) for picture in pictures]
        return [np.concatenate(parts) for parts in zip(*each, strict=True)]


class PoseNetwork(Network):
    """A SimCC pose network (RTMPose, DWPose and their like): two outputs, `simcc_x` (n, k, 2 width) and `simcc_y` (n, k, 2 height)."""

    def __init__(self, path: Path, device: str, size: tuple[int, int], threads: int) -> None:
        super().__init__(path, device, size if all(size) else DEFAULT_POSE, threads)
        shapes = [o.shape for o in self.session.get_outputs()]
        if len(shapes) != 2 or any(len(s) != 3 for s in shapes):
            raise UsageError(
                f"{path} is no SimCC pose network: it has the outputs {', '.join(self.outputs)}", fix="take an RTMPose or DWPose ONNX file"
            )
        # By name where the names say it; else in the usual order.
        self.swapped = "y" in self.outputs[0].lower().rsplit("_", 1)[-1]

    def find(self, picture: Array, boxes: Array) -> Array:
        """COCO-17 joints (n, 17, 3) of the people in `boxes`, in px of `picture` (H, W, 3) uint8 RGB."""
        import numpy as np

        if not len(boxes):
            return np.zeros((0, 17, 3), np.float32)
        where = simcc.windows(boxes, self.width, self.height)
        crops = np.stack([simcc.crop(picture, window, self.width, self.height) for window in where])
        first, second = self.run(crops)
        x, y = (second, first) if self.swapped else (first, second)
        if x.shape[1] not in BODY_17_FIRST:
            known = ", ".join(f"{n} ({name})" for n, name in BODY_17_FIRST.items())
            raise UsageError(f"{self.path} finds {x.shape[1]} joints; {known} are understood")
        return simcc.place(simcc.decode(x, y, self.width, self.height)[:, :17], where, self.width, self.height)


class Detector(Network):
    """A YOLOX person detector: raw output (1, cells, 5 + classes), or with suppression built in: `dets` (1, n, 5) and labels (1, n)."""

    def __init__(self, path: Path, device: str, threads: int) -> None:
        super().__init__(path, device, DEFAULT_DETECTOR, threads)
        shapes = [o.shape for o in self.session.get_outputs()]
        if not shapes or len(shapes) > 2 or len(shapes[0]) != 3:
            raise UsageError(f"{path} is no YOLOX detector: it has the outputs {', '.join(self.outputs)}", fix="take a YOLOX ONNX file")

    def find(self, picture: Array, *, sure: float, limit: int) -> Array:
        """Boxes of people (n, 4) in px of `picture`, best first."""
        import numpy as np

        page, scale = simcc.letterbox(picture, self.width, self.height)
        outputs = self.run(page[None])
        raw = outputs[0][0].astype(np.float32)
        if raw.shape[1] == 5:
            boxes, scores = raw[:, :4], raw[:, 4]
            if len(outputs) == 2:
                person = outputs[1].reshape(-1) == 0
                boxes, scores = boxes[person], scores[person]
        else:
            boxes, scores = simcc.decode_grid(raw, self.width, self.height)
        likely = scores >= sure
        boxes, scores = boxes[likely], scores[likely]
        return np.asarray(boxes[simcc.suppress(boxes, scores)[:limit]] / scale, np.float32)
