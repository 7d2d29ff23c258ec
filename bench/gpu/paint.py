"""Whole frames, bytes to bytes, by us and by those we are compared with, on the same networks.

    ours           diffusion.stream with its parameters; alone, or in a session of the engine
    pipeline       diffusers' own __call__, tensors in and out, the prompt's encoding ready
    streamed       StreamDiffusion 0.1.1 from PyPI, unmodified, where it is installed

A configuration says nominal steps and how many of them are executed; all three execute the same passes of the same networks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from bench.gpu.feed import Clocked, pictures
from bench.gpu.lab import Lab, Skipped
from bench.gpu.nets import SCHEDULER, Nets, dtype_of, twin


@dataclass(frozen=True)
class Config:
    """`nominal` and `executed` steps. `control`: with a ControlNet. `cfg`: two passes a step. `indices`: StreamDiffusion's, of 50."""

    nominal: int
    executed: int
    scheduler: str
    control: bool
    cfg: bool
    indices: tuple[int, ...] = ()

    @property
    def strength(self) -> float:
        return self.executed / self.nominal + 1e-9

    def facts(self) -> dict[str, Any]:
        """What has to stand beside every rate."""
        return {
            "executed_steps": self.executed, "full_evaluations": self.executed * (2 if self.cfg else 1), "tflop": round(self.tflop(), 3),
            "vae": "taesd", "cfg": self.cfg, "controlnet": self.control, "batch": 1,
        }  # fmt: skip

    def tflop(self) -> float:
        """Of a 512 x 512 frame with TAESD in and out."""
        from operators.diffusion.work import SD1, TINY

        passes = self.executed * (2 if self.cfg else 1)
        one = SD1.unet.at(1) + (SD1.control.at(1) if self.control else 0.0)
        return (passes * one + (14.7 if self.control else 0.0) + TINY[0].at(1) + TINY[1].at(1)) / 1e3


CONFIGS = {
    "a: 15 steps, cfg, ControlNet": Config(20, 15, "ddim", True, True),
    "b: 4 LCM steps, ControlNet": Config(8, 4, "lcm", True, False),
    "b: 4 LCM steps": Config(8, 4, "lcm", False, False, (25, 31, 37, 43)),
    "c: 1 step, ControlNet": Config(2, 1, "lcm", True, False),
    "c: 1 step": Config(2, 1, "lcm", False, False, (25,)),
}


def configs(tiny: bool) -> dict[str, Config]:
    """What frames are painted by; where only the script is tried, three steps stand for fifteen."""
    return {name: replace(config, nominal=4, executed=3) if tiny and config.executed > 4 else config for name, config in CONFIGS.items()}


# ---------------------------------------------------------------- ours


def known(name: str) -> Any:
    """The parameter `name` of diffusion.stream; None where this version has none."""
    from engine import registry

    return next((p for p in registry.find("diffusion.stream").params if p.name == name), None)


def needs(*names: str) -> None:
    """Raises Skipped where diffusion.stream lacks a parameter."""
    for name in names:
        if known(name) is None:
            raise Skipped(f"diffusion.stream has no parameter {name!r}")


def given(lab: Lab, nets: Nets, control: int) -> type:
    """diffusion.stream on copies of these networks in place of the files that it would load."""
    import torch

    from operators.diffusion.steps.schedule import Noise
    from operators.diffusion.stream import Stream
    from operators.diffusion.weights.coder import Coder
    from operators.diffusion.weights.models import Models, Net
    from operators.diffusion.words.tower import TextTower

    class Given(Stream):
        def _load(self, device: torch.device) -> Models:
            used = []
            for _ in range(control):
                net = twin(nets.control).to(memory_format=torch.channels_last)
                used.append(Net(net, 0.9))
            unet, tiny = twin(nets.unet).to(memory_format=torch.channels_last), twin(nets.tiny).to(memory_format=torch.channels_last)
            dtype = dtype_of(lab)
            tower = TextTower(twin(nets.text), nets.tokenizer)
            return Models(unet, Coder(tiny, dtype), [tower], Noise.read(SCHEDULER), "ddim", torch.device(device), dtype, used)

    return Given


def parameters(nets: Nets, config: Config, more: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration is for diffusion.stream."""
    needs(*more)
    base = {
        "model": "random", "steps": config.nominal, "size": nets.side, "strength": config.strength, "carry_mix": 0.0,
        "scheduler": config.scheduler, "guidance": "cfg" if config.cfg else "none", "guidance_scale": 5.0 if config.cfg else None,
        "controlnets": [{"model": "random", "scale": 0.9}] if config.control else [], "prompt": "a dancer",
    }  # fmt: skip
    return {**base, **more}


@contextmanager
def ours(lab: Lab, nets: Nets, config: Config, **more: Any) -> Iterator[Callable[[int], Any]]:
    """A frame of diffusion.stream by its number; what it returns is the engine's: its picture lies on the host."""
    from engine.payload import Image
    from engine.testing import Bench

    bench = Bench("diffusion.stream", site_device=lab.device, **parameters(nets, config, more))
    bench.site.pools.poison = False
    bench.operator = given(lab, nets, int(config.control))(**bench.params)
    fed = pictures(nets.side)
    try:
        bench.operator.open(bench.site)

        def frame(n: int) -> Any:
            shown = [Image(fed[(n + 1) % len(fed)])] if config.control else None
            found = bench(shown, Image(fed[n % len(fed)]))
            bench.let_go()
            return found

        frame.bench = bench  # type: ignore[attr-defined]
        yield frame
    finally:
        bench.operator.close()


def in_session(lab: Lab, nets: Nets, config: Config, frames: int, batch: int = 1, **more: Any) -> dict[str, float]:
    """The same frames in a session of the engine: source, painter and sink on lanes of their own, three frames under way, or two batches."""
    from engine.graph import GraphBuilder
    from engine.planning.compile import compile
    from engine.session import Session

    params = parameters(nets, config, more)
    g = GraphBuilder("overlap", clock="offline", in_flight=max(3, 2 * batch))
    g.node("feed", "bench.pictures", side=nets.side, frames=frames)
    ports: dict[str, Any] = {"image": "feed.image", **({"control": ["feed.control"]} if config.control else {})}
    g.node("paint", "diffusion.stream", **params, **ports, **({"batch": batch} if batch > 1 else {}))
    g.node("end", "sink.null", image="paint.image", lane="out")
    kind, sink = given(lab, nets, int(config.control)), Clocked()
    with Session(compile(g.build()), device=lab.device) as session:
        session.stand_in = lambda node: {"paint": lambda: kind(**node.params), "end": lambda: sink}.get(node.name, lambda: None)()
        session.run()
    # The first half warms up and captures. Pictures of a batch come together, so rates are between the ends of batches.
    half = len(sink.came) // 2 // batch * batch
    late = sink.came[half:]
    before, ages = sink.came[half - 1][0], sorted(age / 1e6 for _, age in late)
    at = [round(ages[min(len(ages) - 1, int(q * len(ages)))], 3) for q in (0.5, 0.95, 0.99)]
    fps = round(len(late) / (late[-1][0] - before) * 1e9, 3)
    return {"fps": fps, "p50_ms": at[0], "p95_ms": at[1], "p99_ms": at[2], "frames": len(late), "batch": batch}


# ---------------------------------------------------------------- theirs


def pipeline(lab: Lab, nets: Nets, config: Config, compiled: Callable[[Any], None] | None = None) -> Callable[[int], Any]:
    """A frame of diffusers' image-to-image pipeline, with ControlNet where the configuration has one. `compiled` is given its networks."""
    import diffusers
    import torch

    unet, control = twin(nets.unet), twin(nets.control)
    if compiled is not None:
        compiled(unet)
        compiled(control)
    kinds = {"ddim": diffusers.DDIMScheduler, "lcm": diffusers.LCMScheduler}
    parts: dict[str, Any] = {
        "vae": nets.tiny, "text_encoder": None, "tokenizer": None, "unet": unet, "scheduler": kinds[config.scheduler].from_config(SCHEDULER),
        "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip
    if config.control:
        pipe = diffusers.StableDiffusionControlNetImg2ImgPipeline(controlnet=control, **parts)
    else:
        pipe = diffusers.StableDiffusionImg2ImgPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    common: dict[str, Any] = {
        "prompt_embeds": nets.prompt, "num_inference_steps": config.nominal, "strength": config.strength,
        "guidance_scale": 5.0 if config.cfg else 1.0, "output_type": "pt",
    }  # fmt: skip
    if config.cfg:
        common["negative_prompt_embeds"] = nets.prompt.flip(1)
    fed = [_tensor(picture) for picture in pictures(nets.side)]

    def frame(n: int) -> Any:
        image, shown = fed[n % len(fed)], fed[(n + 1) % len(fed)]
        more = {"control_image": shown, "controlnet_conditioning_scale": 0.9} if config.control else {}
        with torch.inference_mode():
            found = pipe(image=image, **common, **more).images
        return found[0].mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()

    return frame


def _tensor(picture: Any) -> Any:
    import torch

    return torch.from_numpy(picture).permute(2, 0, 1)[None].float().div(255)


def streamed(lab: Lab, nets: Nets, config: Config, unet: Any = None) -> Callable[[int], Any]:
    """A frame of StreamDiffusion: its stream batch, TAESD, no guidance. Raises Skipped where it is not installed."""
    import torch

    if not config.indices:
        raise Skipped("StreamDiffusion has no ControlNet")
    try:
        from bench.cpu_streamdiffusion import find

        kind = find("")
    except ImportError as error:
        raise Skipped(f"StreamDiffusion is not installed here: {error}") from error
    from diffusers import LCMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline(
        vae=copy.copy(nets.tiny), text_encoder=nets.text, tokenizer=nets.tokenizer, unet=unet or nets.unet,
        scheduler=LCMScheduler.from_config(SCHEDULER), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    stream = kind(
        pipe, list(config.indices), torch_dtype=dtype_of(lab), width=nets.side, height=nets.side, use_denoising_batch=True, cfg_type="none"
    )
    stream.device = torch.device(lab.device)
    stream.prepare("a dancer", num_inference_steps=50, guidance_scale=1.0)
    fed = [_tensor(picture) for picture in pictures(nets.side)]

    def frame(n: int) -> Any:
        with torch.inference_mode():
            pixels = stream(fed[n % len(fed)])
            return pixels.mul(127.5).add_(128.0).clamp_(0, 255)[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()

    return frame


def graphed_unet(lab: Lab, nets: Nets) -> Any:
    """The UNet behind one CUDA graph a shape, callable as StreamDiffusion calls it: what a user who knows graphs would put in."""
    import torch

    from bench.gpu.lab import graphed

    unet = nets.unet

    class Graphed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config, self.dtype, self.device, self.kept = unet.config, dtype_of(lab), torch.device(lab.device), {}

        def forward(self, sample: Any, t: Any, encoder_hidden_states: Any = None, return_dict: bool = False, **more: Any) -> Any:
            key = tuple(sample.shape)
            t = torch.as_tensor(t, device=sample.device).reshape(-1).expand(sample.shape[0])
            if key not in self.kept:
                still = (sample.clone(), t.clone(), encoder_hidden_states.clone())
                self.kept[key] = (still, graphed(lab, lambda: unet(*still, return_dict=False)[0]))
            still, replay = self.kept[key]
            for old, new in zip(still, (sample, t, encoder_hidden_states), strict=True):
                old.copy_(new)
            return (replay(),)

    return Graphed()
