"""Tiny adapters and SDXL checkpoints in the formats of the real ones, built in a temporary folder for the tests.

Nothing here is idle: every factor and projection is random, so that an adapter that is ignored shows.
"""

from __future__ import annotations

import atexit
import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_checkpoints import SCHEDULER, build, tokenizer

EULER: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "steps_offset": 1, "timestep_spacing": "leading", "prediction_type": "epsilon",
}  # fmt: skip
TURBO = {**EULER, "_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}


@functools.cache
def home() -> Path:
    """A folder that goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="adapters-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return Path(folder.name)


def text_config(hidden: int = 32, layers: int = 3, act: str = "quick_gelu", **more: Any) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=514, hidden_size=hidden, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4, max_position_embeddings=77,
        bos_token_id=512, eos_token_id=513, pad_token_id=513, hidden_act=act, **more,
    )  # fmt: skip


@functools.cache
def sdxl(scheduler: str = "euler") -> Any:
    """An SDXL set: two text encoders, pooled text and sizes added to the time, two ControlNets."""
    import torch
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    root = home() / f"sdxl-{scheduler}"
    made = build(
        root, scheduler=TURBO if scheduler == "turbo" else EULER, cross_attention_dim=64, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 32, use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2], attention_head_dim=[2, 4],
    )  # fmt: skip
    folder = root / "sd15"
    torch.manual_seed(5)
    CLIPTextModel(text_config()).eval().save_pretrained(folder / "text_encoder")
    CLIPTextModelWithProjection(text_config(act="gelu", projection_dim=32)).eval().save_pretrained(folder / "text_encoder_2")
    tokenizer(folder / "tokenizer_2", pad="!")
    index = json.loads((folder / "model_index.json").read_text())
    index.update(
        _class_name="StableDiffusionXLPipeline", text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
        tokenizer_2=["transformers", "CLIPTokenizer"], force_zeros_for_empty_prompt=True,
    )  # fmt: skip
    index.pop("safety_checker")
    index.pop("requires_safety_checker")
    (folder / "model_index.json").write_text(json.dumps(index))
    return made


@functools.cache
def plain(clip_layers: int = 3) -> Any:
    """The plain set with a text encoder that is deep enough for clip skip."""
    import torch
    from transformers import CLIPTextModel

    made = build(home() / "plain")
    torch.manual_seed(4)
    CLIPTextModel(text_config(layers=clip_layers)).eval().save_pretrained(Path(made.model) / "text_encoder")
    return made


# ---------------------------------------------------------------- LoRA


def layers(module: Any, *kinds: str) -> dict[str, Any]:
    """Layers of `module` whose path ends in one of `kinds`."""
    return {name: each for name, each in module.named_modules() if name.endswith(kinds) and hasattr(each, "weight")}


UNET_KINDS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.2", "resnets.0.conv1", "time_emb_proj", "conv_shortcut")
TEXT_KINDS = ("q_proj", "v_proj", "fc1")


def factors(found: Mapping[str, Any], seed: int, rank: int = 3) -> dict[str, tuple[Any, Any]]:
    """(down, up) for every layer, large enough to be seen."""
    import torch

    dice = torch.Generator().manual_seed(seed)
    made = {}
    for name, layer in found.items():
        shape = layer.weight.shape
        kernel = (1, 1) if len(shape) == 4 else ()
        made[name] = (
            torch.randn(rank, *shape[1:], generator=dice) * 0.2, torch.randn(shape[0], rank, *kernel, generator=dice) * 0.2,
        )  # fmt: skip
    return made


def lora_file(path: Path, unet: Any, texts: Mapping[str, Any], *, style: str, seed: int = 0, alpha: float | None = 2.0) -> Path:
    """A LoRA in the naming of kohya ("kohya", or "sgm" for SDXL's first code), diffusers ("diffusers") or its older one ("old")."""
    import torch
    from safetensors.torch import save_file

    from operators.diffusion.adapters.lora_names import ldm_names

    state: dict[str, Any] = {}
    kinds = UNET_KINDS if style != "old" else ("to_q", "to_k", "to_v", "to_out.0")
    found = layers(unet, *kinds)
    ldm = ldm_names(unet.config, found)
    for name, (down, up) in factors(found, seed).items():
        if style in ("kohya", "sgm"):
            key = "lora_unet_" + (ldm[name] if style == "sgm" else name).replace(".", "_")
            state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            if alpha is not None:
                state[f"{key}.alpha"] = torch.tensor(alpha)
        elif style == "old":
            base, _, projection = name.rpartition("attn1." if "attn1." in name else "attn2.")
            attention = "attn1" if "attn1." in name else "attn2"
            key = f"unet.{base}{attention}.processor.{projection.removesuffix('.0')}_lora"
            state |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
        else:
            state |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    for prefix, text in texts.items():  # "te" | "te1" | "te2"
        part = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}[prefix]
        for name, (down, up) in factors(layers(text, *TEXT_KINDS), seed + 1).items():
            path_name = name if name.startswith("text_model.") else f"text_model.{name}"
            if style in ("kohya", "sgm"):
                key = f"lora_{prefix}_{path_name.replace('.', '_')}"
                state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha or 2.0)}
            elif style == "diffusers":
                state |= {f"{part}.{path_name}.lora_A.weight": down, f"{part}.{path_name}.lora_B.weight": up}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    return path


# ---------------------------------------------------------------- IP-Adapter


@functools.cache
def image_encoder() -> Path:
    """A CLIP vision model: 32 pixels, patches of 16, features 24 wide and 32 after projection."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(6)
    folder = home() / "image_encoder"
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=16, projection_dim=32
    )
    CLIPVisionModelWithProjection(config).eval().save_pretrained(folder)
    return folder


def ip_adapter(path: Path, unet: Any, kind: str, seed: int = 7) -> Path:
    """An IP-Adapter of kind "base", "plus" or "full" (face) for `unet`, in the names of the published files."""
    import torch
    from safetensors.torch import save_file

    dice = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Any:
        return torch.randn(*shape, generator=dice) * 0.3

    wide = int(unet.config.cross_attention_dim)
    if kind == "base":
        state = {"proj.weight": some(4 * wide, 32), "proj.bias": some(4 * wide), "norm.weight": 1 + some(wide), "norm.bias": some(wide)}
    elif kind == "full":
        state = {
            "proj.0.weight": some(64, 64), "proj.0.bias": some(64), "proj.2.weight": some(wide, 64), "proj.2.bias": some(wide),
            "proj.3.weight": 1 + some(wide), "proj.3.bias": some(wide),
        }  # fmt: skip
    else:
        state = {
            "latents": some(1, 5, 64), "proj_in.weight": some(64, 64), "proj_in.bias": some(64), "proj_out.weight": some(wide, 64),
            "proj_out.bias": some(wide), "norm_out.weight": 1 + some(wide), "norm_out.bias": some(wide),
        }  # fmt: skip
        for n in range(4):
            state |= {
                f"layers.{n}.0.norm1.weight": 1 + some(64), f"layers.{n}.0.norm1.bias": some(64), f"layers.{n}.0.norm2.weight": 1 + some(64),
                f"layers.{n}.0.norm2.bias": some(64), f"layers.{n}.0.to_q.weight": some(64, 64), f"layers.{n}.0.to_kv.weight": some(128, 64),
                f"layers.{n}.0.to_out.weight": some(64, 64), f"layers.{n}.1.0.weight": 1 + some(64), f"layers.{n}.1.0.bias": some(64),
                f"layers.{n}.1.1.weight": some(256, 64), f"layers.{n}.1.3.weight": some(64, 256),
            }  # fmt: skip
    state = {f"image_proj.{key}": value for key, value in state.items()}
    cross = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    modules = dict(unet.named_modules())
    for n, name in enumerate(cross):
        to_k = modules[name.removesuffix(".processor")].to_k
        for which in "kv":
            state[f"ip_adapter.{2 * n + 1}.to_{which}_ip.weight"] = some(to_k.out_features, to_k.in_features)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return path


# ---------------------------------------------------------------- one file


def _clip_to_open(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A text encoder of transformers in OpenCLIP's names."""
    import torch

    names = {
        "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj",
    }  # fmt: skip
    out: dict[str, Any] = {}
    stripped = {k.removeprefix("text_model."): v for k, v in state.items()}
    for key, value in stripped.items():
        if key == "embeddings.token_embedding.weight":
            out[f"{prefix}token_embedding.weight"] = value
        elif key == "embeddings.position_embedding.weight":
            out[f"{prefix}positional_embedding"] = value
        elif key.startswith("final_layer_norm"):
            out[f"{prefix}ln_final.{key.rpartition('.')[2]}"] = value
        elif key == "text_projection.weight":
            out[f"{prefix}text_projection"] = value.T
        elif key.startswith("encoder.layers."):
            _, _, n, rest = key.split(".", 3)
            if "q_proj" in rest:
                end = rest.rpartition(".")[2]
                parts = [stripped[f"encoder.layers.{n}.self_attn.{p}_proj.{end}"] for p in "qkv"]
                out[f"{prefix}transformer.resblocks.{n}.attn.in_proj_{end}"] = torch.cat(parts)
            elif "k_proj" not in rest and "v_proj" not in rest:
                for ours, theirs in names.items():
                    rest = rest.replace(ours, theirs)
                out[f"{prefix}transformer.resblocks.{n}.{rest}"] = value
    return out


def _vae_to_ldm(state: Mapping[str, Any], blocks: int) -> dict[str, Any]:
    out = {}
    for key, value in state.items():
        name = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        name = name.replace("conv_shortcut", "nin_shortcut")
        if "attn_1" in name:
            for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
                name = name.replace(ours, theirs)
            value = value[:, :, None, None] if value.ndim == 2 else value
        for n in range(blocks):
            name = name.replace(f"down_blocks.{n}.resnets", f"down.{n}.block")
            name = name.replace(f"down_blocks.{n}.downsamplers.0", f"down.{n}.downsample")
            up = blocks - 1 - n
            name = name.replace(f"up_blocks.{n}.resnets", f"up.{up}.block").replace(f"up_blocks.{n}.upsamplers.0", f"up.{up}.upsample")
        out[name] = value
    return out


def _unet_to_ldm(unet: Any) -> dict[str, Any]:
    from operators.diffusion.adapters.lora_names import ldm_names

    state = unet.state_dict()
    names = ldm_names(unet.config, {key.rpartition(".")[0] for key in state})
    return {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in state.items()}


def single_file(path: Path, folder: str, *, text: str) -> Path:
    """The model in `folder` as one file in the published layout. `text`: "clip" (1.x), "open" (2.x) or "sdxl"."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    root = Path(folder)
    state = {f"model.diffusion_model.{k}": v for k, v in _unet_to_ldm(UNet2DConditionModel.from_pretrained(root / "unet")).items()}
    vae = AutoencoderKL.from_pretrained(root / "vae")
    state |= {f"first_stage_model.{k}": v for k, v in _vae_to_ldm(vae.state_dict(), len(vae.config.block_out_channels)).items()}
    one = CLIPTextModel.from_pretrained(root / "text_encoder").state_dict()
    if text == "open":
        state |= _clip_to_open(one, "cond_stage_model.model.")
    else:
        prefix = "conditioner.embedders.0.transformer." if text == "sdxl" else "cond_stage_model.transformer."
        state |= {f"{prefix}{k if k.startswith('text_model.') else 'text_model.' + k}": v for k, v in one.items()}
    if text == "sdxl":
        two = CLIPTextModelWithProjection.from_pretrained(root / "text_encoder_2").state_dict()
        state |= _clip_to_open(two, "conditioner.embedders.1.model.")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.clone().contiguous() for k, v in state.items()}, path)
    return path


def controlnet_file(path: Path, folder: str) -> Path:
    """The ControlNet in `folder` as one file in the published layout."""
    from diffusers import ControlNetModel
    from safetensors.torch import save_file

    from operators.diffusion.adapters.lora_names import ldm_names

    net = ControlNetModel.from_pretrained(folder)
    state = net.state_dict()
    ups = {**net.config, "up_block_types": ("",) * len(net.config.down_block_types)}
    names = ldm_names(ups, {key.rpartition(".")[0] for key in state})
    out = {}
    blocks = 2 * (len(net.config.conditioning_embedding_out_channels) - 1)
    for key, value in state.items():
        module, _, end = key.rpartition(".")
        if module.startswith("controlnet_down_blocks"):
            name = f"zero_convs.{module.rpartition('.')[2]}.0"
        elif module == "controlnet_mid_block":
            name = "middle_block_out.0"
        elif module.startswith("controlnet_cond_embedding"):
            inner = module.removeprefix("controlnet_cond_embedding.")
            n = {"conv_in": 0, "conv_out": 2 * (blocks + 1)}.get(inner, 2 * (int(inner.rpartition(".")[2]) + 1) if "blocks" in inner else 0)
            name = f"input_hint_block.{n}"
        else:
            name = names[module]
        out[f"control_model.{name}.{end}"] = value.clone().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(out, path)
    return path


__all__ = ["EULER", "SCHEDULER", "TURBO", "controlnet_file", "image_encoder", "ip_adapter", "lora_file", "plain", "sdxl", "single_file"]
