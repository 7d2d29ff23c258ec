"""diffusion.stream: a picture painted from a prompt, skeletons, the input and what the last frame left.

Invariant: a frame depends on its inputs, its parameters, the carried latent and noise keyed by (seed, node, epoch, seq), and on nothing else;
after `reset` nothing of an earlier epoch is left. It knows no graph: carry, drops and rates are the engine's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from engine.errors import UsageError
from engine.operator import HOST_RGB, Knob, Live, Range, operator
from engine.payload import Image, Latent, Prompt
from operators.diffusion.batches import Batches
from operators.diffusion.options import (
    Batching,
    ControlNet,
    Cue,
    Embedding,
    Flow,
    Guidance,
    IPAdapter,
    Lora,
    Micro,
    Motion,
    Placement,
    Precision,
    Quantise,
    Remember,
    ReuseSteps,
    Scheduler,
)  # fmt: skip
from operators.diffusion.reference import Reference
from operators.diffusion.steps.accumulate import Accumulation
from operators.diffusion.steps.attend import Attention
from operators.diffusion.steps.capture import Wanted
from operators.diffusion.steps.compiled import Compile
from operators.diffusion.weights.families import FamilyName
from operators.diffusion.words.syntax import Syntax

if TYPE_CHECKING:
    import torch

    from engine.planning.outlook import Asked, Outlook
    from engine.site import Site
    from operators.diffusion.weights.models import Models


class Painted(NamedTuple):
    """`image`: the picture, at the output size. `latent`: the clean latent it was decoded from, at the working size."""

    image: Annotated[Image, HOST_RGB]
    latent: Latent


@operator("diffusion.stream", gpu=True)
class Stream(Batches):
    """Paint one picture a frame with a model of the Stable Diffusion 1.x, 2.x or XL class, starting from what the last frame left.

    Ports. `control`: one condition picture (a skeleton, edges …) per entry of `controlnets`, in that order. `image`: a picture to start from.
    `carry`: the latent of an earlier frame, usually `NODE.latent@-1`. `prompt`: what to paint; its `blend` says over how many frames a change
    arrives. `reference`: what diffusion.reference made, for `ip_adapters`. All are optional, one at least must be connected.

    Start of a frame. The source is the carried latent, the encoded `image`, or both mixed: carry_mix 1 is all carry, 0 all image.
    `strength` says how far the source is noised and painted again: of `steps` nominal steps, int(steps * strength) are executed, as
    diffusers counts, but at least one. Strength 0 leaves the source as it is; 1, or no source (a first frame), starts from noise alone and
    runs every step.

    Noise. fresh_noise 0 keeps one noise for the epoch, which holds a picture still; 1 draws anew each frame; values between move on the
    sphere between the two. Noise is keyed by seed, node, epoch and frame number, never by what was dropped.

    Size. `width` and `height` (default: `size` at open) are what leaves the node. `size` is the short side worked at, never more than
    that of the output, rounded to what the model divides; moving it leaves the output's size as it is. Inputs are cut to the proportions of
    the output (fit = "crop") or bent to them. `micro` is SDXL's size conditioning (default: the working size, uncut).

    Models. `model`, `vae` and those in `controlnets` are diffusers folders, ids in the hub's cache on this machine, or single files in the
    published layout, safetensors only; a single model file takes configurations and tokenizers from the folder `base`, where given. The
    family ("auto": by configurations and name) says what `scheduler`, `guidance`, guidance_scale, `steps` and clip_skip are where the graph
    does not; see docs/models.md. `prediction` overrides what the model says it predicts, karras_sigmas the spacing of euler and dpm++.

    Guidance. "none": one pass a step. "cfg": classifier-free (arXiv 2207.12598), two passes a step. "rcfg-self": residual guidance against the
    frame's source (arXiv 2312.12491), one pass; "rcfg-onetime": against what the negative prompt makes of the frame's first step, one pass
    more a frame. Latent consistency models take the scale as an input whatever `guidance` says.

    Adapters. ControlNets work from `start` to `end` of the executed steps; control_scale, control_scales, control_starts and control_ends
    move them live. `loras` are merged into the weights, lora_weights moves them live (text encoders too); fuse_loras frees the memory that
    this takes. `ip_adapters` look at the pictures on `reference`, as strongly as reference_scale and reference_scales say. `embeddings` are
    words of textual inversion.

    Prompts. `syntax` says what brackets and signs mean ("weights": (word:1.3), [word], AND, BREAK; "compel": word++, (words)1.3,
    ("a", "b").blend(…); "plain"). A weight that cannot be read is an error at open; in a prompt that arrives later it is told as
    `prompt_weight`, and the text is taken as it stands. Texts longer than one chunk of 77 tokens take up to `chunks` of them. `schedule` has
    prompts by frame or time, for when nothing is connected to `prompt`. A change arrives by `interpolation`: "slerp" keeps the length of
    each token's encoding on the way, "lerp" is shorter in the middle.

    Carry tools; docs/live.md has what each is worth. `hold`: cells of the carried latent stay, as firmly as it says, where neither `control`
    nor `image` moved, within `motion`'s reach; the others are painted with `strength`. `calm`: the strength of a frame in which
    nothing moves; between, the share of what moves decides. `flow`: the carried latent, and if asked the fixed noise, go along with the
    motion. `remember`: self-attention sees earlier frames, as strongly as remember_weight says (1 = like the present one).
    `skip`: at most so many frames in a row are not painted, but are the last picture once more, where no
    pixel of the inputs changed by more than skip_change (0..1) since they were painted from; told as `skipped`.

    Drift. reset_every asks for a new epoch every so many frames; scene_cut does when the picture (`image`, else the first `control`) changes by
    more than this mean absolute difference (0..1, 0 = off), and that frame ignores the carry.

    Cost. reuse = { every = 3, cut = 1 } computes deep features on every third step only (arXiv 2312.00858); `frames` = 4 lets up to four
    frames live on those of one, until a picture moves by more than `motion`. It may be changed live. With `batch` = N beside op, N frames
    are painted together; with batching = { stream = true } each pass has a row for every executed step instead (arXiv 2312.12491), and a
    picture comes some frames later. Either costs latency; see docs/performance.md.

    Memory. `placement` says how parts are kept (see there), `quantise` that they are kept in 8 or 4 bits by a library that is installed
    ("auto": if the memory plan needs it); what is not said the memory plan decides, or it stays on the device. vae_tiling and vae_slicing
    spare memory in the autoencoder. LoRAs that can be moved need full weights. See docs/memory.md.

    Speed. `graphs` captures steps and replays them, which spares the host a thousand calls a step: "auto" where the device can. Steps, strength
    and scales move without a new capture; for a new size, way of guidance or set of adapters a capture is made when there is time. `attention`:
    torch's kernels, or those of xformers where they are installed and agree. `accumulation` "fp16": products add up in half precision, if the
    UNet's output stays within 1 % ("auto": on GeForce cards). `compile` = "blocks" compiles the UNet's blocks at open; see docs/performance.md.

    With --embedded the model that ships stands in for all models and is sampled as it was trained: by its own scheduler, at its native size
    at most, without guidance, adapters or reuse, and in at most 2 nominal steps.

    Raises MissingError for a model that is not here, UsageError for one that does not fit or is a pickle, RunError where a picture is not
    finite even when started anew. torch.OutOfMemoryError passes through; `relieve` then keeps all but the UNet off the device between uses.
    """

    def __init__(
        self,
        *,
        model: str,
        family: FamilyName = "auto",
        base: str | None = None,
        controlnets: list[ControlNet] | None = None,
        ip_adapters: list[IPAdapter] | None = None,
        loras: list[Lora] | None = None,
        fuse_loras: bool = False,
        embeddings: list[Embedding] | None = None,
        vae: str | None = None,
        vae_tiling: bool | None = None,
        vae_slicing: bool = False,
        placement: Placement | None = None,
        quantise: Quantise | Literal["auto"] | None = None,
        scheduler: Scheduler = "auto",
        karras_sigmas: bool | None = None,
        prediction: Literal["auto", "epsilon", "v", "sample"] = "auto",
        guidance: Guidance = "auto",
        reuse: Annotated[ReuseSteps | None, Live()] = None,
        batching: Batching | None = None,
        motion: Motion | None = None,
        flow: Flow | None = None,
        remember: Remember | None = None,
        width: Annotated[int | None, Range(64, 4096)] = None,
        height: Annotated[int | None, Range(64, 4096)] = None,
        fit: Literal["crop", "stretch"] = "crop",
        micro: Micro | None = None,
        dtype: Precision = "auto",
        threads: Annotated[int, Range(0, 256)] = 0,
        graphs: Wanted = "auto",
        attention: Attention = "auto",
        accumulation: Accumulation = "auto",
        compile: Compile = "off",
        syntax: Syntax = "weights",
        chunks: Annotated[int, Range(1, 16)] = 4,
        clip_skip: Annotated[int | None, Range(0, 8)] = None,
        schedule: list[Cue] | None = None,
        interpolation: Literal["slerp", "lerp"] = "slerp",
        steps: Annotated[int | None, Knob(1, 60)] = None,
        size: Annotated[int, Knob(64, 2048)] = 512,
        strength: Annotated[float, Knob(0, 1)] = 0.6,
        carry_mix: Annotated[float, Live(0, 1)] = 0.5,
        fresh_noise: Annotated[float, Live(0, 1)] = 0.0,
        hold: Annotated[float, Live(0, 1)] = 0.0,
        calm: Annotated[float | None, Live(0, 1)] = None,
        remember_weight: Annotated[float, Live(0, 4)] = 1.0,
        skip: Annotated[int, Live(0, 100000)] = 0,
        skip_change: Annotated[float, Live(0, 1)] = 0.02,
        guidance_scale: Annotated[float | None, Live(0, 50)] = None,
        control_scale: Annotated[float, Live(0, 4)] = 1.0,
        control_scales: Annotated[list[float] | None, Live()] = None,
        control_starts: Annotated[list[float] | None, Live()] = None,
        control_ends: Annotated[list[float] | None, Live()] = None,
        reference_scale: Annotated[float, Live(0, 4)] = 1.0,
        reference_scales: Annotated[list[float] | None, Live()] = None,
        lora_weights: Annotated[list[float] | None, Live()] = None,
        prompt: Annotated[str, Live()] = "",
        negative: Annotated[str, Live()] = "",
        blend: Annotated[int, Live(0, 1000)] = 0,
        reset_every: Annotated[int, Live(0)] = 0,
        scene_cut: Annotated[float, Live(0, 1)] = 0.0,
    ) -> None:
        self.model, self.family, self.base, self.controlnets, self.vae = model, family, base, controlnets or [], vae
        self.ip_adapters, self.loras, self.fuse_loras, self.embeddings = ip_adapters or [], loras or [], fuse_loras, embeddings or []
        self.vae_tiling, self.vae_slicing, self.micro = vae_tiling, vae_slicing, micro or {}
        self.placement, self.quantise = placement or {}, quantise
        self.scheduler, self.karras_sigmas, self.prediction, self.guidance, self.reuse = scheduler, karras_sigmas, prediction, guidance, reuse
        self.batching = batching
        self.width, self.height, self.fit, self.dtype, self.threads = width, height, fit, dtype, threads
        self.graphs, self.attention, self.accumulation, self.compile = graphs, attention, accumulation, compile
        self.syntax, self.chunks, self.clip_skip, self.schedule, self.interpolation = syntax, chunks, clip_skip, schedule or [], interpolation
        self.steps, self.size, self.strength = steps, size, strength
        self.carry_mix, self.fresh_noise, self.guidance_scale = carry_mix, fresh_noise, guidance_scale
        self.motion, self.flow, self.remember = motion, flow, remember
        self.hold, self.calm, self.remember_weight, self.skip, self.skip_change = hold, calm, remember_weight, skip, skip_change
        self.control_scale, self.control_scales = control_scale, control_scales
        self.control_starts, self.control_ends = control_starts, control_ends
        self.reference_scale, self.reference_scales, self.lora_weights = reference_scale, reference_scales, lora_weights
        self.prompt, self.negative, self.blend = prompt, negative, blend
        self.reset_every, self.scene_cut = reset_every, scene_cut
        self.models: Models | None = None
        self._age = 0
        self._cut_at = (-1, -1)
        self._told_fused = False
        self._skipped = 0

    @classmethod
    def outlook(cls, asked: Asked) -> Outlook | None:
        """What a frame costs and what has to be loaded; see operators.diffusion.work."""
        from operators.diffusion.work import outlook

        return outlook(asked)

    # ---- life

    def open(self, site: Site) -> None:
        """Load, check and place the modules. See the class for what is raised."""
        import torch

        from operators.diffusion.adapters.controls import Controls
        from operators.diffusion.build import adapted, placed, prepared
        from operators.diffusion.carry.toolbox import Toolbox
        from operators.diffusion.pictures.landing import later_for
        from operators.diffusion.pictures.pixels import Intake, Outlet
        from operators.diffusion.steps.guide import Guide
        from operators.diffusion.steps.loop import Loop
        from operators.diffusion.steps.noise import Noise
        from operators.diffusion.steps.quick import quicken
        from operators.diffusion.steps.reuse import Reuse
        from operators.diffusion.words.conditioning import Conditioning
        from operators.diffusion.words.cues import Schedule
        from operators.diffusion.words.syntax import parse
        from operators.diffusion.words.text import Encoder
        from operators.models.loading import LOADING

        super().open(site)
        if self.threads:
            torch.set_num_threads(self.threads)
        self._cues = Schedule(self.schedule)
        for text in (self.prompt, self.negative, *(words for cue in self._cues.said for words in (cue.text, cue.negative))):
            parse(text, self.syntax)
        self._output = (self.height or self.size, self.width or self.size)
        with LOADING:
            models = self.models = self._load(torch.device(site.device))
            self._loras, self._looks = adapted(self, models)
            placed(self, models)
        recipe = models.recipe
        self._sampler = models.sampler if self.scheduler == "auto" or site.embedded else self.scheduler
        self._guide = Guide(models, self._sampler, self.guidance)
        self._tools = Toolbox(models, site.event, self.motion, self.flow, self.remember)
        self._loop = Loop(models, Reuse(models.unet, **self._keeping()), quicken(self, models))
        self._loop.expect(self._shapes(site.choices.get("size", ())))
        self._loop.memory, self._loop.looks = self._tools.memory, self._looks
        skip = recipe.clip_skip if self.clip_skip is None else self.clip_skip
        encoder = Encoder(models, site.event, syntax=self.syntax, chunks=1 if site.embedded else self.chunks, skip=skip)
        self._conditioning = Conditioning(encoder, self.interpolation)
        self._noise = Noise(models.device)
        self._image = Intake(models.device, models.coder.dtype, -1.0, self.fit)
        self._controls = Controls(models, self.fit)
        self._outlet = Outlet(later_for(models.device, site))
        self._arrange()
        prepared(self, models)

    def _load(self, device: torch.device) -> Models:
        from operators.diffusion.build import load_for

        return load_for(self, device)

    def reset(self) -> None:
        """Drop what belongs to the epoch: the rest of a prompt's blend, fixed noise, kept features, what the carry tools keep, the scene to
        compare with."""
        if self.models is None:
            return
        self._age = 0
        self._conditioning.reset()
        self._image.forget()
        self._controls.forget()
        self._loop.reuse.forget()
        self._tools.forget()
        self._empty()

    def update(self, **changes: Any) -> None:
        """Take new values of live parameters."""
        super().update(**changes)
        if "reuse" in changes and self.models is not None:
            try:
                self._loop.reuse.set(**self._keeping())
            except UsageError as error:
                self.site.event("reuse_stays", why=str(error))

    def snapshot(self) -> Any:
        """The age of the epoch, what the prompt was, kept features, what the carry tools keep, and the pictures that a scene cut would be
        seen by; the rest follows from the frame."""
        looks = [self._image, *self._controls.intakes] if self.scene_cut else []
        pictures = [None if look.view is None else look.view.copy() for look in looks]
        kept = self._loop.reuse.pace.snapshot()
        tools = self._tools.snapshot()
        return {"age": self._age, "said": self._conditioning.snapshot(), "pictures": pictures, "kept": kept, "tools": tools, "left": self._left}

    def recall(self, state: Any) -> None:
        import torch

        self._age = state["age"]
        with torch.inference_mode():
            self._conditioning.recall(state["said"])
            self._loop.reuse.pace.recall(state.get("kept"), self._noise.device)
            self._tools.recall(state["tools"])
            self._left = None if state.get("left") is None else torch.as_tensor(state["left"]).to(self._noise.device)
        for look, picture in zip([self._image, *self._controls.intakes], state["pictures"], strict=False):
            look.recall(picture)

    def relieve(self) -> bool:
        """Give back what captured steps hold; then keep text encoders, autoencoder and ControlNets off the device between uses."""
        return self.models is not None and any([self._loop.rest("memory ran out"), self.models.relieve()])

    def restore(self) -> None:
        """Bring back what `relieve` moved, and capture again."""
        if self.models is not None:
            self.models.restore()
            self._loop.wake()

    def idle(self) -> bool:
        """Capture steps that will be needed; see graphs.py."""
        import torch

        with torch.inference_mode():
            return self.models is not None and self._loop.idle()

    def tally(self) -> dict[str, int]:
        """Frames that were not painted because nothing had changed."""
        return {"skipped": self._skipped} if self._skipped else {}

    def close(self) -> None:
        if self.models is not None and "_loop" in self.__dict__:
            self._loop.rest("closed")
        self.models = None
        for name in ("_loop", "_conditioning", "_noise", "_image", "_controls", "_guide", "_loras", "_looks", "_tools"):
            self.__dict__.pop(name, None)

    # ---- a frame

    def __call__(
        self,
        control: Annotated[list[Image] | None, HOST_RGB] = None,
        image: Annotated[Image | None, HOST_RGB] = None,
        carry: Latent | None = None,
        prompt: Prompt | None = None,
        reference: list[Reference] | None = None,
    ) -> Painted:
        import torch

        assert self.models is not None
        with torch.inference_mode():
            with self.site.span("conditioning"):
                rows, size, heard = self._hear(prompt, reference or [])
                self._watch(control or [], image, size, reference or [])
                if self._tools.still(self.skip, self.skip_change):
                    return Painted(*self._again())
                controls, carried, source = self._see(control or [], image, carry, size)
                added = None if heard.pooled is None else self._conditioning.added(heard, self._sizes(size))
            picture, clean = self._paint(rows, source, size, heard.text, controls, added, self._tools.held(carried, self.hold))
            with torch.inference_mode(False):
                latent = Latent(clean.clone())
            self._tools.settle(picture, latent, held=self.hold > 0, skip=self.skip > 0)
        self._grow()
        return Painted(picture, latent)
