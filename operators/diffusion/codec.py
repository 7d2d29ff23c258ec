"""diffusion.encode and diffusion.decode: the autoencoder on its own, such as full-quality pictures from the latents of a fast stream.

Invariant: decode(encode(picture)) is what the autoencoder makes of the picture, in the latent scale that diffusion.stream reads and emits.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated, Any

from engine.errors import MediaError, UsageError
from engine.operator import HOST_RGB, Live, Operator, Range, operator
from engine.payload import Image, Latent
from operators.diffusion.options import Precision

if TYPE_CHECKING:
    from engine.planning.outlook import Asked, Outlook
    from engine.site import Site
    from operators.diffusion.weights.coder import Coder


class _Codec(Operator):
    """An autoencoder with a life."""

    def __init__(self, vae: str, dtype: str, tiling: bool = False, slicing: bool = False) -> None:
        self.vae, self.dtype, self.tiling, self.slicing = vae, dtype, tiling, slicing
        self.coder: Coder | None = None
        self.away = self.planned = self.back = False
        self.turn = threading.Lock()  # the autoencoder moves between two calls, on whatever thread

    def open(self, site: Site) -> None:
        """Load and place it. Raises MissingError or UsageError as diffusion.stream does."""
        import torch

        from operators.models.loading import LOADING

        super().open(site)
        self.device = torch.device(site.device)
        with LOADING:
            self._load(site)

    def _load(self, site: Site) -> None:
        import torch

        from operators.diffusion.weights import coder
        from operators.diffusion.weights.models import embedded_folder
        from operators.models.loading import library

        library("diffusers")
        kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        dtype = kinds.get(self.dtype, torch.float32 if self.device.type == "cpu" else torch.float16)
        where = (embedded_folder() / "vae", "embedded") if site.embedded else coder.place(self.vae)
        self.coder = coder.load(*where, dtype)
        self.coder.spare(tiling=self.tiling, slicing=self.slicing)
        self.away = self.planned = site.placed.get("full vae") == "offload"
        self.coder.module.to("cpu" if self.away else self.device, memory_format=torch.channels_last)

    def relieve(self) -> bool:
        """Keep the autoencoder off the device between frames; waits for the call that is under way."""
        with self.turn:
            came_back, self.back = self.back, False  # or was about to
            if self.coder is None or self.away:
                return came_back
            self.away = True
            self.coder.module.to("cpu")
        return True

    def restore(self) -> None:
        """From the next frame on the autoencoder stays again, where that is the plan."""
        self.back = True

    def close(self) -> None:
        self.coder = None

    def _work(self, what: str, value: Any) -> Any:
        assert self.coder is not None
        with self.turn:
            if self.back:
                self.away, self.back = self.planned, False
                if not self.away:
                    self.coder.module.to(self.device)
            if not self.away:
                return getattr(self.coder, what)(value)
            self.coder.module.to(self.device)
            try:
                return getattr(self.coder, what)(value)
            finally:
                self.coder.module.to("cpu")


@operator("diffusion.encode", gpu=True)
class Encode(_Codec):
    """The clean latent of a picture, in the scale the UNet sees.

    `vae`: a model with an autoencoder, or an autoencoder of its own (full or tiny). The picture is cut in the middle to multiples of what the
    autoencoder folds into one cell (8 pixels in Stable Diffusion). `tiling` and `slicing` spare memory.
    """

    def __init__(self, *, vae: str, dtype: Precision = "auto", tiling: bool = False, slicing: bool = False) -> None:
        super().__init__(vae, dtype, tiling, slicing)

    def open(self, site: Site) -> None:
        from operators.diffusion.pictures.pixels import Intake

        super().open(site)
        assert self.coder is not None
        self._intake = Intake(self.device, self.coder.dtype, -1.0, "crop")

    def __call__(self, image: Annotated[Image, HOST_RGB]) -> Latent:
        import torch

        assert self.coder is not None
        fold = self.coder.fold
        size = (image.height // fold * fold, image.width // fold * fold)
        if not all(size):
            raise MediaError(f"expected a picture of at least {fold} x {fold} pixels, found {image!r}")
        with torch.inference_mode():
            self._intake.take(image, size)
            found = self._work("encode", self._intake.tensor)
        return Latent(found.clone())


@operator("diffusion.decode", gpu=True)
class Decode(_Codec):
    """The picture of a latent, at its own size or at `width` x `height`.

    `vae`: a model with an autoencoder, or an autoencoder of its own. With the full one, pictures of every n-th frame are snapshots in a
    quality that the tiny decoder of a live stream does not reach (diffusion.snapshot does that on demand). `tiling` decodes in overlapping
    tiles: a large picture in a little memory. Raises MediaError for a latent that is not finite.
    """

    def __init__(
        self,
        *,
        vae: str,
        dtype: Precision = "auto",
        tiling: bool = False,
        slicing: bool = False,
        width: Annotated[int | None, Range(8, 8192)] = None,
        height: Annotated[int | None, Range(8, 8192)] = None,
    ) -> None:
        super().__init__(vae, dtype, tiling, slicing)
        self.width, self.height = width, height

    def open(self, site: Site) -> None:
        from operators.diffusion.pictures.pixels import Outlet

        super().open(site)
        self._outlet = Outlet()

    def __call__(self, latent: Latent) -> Annotated[Image, HOST_RGB]:
        return self._decode(latent)

    def _decode(self, latent: Latent) -> Image:
        import torch

        assert self.coder is not None
        data = torch.as_tensor(latent.data)
        if data.ndim != 4 or data.shape[1] != self.coder.channels:
            raise UsageError(f"latent: expected (1, {self.coder.channels}, h, w), found {tuple(data.shape)}", fix="take the vae of its model")
        with torch.inference_mode():
            data = data.to(self.device, torch.float32)
            pixels = self._work("decode", data)
            size = (self.height or int(pixels.shape[2]), self.width or int(pixels.shape[3]))
            picture = self._outlet.emit(pixels, data, size, self.site)
        if picture is None:
            raise MediaError("the latent or its picture is not finite")
        return picture


@operator("diffusion.snapshot", lane="slow", gpu=True)
class Snapshot(Decode):
    """Pictures in full quality of some of the latents of a stream, which itself goes on with a fast decoder.

    It runs on the slow lane: connect `latent` of the stream with policy = "latest" and a sink.images behind it. `every`: one picture of so
    many latents that arrive, the first at once; 0 rests. `take`: one picture more each time this number rises, whatever `every` says. Both
    are live, so a key press or a program can ask for a picture. The others are those of diffusion.decode.
    """

    gives_way = True

    def __init__(
        self,
        *,
        vae: str,
        dtype: Precision = "auto",
        tiling: bool = True,
        slicing: bool = False,
        width: Annotated[int | None, Range(8, 8192)] = None,
        height: Annotated[int | None, Range(8, 8192)] = None,
        every: Annotated[int, Live(0, 1_000_000)] = 0,
        take: Annotated[int, Live(0, 1_000_000_000)] = 0,
    ) -> None:
        super().__init__(vae=vae, dtype=dtype, tiling=tiling, slicing=slicing, width=width, height=height)
        self.every, self.take = every, take
        self._taken, self._since = take, 0

    @classmethod
    def outlook(cls, asked: Asked) -> Outlook | None:
        """The full decoder, and what decoding one tile of it (512 x 512) takes."""
        from engine.planning.outlook import Outlook
        from operators.diffusion.weights.placement import movable, widening
        from operators.diffusion.weights.sizes import DECODER, ENCODER
        from operators.diffusion.work import KL

        if asked.embedded:
            return None
        vae = str(asked.params["vae"])
        wide = widening(vae, "vae")
        both = ENCODER[False] + DECODER[False]
        return Outlook((movable("full vae", vae, "vae", both, 1 / asked.every, wide),), round(wide * KL[2] * 1e6))

    def reset(self) -> None:
        """Count `every` afresh: a new epoch begins with a picture."""
        self._since = 0

    def snapshot(self) -> dict[str, int]:
        return {"since": self._since, "taken": self._taken}

    def recall(self, state: dict[str, int]) -> None:
        self._since, self._taken = state["since"], state["taken"]

    def __call__(self, latent: Latent) -> Annotated[Image, HOST_RGB] | None:
        asked = self.take > self._taken
        self._taken = self.take
        due = self.every > 0 and self._since % self.every == 0
        self._since += 1
        return self._decode(latent) if asked or due else None
