"""Quality of the embedded model, on poses and prompts that training never drew.

    python bench/embedded_quality.py [--weights DIR] [--quick] [--out FILE]

The renderer knows which pixel belongs to what, so everything is measured against the truth: whether the pose is followed (IoU of the
figure, cover of wrists and ankles), whether colours are those asked for (median of each part, nearest palette entry), how much a still
background flickers under fresh noise, fixed noise and a carried latent, whether what the prompt leaves open stays the same over 500
frames, what the captioner reads, and how fast it all is. diffusers modules are used directly; one step is `x0 = -v` at zero signal.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from operators import embedded
from operators.diffusion.carry.motion import Motion
from operators.figure.look import CHOICES, COLOURS, HAIR
from operators.figure.motion import Camera
from operators.figure.paint import PART
from operators.figure.place import backdrop
from operators.figure.sequence import Scene, draw_scene, render
from operators.figure.skeleton import draw_skeleton

SEED, SIZE = 90_000, 256
PARTS = ("quality", "flicker", "identity", "captioner", "speed")
NEAR = 8  # px: a cell of the latent
DIFFERENT = 36  # 0..255: a pixel farther than this from the empty place belongs to the figure


class Model:
    """The embedded model, with one- and few-step sampling."""

    def __init__(self, folder: Path, dtype: torch.dtype):
        from diffusers import AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        self.dtype = dtype
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype).to(memory_format=torch.channels_last)
        self.control = ControlNetModel.from_pretrained(folder / "controlnet", torch_dtype=dtype).to(memory_format=torch.channels_last)
        self.vae = AutoencoderTiny.from_pretrained(folder / "vae", torch_dtype=dtype).to(memory_format=torch.channels_last)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.text = CLIPTextModel.from_pretrained(folder / "text_encoder")
        self.alphas = DDIMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod
        self.channels = self.unet.config.in_channels

    def words(self, captions: list[str]) -> torch.Tensor:
        ids = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
        return self.text(ids)[0].to(self.dtype)

    def noise(self, seed: int, n: int = 1, size: int = SIZE) -> torch.Tensor:
        return torch.randn((n, self.channels, size // 8, size // 8), generator=torch.Generator().manual_seed(seed))

    def picture(self, poses: np.ndarray, size: int = SIZE) -> torch.Tensor:
        drawn = np.stack([draw_skeleton(p[None], size, size) for p in poses])
        return torch.from_numpy(drawn).permute(0, 3, 1, 2).to(self.dtype).div_(255)

    def predict(self, x: torch.Tensor, t: int, text: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """Clean latents from noisy ones at `t`, in float32."""
        step = torch.full((len(x),), t)
        x16 = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        down, mid = self.control(x16, step, text, picture, return_dict=False)
        v = self.unet(x16, step, text, down_block_additional_residuals=down, mid_block_additional_residual=mid, return_dict=False)[0]
        a = self.alphas[t]
        return a.sqrt() * x - (1 - a).sqrt() * v.float()

    def sample(
        self, text: torch.Tensor, picture: torch.Tensor, noise: torch.Tensor, steps: int = 1, carry: torch.Tensor | None = None,
        strength: float = 1.0,
    ) -> torch.Tensor:  # fmt: skip
        """Latents in `steps` steps, from pure noise or from `carry` noised up to `strength`."""
        first = round(999 * strength)
        a = self.alphas[first]
        x = clean = noise if carry is None else a.sqrt() * carry + (1 - a).sqrt() * noise
        for k in range(steps):
            t = round(first * (steps - k) / steps)
            if k:
                a = self.alphas[t]
                x = a.sqrt() * clean + (1 - a).sqrt() * torch.randn(x.shape, generator=torch.Generator().manual_seed(k))
            clean = self.predict(x, t, text, picture)
        return clean

    def decode(self, z: torch.Tensor) -> np.ndarray:
        out = self.vae.decoder(z.to(self.dtype).contiguous(memory_format=torch.channels_last))
        return out.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()

    def encode(self, pictures: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(self.dtype).div(127.5).sub(1)
        return self.vae.encoder(x.contiguous(memory_format=torch.channels_last)).float()


def held_out(n: int, seed: int = SEED) -> list[Scene]:
    """Whole persons on walls and stages in colours that can be told from their clothes."""
    out: list[Scene] = []
    while len(out) < n:
        seed += 1
        scene = draw_scene(seed)
        look = scene.look
        clothes = {look.top_colour, look.bottom_colour}
        if look.place not in ("plain", "stage") or look.kind != "person" or look.place_colour in clothes or len(clothes) < 2:
            continue
        if look.hat != "none" or not 0.6 < scene.camera.scale < 0.98:
            continue
        if look.place == "stage":
            scene = replace(scene, look=replace(look, place="plain"))
        out.append(scene)
    return out


def nearest(colour: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float(np.abs(np.array(palette[name]) - colour).sum()))


def part_colour(image: np.ndarray, parts: np.ndarray, part: str, least: int = 12) -> np.ndarray | None:
    """Median RGB of a part, a pixel in from its edge; None where too little of it shows."""
    import cv2

    region = cv2.erode((parts == PART[part]).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.median(image[region], axis=0) if region.sum() >= least else None


def figure_of(image: np.ndarray, empty: np.ndarray) -> np.ndarray:
    return np.abs(image.astype(int) - empty.astype(int)).max(-1) > DIFFERENT


def score(image: np.ndarray, scene: Scene, truth: Any) -> dict[str, float | None]:
    """One picture against its truth."""
    import cv2

    look = scene.look
    empty = backdrop(look.place, look.place_colour, *image.shape[:2])
    mask, drawn = truth.mask > 0, figure_of(image, empty)
    shadow = figure_of(truth.image, empty) & ~mask  # the shadow differs from the empty place but is no part of the figure
    counted = ~(cv2.dilate(shadow.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) | mask
    out: dict[str, float | None] = {"iou": float((mask & drawn & counted).sum() / max(1, ((mask | drawn) & counted).sum()))}
    for key, part, palette, want in (
        ("shirt", "top", COLOURS, look.top_colour), ("legs", "bottom", COLOURS, look.bottom_colour), ("hair", "hair", HAIR, look.hair_colour),
    ):  # fmt: skip
        colour = part_colour(image, truth.parts, part)
        out[key] = None if colour is None else float(nearest(colour, palette) == want)
    wall = (truth.parts == 0) & (np.arange(image.shape[0]) < 0.8 * image.shape[0])[:, None]
    out["bg"] = float(nearest(np.median(image[wall], axis=0), COLOURS) == look.place_colour)
    ends = []
    for joint in (4, 7, 10, 13):
        x, y, v = truth.pose[joint]
        if v > 0:
            cy, cx = int(y * image.shape[0]), int(x * image.shape[1])
            window = np.s_[max(0, cy - 1) : cy + 2, max(0, cx - 1) : cx + 2]
            ends.append(float(drawn[window].mean()))
    out["ends"] = float(np.mean(ends)) if ends else None
    out["mae"] = float(np.abs(image.astype(float) - truth.image).mean())
    return out


def mean(rows: list[dict[str, float | None]]) -> dict[str, float]:
    keys = rows[0]
    return {k: round(float(np.mean([r[k] for r in rows if r[k] is not None])), 3) for k in keys}


def quality(model: Model, n: int) -> dict[str, dict[str, float]]:
    """The table: ceiling (autoencoder alone) and 1, 2, 4 steps."""
    scenes = held_out(n)
    truths = [render(s, 0.0, SIZE) for s in scenes]
    rows: dict[str, list[dict[str, float | None]]] = {}
    for scene, truth, k in zip(scenes, truths, range(n), strict=True):
        rows.setdefault("truth", []).append(score(truth.image, scene, truth))
        rows.setdefault("autoencoder", []).append(score(model.decode(model.encode(truth.image[None]))[0], scene, truth))
        text, picture = model.words([scene.caption]), model.picture(truth.pose[None])
        for steps in (1, 2, 4):
            z = model.sample(text, picture, model.noise(k), steps)
            rows.setdefault(f"{steps} step", []).append(score(model.decode(z)[0], scene, truth))
    return {name: mean(r) for name, r in rows.items()}


MODES: dict[str, dict[str, Any]] = {
    "fresh noise, 1 step": {"fresh": True}, "fresh noise, 2 steps": {"fresh": True, "steps": 2}, "fixed noise, 1 step": {},
    "fixed noise, 2 steps": {"steps": 2}, "carry 0.6, fresh noise": {"fresh": True, "strength": 0.6},
    "carry 0.6, fixed noise": {"strength": 0.6}, "carry 0.4, fresh noise": {"fresh": True, "strength": 0.4},
    "carry 0.4, fixed noise": {"strength": 0.4}, "carry 0.25, fixed noise": {"strength": 0.25},
    # Cells around which the skeleton did not move keep their latent, as `hold` of diffusion.stream has it.
    "fixed noise, 1 step, hold 0.9": {"hold": 0.9}, "fixed noise, 1 step, hold 1": {"hold": 1.0},
    "fresh noise, 1 step, hold 0.9": {"hold": 0.9, "fresh": True}, "carry 0.6, fixed noise, hold 0.9": {"strength": 0.6, "hold": 0.9},
    "truth": {"of": "truth"}, "autoencoder of the truth": {"of": "autoencoder"},  # what the measure counts that no painting makes
}  # fmt: skip


def clip(
    model: Model, scene: Scene, text: torch.Tensor, mode: dict[str, Any], frames: int, seed: int,
) -> tuple[list[np.ndarray], list[Any]]:  # fmt: skip
    """A clip of one mode at 12 frames a second, and its truth."""
    pictures, truths, last = [], [], None
    motion, hold = Motion(), mode.get("hold", 0.0)
    strength, steps = mode.get("strength", 1.0), mode.get("steps", 1)
    for k in range(frames):
        truth = render(scene, k / 12, SIZE)
        noise = model.noise(seed + (k if mode.get("fresh") else 0))
        if "of" in mode:
            pictures.append(truth.image if mode["of"] == "truth" else model.decode(model.encode(truth.image[None]))[0])
            truths.append(truth)
            continue
        picture = model.picture(truth.pose[None])
        if last is None or strength == 1.0:
            z = model.sample(text, picture, noise, max(steps, 2 if strength < 1 else 1))
        else:
            z = model.sample(text, picture, noise, steps, last, strength)
        if hold:
            moved = motion.look([draw_skeleton(truth.pose[None], SIZE, SIZE)], (SIZE // 8, SIZE // 8)).moved
            if last is not None and moved is not None:
                z = torch.lerp(z, last, torch.from_numpy(hold * (1 - moved)))
            motion.settle(True)
        last = z
        pictures.append(model.decode(z)[0])
        truths.append(truth)
    return pictures, truths


def flicker(model: Model, clips: int, frames: int) -> dict[str, dict[str, float]]:
    """Mean change of the still background between frames (0..255), what of it lies within 8 px of where the figure ever was, spread of the
    shirt's colour, and IoU, by mode."""
    import cv2

    motions = ("dance", "walk", "wave", "jack")
    out: dict[str, dict[str, float]] = {}
    for name, mode in MODES.items():
        rows: list[dict[str, float | None]] = []
        for c, drawn in enumerate(held_out(clips, SEED + 5000)):
            scene = replace(drawn, motion=motions[c % 4], camera=Camera(yaw=0.2 * (c - 1)))
            text = model.words([scene.caption])
            pictures, truths = clip(model, scene, text, mode, frames, 40 + 1000 * c)
            still = np.all([t.mask == 0 for t in truths], axis=0)
            still &= ~np.any([figure_of(t.image, backdrop(scene.look.place, scene.look.place_colour, SIZE, SIZE)) for t in truths], axis=0)
            change = np.mean([np.abs(a.astype(float) - b).mean(-1) for a, b in pairwise(pictures)], axis=0)
            near = still & (cv2.distanceTransform(still.astype(np.uint8), cv2.DIST_L2, 5) <= NEAR)
            shirts = [v for p, t in zip(pictures, truths, strict=True) if (v := part_colour(p, t.parts, "top")) is not None]
            ious = [score(p, scene, t)["iou"] or 0 for p, t in zip(pictures, truths, strict=True)]
            bg = {"bg": float(change[still].mean()), "bg_near": float(change[near].sum() / still.sum())}
            rows.append({**bg, "shirt_std": float(np.std(shirts, axis=0).mean()), "iou": float(np.mean(ious))})
        out[name] = mean(rows)
    return out


def identity(model: Model, clips: int, frames: int) -> dict[str, dict[str, float]]:
    """Prompts that fix only the shirt: spread over a clip of what they leave open (0..255), and how often its name changes."""
    out: dict[str, dict[str, float]] = {}
    for name in ("fresh noise, 1 step", "fresh noise, 2 steps", "fixed noise, 2 steps", "carry 0.6, fresh noise", "carry 0.6, fixed noise"):
        rows: list[dict[str, float | None]] = []
        for c, drawn in enumerate(held_out(clips, SEED + 7000)):
            scene = replace(drawn, motion="dance", camera=Camera())
            text = model.words([f"a dancer in a {scene.look.top_colour} shirt"])
            pictures, truths = clip(model, scene, text, MODES[name], frames, 77 + 1000 * c)
            row: dict[str, float | None] = {}
            for key, part, palette in (("legs", "bottom", COLOURS), ("hair", "hair", HAIR), ("bg", "place", COLOURS)):
                seen = [v for p, t in zip(pictures, truths, strict=True) if (v := part_colour(p, t.parts, part)) is not None]
                names = [nearest(v, palette) for v in seen]
                row[f"{key}_std"] = float(np.std(seen, axis=0).mean())
                row[f"{key}_renamed"] = float(np.mean([a != b for a, b in pairwise(names)]))
            rows.append(row)
        out[name] = mean(rows)
    return out


def captioner(model: Model, n: int) -> dict[str, dict[str, float]]:
    """Share of attributes read right, on held-out renders and on the model's own pictures."""
    from operators.train.embedded.captioner import labels
    from operators.train.embedded.data import Sample

    right: dict[str, dict[str, list[float]]] = {"renders": {}, "generated": {}}
    for k in range(n):
        scene = draw_scene(SEED + 20_000 + k)
        truth = render(scene, 0.0, SIZE)
        wanted = labels(Sample(truth.image, truth.parts, truth.pose, scene.look, "", scene))
        z = model.sample(model.words([scene.caption]), model.picture(truth.pose[None]), model.noise(k))
        for kind, picture in (("renders", truth.image), ("generated", model.decode(z)[0])):
            seen = embedded.likelihoods(picture)
            for (name, options), want in zip(CHOICES.items(), wanted, strict=True):
                if want >= 0:
                    best = max(seen[name], key=lambda c, row=seen[name]: row[c])  # type: ignore[misc]
                    right[kind].setdefault(name, []).append(float(best == options[want]))
    return {kind: {name: round(float(np.mean(v)), 3) for name, v in table.items()} for kind, table in right.items()}


def speed(folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Median ms of each part of one 256 x 256 frame in one step, and frames per second end to end."""
    out: dict[str, dict[str, float]] = {}
    pose = render(draw_scene(SEED, steady=True), 0.0, SIZE).pose
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for dtype in (torch.bfloat16, torch.float32):
            model = Model(folder, dtype)
            text, noise = model.words(["a dancer in a red coat"]), model.noise(1)
            times: dict[str, list[float]] = {"draw": [], "denoise": [], "decode": [], "all": []}
            for k in range(repeats + 3):
                t0 = time.perf_counter()
                picture = model.picture(pose[None])
                t1 = time.perf_counter()
                z = model.sample(text, picture, noise)
                t2 = time.perf_counter()
                model.decode(z)
                t3 = time.perf_counter()
                if k >= 3:
                    for key, value in zip(times, (t1 - t0, t2 - t1, t3 - t2, t3 - t0), strict=True):
                        times[key].append(1000 * value)
            row = {k: round(float(np.median(v)), 1) for k, v in times.items()}
            out[f"{str(dtype)[6:]}, {threads} threads"] = {**row, "fps": round(1000 / row["all"], 1)}
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, default=embedded.root())
    parser.add_argument("--out", "--json", type=Path, default=Path(__file__).parent / "results" / "embedded_quality.json")
    parser.add_argument("--quick", action="store_true", help="a smaller sample, for a look")
    parser.add_argument("--part", choices=PARTS, action="append", help="measure only this, keeping the file's other results; may be repeated")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    import diffusers
    import transformers

    torch.set_num_threads(options.threads)
    many = not options.quick
    embedded.root = lambda: options.weights  # the captioner of these weights, not the one that ships
    with torch.inference_mode():
        model = Model(options.weights, torch.bfloat16)
        result: dict[str, Any] = {
            "command": "python bench/embedded_quality.py" + ("" if many else " --quick"), "seed": SEED, "size": SIZE,
            "machine": {"system": platform.system(), "cpu": cpu_name(), "cores": torch.get_num_threads()},
            "versions": {
                "python": platform.python_version(), "torch": torch.__version__, "diffusers": diffusers.__version__,
                "transformers": transformers.__version__,
            },
            "bytes": sum(f.stat().st_size for f in options.weights.rglob("*") if f.is_file()),
        }  # fmt: skip
        for name, measure in (
            ("quality", lambda: quality(model, 120 if many else 24)),
            ("flicker", lambda: flicker(model, 4 if many else 1, 24 if many else 8)),
            ("identity", lambda: identity(model, 1, 500 if many else 16)),
            ("captioner", lambda: captioner(model, 300 if many else 30) if (options.weights / "captioner").is_dir() else {}),
            ("speed", lambda: speed(options.weights, 25 if many else 5)),
        ):
            if options.part and name not in options.part:
                continue
            began = time.perf_counter()
            result[name] = measure()
            print(name, f"({time.perf_counter() - began:.0f} s)", json.dumps(result[name], indent=1), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.part and options.out.is_file():
        result = {**json.loads(options.out.read_text()), **result}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    sys.exit(main())
