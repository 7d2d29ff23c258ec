"""live_2060 from files on disk, planned, loaded, placed and run: tiny models on any machine, models of full size inside 6 GB on a GPU.

Camera, finder of poses, picture-to-text model and film are stand-ins; graph, memory plan, loading and painting are what ships. Weights are
random, which changes pictures and no byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from bench.gpu.feed import Body, Camera, Idle  # noqa: E402
from bench.gpu.nets import blank  # noqa: E402
from engine.planning.compile import compile  # noqa: E402
from engine.session import Session  # noqa: E402
from engine.text.load import load  # noqa: E402
from operators.models.quantise import held_bytes  # noqa: E402

GIB = 2**30


@dataclass(frozen=True)
class Files:
    """Where the models of the preset lie, and the side they are painted at."""

    model: str
    control: str
    vae: str
    adapter: str
    encoder: str
    side: int

    def sets(self) -> list[str]:
        """What makes the preset read them."""
        said = {
            "paint.model": self.model, "paint.controlnets": [{"model": self.control, "scale": 0.9}], "paint.vae": self.vae,
            "paint.ip_adapters": [{"model": self.adapter, "scale": 0.5}], "eyes.adapter": self.adapter,
            "eyes.encoder": str(Path(self.encoder).parent), "eyes.encoder_folder": Path(self.encoder).name,
            "paint.width": self.side, "paint.height": self.side, "paint.size": self.side,
        }  # fmt: skip

        def toml(value: Any) -> str:
            if isinstance(value, dict):
                return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
            return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)

        return [f"{key}={toml(value)}" for key, value in said.items()]


def tiny_files() -> Files:
    from diffusion_adapters import home, image_encoder, ip_adapter
    from diffusion_checkpoints import SIZE, checkpoints, unet

    check = checkpoints()
    adapter = ip_adapter(home() / "cap" / "ip.safetensors", unet(3), "base")
    return Files(check.model, check.control, check.taesd, str(adapter), str(image_encoder()), SIZE)


def full_files(folder: Path) -> Files:
    """Stable Diffusion 1.5, a ControlNet, TAESD, CLIP ViT-H and an IP-Adapter, in the published shapes, with random weights."""
    from diffusers import AutoencoderTiny, ControlNetModel, UNet2DConditionModel
    from diffusion_checkpoints import SCHEDULER, tokenizer
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

    def save(make: Any, *place: str) -> Any:
        module = blank(make, "cpu", torch.float16, 1)
        module.save_pretrained(folder.joinpath(*place))
        return module

    unet = save(lambda: UNet2DConditionModel(cross_attention_dim=768, sample_size=64), "sd15", "unet")
    save(lambda: ControlNetModel(cross_attention_dim=768), "control")
    save(AutoencoderTiny, "taesd")
    save(lambda: CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)),
         "sd15", "text_encoder")  # fmt: skip
    vision = CLIPVisionConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14,
                              projection_dim=1024)  # fmt: skip
    save(lambda: CLIPVisionModelWithProjection(vision), "vit_h")
    tokenizer(folder / "sd15" / "tokenizer")
    (folder / "sd15" / "scheduler").mkdir()
    (folder / "sd15" / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    state: dict[str, Any] = {
        "image_proj.proj.weight": torch.randn(3072, 1024).half() / 32, "image_proj.proj.bias": torch.zeros(3072).half(),
        "image_proj.norm.weight": torch.ones(768).half(), "image_proj.norm.bias": torch.zeros(768).half(),
    }  # fmt: skip
    cross = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    for n, module in enumerate(cross):
        for key in ("to_k_ip", "to_v_ip"):
            state[f"ip_adapter.{2 * n + 1}.{key}.weight"] = torch.randn_like(module.to_k.weight) / 28
    save_file(state, folder / "ip.safetensors")
    at = {name: str(folder / name) for name in ("sd15", "control", "taesd", "vit_h")}
    return Files(at["sd15"], at["control"], at["taesd"], str(folder / "ip.safetensors"), at["vit_h"], 512)


def run(files: Files, frames: int, device: str, *sets: str) -> Session:
    """The preset until `frames` are out."""
    from operators.pose.mediapipe import Tracked

    plan = compile(load("live_2060", sets=[*files.sets(), *sets]))
    ends: dict[str, Any] = {
        "source.video": lambda node: Camera(files.side, 120.0), "pose.mediapipe": lambda node: Body(Tracked),
        "vlm.refine": lambda node: Idle(), "sink.video": lambda node: Idle(),
    }  # fmt: skip
    session = Session(plan, device=device, govern=False)
    session.stand_in = lambda node: ends[node.plan.op](node) if node.plan.op in ends else None
    session.models = {}  # type: ignore[attr-defined]

    def tick(running: Session) -> None:
        painter = running.nodes["paint"].operator
        if painter is not None and getattr(painter, "models", None) is not None:
            session.models = {  # type: ignore[attr-defined]
                part: sum(held_bytes(module) for module in modules) for part, modules in painter.models.parts().items()
            }
        if running.frames_out >= frames:
            running.stop()

    session.told = session.run(tick)  # type: ignore[attr-defined]
    session.check()
    return session


def planned(session: Session) -> dict[str, int]:
    """Bytes by part that the plan keeps on the device for the painter."""
    assert session.memory is not None
    return {p.weights.name: p.way.stays for p in session.memory.placements if p.node == "paint"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("vram", ["6GB", "1MB"])
def test_the_preset_runs_as_it_was_planned_from_headers(vram: str) -> None:
    """With tiny models, in half the bytes of float32: where there is room everything stays, where there is none everything gives way, and
    frames come all the same. What headers predict is what the modules hold."""
    torch.set_num_threads(1)
    session = run(tiny_files(), 6, "cpu", f"memory.vram={json.dumps(vram)}", 'memory.headroom="1MB"', 'paint.dtype="bf16"', "paint.steps=4")
    told = session.told  # type: ignore[attr-defined]
    assert told.error is None
    assert told.frames["out"] >= 6
    ways = {p.weights.name: p.how for p in session.memory.placements if p.node == "paint"}  # type: ignore[union-attr]
    assert all(p.weights.exact for p in session.memory.placements if p.node in ("paint", "eyes"))  # type: ignore[union-attr]
    held = session.models  # type: ignore[attr-defined]
    rotated = {"text": 8 * 77}  # positions, which are counted in no header
    if vram == "6GB":
        assert set(ways.values()) == {"resident"}
        for part in ("text", "controlnet 1", "vae"):
            assert held[part] - rotated.get(part, 0) == planned(session)[part]
        assert held["unet"] == planned(session)["unet"] + planned(session)["ip adapter 1"]
    else:
        assert ways["unet"] == "group"
        assert ways["text"] == ways["vae"] == "offload"
        placed = [e for e in session.events if e["what"] == "placed"]
        assert placed[0]["unet"] == "group"
    assert told.memory["fits"] == (vram == "6GB")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_live_2060_runs_inside_six_gigabytes_for_a_thousand_frames(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    files = full_files(tmp_path)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 6 * GIB / total))
    torch.cuda.reset_peak_memory_stats()
    try:
        session = run(files, 1000, "cuda", 'memory.vram="6GiB"')
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    told = session.told  # type: ignore[attr-defined]
    assert told.error is None
    assert told.frames["out"] >= 1000
    assert [e for e in session.events if e["what"] == "memory"] == []
    assert torch.cuda.max_memory_reserved() <= 6 * GIB
    facts = told.memory
    assert facts["fits"]
    assert 0.9 <= facts["ratio"] <= 1.15, facts  # planned over measured, tensors alone
