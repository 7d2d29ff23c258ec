"""How diffusion.stream paints one frame: what is said, where the frame starts, the denoising, and what is done where a result is not finite.

The frame's half of the operator, apart from its parameters and its life. Invariant: nothing here outlives a frame but what `Stream.reset`
clears. It knows loaded modules and one frame's inputs, not files, ports or graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import RunError
from engine.operator import Operator
from engine.payload import Image, Latent, Prompt

if TYPE_CHECKING:
    import torch

    from operators.diffusion.carry.hold import Held
    from operators.diffusion.weights.models import Models

EMBEDDED_STEPS = 2  # more cost time and likeness: bench/embedded_quality has one, two and four


class Painter(Operator):
    """What a frame does with the parameters of diffusion.stream (see there) and the parts that `open` made."""

    models: Models | None
    model: str
    steps: int | None
    size: int
    strength: float
    carry_mix: float
    fresh_noise: float
    hold: float
    calm: float | None
    remember_weight: float
    skip: int
    skip_change: float
    control_scale: float
    control_scales: list[float] | None
    control_starts: list[float] | None
    control_ends: list[float] | None
    reference_scale: float
    reference_scales: list[float] | None
    reset_every: int
    guidance_scale: float | None
    scene_cut: float
    prompt: str
    negative: str
    blend: int
    micro: Any
    reuse: Any
    loras: list[Any]
    lora_weights: list[float] | None
    _output: tuple[int, int]
    _age: int
    _cut_at: tuple[int, int]
    _told_fused: bool
    _cues: Any
    _conditioning: Any
    _controls: Any
    _guide: Any
    _image: Any
    _loop: Any
    _loras: Any
    _looks: Any
    _noise: Any
    _outlet: Any
    _tools: Any
    _skipped: int

    def _said(self, prompt: Prompt | None) -> tuple[str, str, int]:
        """Text, negative text and blend: of the port, else of the schedule, else of the parameters."""
        if prompt:
            return prompt.text, prompt.negative or self.negative, prompt.blend
        cue = self._cues.at(self.site.seq, self.site.pts) if self._cues.points else None
        return (cue.text, cue.negative or self.negative, cue.blend) if cue else (self.prompt, self.negative, self.blend)

    def _hear(self, prompt: Prompt | None, references: list[Any]) -> tuple[Any, tuple[int, int], Any]:
        """What the frame in hand is told: the sampler's rows, the working size, the encoded text; adapters and LoRAs as they stand now."""
        models = self.models
        assert models is not None
        models.follow()
        if self._loras is not None:
            self._blend_loras()
        rows, guided = self._table()
        heard = self._conditioning(*self._said(prompt), guided, (self.site.epoch, self.site.seq))
        if self._looks is not None:
            before = list(self._looks.seen)
            self._looks.take(references, self.reference_scale, self.reference_scales, guided)
            if any(was is not None and was is not now for was, now in zip(before, self._looks.seen, strict=True)):
                self._loop.reuse.forget()
        return rows, self._working(models), heard

    def _see(self, control: list[Image], image: Image | None, carry: Latent | None, size: tuple[int, int]) -> tuple[Any, Any, Any]:
        """What the frame in hand shows: ControlNets at work, the carried latent as it counts, the clean latent to start from."""
        at = (self.site.epoch, self.site.seq)
        if self.control_starts or self.control_ends or self._controls.moved:
            self._controls.part(self.control_starts, self.control_ends)
        controls, change = self._controls.take(control, size, at, self.control_scale, self.control_scales)
        if image is not None:
            change = self._image.take(image, size, at)
        if self._cut(change):
            carry = None
            self._tools.cut()
        carried = self._carried(carry, size)
        return controls, carried, self._source(carried, image)

    def _paint(
        self, rows: Any, source: torch.Tensor | None, size: tuple[int, int], cond: torch.Tensor, controls: list[Any],
        added: dict[str, torch.Tensor] | None, held: Held | None,
    ) -> tuple[Image, torch.Tensor]:  # fmt: skip
        """Denoise and decode; once more from noise alone where the result is not finite."""
        from operators.diffusion.steps.schedule import executed

        models, later = self.models, None if self.skip else self._outlet.later  # what may be shown again has to be there
        assert models is not None
        if later is not None and later.anew:
            source = held = None
            later.anew = False
        while True:
            strength = self._tools.strength(self.strength, self.calm)
            run = rows.n if source is None else executed(rows.n, strength)
            if run:
                noise, extra = self._draw(rows, models, size), self._guide.input(self.guidance_scale)
                self._begin(rows, run, (len(cond), *noise.shape[1:]), source is None)
                for why in self._controls.idle(run) if controls else ():
                    self.site.event("unlikely", model=self.model, why=why)
                with self.site.span("denoise"), models.use(*(c.net.module for c in controls)):
                    latent = self._loop.run(rows, rows.n - run, noise, source, cond, controls, extra, self.site.check, added, held)
                self._loop.reuse.pace.done()
            else:
                latent = source
            with self.site.span("decode"):
                pixels, note = self._loop.decode(latent), None if later is None else (run, source is None)
                picture = self._outlet.emit(pixels, latent, self._output, self.site, note)
            if picture is not None:
                for known in later.landed() if later is not None else ():
                    self._unsound(*known)
                self.site.measure(executed=run, full=self._loop.reuse.pace.full if run else 0, strength=float(strength), size=size[0])
                return picture, latent
            self._unsound(run, source is None)
            source = held = None

    def _unsound(self, run: int, anew: bool) -> None:
        """A result is not finite: nothing that was kept is to be trusted. RunError where it started from noise (`anew`)."""
        self._loop.clear()
        self._loop.reuse.forget()
        self._tools.cut()
        self.site.event("not_finite", started="from noise" if anew else "from the source", executed=run)
        if anew:
            raise RunError(
                f"the picture is not finite after {run} steps from noise in {str(self._loop.models.dtype).removeprefix('torch.')}",
                fix='try dtype = "fp32", or another vae: some full decoders overflow in half precision',
            )

    def _begin(self, rows: Any, run: int, shape: tuple[int, ...], anew: bool) -> None:
        """Say to what is kept across steps and frames that one begins; see pace.py."""
        if self._tools.memory is not None:
            self._tools.memory.begin(self.remember_weight, shape)
        lone = (shape[0] - rows.onetime, *shape[1:])
        pace = self._loop.reuse.pace
        facts = self._facts(shape, anew) if pace.frames > 1 else None
        pace.begin(facts, (rows.n - run, rows.n), lone, self._views, rows.onetime)

    def _facts(self, shape: tuple[int, ...], anew: bool) -> str | None:
        """What the deep features of this frame depend on besides its pictures; None while it changes from frame to frame."""
        said, controls, looks = self._conditioning, self._controls, self._looks
        nets = [(v, net.start, net.end) for v, net in zip(controls.values, controls.models.nets, strict=True)]
        seen = None if looks is None else (looks.active, looks.values)
        guidance = (self._guide.guidance, self._guide.scale(self.guidance_scale))
        facts = (said.key, guidance, shape, nets, self._loras and self._loras.weights, seen, anew, self.carry_mix, self.fresh_noise)
        return repr(facts) if said.settled else None

    def _views(self) -> list[Any]:
        """The pictures of the frame in hand, on the host."""
        return [intake.view for intake in (self._image, *self._controls.intakes) if intake.view is not None]

    def _keeping(self) -> dict[str, Any]:
        """Settings of deep-feature reuse; without any, every pass is full."""
        return dict(self.reuse) if self.reuse and not self.site.embedded else {"every": 1, "cut": 0}

    def _working(self, models: Models, size: int | None = None) -> tuple[int, int]:
        """Height and width worked at: the output's proportions with `size` as the short side, in multiples of the model's grain."""
        short, grain = min(self._output), models.grain
        side = min(size or self.size, short, models.native if self.site.embedded else short)
        height, width = (max(grain, round(edge * side / short / grain) * grain) for edge in self._output)
        return height, width

    def _shapes(self, sizes: Sequence[int]) -> list[tuple[int, int, int]]:
        """Latents (C, h, w) of these sizes."""
        models = self.models
        assert models is not None
        return [(models.channels, *(edge // models.fold for edge in self._working(models, size))) for size in sizes]  # type: ignore[misc]

    def _table(self) -> tuple[Any, bool]:
        """Rows for the present steps and guidance, and whether a step takes two passes."""
        models = self.models
        assert models is not None
        steps = self.steps or models.recipe.steps
        if self.site.embedded:
            return self._guide.rows(min(steps, EMBEDDED_STEPS), self.guidance_scale, plain=True)
        return self._guide.rows(steps, self.guidance_scale)

    def _sizes(self, size: tuple[int, int]) -> tuple[int, ...]:
        """SDXL's size conditioning: original, crop, target, height first."""
        micro = self.micro
        return (*micro.get("original", size), *micro.get("crop", (0, 0)), *micro.get("target", size))

    def _blend_loras(self) -> None:
        """Merge LoRAs anew where their weights were moved."""
        loras, said = self._loras, self.lora_weights
        weights = [said[n] if said and n < len(said) else float(wish.get("weight", 1.0)) for n, wish in enumerate(self.loras)]
        text = loras.set(weights)
        if text is None and loras.fused and tuple(weights) != loras.weights and not self._told_fused:
            self._told_fused = True
            self.site.event("loras_fused", asked=weights, stays=list(loras.weights), why="fuse_loras let go of the weights without them")
        if text is None:
            return
        if text:
            self._conditioning.forget()
        self._loop.reuse.forget()

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

    def _watch(self, control: list[Image], image: Image | None, size: tuple[int, int], references: list[Any]) -> None:
        """Let the carry tools see the pictures, on the host, before any is uploaded."""
        tools, said, fold = self._tools, self._conditioning, self.models.fold  # type: ignore[union-attr]
        watching = bool(self.hold or self.skip or self.calm is not None)
        if not watching and tools.flow is None and tools.memory is None:
            tools.blind()
            return
        controls = [intake.window(each, size) for intake, each in zip(self._controls.intakes, control, strict=False)]
        images = [] if image is None else [self._image.window(image, size)]
        on = controls[:1] if tools.on == "control" or (tools.on == "auto" and not images) else images
        weights = None if self._loras is None else self._loras.weights
        key = (
            said.key, None if said.settled else said.frame, size, self.control_scale, self.control_scales, self.control_starts,
            self.control_ends, self.reference_scale, self.reference_scales, weights, self.guidance_scale, [r.digest() for r in references],
        )  # fmt: skip
        tools.look([*controls, *images], on[0] if on else None, (size[0] // fold, size[1] // fold), repr(key), watching)

    def _again(self) -> tuple[Image, Latent]:
        """The last picture and latent once more, for a frame in which nothing changed."""
        import numpy as np

        last, latent = self._tools.again()
        picture = self.site.empty(last.shape)
        np.copyto(picture, last)
        self._skipped = self._tools.skipped
        self.site.measure(executed=0, skipped=1)
        self._grow()
        return Image(picture), latent

    def _grow(self) -> None:
        """The epoch is a frame older; at some age it asks for its end."""
        self._age += 1
        if self.reset_every and self._age == self.reset_every:
            self.site.request_reset("drift")

    def _carried(self, carry: Latent | None, size: tuple[int, int]) -> torch.Tensor | None:
        """The carried latent at the working `size`, (1, C, h, w) float32 on the device; None where there is none, or nobody wants it."""
        import torch

        models = self.models
        assert models is not None
        if carry is None or (self._tools.strength(self.strength, self.calm) >= 1 and not self.hold):
            return None
        carried = torch.as_tensor(carry.data).to(models.device, torch.float32)
        cells = (size[0] // models.fold, size[1] // models.fold)
        if tuple(carried.shape[2:]) != cells:
            carried = torch.nn.functional.interpolate(carried, cells, mode="bilinear", antialias=True)
        return carried

    def _source(self, carried: torch.Tensor | None, image: Image | None) -> torch.Tensor | None:
        """The clean latent that the frame starts from, (1, C, h, w) float32, or None."""
        models = self.models
        assert models is not None
        if self._tools.strength(self.strength, self.calm) >= 1:
            return None
        mix = self.carry_mix if carried is not None and image is not None else float(carried is not None)
        encoded = None
        if image is not None and mix < 1:
            encoded = models.encode(self._image.tensor)  # type: ignore[arg-type]
        if carried is None or mix <= 0:
            return encoded
        carried = self._tools.moved(carried, encoded)
        return carried if encoded is None else encoded.lerp_(carried, mix)

    def _draw(self, rows: Any, models: Models, size: tuple[int, int]) -> torch.Tensor:
        shape = (1 + (rows.n if rows.noisy else 0), models.channels, size[0] // models.fold, size[1] // models.fold)
        return self._noise(self.site.key(), self.site.key(-1), self.fresh_noise, shape, self._tools.since)
