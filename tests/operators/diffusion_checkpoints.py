"""Tiny random checkpoints in the Stable Diffusion 1.5 folder format, built in a temporary folder for the tests.

Weights are random but not idle: the zero convolutions of ControlNets are perturbed, so that a control that is ignored shows. The encoder of
the KL autoencoder is made to answer with (almost) no variance, so that diffusers, which samples it, and we, who take its mean, agree.
"""

from __future__ import annotations

import atexit
import functools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZE = 64  # pixels: latents of 8 x 8
SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoints:
    """Folders of one set of checkpoints."""

    root: Path

    @property
    def model(self) -> str:
        return str(self.root / "sd15")

    @property
    def control(self) -> str:
        return str(self.root / "control_a")

    @property
    def control_b(self) -> str:
        return str(self.root / "control_b")

    @property
    def taesd(self) -> str:
        return str(self.root / "taesd")


def tokenizer(folder: Path, pad: str = "<|endoftext|>") -> None:
    """A CLIP tokenizer that spells: one token a byte, no merges. `pad`: the token that fills up."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)] + [chr(c) for c in range(161, 173)] + [chr(c) for c in range(174, 256)]
    letters += [chr(256 + n) for n in range(256 - len(letters))]
    vocab = {token: i for i, token in enumerate([*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, pad_token=pad).save_pretrained(folder)


def _perturb(module: Any, scale: float = 0.2) -> None:
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(0, scale)


def _loud(net: Any) -> None:
    """Make a condition picture matter as much as the latent does: at random its embedding is a whisper."""
    import torch

    _perturb(net, 0.3)
    with torch.no_grad():
        for name, parameter in net.controlnet_cond_embedding.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(3)


def unet(seed: int, **changes: Any) -> Any:
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 32,
        "attention_head_dim": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    return UNet2DConditionModel(**{**config, **changes}).eval()


def build(root: Path, *, scheduler: dict[str, Any] | None = None, **unet_changes: Any) -> Checkpoints:
    """Write one set under `root`: `sd15` (UNet, KL autoencoder, CLIP text, tokenizer, scheduler), `control_a`, `control_b`, `taesd`."""
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel
    from transformers import CLIPTextConfig, CLIPTextModel

    body = unet(1, **unet_changes)
    _perturb(body)
    body.save_pretrained(root / "sd15" / "unet")
    for n, name in enumerate(("control_a", "control_b")):
        torch.manual_seed(10 + n)
        same = body.config.time_cond_proj_dim is None  # a distilled UNet has weights that a ControlNet lacks
        net = ControlNetModel.from_unet(
            body, conditioning_embedding_out_channels=(4, 8, 8, 8), load_weights_from_unet=same
        ).eval()  # fmt: skip
        if body.config.addition_embed_type:  # from_unet leaves out the number of heads
            heads = body.config.addition_embed_type_num_heads
            config = {key: value for key, value in net.config.items() if not key.startswith("_")}
            net = ControlNetModel(**{**config, "addition_embed_type_num_heads": heads}).eval()
        torch.manual_seed(20 + n)
        _loud(net)
        net.save_pretrained(root / name)
    torch.manual_seed(2)
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1, norm_num_groups=4, latent_channels=4, sample_size=SIZE, scaling_factor=0.18215,
    )  # fmt: skip
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -30
    vae.eval().save_pretrained(root / "sd15" / "vae")
    torch.manual_seed(3)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8), num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    ).eval().save_pretrained(root / "taesd")  # fmt: skip
    torch.manual_seed(4)
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=514, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=77,
            bos_token_id=512, eos_token_id=513, pad_token_id=513,
        )
    ).eval().save_pretrained(root / "sd15" / "text_encoder")  # fmt: skip
    tokenizer(root / "sd15" / "tokenizer")
    (root / "sd15" / "scheduler").mkdir(parents=True)
    (root / "sd15" / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler or SCHEDULER))
    (root / "sd15" / "model_index.json").write_text(json.dumps({
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1", "requires_safety_checker": False,
        "feature_extractor": [None, None], "image_encoder": [None, None], "safety_checker": [None, None],
        "scheduler": ["diffusers", (scheduler or SCHEDULER)["_class_name"]], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    }))  # fmt: skip
    return Checkpoints(root)


@functools.cache
def checkpoints() -> Checkpoints:
    """The plain set, built once per run in a folder that goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="sd15-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return build(Path(folder.name))


def picture(seed: int, height: int = SIZE, width: int = SIZE) -> Any:
    """A random but smooth uint8 picture (H, W, 3)."""
    import numpy as np

    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def stream(control: int = 1, **changes: Any) -> Any:
    """A bench of diffusion.stream on the plain set, with `control` ControlNets: small, in float32, without guidance."""
    from engine.testing import Bench

    check = checkpoints()
    nets = [{"model": name, "scale": 1.0} for name in (check.control, check.control_b)[:control]]
    parameters = {
        "model": check.model, "controlnets": nets, "vae": check.taesd, "size": SIZE, "steps": 4, "strength": 0.6, "dtype": "fp32",
        "guidance": "none", "prompt": "a dancer", "scheduler": "ddim",
    }  # fmt: skip
    return Bench("diffusion.stream", **{**parameters, **changes})


def skeleton(seed: int = 0) -> list[Any]:
    """What the control port takes: one picture."""
    from engine.payload import Image

    return [Image(picture(seed))]


def same(a: Any, b: Any) -> bool:
    """Whether two painted frames are equal to the bit."""
    import numpy as np
    import torch

    return bool(torch.equal(a.latent.data, b.latent.data)) and np.array_equal(a.image.data, b.image.data)
