"""Operations of a frame, counted on torch's meta device, where nothing is computed: deterministic, and the same on every machine.

Counts every module of every family at three sizes, fits the part that is constant, the one that grows with the area and the one that grows
with its square, compares with the table in operators/diffusion/work.py, and prints what the policies of a frame cost. For policies that reuse
features or batch frames the loop itself runs, and what it computes is compared with what the node says of itself. Fails where either differs.

    python bench/meta_work.py --json bench/results/meta_work.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import common

SIZES = (256, 512, 1024)
LINEAR = {"attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
SHAPES: dict[str, dict[str, Any]] = {
    "sd1": {"cross_attention_dim": 768},
    "sd2": {"cross_attention_dim": 1024, **LINEAR},
    "sdxl": {
        "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
UP = {"sdxl": {"up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")}}
KL = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip


def gflop(call: Callable[[], Any]) -> float:
    """GFLOP of one call; a multiply-add counts as two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops() / 1e9)


def fit(call: Callable[[int], Any]) -> tuple[float, float, float]:
    """The three parts of a cost, from three sizes."""
    import numpy as np

    areas = np.array([(size / 512) ** 2 for size in SIZES])
    counted = np.array([gflop(lambda size=size: call(size)) for size in SIZES])
    base, area, square = np.linalg.solve(np.stack([areas**0, areas, areas**2], 1), counted)
    return float(base), float(area), float(square)


def modules(name: str) -> tuple[Any, Any]:
    """The UNet and the ControlNet of a family, without weights."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    shape = SHAPES[name]
    return UNet2DConditionModel(**shape, **UP.get(name, {})).eval(), ControlNetModel(**shape).eval()


def count_family(name: str) -> dict[str, tuple[float, float, float]]:
    """Every pass of one family."""
    import torch

    from operators.diffusion.steps.reuse import Reuse

    with torch.device("meta"):
        unet, control = modules(name)
        text, t = torch.zeros(1, 77, SHAPES[name]["cross_attention_dim"]), torch.zeros(1)
        more = {"added_cond_kwargs": {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}} if name == "sdxl" else {}

        def latent(size: int) -> torch.Tensor:
            return torch.zeros(1, 4, size // 8, size // 8)

        found = {
            "unet": fit(lambda s: unet(latent(s), t, text, **more)),
            "control": fit(lambda s: control(latent(s), t, text, torch.zeros(1, 3, s, s), **more)),
            "hint": fit(lambda s: control.controlnet_cond_embedding(torch.zeros(1, 3, s, s))),
        }
        for cut in range(3):
            reuse = Reuse(unet, 2, cut)

            def both(size: int, reuse: Reuse = reuse) -> None:
                reuse.full(latent(size), t, text, None, None, None, more.get("added_cond_kwargs"))
                reuse.shallow(latent(size), t, text, None, more.get("added_cond_kwargs"))

            base, area, square = (a - b for a, b in zip(fit(both), found["unet"], strict=True))
            found[f"cut {cut}"] = (base, area, square)
    return found


def count_coders() -> dict[str, tuple[float, float, float]]:
    """Encoders and decoders."""
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny

    with torch.device("meta"):
        full, tiny = AutoencoderKL(**KL).eval(), AutoencoderTiny().eval()
        found = {}
        for name, module in (("kl", full), ("tiny", tiny)):
            found[f"{name} encode"] = fit(lambda s, m=module: m.encode(torch.zeros(1, 3, s, s)))
            found[f"{name} decode"] = fit(lambda s, m=module: m.decode(torch.zeros(1, 4, s // 8, s // 8)))
        return found


def table() -> dict[str, tuple[float, float, float]]:
    """What operators/diffusion/work.py says."""
    from operators.diffusion import work

    def parts(cost: work.Cost) -> tuple[float, float, float]:
        return (cost.base, cost.area, cost.square)

    coders = {"kl": work.KL, "tiny": work.TINY}
    said = {f"{name} {way}": parts(cost) for name, coder in coders.items() for way, cost in zip(("encode", "decode"), coder, strict=False)}  # type: ignore[arg-type]
    for name, family in (("sd1", work.SD1), ("sd2", work.SD2), ("sdxl", work.SDXL)):
        said |= {f"{name} unet": parts(family.unet), f"{name} control": parts(family.control), f"{name} hint": parts(work.HINT)}
        said |= {f"{name} cut {i}": parts(cut) for i, cut in enumerate(family.cuts)}
    return said


POLICIES: dict[str, dict[str, Any]] = {
    "15 steps, cfg": {"guidance": "cfg"},
    "15 steps, cfg, full decoder": {"guidance": "cfg", "vae": None},
    "15 steps": {},
    "15 steps, reuse 3": {"reuse": {"every": 3, "cut": 1}},
    "18 steps, reuse 3": {"steps": 18, "reuse": {"every": 3, "cut": 1}},
    "22 steps, reuse 3": {"steps": 22, "reuse": {"every": 3, "cut": 1}},
    "15 steps, reuse 5": {"reuse": {"every": 5, "cut": 1}},
    "15 steps, cfg, reuse 3": {"guidance": "cfg", "reuse": {"every": 3, "cut": 1}},
    "12 steps, 1 full, 11 at cut 0": {"steps": 12, "reuse": {"every": 12, "cut": 0}},
    "12 steps, 1 full, 11 at cut 1": {"steps": 12, "reuse": {"every": 12, "cut": 1}},
    "12 steps, 1 full, 11 at cut 1, for 4 frames": {"steps": 12, "reuse": {"every": 12, "cut": 1, "frames": 4}},
    "14 steps at strength 0.29, reuse 2": {"steps": 14, "strength": 0.29, "reuse": {"every": 2, "cut": 1}},
    "14 steps at strength 0.29, reuse 2, for 4 frames": {"steps": 14, "strength": 0.29, "reuse": {"every": 2, "cut": 1, "frames": 4}},
    "15 steps, control and full steps to one half": {
        "controlnets": [{"model": "net", "end": 0.5}], "reuse": {"every": 3, "cut": 1, "end": 0.5},
    },
    "4 steps": {"steps": 4},
    "4 steps, stream batch": {"steps": 4, "batch": 4, "batching": {"stream": True}},
    "4 steps, stream batch, for 4 frames": {
        "steps": 4, "batch": 4, "batching": {"stream": True}, "reuse": {"every": 1, "cut": 1, "frames": 4},
    },
    "4 steps, frame batch of 4": {"steps": 4, "batch": 4},
    "4 steps, no control": {"steps": 4, "controlnets": []},
    "1 step": {"steps": 1},
    "SDXL-Turbo, 4 steps, no control": {"model": "sdxl", "steps": 4, "controlnets": []},
    "SDXL-Turbo, 4 steps, no control, reuse 2": {"model": "sdxl", "steps": 4, "controlnets": [], "reuse": {"every": 2, "cut": 1}},
}  # fmt: skip
BASE = {"model": "sd15", "controlnets": [{"model": "net"}], "vae": "taesd", "steps": 15, "size": 512, "strength": 1.0, "guidance": "none"}


def told(more: dict[str, Any]) -> Any:
    """What the node says of a policy: an Outlook."""
    from engine.planning.outlook import Asked
    from operators.diffusion.work import outlook

    params = {**BASE, **more}
    return outlook(Asked(params, frozenset({"control", "carry"}), batch=params.pop("batch", 1)))


def policies() -> dict[str, list[float]]:
    """TFLOP of a frame at 512 x 512, tiny decoder, one ControlNet unless said: where nothing moves, and where something does."""
    return {name: [round(v, 3) for v in told(more).tflop] for name, more in POLICIES.items()}


def run_policy(unet: Any, control: Any, more: dict[str, Any], moving: bool) -> float:
    """GFLOP a frame of the UNet and the ControlNet when the loop itself runs a policy: the mean over as many frames as live on one."""
    import torch

    from operators.diffusion.steps.loop import Loop
    from operators.diffusion.steps.passes import Control
    from operators.diffusion.steps.rack import Conveyor, Frame, Rack, together
    from operators.diffusion.steps.reuse import Reuse
    from operators.diffusion.steps.schedule import Noise, Rows, executed, table
    from operators.diffusion.weights.models import Net

    params, meta = {**BASE, **more}, torch.device("meta")
    keeps = params.get("reuse") or {"every": 1, "cut": 0}
    frames, batch, slides = keeps.get("frames", 1), params.get("batch", 1), bool(params.get("batching"))
    models: Any = type("Models", (), {"unet": unet, "device": meta, "dtype": torch.float32, "resting": {}})()
    loop = Loop(models, Reuse(unet, **keeps))
    with torch.device("cpu"):
        rows = Rows(table("ddim", Noise(), params["steps"]), "none", 1.0, meta)
    run = executed(params["steps"], params["strength"])
    net = Net.__new__(Net)
    asks = params["controlnets"][0] if params["controlnets"] else {}
    net.module, net.start, net.end = control, asks.get("start", 0.0), asks.get("end", 1.0)
    text, latent = torch.zeros(1, 77, unet.config.cross_attention_dim), torch.zeros(1, 4, 64, 64)
    feature, scale = torch.zeros(1, 320, 64, 64), torch.zeros(())
    nets = [(net, feature, 1.0)] if params["controlnets"] else []
    xl = unet.config.addition_embed_type == "text_time"
    added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)} if xl else None

    def frame(n: int) -> Frame:
        facts = str(n) if moving else "still"
        return Frame(rows, run, (512, 512), text, added, nets, latent, latent, facts=facts)

    def alone(n: int) -> None:
        assert loop.reuse is not None
        loop.reuse.pace.begin(frame(n).facts, (rows.n - run, rows.n), (1, 4, 64, 64), list)
        loop.run(rows, rows.n - run, latent, latent, text, [Control(net, feature, scale) for net, _, _ in nets], None, lambda: None, added)
        loop.reuse.pace.done()

    if slides:
        conveyor = Conveyor(Rack(run, 1, (4, 64, 64), meta, torch.float32), frame(0))
        with torch.no_grad():
            for n in range(run):
                conveyor.turn(loop, frame(n))
        return gflop(lambda: [conveyor.turn(loop, frame(n)) for n in range(run + 1, run + 1 + frames)]) / frames
    if batch > 1:
        rack = Rack(batch, 1, (4, 64, 64), meta, torch.float32)
        return gflop(lambda: together(loop, rack, [frame(n) for n in range(batch)], lambda: None)) / batch
    return gflop(lambda: [alone(n) for n in range(frames)]) / frames


COUNTED = [
    "15 steps, reuse 3", "12 steps, 1 full, 11 at cut 1, for 4 frames", "14 steps at strength 0.29, reuse 2, for 4 frames",
    "15 steps, control and full steps to one half", "4 steps, stream batch, for 4 frames", "4 steps, frame batch of 4",
]  # fmt: skip


def wrong_policies(name: str, unet: Any, control: Any) -> dict[str, Any]:
    """Policies of a family where the loop computes other than the node says, decoder and the embedding of conditions apart."""
    import torch

    from operators.diffusion import work

    control.controlnet_cond_embedding = torch.nn.Identity()
    found = {}
    for policy in COUNTED if name == "sd1" else ["SDXL-Turbo, 4 steps, no control, reuse 2"]:
        nets = {**BASE, **POLICIES[policy]}["controlnets"]
        rest = work.TINY[1].at(1) + len(nets) * work.HINT.at(1)
        across = POLICIES[policy].get("reuse", {}).get("frames", 1) > 1
        for moving, said in enumerate(told(POLICIES[policy]).tflop):
            if not moving and not across:
                continue  # it is the same then
            with torch.device("meta"):
                counted = run_policy(unet, control, POLICIES[policy], bool(moving))
            if abs(counted / (1000 * said - rest) - 1) > 1e-4:
                found[f"{policy}, {'moving' if moving else 'still'}"] = {"counted": round(counted, 2), "said": round(1000 * said - rest, 2)}
    return found


def main() -> int:
    import torch

    args = common.arguments(__doc__ or "", only="")
    names = [args.only] if args.only else list(SHAPES)
    counted = {f"{name} {part}": cost for name in names for part, cost in count_family(name).items()}
    counted |= {} if args.only else count_coders()
    said = table()
    wrong = {
        part: {"counted": [round(v, 4) for v in cost], "table": said.get(part)}
        for part, cost in counted.items()
        if part not in said or any(abs(a - b) > 2e-3 for a, b in zip(cost, said[part], strict=True))
    }
    off: dict[str, Any] = {}
    for name in (each for each in names if each != "sd2"):
        with torch.device("meta"):
            unet, control = modules(name)
        off |= wrong_policies(name, unet, control)
    frame = policies()
    reuse = frame["15 steps, reuse 3"][1] / frame["15 steps"][1]
    common.report(args, "meta_work", {
        "gflop": {part: [round(v, 4) for v in cost] for part, cost in counted.items()}, "wrong": wrong, "wrong_policies": off,
        "tflop_a_frame": frame,
        "reuse_3_over_plain": round(reuse, 3), "target": "table and policies exact; reuse of every third step at most 0.46 of plain",
        "met": not wrong and not off and reuse <= 0.46,
    })  # fmt: skip
    return 1 if wrong or off or reuse > 0.46 else 0


if __name__ == "__main__":
    sys.exit(main())
