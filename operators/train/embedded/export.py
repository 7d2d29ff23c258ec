"""Writing trained parts in the layout that diffusers and transformers read."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch


def save_part(module: Any, folder: Path) -> None:
    """Save a model as fp16 safetensors with its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(module)
    for p in half.parameters():
        p.data = p.data.detach().to(torch.float16).contiguous().clone()
        p.grad = None
    half.to(torch.float16)
    half.save_pretrained(folder, safe_serialization=True)
    config = folder / "config.json"
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)  # where it was trained is nobody's business
    if values.get("_class_name") == "AutoencoderTiny":
        values.pop("block_out_channels", None)  # the class derives it, and warns when it is told
    if "dtype" in values:  # transformers would load in the stored type, diffusers would not: agree on full precision
        values["dtype"] = "float32"
    if values != json.loads(config.read_text()):
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def assemble(s: Any, folder: Path, out: Path) -> None:
    """Collect what the stages wrote into one folder that `StableDiffusionControlNetPipeline.from_pretrained` loads."""
    from operators.train.embedded.networks import build_scheduler

    out.mkdir(parents=True, exist_ok=True)
    for part in ("unet", "controlnet", "vae", "text_encoder", "tokenizer", "captioner"):
        if (folder / part).is_dir():
            shutil.copytree(folder / part, out / part, dirs_exist_ok=True)
    build_scheduler(s).save_pretrained(out / "scheduler")
    index = {
        "_class_name": "StableDiffusionControlNetPipeline",
        "_diffusers_version": "0.35.0",
        "controlnet": ["diffusers", "ControlNetModel"],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "LCMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
