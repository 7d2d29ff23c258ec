"""What a frame costs beside its networks: our loop, diffusers' pipeline and a loop written out by hand, on the same stub models.

The modules have the layout of Stable Diffusion 1.5 (686 modules in the UNet), since walking them is part of what a pipeline does, but their
forward passes are stubs that answer at once: a multiple of the input for the UNet, constants elsewhere. So what is left is picture in,
conditioning, scheduling, picture out. The frame is ControlNet + image to image at 512 x 512 without guidance, a new picture and a new
condition every frame; DDIM with 20 nominal steps, of which 4 or 15 are executed. All variants run in turn within each round, one thread;
times are CPU time of the process: the lower quartile over rounds of the mean frame, since what a busy machine adds to CPU time (cold
caches, a shared core) is never negative; medians are recorded beside it. A line through both step counts gives a fixed part and a part per
step. Converting two pictures in and one out is arithmetic on 2.4 MB that any loop has to do; "ours, pictures alone" measures it, and the
overhead held against the target is ours without it. All variants are checked to paint the same picture.

    python bench/cpu_overhead.py [--rounds 25] [--frames 8] [--json bench/results/cpu_overhead.json]

Target: at most 0.6 ms a frame and 0.05 ms a step, pictures apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SIDE, NOMINAL, EXECUTED = 512, 20, (4, 15)
SCHEDULER = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip
BLOCKS = (32, 64, 128, 128)


def stubs() -> dict[str, Any]:
    """Modules laid out like the real ones, with answers in place of forward passes."""
    import torch
    from diffusers import AutoencoderTiny, ControlNetModel, UNet2DConditionModel
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(sample_size=64, block_out_channels=BLOCKS, cross_attention_dim=64, attention_head_dim=8).eval()
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 8)).eval()
    vae = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).eval()
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=514, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, bos_token_id=512, eos_token_id=513
    )).eval()  # fmt: skip
    latent = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(1))
    pixels = torch.rand(1, 3, SIDE, SIDE).mul(2).sub(1).to(memory_format=torch.channels_last)
    residual = torch.zeros(1, 1, 1, 1)
    unet.forward = lambda sample, *a, **k: (sample * 0.5,)
    control.forward = lambda *a, **k: ([residual] * 12, residual)
    vae.encode = lambda x, **k: AutoencoderTinyOutput(latents=latent)
    vae.decode = lambda x, **k: (pixels,)
    for module in (unet, control, vae, text):
        module.requires_grad_(False)
    return {"unet": unet, "controlnet": control, "vae": vae, "text": text}


def ours(stub: dict[str, Any], run: int) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any], Any]:
    """A frame of diffusion.stream, its conversions of pictures alone, and the noise that both others are to use."""
    import copy

    import torch

    from engine.testing import Bench
    from operators.diffusion.pictures.pixels import Intake, Outlet
    from operators.diffusion.steps.schedule import Noise
    from operators.diffusion.stream import Stream
    from operators.diffusion.weights.coder import Coder
    from operators.diffusion.weights.models import Models, Net
    from operators.diffusion.words.text import Encoded
    from operators.diffusion.words.tower import TextTower

    class Stubbed(Stream):
        def _load(self, device: torch.device) -> Models:
            net = copy.copy(stub["controlnet"])
            net._modules = {**net._modules, "controlnet_cond_embedding": torch.nn.Sequential()}
            noise, coder = Noise.read(SCHEDULER), Coder(stub["vae"], torch.float32)
            return Models(stub["unet"], coder, [TextTower(stub["text"], None)], noise, "ddim", device, torch.float32, [Net(net, 0.9)])

    from engine.payload import Image

    bench = Bench("diffusion.stream", model="stub", steps=NOMINAL, strength=run / NOMINAL + 1e-9, guidance="none", carry_mix=0.0)
    bench.site.pools.poison = False
    bench.operator = Stubbed(**bench.params)
    bench.operator.open(bench.site)
    cond = torch.zeros(1, 77, 64)
    bench.operator._conditioning.encoder = lambda text: Encoded(cond)

    def done() -> None:
        bench.let_go()

    def frame(picture: Any, condition: Any) -> Any:
        found = bench([Image(condition)], Image(picture))
        done()
        return found.image.data, found.latent.data

    pixels, latent = stub["vae"].decode(None)[0], torch.zeros(1, 4, 1, 1)
    image, control = Intake(torch.device("cpu"), torch.float32, -1.0, "crop"), Intake(torch.device("cpu"), torch.float32, 0.0, "crop")
    outlet = Outlet()

    @torch.inference_mode()
    def pictures(picture: Any, condition: Any) -> Any:
        control.take(Image(condition), (SIDE, SIDE))
        image.take(Image(picture), (SIDE, SIDE))
        outlet.emit(pixels, latent, (SIDE, SIDE), bench.site)
        done()

    noise = bench.operator._noise.draw(bench.site.key(-1), (1, 4, SIDE // 8, SIDE // 8))
    return frame, pictures, noise


def pipeline(stub: dict[str, Any], run: int, noise: Any, pil: bool) -> Callable[[Any, Any], Any]:
    """diffusers' ControlNet image-to-image pipeline with prompt embeddings ready: PIL in and out, or tensors in and out."""
    import diffusers
    import numpy as np
    import PIL.Image
    import torch
    from diffusers.pipelines.controlnet import pipeline_controlnet_img2img as module

    module.randn_tensor = lambda *a, **k: noise
    pipe = diffusers.StableDiffusionControlNetImg2ImgPipeline(
        vae=stub["vae"], text_encoder=stub["text"], tokenizer=None, unet=stub["unet"], controlnet=stub["controlnet"],
        scheduler=diffusers.DDIMScheduler.from_config(SCHEDULER), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    cond = torch.zeros(1, 77, 64)
    common: dict[str, Any] = {
        "prompt_embeds": cond, "num_inference_steps": NOMINAL, "strength": run / NOMINAL + 1e-9, "guidance_scale": 1.0,
        "controlnet_conditioning_scale": 0.9,
    }  # fmt: skip

    def tensor(picture: Any) -> Any:
        return torch.from_numpy(picture).permute(2, 0, 1)[None].float().div(255)

    def frame(picture: Any, condition: Any) -> Any:
        if pil:
            found = pipe(image=PIL.Image.fromarray(picture), control_image=PIL.Image.fromarray(condition), output_type="pil", **common)
            return np.asarray(found.images[0]), None
        found = pipe(image=tensor(picture), control_image=tensor(condition), output_type="pt", **common)
        return found.images[0].mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy(), None

    return frame


def by_hand(stub: dict[str, Any], run: int, noise: Any) -> Callable[[Any, Any], Any]:
    """The shortest plain loop for exactly this case: no options, no guards, buffers made once."""
    import numpy as np
    import torch

    from operators.diffusion.steps.schedule import Noise

    alphas = torch.from_numpy(Noise.read(SCHEDULER).alphas())
    steps = [i * (1000 // NOMINAL) + 1 for i in range(run)][::-1]
    times = [torch.tensor([float(t)]) for t in steps]
    now = [float(alphas[t]) for t in steps]
    then = [float(alphas[t - 1000 // NOMINAL]) if t >= 1000 // NOMINAL else float(alphas[0]) for t in steps]
    cond, scale = torch.zeros(1, 77, 64), torch.tensor(0.9)
    unet, control, vae = stub["unet"], stub["controlnet"], stub["vae"]

    def tensor(picture: Any) -> Any:
        return torch.from_numpy(picture).permute(2, 0, 1)[None].float()

    @torch.inference_mode()
    def frame(picture: Any, condition: Any) -> Any:
        start = tensor(picture).div_(127.5).sub_(1)
        shown = tensor(condition).div_(255)
        x = vae.encode(start).latents * now[0] ** 0.5 + noise * (1 - now[0]) ** 0.5
        for t, a, b in zip(times, now, then, strict=True):
            down, middle = control.forward(x, t, cond, shown, scale)
            m = unet.forward(x, t, cond, down, middle)[0]
            clean = (x - (1 - a) ** 0.5 * m) / a**0.5
            x = b**0.5 * clean + (1 - b) ** 0.5 * m
        pixels = vae.decode(x)[0].mul(127.5).add_(128).clamp_(0, 255)
        out = np.empty((SIDE, SIDE, 3), np.uint8)
        torch.from_numpy(out).copy_(pixels[0].permute(1, 2, 0))
        return out, x

    return frame


def measure(rounds: int, frames: int) -> dict[str, Any]:
    import logging
    import warnings

    import numpy as np
    import torch

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    stub = stubs()
    pictures = [np.random.default_rng(n).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for n in range(4)]
    variants: dict[tuple[str, int], Callable[[Any, Any], Any]] = {}
    for run in EXECUTED:
        frame, alone, noise = ours(stub, run)
        variants["ours", run] = frame
        variants["ours, pictures alone", run] = alone
        variants["by hand", run] = by_hand(stub, run, noise)
        variants["diffusers, tensors", run] = pipeline(stub, run, noise, pil=False)
        variants["diffusers, PIL", run] = pipeline(stub, run, noise, pil=True)
        mine, written = frame(pictures[0], pictures[1]), variants["by hand", run](pictures[0], pictures[1])
        assert torch.allclose(mine[1], written[1], atol=1e-4), "our loop and the one by hand disagree"
        for name in ("diffusers, tensors", "diffusers, PIL"):
            theirs = variants[name, run](pictures[0], pictures[1])[0]
            assert np.abs(theirs.astype(int) - mine[0]).max() <= 1, f"our picture and that of {name} disagree"
    samples: dict[tuple[str, int], list[float]] = {key: [] for key in variants}
    for frame in variants.values():
        for n in range(3):
            frame(pictures[n % 4], pictures[(n + 1) % 4])
    for _ in range(rounds):
        for key, frame in variants.items():
            began = time.process_time()
            for n in range(frames):
                frame(pictures[n % 4], pictures[(n + 1) % 4])
            samples[key].append((time.process_time() - began) / frames * 1e3)
    table: dict[str, Any] = {}
    few, many = EXECUTED
    for name in dict.fromkeys(name for name, _ in variants):
        low, high = (statistics.quantiles(samples[name, run], n=4)[0] for run in EXECUTED)
        step = (high - low) / (many - few)
        medians = {f"median_ms_{run}_steps": statistics.median(samples[name, run]) for run in EXECUTED}
        table[name] = {f"ms_{few}_steps": low, f"ms_{many}_steps": high, "ms_per_step": step, "ms_fixed": low - few * step, **medians}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--frames", type=int, default=8, help="frames of one variant in one round")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "cpu_overhead.json")
    options = parser.parse_args()
    table = measure(options.rounds, options.frames)
    import diffusers
    import torch

    best, pictures, few = table["ours"], table["ours, pictures alone"], f"ms_{EXECUTED[0]}_steps"
    ratios = {name: row[few] / best[few] for name, row in table.items() if not name.startswith("ours")}
    overhead = {"ms_fixed": best["ms_fixed"] - pictures["ms_fixed"], "ms_per_step": best["ms_per_step"]}
    target = {"ms_fixed": 0.6, "ms_per_step": 0.05}
    result = {
        "bench": "cpu_overhead", "rounds": options.rounds, "frames": options.frames, "table": table, "times_ours": ratios,
        "overhead_pictures_apart": overhead, "target": target, "met": all(overhead[key] <= target[key] for key in target),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "system": platform.system(),
                    "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "diffusers": diffusers.__version__},
    }  # fmt: skip
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'CPU ms a frame':24}{EXECUTED[0]:>6} steps{EXECUTED[1]:>6} steps     fixed  per step")
    for name, row in table.items():
        print(f"{name:24}{row[few]:12.2f}{row[f'ms_{EXECUTED[1]}_steps']:12.2f}{row['ms_fixed']:10.2f}{row['ms_per_step']:10.3f}")
    print("times ours: " + ", ".join(f"{name} {ratio:.1f}" for name, ratio in ratios.items()) + f" (at {EXECUTED[0]} steps)")
    print(f"overhead, pictures apart: {overhead['ms_fixed']:.2f} ms a frame and {overhead['ms_per_step']:.3f} ms a step")


if __name__ == "__main__":
    main()
