"""How diffusion.stream paints several frames with one pass: a frame batch, or a stream batch whose pictures come some frames later.

Invariants: a frame's inputs, noise and prompt are its own, and its picture leaves under its own packet; in a batch without carry it is what it
would be alone, within rounding. After `_empty` nothing is under way. It knows frames and their order, not how rows are computed (rack.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from engine.payload import Image, Latent, Prompt
from operators.diffusion.painter import Painter
from operators.diffusion.steps.pace import cells_of
from operators.diffusion.steps.rack import Conveyor, Frame, Rack, together

if TYPE_CHECKING:
    import torch

    from operators.diffusion.weights.models import Models

RACKS = 4  # shapes whose buffers are kept
ALONE = {"hold": 0.0, "calm": None, "skip": 0}  # what a frame does with the one before it, and its value that does nothing


class Batches(Painter):
    """`batching`: see options.Batching. `batch` of the node (Site.batch): frames of a frame batch, most rows of a stream batch."""

    batch_carry = "batching = { carry = true }"
    batching: Any
    _racks: dict[tuple[Any, ...], Rack]
    _conveyor: Conveyor | None
    _entered: tuple[int, int]
    _clean: list[tuple[Frame, torch.Tensor]]
    _painted: list[tuple[Image, Latent]]
    _left: torch.Tensor | None
    _told: set[str]

    @classmethod
    def sliding(cls, params: Mapping[str, Any]) -> bool:
        """Whether frames come one at a time and are answered later: a stream batch."""
        return bool((params.get("batching") or {}).get("stream"))

    def _arrange(self) -> None:
        """Get ready, at open. Raises UsageError for what cannot be together."""
        self._racks, self._conveyor, self._told = {}, None, set()
        self._empty()
        stream, batch = self.sliding({"batching": self.batching}), self.site.batch
        if batch == 1:
            if stream:
                raise UsageError("batching: stream: the node gathers no frames", fix="write batch = N beside op: the steps that are executed")
            return
        what = "a stream batch" if stream else "a frame batch"
        if stream and self.reuse and self.reuse["every"] > 1:
            raise UsageError(
                f"reuse: every = {self.reuse['every']} cannot be with a stream batch: the rows of one pass are at different steps",
                fix="write every = 1 and frames = N: then all rows of a pass are full, or none",
            )
        if self.guidance == "rcfg-onetime":
            raise UsageError(
                f'guidance: "rcfg-onetime" hears the negative prompt in the first step alone, and {what} has one pass for all rows',
                fix='write guidance = "rcfg-self" or "cfg"',
            )
        for name in ("flow", "remember"):
            if getattr(self, name, None) is not None:
                why = f"it goes from one frame to the next, and those of {what} do not see each other"
                raise UsageError(f"{name}: {why}", fix=f"leave {name} out")

    def _empty(self) -> None:
        """Let go of every frame under way and of what is carried."""
        self._conveyor, self._entered, self._left = None, (-1, -1), None
        self._clean, self._painted = [], []

    def call_batch(self, frames: list[dict[str, Any]]) -> list[Any]:
        """The pictures of `frames`; in a stream batch those of the frames that are clean now, with no frame those of all under way."""
        import torch

        packets = self.site.packets
        if len(packets) != len(frames):
            raise UsageError("a batch of diffusion.stream cannot run in a child process", fix="leave process out")
        for name, nothing in ALONE.items():
            if getattr(self, name, nothing) != nothing and name not in self._told:
                self._told.add(name)
                self.site.event("batch_ignores", parameter=name, why="the frames of a batch do not see each other")
        with torch.inference_mode():
            return self._slide(frames) if self.sliding({"batching": self.batching}) else self._side_by_side(frames)

    # ---- a frame batch

    def _side_by_side(self, given: list[dict[str, Any]]) -> list[Any]:
        frames = []
        for packet, arguments in zip(self.site.packets, given, strict=True):
            self.site.packet = packet
            frames.append(self._ready(**arguments))
        found: list[Any] = []
        while len(found) < len(frames):
            first = frames[len(found)]
            same = list(takewhile(lambda frame: frame.key == first.key, frames[len(found) :]))  # noqa: B023
            if not first.run:
                found.append(self._show(first, self._denoised(first), len(frames) - 1))
                continue
            rack = self._rack(len(same), first)
            with self.site.span("denoise"), self._models().use(*(net.module for net, _, _ in first.controls)):
                latents = together(self._loop, rack, same, self.site.check)
            found += [self._show(frame, latents[n : n + 1].clone(), len(frames) - 1) for n, frame in enumerate(same)]
        if self._carries:
            self._left = found[-1][1].data
        return found

    # ---- a stream batch

    def _slide(self, given: list[dict[str, Any]]) -> list[Any]:
        """Every state is changed only by what has succeeded: where memory runs out, the engine calls again with the same frame."""
        for packet, arguments in zip(self.site.packets, given, strict=True):
            at = (packet.epoch, packet.seq)
            if at == self._entered:
                continue  # tried again: it is under way
            self.site.packet = packet
            self._enter(self._ready(**arguments))
            self._entered = at
        if not given:
            self._bring_out()
        while self._clean:
            frame, latent = self._clean[0]
            self._painted.append(self._show(frame, latent, frame.run - 1 if frame.run <= self.site.batch else 0))
            self._clean.pop(0)
        found, self._painted = self._painted, []
        if self.site.packets:
            self.site.packet = self.site.packets[-1]
        return found

    def _enter(self, frame: Frame) -> None:
        conveyor = self._conveyor
        if conveyor is not None and conveyor.key != frame.key:
            self._bring_out()
        if not 1 < frame.run <= self.site.batch:
            self._bring_out()
            if frame.run > self.site.batch and "alone" not in self._told:
                self._told.add("alone")
                why = "it has more steps than the stream batch has rows"
                self.site.event("painted_alone", executed=frame.run, batch=self.site.batch, why=why)
            latent = self._denoised(frame)
            self._clean.append((frame, latent))
            self._left = latent if self._carries else None
            return
        if self._conveyor is None:
            self._conveyor = Conveyor(self._rack(frame.run, frame), frame)
        self._turn(frame)

    def _turn(self, frame: Frame | None) -> None:
        conveyor = self._conveyor
        assert conveyor is not None
        self.site.check()
        nets = next(f for f in (frame, *conveyor.frames) if f is not None).controls
        with self.site.span("denoise"), self._models().use(*(net.module for net, _, _ in nets)):
            done = conveyor.turn(self._loop, frame)
        if done is not None:
            self._clean.append(done)
        if frame is not None and self._carries:
            self._left = conveyor.newest

    def _bring_out(self) -> None:
        """Finish every frame under way."""
        while self._conveyor is not None and self._conveyor.busy:
            self._turn(None)
        self._conveyor = None

    # ---- one frame of them

    @property
    def _carries(self) -> bool:
        return bool(self.batching and self.batching.get("carry"))

    def _models(self) -> Models:
        assert self.models is not None
        return self.models

    def _ready(
        self, control: list[Image] | None = None, image: Image | None = None, carry: Latent | None = None, prompt: Prompt | None = None,
        reference: list[Any] | None = None,
    ) -> Frame:  # fmt: skip
        """All that a frame is told, and where it starts."""
        from operators.diffusion.steps.schedule import executed

        models = self._models()
        if carry is None and self._left is not None:
            carry = Latent(self._left)
        with self.site.span("conditioning"):
            rows, size, heard = self._hear(prompt, reference or [])
            controls, _, source = self._see(control or [], image, carry, size)
            added = None if heard.pooled is None else self._conditioning.added(heard, self._sizes(size))
        run = rows.n if source is None else executed(rows.n, self.strength)
        noise = self._draw(rows, models, size)
        strengths = {id(net): value for net, value in zip(models.nets, self._controls.values, strict=True)}
        values = [(c.net, c.feature, strengths[id(c.net)]) for c in controls]
        shape = (len(heard.text), *noise.shape[1:])
        cells = [cells_of(view) for view in self._views()] if self._loop.reuse.pace.frames > 1 else []
        extra, facts = self._guide.input(self.guidance_scale), self._facts(shape, source is None)
        self._grow()
        return Frame(rows, run, size, heard.text, added, values, source, noise, extra, facts, cells, self.site.packet)

    def _rack(self, width: int, frame: Frame) -> Rack:
        models, key = self._models(), (width, len(frame.text), tuple(frame.noise.shape[1:]))
        if key not in self._racks:
            if len(self._racks) >= RACKS:
                self._racks.pop(next(iter(self._racks)))
            self._racks[key] = Rack(width, len(frame.text), key[2], models.device, models.dtype)
        return self._racks[key]

    def _denoised(self, frame: Frame) -> torch.Tensor:
        """The clean latent of a frame on its own."""
        if not frame.run:
            assert frame.source is not None
            return frame.source
        rack = self._rack(1, frame)
        with self.site.span("denoise"), self._models().use(*(net.module for net, _, _ in frame.controls)):
            return together(self._loop, rack, [frame], self.site.check).clone()

    def _show(self, frame: Frame, latent: torch.Tensor, behind: int) -> Any:
        """Decode; where the result is not finite, once more from noise, alone."""
        while True:
            self.site.packet = frame.packet
            with self.site.span("decode"):
                picture = self._outlet.emit(self._models().decode(latent), latent, self._output, self.site)
            if picture is not None:
                self.site.measure(executed=frame.run, full=frame.full, strength=float(self.strength), size=frame.size[0], behind=behind)
                return picture, Latent(latent)
            self._unsound(frame.run, frame.source is None)
            frame = replace(frame, source=None, run=frame.rows.n, facts=None, full=0)
            latent = self._denoised(frame)
