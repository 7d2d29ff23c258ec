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
    from operators.diffusion.pictures.landing import Later

LOOK = 16  # every how many-th pixel a comparison of scenes looks at


class Intake:
    """One picture port: uint8 (H, W, 3) RGB on the host to (1, 3, h, w) floats on the device.

    `low`: the value of black; white is 1. `fit`: "crop" keeps the proportions and cuts what exceeds the working shape, in the middle;
    "stretch" keeps every pixel and bends the proportions.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, low: float, fit: str) -> None:
        import torch

        self.device, self.dtype, self.low, self.fit = device, dtype, low, fit
        self.zero = torch.tensor(low, device=device)
        self.size = (0, 0)
        self.at: tuple[int, int] | None = None
        self.change = 1.0
        self.tensor: torch.Tensor | None = None
        self.there: torch.Tensor | None = None  # the bytes on the device, and from there on: floats, at the working size, in the dtype
        self.wide: torch.Tensor | None = None
        self.small: torch.Tensor | None = None
        self.cast: torch.Tensor | None = None
        self.bytes: torch.Tensor | None = None
        self.view: Any = None
        self.done: Any = None

    def take(self, image: Image, size: tuple[int, int], at: tuple[int, int] | None = None) -> float | None:
        """Read `image` at the working `size` (height, width) into `tensor`, which holds until the next call.

        Returns None where it is the picture of the last call, byte for byte; else how much it differs: the mean absolute difference, 0..1,
        over a grid of every 16th pixel (1 when there is nothing to compare with). A frame `at` (epoch, seq) that is tried again gets the
        answer of its first try.
        """
        import numpy as np
        import torch

        data = self.window(image, size)
        known = self.view is not None and self.view.shape == data.shape
        change = _difference(self.view, data) if known else 1.0
        still = change == 0 and self.size == size and np.array_equal(self.view, data)
        if at is not None and at == self.at:
            change = self.change
        elif still:
            return None
        self.at, self.change = at, change
        if still:
            return change
        self.size = (0, 0)  # not whole until the end: memory may run out on the way
        if not known:
            self.bytes = torch.empty(data.shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
            self.view = self.bytes.numpy()
            self.done = torch.cuda.Event() if self.device.type == "cuda" else None
        elif self.done is not None:
            self.done.synchronize()  # the copy of the frame before, over long ago
        np.copyto(self.view, data)
        assert self.bytes is not None
        raw = self.bytes
        if self.device.type != "cpu":
            if self.there is None or self.there.shape != raw.shape:
                self.there = torch.empty(raw.shape, dtype=torch.uint8, device=self.device)
            raw = self.there.copy_(raw, non_blocking=True)
        if self.done is not None:
            self.done.record()
        # Bytes with channels innermost are a channels_last picture as they lie: converting them is one straight pass.
        picture = raw.permute(2, 0, 1)[None]
        if self.wide is None or self.wide.shape[2:] != picture.shape[2:]:
            self.wide = torch.empty_like(picture, dtype=torch.float32)
        scaled = self.wide.copy_(picture)
        if size != tuple(data.shape[:2]):
            scaled = self.small = resized(scaled, size, self.small)
        torch.add(self.zero, scaled, alpha=(1.0 - self.low) / 255.0, out=scaled)
        if scaled.dtype is not self.dtype:
            if self.cast is None or self.cast.shape != scaled.shape:
                self.cast = torch.empty_like(scaled, dtype=self.dtype)
            scaled = self.cast.copy_(scaled)
        self.tensor, self.size = scaled, size
        return change

    def recall(self, picture: np.ndarray[Any, Any] | None) -> None:
        """Compare the next picture with this one, the `view` of another Intake."""
        import torch

        if picture is not None:
            self.bytes = torch.empty(picture.shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
            self.view, self.size = self.bytes.numpy(), (0, 0)
            self.view[...] = picture

    def forget(self) -> None:
        """Drop the picture; the next one counts as new."""
        self.view = self.bytes = self.tensor = self.done = None

    def window(self, image: Image, size: tuple[int, int]) -> np.ndarray[Any, Any]:
        """The part of `image` that is read at the working `size`: a view, uint8 (H, W, 3)."""
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


def resized(pixels: torch.Tensor, size: tuple[int, int], place: torch.Tensor | None) -> torch.Tensor:
    """float32 pixels (1, 3, H, W) at `size`, in `place` where it fits: what interpolate does with antialias, without a tensor of its own."""
    import torch

    shape = (*pixels.shape[:2], *size)
    if place is None or place.shape != shape:
        place = torch.empty(shape, device=pixels.device).to(memory_format=torch.channels_last)
    found: torch.Tensor = torch.ops.aten._upsample_bilinear2d_aa.out(pixels, list(size), False, None, None, out=place)
    return found


class Outlet:
    """(1, 3, h, w), about -1..1, on the device to a pooled uint8 (H, W, 3) RGB picture on the host.

    On the host one fused pass of OpenCV does what three of torch do on a device; both round to the nearest.
    """

    def __init__(self, later: Later | None = None) -> None:
        import torch

        self.flag = torch.zeros(3)  # on the host
        self.sum = self.flag.numpy()
        self.later = later
        self.sums: torch.Tensor | None = None
        self.scratch: torch.Tensor | None = None
        self.wide: torch.Tensor | None = None
        self.raw: torch.Tensor | None = None

    @staticmethod
    def plain(pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (H, W, 3) of float32 pixels (1, 3, H, W): x * 127.5 + 127.5, rounded, within 0..255."""
        import torch

        # A half more, because the conversion to bytes cuts off what rounding would keep.
        return pixels.mul(127.5).add_(128.0).clamp_(0.0, 255.0).to(torch.uint8)[0].permute(1, 2, 0)

    @staticmethod
    def fused(pixels: torch.Tensor, picture: np.ndarray[Any, Any]) -> None:
        """The same into `picture`, on the host. The pixels must lie with channels innermost."""
        import cv2

        flat = pixels[0].permute(1, 2, 0).reshape(picture.shape[0], -1).numpy()
        cv2.addWeighted(flat, 127.5, flat, 0.0, 127.5, dst=picture.reshape(picture.shape[0], -1), dtype=cv2.CV_8U)

    def emit(self, pixels: torch.Tensor, latent: torch.Tensor, size: tuple[int, int], site: Site, note: Any = None) -> Image | None:
        """The picture at `size` (height, width); None where latent or pixels hold a value that is not finite. With a `note` it may go by
        `later`: it is then on its way still, and `later` tells afterwards, by this note, if it was not finite."""
        import numpy as np
        import torch

        if self.sums is None or self.sums.device != pixels.device:
            self.sums = torch.zeros(3, device=pixels.device)
            self.parts = self.sums.unbind(0)
            self.sum = (self.sums if pixels.device.type == "cpu" else self.flag).numpy()
        # One number tells: a sum is finite only where its terms are. It crosses to the host beside the picture, not by a wait of its own.
        # Every fourth row will do: convolutions spread a bad value wider than that.
        one, two, total = self.parts
        torch.sum(pixels[:, :, ::4], (0, 1, 2, 3), dtype=torch.float32, out=one)
        torch.sum(latent, (0, 1, 2, 3), out=two)
        torch.add(one, two, out=total)
        later = None if note is None else self.later
        if pixels.device.type == "cpu" and later is None:
            pixels = self._sized(pixels if pixels.dtype is torch.float32 else self._floats(pixels), size)
            picture = site.empty((*size, 3))
            self.fused(pixels, picture)
            return Image(picture) if np.isfinite(self.sum[2]) else None
        raw = self._bytes(pixels, size)
        if later is not None:
            return later.emit(raw, total, site, note)
        picture = site.empty((*size, 3))
        self.flag.copy_(self.sums, non_blocking=True)
        torch.from_numpy(picture).copy_(raw)  # on a GPU this waits, for the flag too
        return Image(picture) if np.isfinite(self.sum[2]) else None

    def _sized(self, pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """float32 pixels at `size`, in a tensor that stays where they have another."""
        if tuple(pixels.shape[2:]) == size:
            return pixels
        self.wide = resized(pixels, size, self.wide)
        return self.wide

    def _floats(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        if self.scratch is None or self.scratch.shape != pixels.shape:
            self.scratch = torch.empty(pixels.shape, device=pixels.device).to(memory_format=torch.channels_last)
        return self.scratch.copy_(pixels)

    def _bytes(self, pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """As `plain`, in tensors that stay."""
        import torch

        wide = self._sized(self._floats(pixels), size)
        if self.raw is None or tuple(self.raw.shape[:2]) != size:
            self.raw = torch.empty((*size, 3), dtype=torch.uint8, device=pixels.device)
        # A half more, because the conversion to bytes cuts off what rounding would keep.
        return self.raw.copy_(wide.mul_(127.5).add_(128.0).clamp_(0.0, 255.0)[0].permute(1, 2, 0))
