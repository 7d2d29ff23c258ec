"""Our loop beside StreamDiffusion 0.1.1 (Kodaira et al. 2023, arXiv 2312.12491) on the same random networks: equal pictures, and the time.

The package from PyPI runs unmodified, but for stand-ins of two CUDA timers where there is no GPU. UNet, tiny autoencoder, text encoder, prompt,
noise and frames are the same objects in both; latent consistency steps, image to image, no guidance. Cases:

    1 step               index 25 of 50 timesteps; ours: 2 nominal steps at strength 0.5
    4 steps, one by one  indices 25, 31, 37, 43; ours: 8 nominal steps at strength 0.5
    4 steps, batched     the same as a stream batch in both: one pass of four rows a frame, the picture of a frame comes three frames later

Every case first proves that both paint the same (1e-5 of the decoded pixels). Time is CPU time a frame from bytes to bytes, variants in turn
within each round, one thread; the ratio is ours / theirs, and the target at most 1.0. On networks as small as these the calls weigh more
than on real ones, and a pass of four rows costs a CPU less than four passes: compare within a case.

    pip install --no-deps --target DIR streamdiffusion==0.1.1
    python bench/cpu_streamdiffusion.py --streamdiffusion DIR [--rounds 7] [--json bench/results/cpu_streamdiffusion.json]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.common import arguments, cpu_seconds, median, report, rounds

SIDE = 128
PROMPT, NEGATIVE = "a dancer in a red coat", "blurred"
SCALE = 1.4  # of residual guidance
GUIDED = {  # equal pictures only: (nominal steps, indices, stream batch, what StreamDiffusion calls it, what we do)
    "onetime, 1 step": (2, [25], True, "initialize", "rcfg-onetime"), "self, 4 steps": (8, [25, 31, 37, 43], True, "self", "rcfg-self"),
    "onetime, 4 steps": (8, [25, 31, 37, 43], True, "initialize", "rcfg-onetime"),
}  # fmt: skip
CASES = {"1 step": (2, [25], True), "4 steps, one by one": (8, [25, 31, 37, 43], False), "4 steps, batched": (8, [25, 31, 37, 43], True)}
SCHEDULER = {
    "_class_name": "LCMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


class _Timer:
    """What StreamDiffusion asks of a CUDA event."""

    def __init__(self, **kwargs: Any) -> None: ...
    def record(self) -> None: ...
    def elapsed_time(self, other: Any) -> float:
        return 0.0


def find(folder: str) -> Any:
    """The class StreamDiffusion, from `folder` or wherever Python finds it; ImportError where it is not."""
    import torch

    if folder and folder not in sys.path:
        sys.path.append(folder)
    if not torch.cuda.is_available():
        torch.cuda.Event, torch.cuda.synchronize = _Timer, lambda *a: None
    from streamdiffusion import StreamDiffusion

    return StreamDiffusion


def networks(blocks: tuple[int, ...] = (32, 64, 64, 64)) -> dict[str, Any]:
    """Random networks of the layout of Stable Diffusion 1.5 with TAESD."""
    import torch
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(c) for c in range(33, 127)]
    vocab = {token: n for n, token in enumerate([*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    ))  # fmt: skip
    unet = UNet2DConditionModel(sample_size=SIDE // 8, block_out_channels=blocks, cross_attention_dim=64, attention_head_dim=8)
    vae = AutoencoderTiny(encoder_block_out_channels=(16,) * 4, decoder_block_out_channels=(16,) * 4)
    for module in (text, unet, vae):
        module.eval().requires_grad_(False)
    for module in (unet, vae):  # as both run fastest
        module.to(memory_format=torch.channels_last)
    return {"unet": unet, "vae": vae, "text_encoder": text, "tokenizer": tokenizer}


def ours(
    parts: dict[str, Any], nominal: int, steps: int, guidance: str = "none", batched: bool = False
) -> tuple[Callable[[Any], Any], Any]:  # fmt: skip
    """A frame of diffusion.stream (bytes in; bytes and latent out, None while a stream batch fills), and the noise that it uses: (1 + nominal,
    4, h, w)."""
    import torch

    from engine.packet import Packet
    from engine.payload import Data, Image
    from engine.testing import Bench
    from operators.diffusion.steps.schedule import Noise
    from operators.diffusion.stream import Stream
    from operators.diffusion.weights.coder import Coder
    from operators.diffusion.weights.models import Models
    from operators.diffusion.words.tower import TextTower

    class Given(Stream):
        def _load(self, device: torch.device) -> Models:
            tower = TextTower(parts["text_encoder"], parts["tokenizer"])
            return Models(parts["unet"], Coder(parts["vae"], torch.float32), [tower], Noise.read(SCHEDULER), "lcm", device, torch.float32)

    bench = Bench(
        "diffusion.stream", model="given", steps=nominal, size=SIDE, strength=steps / nominal + 1e-9, guidance=guidance, guidance_scale=SCALE,
        prompt=PROMPT, negative=NEGATIVE, batching={"stream": True} if batched else None, site_batch=steps if batched else 1,
    )  # fmt: skip
    bench.site.pools.poison = False
    bench.operator = Given(**bench.params)
    bench.operator.open(bench.site)

    def frame(picture: Any) -> Any:
        if batched:
            bench.site.packets = [Packet(bench.seq, bench.seq * bench.period, 0, 0, Data())]
            bench.seq += 1
            found = next(iter(bench.operator.call_batch([{"image": Image(picture)}])), None)
        else:
            found = bench(None, Image(picture))
        bench.let_go()
        return None if found is None else (found[0].data, found[1].data)

    return frame, bench.operator._noise.draw(bench.site.key(-1), (1 + nominal, 4, SIDE // 8, SIDE // 8))


def theirs(kind: Any, parts: dict[str, Any], indices: list[int], batched: bool, noise: list[Any], cfg: str = "none") -> Callable[[Any], Any]:
    """A frame of StreamDiffusion: bytes in, (bytes, pixels) out. `noise`: for each of its steps."""
    import numpy as np
    import streamdiffusion.pipeline as module
    import torch
    from diffusers import LCMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline(
        **parts, scheduler=LCMScheduler.from_config(SCHEDULER), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )  # fmt: skip
    stream = kind(pipe, indices, torch_dtype=torch.float32, width=SIDE, height=SIDE, use_denoising_batch=batched, cfg_type=cfg)
    stream.prepare(PROMPT, NEGATIVE, num_inference_steps=50, guidance_scale=1.0 if cfg == "none" else SCALE)
    rows = torch.cat(noise)
    left: list[Any] = []
    if not batched:  # between its steps it draws at random
        fake = type("torch", (), {"__getattr__": lambda self, name: getattr(torch, name)})()
        fake.randn_like = lambda x, **k: left.pop(0)
        module.torch = fake

    def frame(picture: Any) -> Any:
        left[:] = noise[1:]
        stream.init_noise = rows if batched else rows[:1]
        given = torch.from_numpy(picture).permute(2, 0, 1)[None].float().div_(255)
        pixels = stream(given)
        out = np.empty((SIDE, SIDE, 3), np.uint8)
        torch.from_numpy(out).copy_(pixels.mul(127.5).add_(128.0).clamp_(0, 255)[0].permute(1, 2, 0))
        return out, pixels

    return frame


def pictures(count: int) -> list[Any]:
    import numpy as np

    coarse = np.random.default_rng(1).integers(0, 256, (count, SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    return [c.repeat(8, axis=0).repeat(8, axis=1) for c in coarse]


def pair(kind: Any, parts: dict[str, Any], case: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any], int]:
    """Both frames of a case, and by how many frames pictures come later."""
    nominal, indices, batched, cfg, guidance = (*CASES[case], "none", "none") if case in CASES else GUIDED[case]
    mine, noise = ours(parts, nominal, len(indices), guidance, _in_rows(case))
    begin = nominal - len(indices)
    used = [noise[:1], *(noise[1 + begin + n : 2 + begin + n] for n in range(len(indices) - 1))]
    return mine, theirs(kind, parts, indices, batched, used, cfg), len(indices) - 1 if batched else 0


def _in_rows(case: str) -> bool:
    """Whether ours is a stream batch too: where it can be, and there is more than one row."""
    _, indices, batched, *_, guidance = (*CASES[case], "none") if case in CASES else GUIDED[case]
    return batched and len(indices) > 1 and guidance != "rcfg-onetime"


def difference(kind: Any, parts: dict[str, Any], case: str, frames: int = 6) -> float:
    """The largest difference of decoded pixels between both over some frames, in units of their largest value."""
    import torch

    mine, other, lag = pair(kind, parts, case)
    fed = pictures(frames)
    with torch.inference_mode():
        made = [found for each in fed if (found := mine(each)) is not None]
        our_pixels = [parts["vae"].decode(latent).sample for _, latent in made]
        their_pixels = [other(each)[1].clone() for each in fed]
    assert len(made) == len(fed) - (lag if _in_rows(case) else 0)
    gaps = []
    for a, b in zip(our_pixels, their_pixels[lag:], strict=False):
        gaps.append(float((a - b).abs().max() / b.abs().max()))
    return max(gaps)


def main() -> None:
    import warnings

    import torch

    args = arguments(__doc__.split("\n")[0], streamdiffusion="", frames=6)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kind, parts, fed = find(args.streamdiffusion), networks(), pictures(8)
    gaps = {case: difference(kind, parts, case) for case in CASES}
    variants: dict[str, Callable[[], float]] = {}
    for case in CASES:
        mine, other, _ = pair(kind, parts, case)
        for name, frame in ((f"ours, {case}", mine), (f"theirs, {case}", other)):
            def run(frame: Callable[[Any], Any] = frame) -> float:
                return cpu_seconds(lambda: [frame(fed[n % len(fed)]) for n in range(args.frames)])[0] / args.frames * 1e3

            run()
            variants[name] = run
    found = {name: median(values) for name, values in rounds(variants, args.rounds).items()}
    table = {
        case: {
            "ours_ms": round(found[f"ours, {case}"], 2), "theirs_ms": round(found[f"theirs, {case}"], 2),
            "ratio": round(found[f"ours, {case}"] / found[f"theirs, {case}"], 3), "difference": gaps[case],
            "lag_frames": len(CASES[case][1]) - 1 if CASES[case][2] else 0,
        }
        for case in CASES
    }  # fmt: skip
    report(args, "cpu_streamdiffusion", {"rounds": args.rounds, "frames": args.frames, "side": SIDE, "table": table, "target_ratio": 1.0})


if __name__ == "__main__":
    main()
