"""The denoising loop: UNet and ControlNets driven along a sampler's rows.

Everything that lasts is allocated when the shape is first seen (rig.py). A step is the model, one copy and one matrix product; no value is
read on the host, so nothing here waits for the device. Where the device can record work, a step is captured once and replayed: the same
operations on the same tensors, so the same bits. What is unusual (cells held, a negative prompt heard once) captures the passes alone.
It knows latents and conditioning, not frames, prompts or pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from operators.diffusion.steps.graphs import Body, Captured, Graphs
from operators.diffusion.steps.passes import Control as Control  # where everybody looks for it
from operators.diffusion.steps.passes import Passes, Told
from operators.diffusion.steps.reuse import Reuse
from operators.diffusion.steps.rig import Basis, Rig, doubted, rig_key
from operators.diffusion.steps.schedule import Rows
from operators.diffusion.weights.models import Models, Net

if TYPE_CHECKING:
    import torch

    from operators.diffusion.adapters.ipadapter import Looks
    from operators.diffusion.carry.hold import Held
    from operators.diffusion.carry.memory import Memory, Mode

SHAPES = 8  # sizes and ways of guidance whose buffers are kept


class Loop:
    """Runs rows over one set of modules; by `graphs` where the device can."""

    def __init__(self, models: Models, reuse: Reuse | None, graphs: Graphs | None = None) -> None:
        self.models, self.reuse, self.passes = models, reuse, Passes(models, reuse)
        self.memory: Memory | None = None  # what self-attentions keep of earlier frames
        self.looks: Looks | None = None  # what cross-attentions look at beside the text
        self.passes.facts.append(lambda shape: None if self.looks is None else self.looks.course())
        self.passes.facts.append(lambda shape: None if self.memory is None else self.memory.course())
        self.bases: dict[tuple[int, ...], Basis] = {}
        self.rigs: dict[Hashable, Rig] = {}
        self.graphs = graphs
        if graphs is not None:
            graphs.lasting = self.passes.lasting
        self.rig: Rig | None = None  # of the last frame
        self.where: tuple[int, ...] = ()
        self.expected: list[tuple[int, int, int]] = []
        self.courses: dict[tuple[str, tuple[Net, ...], Mode | None], None] = {}  # kinds of steps of the last frame
        self.controls: Sequence[Control] = ()

    def basis(self, passes: int, shape: tuple[int, int, int]) -> Basis:
        key = (passes, *shape)
        if key not in self.bases:
            if len(self.bases) >= SHAPES:
                self.bases.pop(next(iter(self.bases)))
            self.bases[key] = Basis(passes, shape, self.models.device, self.models.dtype)
        return self.bases[key]

    def run(
        self,
        rows: Rows,
        begin: int,
        noise: torch.Tensor,
        source: torch.Tensor | None,
        cond: torch.Tensor,
        controls: Sequence[Control],
        extra: torch.Tensor | None,
        check: Callable[[], None],
        added: dict[str, torch.Tensor] | None = None,
        held: Held | None = None,
    ) -> torch.Tensor:
        """The clean latent (1, C, h, w) float32.

        `begin`: the first of the nominal steps to run. `source`: the clean latent that the frame starts from; None starts from noise alone.
        `noise`: (1 + n or 1, C, h, w). `extra`: the embedded guidance scale of a distilled model, or None. `added`: what models with
        pooled text add to the time (SDXL), or None. `held`: cells that keep what they have, at every step as noisy as the others
        (Levin & Fried 2023, arXiv 2306.00950). The result is a view into buffers of the loop: copy it before the next run.
        """
        import torch

        told, steps, shape = Told(cond, extra, added), rows.n - begin, tuple(noise.shape[1:])
        rig = self.rig = None if self.graphs is None else self._rigged(len(cond), shape, told, controls)  # type: ignore[arg-type]
        basis = rig or self.basis(len(cond), shape)  # type: ignore[arg-type]
        start = noise[:1]
        if source is None:
            torch.mul(start, rows.pure, out=basis.latent[0])
            if rows.residual:
                for each in basis.source:
                    each.zero_()
        else:
            keep, add = rows.start[begin]
            torch.mul(source, keep, out=basis.latent[0])
            basis.latent[0].add_(start, alpha=add)
            if rows.residual:
                for each in basis.source:
                    each.copy_(source)
        if rig is not None and held is None and not rows.onetime:
            return self._replayed(rig, rows, begin, noise, controls, check)
        if held is not None and steps:
            held.pin(basis.latent[0], start, *rows.start[begin])
        now, lone, given, answer = 0, 0, basis.input, basis.answer
        for k in range(steps):
            check()
            i = begin + k
            if k == 1 and rows.onetime:  # only the first step hears the negative prompt
                lone, given, answer = 1, given[1:], [each[1:] for each in answer]
                told = Told(cond[1:], extra, None if added is None else {name: each[1:] for name, each in added.items()})
                if self.looks is not None:
                    self.looks.alone = 1
            given.copy_(basis.latent[now])
            if rows.scaled:
                given.mul_(rows.scale[i])
            kind, works = self._course(k, steps, controls)
            self._enter(i, kind, given)
            if rig is not None:
                rig.t.copy_(rows.t[i])
                self._run(rig, f"pass {lone}", kind, works)
                found = rig.out[lone:]
            elif kind == "full":
                found = self.passes.full(given, rows.t[i], told, works)
            else:
                found = self.passes.short(given, rows.t[i], told)
            if self.memory is not None:
                self.memory.leave()
            answer[now].copy_(found)
            if rows.onetime and not k:
                against = torch.mm(rows.against[i], basis.turns[now]).view(basis.source[0].shape)
                for each in basis.source:
                    each.copy_(against)
            if rows.draws[i]:
                basis.noise[now].copy_(noise[1 + i])
            matrix = rows.later[i] if k else rows.first[i]
            torch.mm(matrix, basis.turns[now], out=basis.result[1 - now])
            now = 1 - now
            if held is not None:
                held.pin(basis.last[now], start, 1.0, 0.0)
                held.pin(basis.latent[now], start, *(rows.start[i + 1] if k + 1 < steps else (1.0, 0.0)))
        return basis.latent[now]

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Pixels (1, 3, H, W), about -1..1, of a latent; of one that `run` gave, into a tensor that holds until the next call."""
        rig = self.rig
        if rig is None or self.graphs is None or latent is not rig.latent[0]:
            return self.models.decode(latent)
        self._decoder(rig).run()
        assert rig.pixels is not None
        return rig.pixels

    def clear(self) -> None:
        for basis in (*self.bases.values(), *self.rigs.values()):
            basis.clear()

    def _course(self, k: int, steps: int, controls: Sequence[Control]) -> tuple[str, list[Control]]:
        """Which pass executed step `k` takes, and which ControlNets work in it."""
        if self.reuse is not None and not self.reuse.due(k):
            return "short", []
        return "full", [control for control in controls if control.net.active(k, steps)]

    def _enter(self, step: int, kind: str, given: torch.Tensor) -> None:
        """Say to self-attentions that a pass of nominal `step` begins."""
        if self.memory is None:
            return
        if kind == "full" or self.reuse is None:
            self.memory.enter(step, tuple(given.shape))
        else:
            self.memory.enter(~step, tuple(given.shape), f"{kind} {self.reuse.cut}")  # other cuts run other layers

    # ---- captured

    def idle(self) -> bool:
        """Capture a piece of what is wanted, or get ready for a shape that is expected; whether there is more to do."""
        graphs = self.graphs
        if graphs is None or graphs.resting:
            return False
        if graphs.wanted:
            graphs.idle()
            return bool(graphs.wanted or self.expected)
        if not self.expected or self.rig is None:
            return False
        self._prepare(self.expected.pop(0))
        return True

    def rest(self, why: str) -> bool:
        """Give back the memory of captures, and make none until `wake`; False where there was none."""
        return self.graphs is not None and self.graphs.rest(why)

    def wake(self) -> None:
        if self.graphs is not None:
            self.graphs.wake()

    def expect(self, shapes: Sequence[tuple[int, int, int]]) -> None:
        """Latents (C, h, w) that may come: their steps are captured when there is time, as the last frame's were."""
        self.expected = list(dict.fromkeys(shapes)) if self.graphs is not None else []

    def begin(self) -> None:
        """A frame begins, here or in a rack: what was captured is checked, and what has waited for long is captured now."""
        if self.graphs is None:
            return
        where = self._where()
        if where != self.where:
            if self.where:
                self.graphs.stale("weights lie elsewhere")
            self.where = where
        self.graphs.begin()

    def answer(
        self, owner: Hashable, kind: str, given: torch.Tensor, t: torch.Tensor, told: Told, controls: Sequence[Control], out: torch.Tensor
    ) -> None:  # fmt: skip
        """A pass from `given` into `out`, captured where it can be: under `owner`, all tensors named here stay."""
        assert self.graphs is not None
        passes, shape = self.passes, tuple(given.shape)

        def make() -> tuple[Body, Callable[[], str | None]]:
            def body() -> None:
                out.copy_(passes.full(given, t, told, controls) if kind == "full" else passes.short(given, t, told))

            return doubted(self.models, body, [self.models.unet, *(control.net.module for control in controls)])

        entry = self.graphs.get((owner, "rows", kind, tuple(id(control.net) for control in controls), self._facts(shape)), make)
        entry.run()
        self._check(entry, shape)

    def _rigged(self, rows: int, shape: tuple[int, int, int], told: Told, controls: Sequence[Control]) -> Rig:
        self.begin()
        rig = self._rig(rows, shape, told)
        rig.hear(told, controls)
        self.controls, self.courses = controls, {}
        return rig

    def _rig(self, rows: int, shape: tuple[int, int, int], told: Told) -> Rig:
        key = rig_key((rows, *shape), told)
        rig = self.rigs.pop(key, None)
        if rig is None:
            while len(self.rigs) >= SHAPES:
                assert self.graphs is not None
                self.graphs.drop(self.rigs.pop(next(iter(self.rigs))).key)
            rig = Rig(self.models, self.passes, rows, shape, told)
        self.rigs[key] = rig  # the last is the one used last
        return rig

    def _replayed(
        self, rig: Rig, rows: Rows, begin: int, noise: torch.Tensor, controls: Sequence[Control], check: Callable[[], None]
    ) -> torch.Tensor:  # fmt: skip
        row, fresh, steps = rig.row, rig.noise[0], rows.n - begin
        for k in range(steps):
            check()
            i = begin + k
            row.copy_(rows.row_later[i] if k else rows.row_first[i])
            if rows.draws[i]:
                fresh.copy_(noise[1 + i])
            course = self._course(k, steps, controls)
            self._enter(i, course[0], rig.input)
            self._run(rig, "step", *course)
            if self.memory is not None:
                self.memory.leave()
        return rig.latent[0]

    def _entry(self, rig: Rig, what: str, kind: str, nets: Sequence[Net]) -> Captured:
        assert self.graphs is not None
        memory = self.memory
        mode = None if memory is None else memory.mode
        self.courses[kind, tuple(nets), mode and mode.of(())] = None

        def make() -> tuple[Body, Callable[[], str | None]]:
            modules = [self.models.unet, *(net.module for net in nets)]
            body = rig.step(kind, nets) if what == "step" else rig.answering(kind, nets, int(what[-1]))
            return doubted(self.models, body if memory is None else memory.bound(body), modules)

        return self.graphs.get((rig.key, what, kind, tuple(map(id, nets)), self._facts(rig.shape)), make)

    def _run(self, rig: Rig, what: str, kind: str, works: list[Control]) -> None:
        entry = self._entry(rig, what, kind, [control.net for control in works])
        entry.run()
        self._check(entry, rig.shape)

    def _check(self, entry: Captured, shape: tuple[int, ...]) -> None:
        if entry.graph is None and self._facts(shape) != entry.key[-1]:  # it made what was not there: next time it will be another one
            assert self.graphs is not None
            self.graphs.forget(entry.key)

    def _facts(self, shape: tuple[int, ...]) -> tuple[Hashable, ...]:
        return tuple(fact(shape) for fact in self.passes.facts)

    def _decoder(self, rig: Rig) -> Captured:
        assert self.graphs is not None
        return self.graphs.get((rig.key, "decode"), lambda: doubted(self.models, rig.decoding(), self.models.coder.decoding))

    def _where(self) -> tuple[int, ...]:
        """Where the weights lie, of modules that stay on the device: one parameter each, because this is asked on every frame."""
        models, nets = self.models, self.models.nets
        modules = [models.unet, *models.coder.decoding, *(net.module for net in nets)]
        firsts = (next(module.parameters(), None) for module in modules if id(module) not in models.resting)
        return tuple(first.data_ptr() for first in firsts if first is not None)

    def _prepare(self, shape: tuple[int, int, int]) -> None:
        """Want ahead what `shape` will need, as the last frame needed it. All of it runs once plainly, so that what is kept has its places."""
        last = self.rig
        assert last is not None
        if len(self.rigs) >= SHAPES:
            return
        rig = self._rig(last.shape[0], shape, last.told[0])
        if rig is last:
            return
        for control in self.controls:
            rig.place(control)
        courses = sorted(self.courses, key=lambda course: course[0])  # full ones first: short ones want what they keep
        for wanted in (False, True):
            for kind, nets, mode in courses:
                with nullcontext() if self.memory is None or mode is None else self.memory.going(mode.of(rig.shape)):
                    if wanted:
                        self._entry(rig, "step", kind, nets)
                    else:
                        rig.step(kind, nets)()
        self._decoder(rig)
