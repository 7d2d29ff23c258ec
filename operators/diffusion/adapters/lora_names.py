"""What the tensors in a LoRA file belong to, whatever habit their names follow.

Three habits are read: kohya's (`lora_unet_down_blocks_0_…lora_down.weight`, with diffusers' block names or those of the first SDXL code,
`input_blocks_4_1_…`), diffusers' and peft's (`unet.down_blocks.0.….lora_A.weight`) and diffusers' older ones
(`….processor.to_q_lora.down.weight`). All become a part ("unet", "text", "text_2") and a module's path with every dot an underscore,
which is unique within a part.

It knows names, not numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Role of a tensor by how its name ends; longest first.
ENDS = (
    ("_lora.down.weight", "down"), ("_lora.up.weight", "up"),
    (".lora_linear_layer.down.weight", "down"), (".lora_linear_layer.up.weight", "up"),
    (".lora_down.weight", "down"), (".lora_up.weight", "up"), (".lora.down.weight", "down"), (".lora.up.weight", "up"),
    (".lora_A.weight", "down"), (".lora_B.weight", "up"), (".alpha", "alpha"),
)  # fmt: skip
FOREIGN = {
    "hada_": "LoHa", "lokr_": "LoKr", "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "lora_mid": "LoCon with a middle",
    ".oft_": "OFT", ".diff": "full differences", "glora": "GLoRA",
}  # fmt: skip
STARTS = (
    ("lora_unet_", "unet"), ("lora_te1_", "text"), ("lora_te2_", "text_2"), ("lora_te_", "text"), ("unet.", "unet"),
    ("text_encoder_2.", "text_2"), ("text_encoder.", "text"), ("base_model.model.", "unet"),
)  # fmt: skip
_ADAPTER = re.compile(r"\.(lora_[AB])\.[^.]+\.weight$")


def foreign(keys: Iterable[str]) -> str | None:
    """The kind of an adapter that is no LoRA, or None."""
    return next((kind for key in keys for mark, kind in FOREIGN.items() if mark in key), None)


def read(key: str) -> tuple[str, str, str] | None:
    """(part, path with underscores, role) of a tensor's name; None for what is no LoRA tensor."""
    key = _ADAPTER.sub(r".\1.weight", key)
    end, role = next(((end, role) for end, role in ENDS if key.endswith(end)), ("", ""))
    if not end:
        return None
    name = key[: -len(end)]
    part, name = next(((part, name[len(start) :]) for start, part in STARTS if name.startswith(start)), ("unet", name))
    name = name.replace(".", "_").replace("_processor_", "_")
    if end.startswith("_lora"):  # the oldest: the projections of an attention, named after its processor
        name = re.sub(r"_to_out$", "_to_out_0", name)
    return part, name if part == "unet" else name.removeprefix("text_model_"), role


def modules_of(part: str, module: Any) -> dict[str, Any]:
    """Linear and convolution layers of a part by their underscored paths, and by their paths in the first SDXL code."""
    import torch

    layers = {name: each for name, each in module.named_modules() if isinstance(each, torch.nn.Linear | torch.nn.Conv2d)}
    if part != "unet":
        return {name.removeprefix("text_model.").replace(".", "_"): each for name, each in layers.items()}
    found = {name.replace(".", "_"): each for name, each in layers.items()}
    first = ldm_names(module.config, layers)
    found.update({first[name].replace(".", "_"): each for name, each in layers.items() if name in first})
    return found


_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}  # fmt: skip
_TOP = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def ldm_names(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Paths of a UNet's modules in the code that Stable Diffusion was first published with, by their paths in diffusers."""
    per = config["layers_per_block"]
    per = per if isinstance(per, int) else per[0]
    ups = config["up_block_types"]
    found = {}
    for name in names:
        if name in _TOP:
            found[name] = _TOP[name]
            continue
        words = name.split(".")
        if words[0] == "mid_block":
            place = {"resnets": 0, "attentions": 1}[words[1]] + 2 * int(words[2])
            found[name] = f"middle_block.{place}.{_inner(words[1], words[3:])}"
        elif words[0] == "down_blocks":
            block, kind, n = int(words[1]), words[2], int(words[3])
            if kind == "downsamplers":
                found[name] = f"input_blocks.{(per + 1) * (block + 1)}.0.op"
            else:
                found[name] = f"input_blocks.{(per + 1) * block + n + 1}.{int(kind == 'attentions')}.{_inner(kind, words[4:])}"
        elif words[0] == "up_blocks":
            block, kind, n = int(words[1]), words[2], int(words[3])
            if kind == "upsamplers":
                found[name] = f"output_blocks.{(per + 1) * block + per}.{1 + ('CrossAttn' in ups[block])}.conv"
            else:
                found[name] = f"output_blocks.{(per + 1) * block + n}.{int(kind == 'attentions')}.{_inner(kind, words[4:])}"
    return found


def _inner(kind: str, words: list[str]) -> str:
    return ".".join([_RESNET.get(words[0], words[0]), *words[1:]]) if kind == "resnets" else ".".join(words)
