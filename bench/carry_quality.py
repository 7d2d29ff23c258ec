"""What each carry tool of diffusion.stream is worth, alone and together, on the embedded model.

    python bench/carry_quality.py [--quick] [--part clips|long|gate] [--only SETTING] [--json bench/results/carry_quality.json]

Figures of the renderer dance, walk, wave and jump; diffusion.stream paints them anew from their skeletons, as a graph would have it, and the
meters of a graph (metric.flicker, metric.warp_error, metric.drift, metric.identity) watch, with the rendered picture as reference. The
renderer knows which pixel belongs to what, so the figure's IoU is measured too. Every number is a mean over frames, then clips.

    flicker     mean change (0..255) of what stands still in the reference, frame to frame (metric.flicker)
    background  the same over the pixels that are background throughout the clip: bench/embedded_quality.py's measure
    warp_error  squared change (0..1, times 1000) beyond what moved, over the pixels whose motion is known (metric.warp_error)
    iou         of the painted figure with the true one
    shirt_std   spread of the shirt's colour over a clip (0..255)

and over 200 frames of one dance under a prompt that leaves hair and trousers open: `drift` in colour (CIEDE2000 against the first eight
frames, last third), `contrast` and `detail` as ratios (metric.drift), `identity` (metric.identity: the worst of face, hair, clothes,
CIEDE2000 against the first eight frames). `gate` counts the frames that `skip` passes over where every pose is shown four times.

"truth" is the rendered clip itself, "autoencoder" that clip through the autoencoder alone: what no way of painting can beat.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import report, write

SIZE, FPS = 256, 12
MOTIONS = ("dance", "walk", "wave", "jack")
FROM_NOISE = {"steps": 1, "strength": 1.0}  # one step, from noise alone: what the embedded model does best
FROM_CARRY = {"steps": 2, "strength": 0.6}  # one step as well, half-way, from the carried latent
ON_IMAGE = {"on": "image"}

VARIANTS: dict[str, dict[str, Any]] = {
    "fresh noise": {**FROM_NOISE, "fresh_noise": 1.0},
    "fixed noise": FROM_NOISE,
    "noise half fresh": {**FROM_NOISE, "fresh_noise": 0.5},
    "noise moved by flow": {**FROM_NOISE, "flow": {**ON_IMAGE, "carry": False, "noise": True}},
    "hold 1": {**FROM_NOISE, "hold": 1.0},
    "hold 0.9": {**FROM_NOISE, "hold": 0.9},
    "hold 0.9, half the reach": {**FROM_NOISE, "hold": 0.9, "motion": {"reach": 1 / 32}},
    "hold 0.9, fresh noise": {**FROM_NOISE, "hold": 0.9, "fresh_noise": 1.0},
    "remember": {**FROM_NOISE, "remember": {}},
    "remember + anchor": {**FROM_NOISE, "remember": {"anchor": True}},
    "carry": FROM_CARRY,
    "carry, fresh noise": {**FROM_CARRY, "fresh_noise": 1.0},
    "calm": {"steps": 2, "strength": 1.0, "calm": 0.6},
    "carry + remember": {**FROM_CARRY, "remember": {"anchor": True}},
    "carry + flow of skeletons": {**FROM_CARRY, "flow": {"on": "control"}},
    "carry + flow of pictures": {**FROM_CARRY, "flow": ON_IMAGE},
    "carry + hold 0.9": {**FROM_CARRY, "hold": 0.9},
    "carry + flow + hold 0.9": {**FROM_CARRY, "hold": 0.9, "flow": ON_IMAGE},
}
LONG = (
    "fresh noise", "fixed noise", "noise moved by flow", "hold 0.9", "carry", "carry, fresh noise", "carry + flow of pictures",
    "carry + hold 0.9", "carry + flow + hold 0.9",
)  # fmt: skip
FRAMES = 200


@dataclass(frozen=True, eq=False)
class Clip:
    """A scene, its true frames, their skeletons as pictures, and what is asked for."""

    scene: Any
    truths: list[Any]
    skeletons: list[Any]
    prompt: str


def draw(scene: Any, frames: int, prompt: str = "", hold: int = 1) -> Clip:
    """`frames` frames of `scene`, each pose for `hold` of them."""
    from operators.figure.sequence import render
    from operators.figure.skeleton import draw_skeleton

    truths = [render(scene, (k // hold) / FPS, SIZE) for k in range(frames)]
    return Clip(scene, truths, [draw_skeleton(t.pose[None], SIZE, SIZE) for t in truths], prompt or scene.caption)


def clips(count: int, frames: int) -> list[Clip]:
    """The clips of bench/embedded_quality.py's flicker."""
    from bench.embedded_quality import SEED, held_out
    from operators.figure.motion import Camera

    scenes = held_out(count, SEED + 5000)
    return [draw(replace(s, motion=MOTIONS[c % 4], camera=Camera(yaw=0.2 * (c - 1))), frames) for c, s in enumerate(scenes)]


def painted(clip: Clip, params: dict[str, Any], seed: int) -> Iterator[tuple[np.ndarray[Any, Any], dict[str, float]]]:
    """The clip as diffusion.stream paints it, picture by picture, and what it said of each."""
    from engine.payload import Image
    from engine.testing import Bench

    flow = params.get("flow")
    given = {"carry_mix": 1.0, **params}  # where a picture is connected, for its motion alone
    with Bench(
        "diffusion.stream", model="embedded", controlnets=[{"model": "embedded"}], width=SIZE, height=SIZE, size=SIZE, prompt=clip.prompt,
        site_embedded=True, site_seed=seed, fps=FPS, **given,
    ) as bench:  # fmt: skip
        said: dict[str, float] = {}
        bench.site._measure = lambda node, seq, numbers: said.update(numbers)
        bench.site.pools.poison = False
        latent = None
        for truth, skeleton in zip(clip.truths, clip.skeletons, strict=True):
            picture = Image(truth.image) if flow and flow.get("on") == "image" else None
            said.clear()
            found = bench([Image(skeleton)], picture, latent)
            latent = found.latent
            yield found.image.data.copy(), dict(said)
            bench.let_go()


def from_autoencoder(clip: Clip) -> Iterator[tuple[np.ndarray[Any, Any], dict[str, float]]]:
    """The true frames through the autoencoder and back."""
    import torch
    from diffusers import AutoencoderTiny

    from operators import embedded

    vae = AutoencoderTiny.from_pretrained(embedded.root() / "vae").to(memory_format=torch.channels_last)
    with torch.inference_mode():
        for truth in clip.truths:
            pixels = torch.from_numpy(truth.image).permute(2, 0, 1)[None].float().div(127.5).sub(1)
            back = vae.decoder(vae.encoder(pixels))
            yield back.add(1).mul(127.5).round().clamp(0, 255).byte()[0].permute(1, 2, 0).numpy(), {}


def from_truth(clip: Clip) -> Iterator[tuple[np.ndarray[Any, Any], dict[str, float]]]:
    for truth in clip.truths:
        yield truth.image, {}


class Meters:
    """The meters of a graph over one clip, and the renderer's truth."""

    def __init__(self, clip: Clip) -> None:
        from engine.testing import Bench

        self.clip = clip
        self.benches = {name: Bench(f"metric.{name}").__enter__() for name in ("flicker", "warp_error", "drift", "identity")}
        self.pictures: list[np.ndarray[Any, Any]] = []
        self.rows: list[dict[str, float]] = []

    def watch(self, picture: np.ndarray[Any, Any]) -> None:
        from engine.payload import Image, Pose

        truth, n = self.clip.truths[len(self.rows)], len(self.rows)
        image, reference = Image(picture), Image(truth.image)
        drifted = self.benches["drift"](image)
        row = {
            "drift": drifted.color.value, "contrast": drifted.contrast.value, "detail": drifted.detail.value,
            "identity": self.benches["identity"](image, Pose(truth.pose[None], (SIZE, SIZE))).worst.value,
        }  # fmt: skip
        flicker, warped = self.benches["flicker"](image, reference), self.benches["warp_error"](image, reference)
        if n:
            row |= {"flicker": flicker.value, "warp_error": 1000 * warped.error.value}
        self.rows.append(row)
        self.pictures.append(picture)

    def mean(self, *names: str, last: int = 0) -> dict[str, float]:
        return {name: float(np.mean([row[name] for row in self.rows[-last:] if name in row])) for name in names}

    def against_truth(self) -> dict[str, float]:
        from bench.embedded_quality import figure_of, part_colour, score
        from operators.figure.place import backdrop

        scene, truths = self.clip.scene, self.clip.truths
        empty = backdrop(scene.look.place, scene.look.place_colour, SIZE, SIZE)
        still = np.all([t.mask == 0 for t in truths], axis=0) & ~np.any([figure_of(t.image, empty) for t in truths], axis=0)
        change = [np.abs(a.astype(float) - b)[still].mean() for a, b in pairwise(self.pictures)]
        pairs = list(zip(self.pictures, truths, strict=True))
        shirts = [v for p, t in pairs if (v := part_colour(p, t.parts, "top")) is not None]
        ious = [score(p, scene, t)["iou"] or 0.0 for p, t in pairs]
        return {
            "background": float(np.mean(change)), "iou": float(np.mean(ious)), "shirt_std": float(np.std(shirts, axis=0).mean()),
            "mae": float(np.mean([np.abs(p.astype(float) - t.image).mean() for p, t in pairs])),
        }  # fmt: skip


def average(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: round(float(np.mean([row[key] for row in rows])), 3) for key in rows[0]}


def short(fed: Sequence[Clip], make: Callable[[Clip, int], Any]) -> dict[str, float]:
    rows = []
    for n, clip in enumerate(fed):
        meters = Meters(clip)
        moved = []
        for picture, said in make(clip, n):
            meters.watch(picture)
            moved.append(said.get("executed", 0.0))
        rows.append({**meters.mean("flicker", "warp_error"), **meters.against_truth()})
    return average(rows)


def long(clip: Clip, make: Callable[[Clip, int], Any]) -> dict[str, float]:
    meters = Meters(clip)
    for picture, _ in make(clip, 77):
        meters.watch(picture)
    third = max(1, len(clip.truths) // 3)
    return average([{**meters.mean("drift", "contrast", "detail", last=third), **meters.mean("identity"), **meters.mean("flicker")}])


def gate(frames: int) -> dict[str, Any]:
    """The similarity gate on a clip that shows every pose four times."""
    from bench.embedded_quality import SEED, held_out

    clip = draw(replace(held_out(1, SEED + 5000)[0], motion="walk"), frames, hold=4)
    out = {}
    for name, params in (("off", {}), ("at most 2 in a row", {"skip": 2}), ("at most 100 in a row", {"skip": 100})):
        said = [facts.get("skipped", 0.0) for _, facts in painted(clip, {**FROM_NOISE, **params}, 0)]
        out[name] = {"frames": len(said), "skipped": int(sum(said))}
    return out


PARTS = ("clips", "long", "gate")


def main() -> int:
    import warnings

    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="a smaller sample, for a look")
    parser.add_argument("--part", choices=PARTS, action="append", help="measure only this, keeping the file's other results; may be repeated")
    parser.add_argument("--only", action="append", help="measure only this setting, keeping the file's others; may be repeated")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {"command": "python bench/carry_quality.py" + (" --quick" if args.quick else ""), "clips": {}, "long": {}}
    if args.json and args.json.is_file() and (args.part or args.only):
        kept = json.loads(args.json.read_text())
        result = {key: kept[key] for key in ("command", "clips", "long", "gate") if key in kept}

    def made(name: str) -> Callable[[Clip, int], Any]:
        others = {"truth": from_truth, "autoencoder": from_autoencoder}
        return lambda clip, n: others[name](clip) if name in others else painted(clip, VARIANTS[name], 40 + n)

    def wanted(part: str, names: Sequence[str]) -> list[str]:
        return [name for name in names if (not args.part or part in args.part) and (not args.only or name in args.only)]

    def told(part: str, name: str) -> None:
        """Show a row and keep it: what was measured outlives an interruption, and `--part` and `--only` go on from it."""
        print(f"{name:28}", result[part][name], flush=True)
        if args.json:
            write(args.json, "carry_quality", result)

    fed = clips(1 if args.quick else 4, 6 if args.quick else 24)
    for name in wanted("clips", ("truth", "autoencoder", *VARIANTS)):
        result["clips"][name] = short(fed, made(name))
        told("clips", name)
    from bench.embedded_quality import SEED, held_out

    scene = replace(held_out(1, SEED + 7000)[0], motion="dance")
    dance = draw(scene, 12 if args.quick else FRAMES, prompt=f"a dancer in a {scene.look.top_colour} shirt")
    for name in wanted("long", ("truth", *LONG)):
        result["long"][name] = long(dance, made(name))
        told("long", name)
    if wanted("gate", ("gate",)):
        result["gate"] = gate(8 if args.quick else 48)
    if "fresh noise" in result["clips"]:
        least = result["clips"]["fresh noise"]["background"]
        result["background_against_fresh_noise"] = {name: round(row["background"] / least, 3) for name, row in result["clips"].items()}
    report(args, "carry_quality", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
