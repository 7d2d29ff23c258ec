"""Checkpoints in one safetensors file, in the key layout that the models were first published in.

The header tells what is inside; the tensors are renamed by diffusers' own converters and put into modules of a known configuration: those of a
diffusers folder that is named (`base`), else those of the public architecture (layouts.py). Nothing is fetched or unpickled.
It knows names of tensors, not what the modules are for.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import MissingError, UsageError
from operators.diffusion.weights import checkpoint, layouts
from operators.models import find
from operators.models.store import read_header

if TYPE_CHECKING:
    import torch

UNET, VAE, CONTROL = "model.diffusion_model.", "first_stage_model.", "control_model."
CLIP_L = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")
REFINER = "conditioner.embedders.0.model."


class Single:
    """A whole model in one file; the same questions as `checkpoint.Folder`."""

    def __init__(self, path: Path, name: str, *, base: str | None = None, prediction: str | None = None) -> None:
        self.path, self.name = path, name
        self.header = read_header(path)
        self.base = checkpoint.Folder(checkpoint.locate_folder(base), base) if base else None
        self.prediction = prediction
        if not any(key.startswith(UNET) for key in self.header):
            found = "a LoRA" if any("lora" in key for key in self.header) else "other weights"
            raise UsageError(f"model {name}: expected a whole model ({UNET}…), found {found}", fix="name a checkpoint or a diffusers folder")
        if any(key.startswith(REFINER) for key in self.header):
            raise UsageError(f"model {name}: this is the SDXL refiner, which finishes pictures and cannot begin one", fix="take a base model")
        self.architecture = self._architecture()
        width = self._shape(f"{UNET}input_blocks.0.0.weight")[1]
        if width != 4:
            raise UsageError(f"model {name}: expected a UNet of 4 input channels, found {width}", fix="inpainting checkpoints are not for this")

    def _shape(self, key: str) -> list[int]:
        entry = self.header.get(key)
        if entry is None:
            raise UsageError(f"model {self.name}: {self.path.name} has no {key}", fix="fetch the file again")
        return list(entry["shape"])  # type: ignore[call-overload]

    def _architecture(self) -> str:
        if any(key.startswith("conditioner.embedders.1.") for key in self.header):
            return "sdxl"
        return "sd21" if any(key.startswith(OPEN_CLIP[0]) for key in self.header) else "sd15"

    def __str__(self) -> str:
        return self.name

    # ---- configurations

    def index(self) -> Mapping[str, Any]:
        return self.base.index() if self.base else {}

    def unet_config(self) -> Mapping[str, Any]:
        return self.base.unet_config() if self.base else layouts.UNET[self.architecture]

    def scheduler_config(self) -> Mapping[str, Any]:
        if self.base:
            return self.base.scheduler_config()
        settings = dict(layouts.SCHEDULER)
        if self.architecture == "sdxl":
            settings["_class_name"] = "EulerDiscreteScheduler"
        if "v_pred" in self.header or self._is_768v():
            settings["prediction_type"] = "v_prediction"
            settings["rescale_betas_zero_snr"] = "ztsnr" in self.header
        return settings

    def _is_768v(self) -> bool:
        """Stable Diffusion 2 comes in two kinds with the same tensors: its name is all there is to go by."""
        word = self.path.name.lower()
        return self.architecture == "sd21" and not any(mark in word for mark in ("base", "512", "turbo"))

    # ---- modules

    def unet(self, dtype: torch.dtype) -> Any:
        from diffusers import UNet2DConditionModel
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

        settings = self.unet_config()
        state = convert_ldm_unet_checkpoint(tensors(self.path, UNET), dict(settings))
        return _diffusers_module(UNet2DConditionModel, settings, state, dtype, self.name, "unet")

    def towers(self) -> int:
        return 2 if self.architecture == "sdxl" else 1

    def text(self, n: int, dtype: torch.dtype) -> Any:
        import transformers

        settings = self.base.text_config(n) if self.base else layouts.TEXT[self.architecture][n][0]
        kind = transformers.CLIPTextModelWithProjection if n else transformers.CLIPTextModel
        settings = {key: value for key, value in settings.items() if key not in ("architectures", "model_type", "torch_dtype", "dtype")}
        config = transformers.CLIPTextConfig(**settings)
        return _text_module(kind, config, self.path, self.header, dtype, self.name)

    def tokenizer(self, n: int) -> tuple[Any, int | None]:
        if self.base:
            return self.base.tokenizer(n)
        return clip_tokenizer(self.name), layouts.TEXT[self.architecture][n][1]


def clip_tokenizer(name: str) -> Any:
    """CLIP's tokenizer from whichever repository on this machine has it. Raises MissingError."""
    for repository, part in layouts.TOKENIZERS:
        try:
            folder = find(repository)
        except MissingError:
            continue
        if any((folder / part / file).is_file() for file in ("vocab.json", "tokenizer.json")):
            return checkpoint.tokenizer(folder / part, repository)
    raise MissingError(
        f"model {name}: a checkpoint in one file has no tokenizer, and none of CLIP's is on this machine",
        fix=f"fetch one with `engine models pull {layouts.TOKENIZERS[0][0]}`, or name a diffusers folder of the same family as base",
    )


def tensors(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a file whose names begin with `prefix`, under their full names."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118


def _text_module(kind: Any, config: Any, path: Path, header: Mapping[str, Any], dtype: torch.dtype, name: str) -> Any:
    from accelerate import init_empty_weights
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

    with init_empty_weights(include_buffers=False):
        module = kind(config)
    wraps = hasattr(module, "text_model")
    open_clip = next((p for p in OPEN_CLIP if any(key.startswith(p) for key in header)), None)
    if open_clip and (wraps or open_clip == OPEN_CLIP[0]):
        state = convert_open_clip_checkpoint(module, tensors(path, open_clip), prefix=open_clip)
    else:
        state = {}
        for prefix in CLIP_L:
            state.update(convert_ldm_clip_checkpoint(tensors(path, prefix)))
    if not wraps:
        state = {key.removeprefix("text_model."): value for key, value in state.items()}
    return _filled(module, state, dtype, name, "text encoder")


def autoencoder(path: Path, name: str, dtype: torch.dtype, settings: Mapping[str, Any] | None = None) -> Any:
    """The full autoencoder in a file: of a whole model, or on its own in either layout."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    header = read_header(path)
    settings = settings or vae_settings(header)
    if "decoder.mid_block.resnets.0.conv1.weight" in header:
        state = tensors(path)
    elif any(key.endswith("decoder.mid.block_1.conv1.weight") for key in header):
        prefix = VAE if any(key.startswith(VAE) for key in header) else ""
        state = convert_ldm_vae_checkpoint(tensors(path, prefix), dict(settings))
    else:
        raise UsageError(f"model {name}: expected an autoencoder, found none in {path.name}", fix="name another vae")
    return _diffusers_module(AutoencoderKL, settings, state, dtype, name, "vae")


def vae_settings(header: Mapping[str, Any]) -> Mapping[str, Any]:
    """The public configuration of the autoencoder in a file with this header."""
    return layouts.VAE["sdxl" if any(key.startswith("conditioner.embedders.1.") for key in header) else "sd15"]


def controlnet(path: Path, name: str, unet: Any, dtype: torch.dtype) -> Any:
    """The ControlNet in a file, configured after the UNet that it steers."""
    from diffusers import ControlNetModel
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    header = read_header(path)
    bare = "time_embed.0.weight" in header or "time_embedding.linear_1.weight" in header
    if not bare and not any(key.startswith(CONTROL) for key in header):
        raise UsageError(f"controlnet {name}: expected a ControlNet, found other weights in {path.name}", fix="name another file")
    state = convert_controlnet_checkpoint(tensors(path, "" if bare else CONTROL), dict(unet.config))
    state = {key: value for key, value in state.items() if value is not None}
    taken = inspect.signature(ControlNetModel.__init__).parameters
    settings = {key: value for key, value in unet.config.items() if key in taken}
    channels = [int(state["controlnet_cond_embedding.conv_in.weight"].shape[0])]
    while (block := state.get(f"controlnet_cond_embedding.blocks.{2 * len(channels) - 1}.weight")) is not None:
        channels.append(int(block.shape[0]))
    settings["conditioning_embedding_out_channels"] = channels
    width = next((v.shape[1] for k, v in state.items() if k.endswith("attn2.to_k.weight")), settings["cross_attention_dim"])
    if width != settings["cross_attention_dim"]:
        raise UsageError(
            f"controlnet {name} does not fit: cross_attention_dim: expected {settings['cross_attention_dim']}, found {width}",
            fix="take a ControlNet made for this family of models",
        )
    return _diffusers_module(ControlNetModel, settings, state, dtype, name, "controlnet")


def _diffusers_module(kind: Any, settings: Mapping[str, Any], state: dict[str, Any], dtype: torch.dtype, name: str, part: str) -> Any:
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        module = kind.from_config(dict(settings))
    return _filled(module, state, dtype, name, part)


def _filled(module: Any, state: dict[str, Any], dtype: torch.dtype, name: str, part: str) -> Any:
    """`module` with the tensors of `state`. Raises UsageError where one is absent or of another shape."""
    wanted = module.state_dict()
    lacking = sorted(key for key in wanted if key not in state)
    if lacking:
        raise UsageError(
            f"model {name}: {part}: expected {len(wanted)} tensors, found {len(lacking)} absent, such as {lacking[0]}",
            fix="fetch the file again, or name a diffusers folder of its architecture as base",
        )
    for key, tensor in wanted.items():
        if tuple(tensor.shape) != tuple(state[key].shape):
            raise UsageError(
                f"model {name}: {part}: {key}: expected shape {tuple(tensor.shape)}, found {tuple(state[key].shape)}",
                fix="name a diffusers folder of its architecture as base",
            )
    module.load_state_dict({key: state[key].to(dtype).contiguous() for key in wanted}, assign=True)
    return module.eval().requires_grad_(False)
