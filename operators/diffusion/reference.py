"""diffusion.reference: pictures as tokens that an IP-Adapter looks at, computed once per picture and never on the lane that paints.

Invariant: pictures that are byte for byte those of the last call give the same payload object, and no network runs.
It knows image encoders and projections, not UNets.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.errors import UsageError
from engine.operator import HOST_RGB, Operator, operator
from engine.payload import Array, Image, Payload
from operators.diffusion.options import Precision

if TYPE_CHECKING:
    import torch

    from engine.planning.outlook import Asked, Outlook
    from engine.site import Site


@dataclass(frozen=True, slots=True, eq=False)
class Reference(Payload):
    """Pictures as an IP-Adapter sees them.

    `tokens`: (pictures, tokens, width). `blank`: the same for pictures that show nothing, which guidance sets against them.
    `adapter`: fingerprint of the projection that made them; only that adapter can read them.
    """

    tokens: Array
    blank: Array
    adapter: str
    _digest: str | None = field(default=None, init=False, repr=False)

    def digest(self) -> str:
        """What tells it from others, the same in another process; read off once."""
        import torch

        if self._digest is None:
            object.__setattr__(self, "_digest", fingerprint({"tokens": torch.as_tensor(self.tokens)}))
        assert self._digest is not None
        return self._digest

    def __repr__(self) -> str:
        return f"Reference({tuple(self.tokens.shape)} for {self.adapter})"


def fingerprint(projection: dict[str, Any]) -> str:
    """A short name for the weights of a projection: eight hexadecimal digits."""
    import zlib

    import torch

    total = 0
    for key in sorted(projection):
        data = projection[key].detach().to("cpu", torch.float32).contiguous()
        total = zlib.crc32(data.flatten()[:: max(1, data.numel() // 4096)].numpy().tobytes(), zlib.crc32(key.encode(), total))
    return f"{total:08x}"


@operator("diffusion.reference", lane="slow", gpu=True)
class MakeReference(Operator):
    """Tokens of one or several reference pictures for an IP-Adapter: connect it to `reference` of diffusion.stream.

    `adapter`: the IP-Adapter (base, plus, plus-face or full-face), as in `ip_adapters` of the stream; `file`: where it is in a repository.
    `encoder`: the CLIP vision model that it was trained with, a folder or hub id, `encoder_folder` in it (such as "models/image_encoder").

    `placement` of the encoder: "resident"; "offload": on the device only while it looks; "staged": loaded from its files, used, let go of;
    "auto": as the memory plan decides. When memory runs out for somebody who paints, it is moved away first.

    It runs on the slow lane: a reference may change at any time and is taken up when it is ready; until then the stream paints with the
    last one. With --embedded there is no adapter, and the reference that comes out is empty.

    Raises MissingError for what is not on this machine, UsageError for what does not fit together.
    """

    gives_way = True

    def __init__(
        self,
        *,
        adapter: str,
        encoder: str,
        file: str | None = None,
        encoder_folder: str | None = None,
        dtype: Precision = "auto",
        placement: Literal["auto", "resident", "offload", "staged"] = "auto",
    ) -> None:
        self.adapter, self.encoder, self.file, self.encoder_folder, self.dtype = adapter, encoder, file, encoder_folder, dtype
        self.placement = placement
        self._turn = threading.Lock()  # the encoder moves between two looks, on whatever thread
        self._made: Reference | None = None
        self._pictures: list[Any] = []
        self._network: Any = None
        self._away = self._planned = self._staged = self._back = False

    @classmethod
    def outlook(cls, asked: Asked) -> Outlook | None:
        """The size of the image encoder and of the adapter's projection: from their files where they are here, else of the usual ones."""
        from engine.planning.outlook import Outlook, Weights
        from operators.diffusion.weights.placement import HALF, adapter_sizes, way_of
        from operators.diffusion.weights.sizes import PROJECTION, VISION, sizes_of

        if asked.embedded:
            return None
        params, often = asked.params, 0.0 if asked.every == 1 else 1 / asked.every  # a reference stands still, if it is not sampled
        size = sizes_of(str(params["encoder"]), str(params.get("encoder_folder") or ""), VISION)
        size += adapter_sizes(str(params["adapter"]), params.get("file"), PROJECTION, "image_proj.")
        said = str(params.get("placement", "auto"))
        ways = [way_of(how, size, often) for how in (("resident", "offload") if said == "auto" else (said,))]
        return Outlook((Weights("image encoder", HALF * size.total, size.exact, often, ways=tuple(ways)),))

    def open(self, site: Site) -> None:
        import torch

        from operators.models.loading import LOADING

        super().open(site)
        self.device = torch.device(site.device)
        if not site.embedded:
            with LOADING:
                self._load()

    def _load(self) -> None:
        import torch

        from operators.diffusion.adapters import ipadapter
        from operators.diffusion.weights import checkpoint
        from operators.models.loading import library

        library("transformers")
        library("diffusers")
        kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        dtype = kinds.get(self.dtype, torch.float32 if self.device.type == "cpu" else torch.float16)
        found = ipadapter.find(self.adapter, self.file)
        folder = checkpoint.locate_folder(self.encoder)
        folder = folder / self.encoder_folder if self.encoder_folder else folder
        self._name = fingerprint(found.projection)
        self._read = partial(checkpoint.module, "CLIPVisionModelWithProjection", folder, self.encoder, dtype)
        self._network = self._read()
        self._width = dtype
        how = self.site.placed.get("image encoder", "resident") if self.placement == "auto" else self.placement
        self._staged, self._away = how == "staged", how != "resident"
        self._planned = self._away
        self._projection = _projection(found.projection, found.name).to(self.device, dtype).eval().requires_grad_(False)
        self._plain = "proj.weight" in found.projection  # the base kind reads one vector a picture, the others every patch
        self._check(found.projection)
        self._processor = _processor(folder, self._network)
        if self._staged:
            self._network = None
        elif not self._away:
            self._network.to(self.device)

    def _check(self, projection: dict[str, Any]) -> None:
        settings = self._network.config
        need = projection["proj.weight" if self._plain else "proj.0.weight" if "proj.0.weight" in projection else "proj_in.weight"].shape[1]
        have = settings.projection_dim if self._plain else settings.hidden_size
        if need != have:
            raise UsageError(
                f"ip-adapter {self.adapter}: expected picture features of width {need}, found {have} in the encoder {self.encoder}",
                fix="take the image encoder that comes with the adapter (models/image_encoder; sdxl_models/image_encoder)",
            )

    def __call__(self, image: Annotated[list[Image], HOST_RGB]) -> Reference:
        import numpy as np

        pictures = [each.data for each in image]
        known = self._pictures if len(self._pictures) == len(pictures) else []
        if self._made is not None and known and all(np.array_equal(a, b) for a, b in zip(pictures, known, strict=True)):
            return self._made
        self._made = self._look(pictures)
        self._pictures = [np.array(each) for each in pictures]
        return self._made

    def _look(self, pictures: list[Any]) -> Reference:
        import torch

        if self.site.embedded:
            nothing = torch.zeros(len(pictures), 0, 1)
            return Reference(nothing, nothing, "")
        with self._turn, torch.inference_mode():
            if self._back:
                self._away, self._back = self._planned, False
            network = self._read() if self._staged else self._network
            network.to(self.device)
            try:
                pixels = self._processor(images=pictures, return_tensors="pt")["pixel_values"].to(self.device, self._width)
                if self._plain:
                    seen = network(pixels).image_embeds
                    blank = torch.zeros_like(seen)
                else:
                    seen, blank = (network(x, output_hidden_states=True).hidden_states[-2] for x in (pixels, torch.zeros_like(pixels)))
                tokens, empty = self._projection(seen), self._projection(blank)
            finally:
                if self._away and not self._staged:
                    network.to("cpu")
        return Reference(tokens.clone(), empty.clone(), self._name)

    def relieve(self) -> bool:
        """Keep the image encoder off the device between references; waits for the one that is being looked at."""
        with self._turn:
            came_back, self._back = self._back, False  # or was about to
            if self._network is None or self._away:
                return came_back
            self._away = True
            self._network.to("cpu")
        return True

    def restore(self) -> None:
        """From the next picture on the encoder stays again, where that is the plan."""
        self._back = True

    def close(self) -> None:
        self._network = self._made = self._read = None
        self._pictures = []
        self.__dict__.pop("_projection", None)


def _projection(state: dict[str, torch.Tensor], name: str) -> Any:
    """The module that turns picture features into tokens, from a file of any of the four kinds: diffusers knows them by their tensors."""
    from diffusers.loaders.unet import UNet2DConditionLoadersMixin

    try:
        return UNet2DConditionLoadersMixin()._convert_ip_adapter_image_proj_to_diffusers(dict(state), low_cpu_mem_usage=False)
    except (KeyError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"ip-adapter {name}: its projection is of no known kind: {reason}", fix="fetch the file again") from error


def _processor(folder: Any, network: Any) -> Any:
    """Cut and scaled as the encoder was trained: its own settings where they are there, CLIP's at its size where not."""
    try:  # the one that needs no torchvision, by name: asked for the other, transformers talks about it
        from transformers import CLIPImageProcessorPil as CLIPImageProcessor
    except ImportError:
        from transformers import CLIPImageProcessor
    if (folder / "preprocessor_config.json").is_file():
        return CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    side = int(network.config.image_size)
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
