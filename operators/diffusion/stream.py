"""diffusion.stream: a picture painted from a prompt, skeletons, the input and what the last frame left.

Invariant: a frame depends on its inputs, its parameters, the carried latent and noise keyed by (seed, node, epoch, seq), and on nothing else;
after `reset` nothing of an earlier epoch is left. It knows no graph: carry, drops and rates are the engine's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Le  # what pydantic reads bounds from, without pydantic
from typing_extensions import TypedDict

from engine.errors import RunError, UsageError
from engine.operator import HOST_RGB, Knob, Live, Operator, Range, operator
from engine.payload import Image, Latent, Prompt

if TYPE_CHECKING:
    import torch

    from engine.outlook import Asked, Outlook
    from engine.site import Site
    from operators.diffusion.models import Models

EMBEDDED_STEPS = 2  # more cost time and likeness: bench/embedded_quality has one, two and four
GUIDANCE_SCALE = {"cfg": 7.5, "rcfg-self": 1.4, "none": 1.0}
DISTILLED_SCALE = 8.5  # for models that take the guidance scale as an input (latent consistency)


class _ControlNetModel(TypedDict):
    model: str


class ControlNet(_ControlNetModel, total=False):
    """One ControlNet: a folder or hub id, its scale, and the part of the executed steps it works in (0 to 1)."""

    scale: Annotated[float, Ge(0), Le(4)]
    start: Annotated[float, Ge(0), Le(1)]
    end: Annotated[float, Ge(0), Le(1)]


class ReuseSteps(TypedDict):
    """Deep features are computed on every `every`-th step; `cut` layers stay shallow on the others."""

    every: Annotated[int, Ge(1)]
    cut: Annotated[int, Ge(0)]


class Painted(NamedTuple):
    """`image`: the picture, at the output size. `latent`: the clean latent it was decoded from, at the working size."""

    image: Annotated[Image, HOST_RGB]
    latent: Latent


@operator("diffusion.stream", gpu=True)
class Stream(Operator):
    """Paint one picture a frame with a Stable Diffusion 1.x/2.x class model, starting from what the last frame left.

    Ports. `control`: one condition picture (a skeleton, edges …) per entry of `controlnets`, in that order. `image`: a picture to start from.
    `carry`: the latent of an earlier frame, usually `NODE.latent@-1`. `prompt`: what to paint; its `blend` says over how many frames a change
    arrives. All are optional, one at least must be connected.

    Start of a frame. The source is the carried latent, the encoded `image`, or both mixed: carry_mix 1 is all carry, 0 all image.
    `strength` says how far the source is noised and painted again: of `steps` nominal steps, int(steps * strength) are executed, as
    diffusers counts, but at least one. Strength 0 leaves the source as it is; 1, or no source (a first frame), starts from noise alone and
    runs every step.

    Noise. fresh_noise 0 keeps one noise for the epoch, which holds a picture still; 1 draws anew each frame; values between move on the
    sphere between the two. Noise is keyed by seed, node, epoch and frame number, never by what was dropped.

    Size. `width` and `height` (default: `size` at open) are what leaves the node. `size` is the short side worked at, never more than
    that of the output, rounded to what the model divides; moving it leaves the output's size as it is. Inputs are cut to the proportions of
    the output (fit = "crop") or bent to them.

    Guidance. "none": one pass a step. "cfg": classifier-free (arXiv 2207.12598), two passes a step. "rcfg-self": residual guidance against the
    frame's source (arXiv 2312.12491), one pass. guidance_scale none: 7.5 for cfg, 1.4 for rcfg-self, 8.5 for latent consistency models,
    which take it as an input whatever `guidance` says.

    Drift. reset_every asks for a new epoch every so many frames; scene_cut does when the picture (`image`, else the first `control`) changes by
    more than this mean absolute difference (0..1, 0 = off), and that frame ignores the carry.

    reuse = { every = 3, cut = 1 } computes deep features on every third step only (arXiv 2312.00858).

    Models. `model`, `vae` and those in `controlnets` are diffusers folders or ids in the hub's cache on this machine, safetensors only.
    With --embedded the model that ships stands in for all of them and is sampled as it was trained: by its own scheduler, at its native
    size at most, without guidance or reuse, and in at most 2 nominal steps.

    Raises MissingError for a model that is not here, UsageError for one that does not fit or is a pickle, RunError where a picture is not
    finite even when started anew. torch.OutOfMemoryError passes through; `relieve` then keeps all but the UNet off the device between uses.
    """

    def __init__(
        self,
        *,
        model: str,
        controlnets: list[ControlNet] | None = None,
        vae: str | None = None,
        scheduler: Literal["auto", "ddim", "euler", "euler_a", "dpm++", "lcm"] = "auto",
        guidance: Literal["none", "cfg", "rcfg-self"] = "cfg",
        reuse: ReuseSteps | None = None,
        width: Annotated[int | None, Range(64, 4096)] = None,
        height: Annotated[int | None, Range(64, 4096)] = None,
        fit: Literal["crop", "stretch"] = "crop",
        dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto",
        threads: Annotated[int, Range(0, 256)] = 0,
        steps: Annotated[int, Knob(1, 60)] = 15,
        size: Annotated[int, Knob(64, 2048)] = 512,
        strength: Annotated[float, Knob(0, 1)] = 0.6,
        carry_mix: Annotated[float, Live(0, 1)] = 0.5,
        fresh_noise: Annotated[float, Live(0, 1)] = 0.0,
        guidance_scale: Annotated[float | None, Live(0, 50)] = None,
        control_scale: Annotated[float, Live(0, 4)] = 1.0,
        control_scales: Annotated[list[float] | None, Live()] = None,
        prompt: Annotated[str, Live()] = "",
        negative: Annotated[str, Live()] = "",
        blend: Annotated[int, Live(0, 1000)] = 0,
        reset_every: Annotated[int, Live(0)] = 0,
        scene_cut: Annotated[float, Live(0, 1)] = 0.0,
    ) -> None:
        self.model, self.controlnets, self.vae, self.scheduler = model, controlnets or [], vae, scheduler
        self.guidance, self.reuse, self.width, self.height, self.fit = guidance, reuse, width, height, fit
        self.dtype, self.threads = dtype, threads
        self.steps, self.size, self.strength = steps, size, strength
        self.carry_mix, self.fresh_noise, self.guidance_scale = carry_mix, fresh_noise, guidance_scale
        self.control_scale, self.control_scales = control_scale, control_scales
        self.prompt, self.negative, self.blend = prompt, negative, blend
        self.reset_every, self.scene_cut = reset_every, scene_cut
        self.models: Models | None = None
        self._age = 0
        self._cut_at = (-1, -1)

    @classmethod
    def outlook(cls, asked: Asked) -> Outlook | None:
        """What a frame costs and what has to be loaded; see operators.diffusion.work."""
        from operators.diffusion.work import outlook

        return outlook(asked)

    # ---- life

    def open(self, site: Site) -> None:
        """Load, check and place the modules. See the class for what is raised."""
        import torch

        from operators.diffusion.loop import Loop
        from operators.diffusion.noise import Noise
        from operators.diffusion.pixels import Intake, Outlet
        from operators.diffusion.reuse import Reuse
        from operators.diffusion.text import Conditioning, Encoder

        super().open(site)
        if self.threads:
            torch.set_num_threads(self.threads)
        self._output = (self.height or self.size, self.width or self.size)
        models = self.models = self._load(torch.device(site.device))
        self._sampler = models.sampler if self.scheduler == "auto" or site.embedded else self.scheduler
        reuse = None if site.embedded or self.reuse is None else Reuse(models.unet, **self.reuse)
        self._loop = Loop(models, reuse)
        self._conditioning = Conditioning(Encoder(models, site.event))
        self._noise = Noise(models.device)
        self._image = Intake(models.device, models.coder.dtype, -1.0, self.fit)
        self._controls = [Intake(models.device, models.dtype, 0.0, self.fit) for _ in models.nets]
        self._features: list[torch.Tensor | None] = [None] * len(models.nets)
        self._scales = [torch.zeros((), device=models.device) for _ in models.nets]
        self._scale_values = [0.0] * len(models.nets)
        self._outlet = Outlet()
        self._rows: dict[tuple[Any, ...], Any] = {}
        self._extra: tuple[float, torch.Tensor] | None = None
        self._distilled = models.unet.config.time_cond_proj_dim
        dtype = str(models.dtype).removeprefix("torch.")
        site.event("model", name="embedded" if site.embedded else self.model, sampler=self._sampler, dtype=dtype)

    def _load(self, device: torch.device) -> Models:
        import torch

        from operators.diffusion.models import load, load_embedded
        from operators.diffusion.tune import precision

        kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        auto = torch.float32 if device.type == "cpu" else torch.float16
        dtype = kinds.get(self.dtype, auto)
        if self.site.embedded:
            models = load_embedded(self.controlnets, device=device, dtype=dtype)
        else:
            models = load(self.model, self.controlnets, self.vae, device=device, dtype=dtype)
        if self.dtype == "auto" and device.type == "cpu":
            height, width = self._working(models)
            shape = (1, models.channels, height // models.fold, width // models.fold)
            text = models.text.config
            models.cast(kinds[precision(models.unet, shape, int(text.hidden_size), int(text.max_position_embeddings))])
        return models

    def reset(self) -> None:
        """Drop what belongs to the epoch: the rest of a prompt's blend, fixed noise, kept features, the scene to compare with."""
        if self.models is None:
            return
        self._age = 0
        self._conditioning.reset()
        self._image.forget()
        for intake in self._controls:
            intake.forget()
        self._features = [None] * len(self._features)
        if self._loop.reuse is not None:
            self._loop.reuse.forget()

    def relieve(self) -> bool:
        """Keep text encoder, autoencoder and ControlNets off the device between uses."""
        return self.models is not None and self.models.relieve()

    def restore(self) -> None:
        """Bring back what `relieve` moved."""
        if self.models is not None:
            self.models.restore()

    def close(self) -> None:
        self.models = None
        for name in ("_loop", "_conditioning", "_noise", "_features", "_image", "_controls", "_rows"):
            self.__dict__.pop(name, None)

    # ---- a frame

    def __call__(
        self,
        control: Annotated[list[Image] | None, HOST_RGB] = None,
        image: Annotated[Image | None, HOST_RGB] = None,
        carry: Latent | None = None,
        prompt: Prompt | None = None,
    ) -> Painted:
        import torch

        models = self.models
        assert models is not None
        with torch.inference_mode():
            size = self._working(models)
            rows, guided = self._table()
            said = (prompt.text, prompt.negative or self.negative, prompt.blend) if prompt else (self.prompt, self.negative, self.blend)
            cond = self._conditioning(*said, guided, (self.site.epoch, self.site.seq))
            controls, change = self._condition(control or [], size)
            if image is not None:
                change = self._image.take(image, size, (self.site.epoch, self.site.seq))
            if self._cut(change):
                carry = None
            source = self._source(carry, image, size)
            picture, latent = self._paint(rows, source, size, cond, controls)
        self._age += 1
        if self.reset_every and self._age == self.reset_every:
            self.site.request_reset("drift")
        return Painted(picture, Latent(latent.clone()))

    def _paint(
        self, rows: Any, source: torch.Tensor | None, size: tuple[int, int], cond: torch.Tensor, controls: list[Any]
    ) -> tuple[Image, torch.Tensor]:
        """Denoise and decode; once more from noise alone where the result is not finite."""
        from operators.diffusion.schedule import executed

        models = self.models
        assert models is not None
        while True:
            run = rows.n if source is None else executed(rows.n, self.strength)
            if run:
                noise = self._draw(rows, models, size)
                with models.use(*(c.net.module for c in controls)):
                    latent = self._loop.run(rows, rows.n - run, noise, source, cond, controls, self._guidance_input(), self.site.check)
            else:
                latent = source
            picture = self._outlet.emit(models.decode(latent), latent, self._output, self.site)
            if picture is not None:
                return picture, latent
            self._loop.clear()
            self.site.event("not_finite", started="from noise" if source is None else "from the source", executed=run)
            if source is None:
                raise RunError(
                    f"the picture is not finite after {run} steps from noise in {str(models.dtype).removeprefix('torch.')}",
                    fix='try dtype = "fp32", or another vae: some full decoders overflow in half precision',
                )
            source = None

    def _working(self, models: Models) -> tuple[int, int]:
        """Height and width worked at: the output's proportions with `size` as the short side, in multiples of the model's grain."""
        short, grain = min(self._output), models.grain
        side = min(self.size, short, models.native if self.site.embedded else short)
        height, width = (max(grain, round(edge * side / short / grain) * grain) for edge in self._output)
        return height, width

    def _table(self) -> tuple[Any, bool]:
        """Rows for the present steps and guidance, and whether a step takes two passes."""
        from operators.diffusion.schedule import Rows, table

        models = self.models
        assert models is not None
        steps, guidance, scale = self.steps, self.guidance, self._guidance_scale()
        if self.site.embedded:
            steps, guidance = min(steps, EMBEDDED_STEPS), "none"
        if self._distilled or scale <= 1:
            guidance = "none"
        key = (steps, guidance, scale if guidance != "none" else 1.0)
        if key not in self._rows:
            if len(self._rows) >= 64:
                self._rows.pop(next(iter(self._rows)))
            self._rows[key] = Rows(table(self._sampler, models.noise, steps), guidance, scale, models.device)
        return self._rows[key], guidance == "cfg"

    def _guidance_scale(self) -> float:
        if self.guidance_scale is not None:
            return self.guidance_scale
        return DISTILLED_SCALE if self._distilled else GUIDANCE_SCALE[self.guidance]

    def _guidance_input(self) -> torch.Tensor | None:
        """The sinusoidal embedding of the guidance scale that distilled models take (arXiv 2310.04378, 4.2), or None."""
        import torch

        models = self.models
        if not self._distilled or models is None:
            return None
        scale = self._guidance_scale()
        if self._extra is None or self._extra[0] != scale:
            half = self._distilled // 2
            pace = torch.exp(torch.arange(half, dtype=torch.float32) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
            angle = (scale - 1.0) * 1000.0 * pace
            self._extra = (scale, torch.cat([angle.sin(), angle.cos()])[None].to(models.device, models.dtype))
        return self._extra[1]

    def _condition(self, pictures: list[Image], size: tuple[int, int]) -> tuple[list[Any], float | None]:
        """The ControlNets that take part, with their embedded pictures, and how much the first picture changed."""
        from operators.diffusion.loop import Control

        models = self.models
        assert models is not None
        if pictures and len(pictures) != len(models.nets):
            raise UsageError(
                f"control: expected {len(models.nets)} pictures, one per entry of controlnets, found {len(pictures)}",
                fix="connect one condition for each ControlNet, in the same order",
            )
        found: list[Control] = []
        change: float | None = None
        for n, picture in enumerate(pictures):
            net, intake = models.nets[n], self._controls[n]
            moved = intake.take(picture, size, (self.site.epoch, self.site.seq))
            change = moved if n == 0 else change
            feature = self._features[n]
            if moved is not None or feature is None:
                self._features[n] = None  # should memory run out here, the frame is tried again and must not find the last one's
                with models.use(net.embedding):
                    feature = self._features[n] = net.embed(intake.tensor)  # type: ignore[arg-type]
            scales = self.control_scales
            scale = self.control_scale * (scales[n] if scales and n < len(scales) else net.scale)
            if scale != self._scale_values[n]:
                self._scale_values[n] = scale
                self._scales[n].fill_(scale)
            if scale:
                found.append(Control(net, feature, self._scales[n]))
        return found, change

    def _cut(self, change: float | None) -> bool:
        here = (self.site.epoch, self.site.seq)
        if here == self._cut_at:
            return True  # the same frame, tried again
        if not self.scene_cut or change is None or change <= self.scene_cut or not self._age:
            return False
        self._cut_at = here
        self.site.event("scene_cut", change=round(change, 4))
        self.site.request_reset("scene cut")
        return True

    def _source(self, carry: Latent | None, image: Image | None, size: tuple[int, int]) -> torch.Tensor | None:
        """The clean latent that the frame starts from, (1, C, h, w) float32, or None."""
        import torch

        models = self.models
        assert models is not None
        if self.strength >= 1:
            return None
        mix = self.carry_mix if carry is not None and image is not None else float(carry is not None)
        carried = encoded = None
        if carry is not None and mix > 0:
            carried = torch.as_tensor(carry.data).to(models.device, torch.float32)
            cells = (size[0] // models.fold, size[1] // models.fold)
            if tuple(carried.shape[2:]) != cells:
                carried = torch.nn.functional.interpolate(carried, cells, mode="bilinear", antialias=True)
        if image is not None and mix < 1:
            encoded = models.encode(self._image.tensor)  # type: ignore[arg-type]
        if carried is None or encoded is None:
            return carried if encoded is None else encoded
        return torch.lerp(encoded, carried, mix)

    def _draw(self, rows: Any, models: Models, size: tuple[int, int]) -> torch.Tensor:
        shape = (1 + (rows.n if rows.noisy else 0), models.channels, size[0] // models.fold, size[1] // models.fold)
        return self._noise(self.site.key(), self.site.key(-1), self.fresh_noise, shape)
