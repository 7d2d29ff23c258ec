"""One training loop for all stages: seeded, timed, checkpointed every minute, the same alone or with several processes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from operators.train.embedded.flat import Flat, cosine


class Stage(Protocol):
    """What a stage gives the loop. `loss` runs one forward and backward pass; `finish` writes the stage's result."""

    name: str
    steps: int
    lr: float
    flat: Flat

    def loss(self, step: int) -> dict[str, float]: ...

    def sketch(self, step: int) -> None: ...

    def finish(self) -> None: ...


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a crash leaves the old one or the new one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing but tensors and plain values."""
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def steps_done(folder: Path, name: str) -> int:
    """Steps of the stage's last checkpoint; 0 where there is none."""
    path = folder / f"{name}.pt"
    return int(load(path)["step"]) if path.is_file() else 0


def run(stage: Stage, folder: Path, *, minutes: float | None, resume: bool, rank: int = 0, world: int = 1, every_s: float = 60.0) -> bool:
    """Train `stage` to its last step, or for `minutes`. Returns whether it is done; `resume` goes on from the last checkpoint."""
    path = folder / f"{stage.name}.pt"
    first, spent = 0, 0.0
    if resume and path.is_file():
        state = load(path)
        stage.flat.load(state["flat"])
        first, spent = int(state["step"]), float(state["seconds"])
    began = saved = time.perf_counter()
    sums: dict[str, float] = {}
    count = 0

    def checkpoint(step: int) -> None:
        if rank == 0:
            save(path, {"flat": stage.flat.state(), "step": step, "seconds": spent + time.perf_counter() - began})

    step = first
    while step < stage.steps:
        parts = stage.loss(step)
        parts["norm"] = stage.flat.step(cosine(step, stage.steps, stage.lr), world)
        step += 1
        for key, value in parts.items():
            sums[key] = sums.get(key, 0.0) + value
        count += 1
        now = time.perf_counter()
        if step % 50 == 0 and rank == 0:
            row = {"step": step, "of": stage.steps, "s": round(spent + now - began, 1), **{k: round(v / count, 4) for k, v in sums.items()}}
            with (folder / f"{stage.name}.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
            sums, count = {}, 0
        if now - saved > every_s and rank == 0:
            saved = now
            checkpoint(step)
            stage.sketch(step)
        over = minutes is not None and now - began > 60 * minutes
        if world > 1 and minutes is not None and step % 20 == 0:  # all stop together: the first process decides
            flag = torch.tensor([int(over and rank == 0)])
            torch.distributed.all_reduce(flag)
            over = bool(flag.item())
        elif world > 1:
            over = False
        if over:
            break
    checkpoint(step)
    if step >= stage.steps and rank == 0:
        stage.finish()
    return step >= stage.steps
