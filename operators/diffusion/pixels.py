"""Pictures in and out of the network's own form: host bytes to a device tensor at the working size, and back.

Invariant: in steady state nothing but tensors is allocated, and an unchanged picture is noticed by its bytes, so that what was computed from
it can be kept. It knows pixels, not what they show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.errors import MediaError
from engine.payload import Image

if TYPE_CHECKING:
    import numpy as np
    import torch

    from engine.site import Site

LOOK = 16  # every how many-th pixel a comparison of scenes looks at


class Intake:
    """One picture port: uint8 (H, W, 3) RGB on the host to (1, 3, h, w) floats on the device.

    `low`: the value of black; white is 1. `fit`: "crop" keeps the proportions and cuts what exceeds the working shape, in the middle;
    "stretch" keeps every pixel and bends the proportions.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, low: float, fit: str) -> None:
        self.device, self.dtype, self.low, self.fit = device, dtype, low, fit
        self.size = (0, 0)
        self.tensor: torch.Tensor | None = None
        self.bytes: torch.Tensor | None = None
        self.view: Any = None
        self.done: Any = None

    def take(self, image: Image, size: tuple[int, int]) -> float | None:
        """Read `image` at the working `size` (height, width) into `tensor`.

        Returns None where it is the picture of the last call, byte for byte; else how much it differs: the mean absolute difference, 0..1,
        over a grid of every 16th pixel (1 when there is nothing to compare with).
        """
        import numpy as np
        import torch

        data = self._window(image, size)
        known = self.view is not None and self.view.shape == data.shape
        if known and self.size == size and np.array_equal(self.view, data):
            return None
        change = _difference(self.view, data) if known else 1.0
        if not known:
            self.bytes = torch.empty(data.shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
            self.view = self.bytes.numpy()
            self.done = torch.cuda.Event() if self.device.type == "cuda" else None
        elif self.done is not None:
            self.done.synchronize()  # the copy of the frame before, over long ago
        np.copyto(self.view, data)
        assert self.bytes is not None
        raw = self.bytes.to(self.device, non_blocking=True)
        if self.done is not None:
            self.done.record()
        # Bytes with channels innermost are a channels_last picture as they lie: converting them is one straight pass.
        picture = raw.permute(2, 0, 1)[None]
        step = (1.0 - self.low) / 255.0
        if size == tuple(data.shape[:2]):
            self.tensor = picture.to(torch.float32).mul_(step).add_(self.low).to(self.dtype)
        else:
            scaled = torch.nn.functional.interpolate(picture.to(torch.float32), size, mode="bilinear", antialias=True)
            self.tensor = scaled.mul_(step).add_(self.low).to(self.dtype)
        self.size = size
        return change

    def forget(self) -> None:
        """Drop the picture; the next one counts as new."""
        self.view = self.bytes = self.tensor = self.done = None

    def _window(self, image: Image, size: tuple[int, int]) -> np.ndarray[Any, Any]:
        data: Any = image.data
        if data.ndim != 3 or data.shape[2] != 3 or str(data.dtype) != "uint8" or image.layout != "hwc":
            raise MediaError(f"expected a picture of uint8 (height, width, 3), found {image!r}")
        if self.fit == "stretch":
            return data
        height, width = data.shape[:2]
        tall, wide = min(height, round(width * size[0] / size[1])), min(width, round(height * size[1] / size[0]))
        top, left = (height - tall) // 2, (width - wide) // 2
        return data[top : top + tall, left : left + wide]


def _difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    import numpy as np

    one, two = a[LOOK // 2 :: LOOK, LOOK // 2 :: LOOK], b[LOOK // 2 :: LOOK, LOOK // 2 :: LOOK]
    return float(np.abs(one.astype(np.int16) - two).mean()) / 255.0 if one.size else 0.0


class Outlet:
    """(1, 3, h, w), about -1..1, on the device to a pooled uint8 (H, W, 3) RGB picture on the host."""

    def __init__(self) -> None:
        import torch

        self.flag = torch.zeros(1, dtype=torch.float32)
        self.sum = self.flag.numpy()

    def emit(self, pixels: torch.Tensor, latent: torch.Tensor, size: tuple[int, int], site: Site) -> Image | None:
        """The picture at `size` (height, width); None where latent or pixels hold a value that is not finite."""
        import numpy as np
        import torch

        # One number tells: a sum is finite only where its terms are. It crosses to the host beside the picture, not by a wait of its own.
        self.flag.copy_(pixels.sum(dtype=torch.float32) + latent.sum())
        pixels = pixels.float()
        if tuple(pixels.shape[2:]) != size:
            pixels = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        # x * 127.5 + 127.5, and a half more because the conversion to bytes cuts off what rounding would keep.
        pixels = pixels.mul(127.5).add_(128.0).clamp_(0.0, 255.0)
        if pixels.device.type != "cpu":
            pixels = pixels.to(torch.uint8)
        picture = site.empty((*size, 3))
        torch.from_numpy(picture).copy_(pixels[0].permute(1, 2, 0))
        return Image(picture) if np.isfinite(self.sum[0]) else None
