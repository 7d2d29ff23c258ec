"""Checkpoints on disk: where a named model is, whether it may be read, and its modules, loaded and checked.

Diffusers folders with safetensors weights are read here, checkpoints in one file in single.py, from where operators.models finds them on
this machine; nothing is fetched, nothing is unpickled, no code of a checkpoint runs. What is absent raises MissingError with the command
that gets it; what is there but does not fit raises UsageError with what was expected and found.

It knows files and module classes, not how they are used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import MissingError, UsageError
from operators.models import find
from operators.models.loading import library

if TYPE_CHECKING:
    import torch

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
MOVED = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}  # repositories that have a new address


def locate(name: str) -> Path:
    """The folder or safetensors file of `name`: a path, a model that was pulled, or a hub id in the cache.

    Raises MissingError, or UsageError for a pickle or a file of another kind.
    """
    if name.lower().endswith(PICKLES):
        raise UsageError(f"model {name}: pickled checkpoints can run code and are refused", fix="get the model as safetensors")
    path = find(MOVED.get(name, name))
    if path.is_file() and path.suffix.lower() != ".safetensors":
        raise UsageError(f"model {name}: expected a diffusers folder or a safetensors file, found {path.suffix or 'no ending'}")
    return path


def locate_folder(name: str) -> Path:
    """The diffusers folder of `name`."""
    path = locate(name)
    if path.is_file():
        raise UsageError(f"model {name}: expected a folder in the diffusers layout, found a file", fix="name a diffusers folder")
    return path


def weights_file(name: str, file: str | None, what: str) -> Path:
    """The one safetensors file meant by `name` and `file`: an adapter. Raises MissingError or UsageError."""
    if (file or "").lower().endswith(PICKLES):
        raise UsageError(f"{what} {name}: {file} is a pickle, which can run code, and is refused", fix="name a safetensors file")
    path = locate(name)
    if path.is_file():
        return path
    if file is not None:
        inside = (path / file).resolve() if (path / file).is_symlink() else path / file
        if ".." in Path(file).parts or Path(file).is_absolute():
            raise UsageError(f"{what} {name}: file: expected a path inside the folder, found {file!r}")
        if not inside.is_file():
            raise absent(name, file)
        return path / file
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    usual = path / "pytorch_lora_weights.safetensors"
    if usual in found:
        return usual
    if not found:
        pickles = [p.name for p in path.iterdir() if p.name.endswith(PICKLES)]
        if pickles:
            raise UsageError(f"{what} {name}: only pickled weights ({pickles[0]}), which can run code and are refused", fix="get safetensors")
        raise absent(name, "a safetensors file")
    raise UsageError(f"{what} {name}: expected one safetensors file, found {len(found)}", fix=f'say which, such as file = "{found[0].name}"')


class Folder:
    """A model in the diffusers layout: what it is configured as, and its modules."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def index(self) -> Mapping[str, Any]:
        return config(self.path, self.name, "model_index.json") if (self.path / "model_index.json").is_file() else {}

    def unet_config(self) -> Mapping[str, Any]:
        return config(self.path / "unet", self.name)

    def scheduler_config(self) -> Mapping[str, Any]:
        return config(self.path / "scheduler", self.name, "scheduler_config.json")

    def text_config(self, n: int) -> Mapping[str, Any]:
        return config(self.path / _nth("text_encoder", n), self.name)

    def unet(self, dtype: torch.dtype) -> Any:
        return module("UNet2DConditionModel", self.path / "unet", self.name, dtype)

    def towers(self) -> int:
        """How many text encoders there are."""
        return 2 if self.unet_config().get("addition_embed_type") == "text_time" else 1

    def text(self, n: int, dtype: torch.dtype) -> Any:
        return module("CLIPTextModelWithProjection" if n else "CLIPTextModel", self.path / _nth("text_encoder", n), self.name, dtype)

    def tokenizer(self, n: int) -> tuple[Any, int | None]:
        """The n-th tokenizer, and None: it pads as it says itself."""
        return tokenizer(self.path / _nth("tokenizer", n), self.name), None


def _nth(part: str, n: int) -> str:
    return part if n == 0 else f"{part}_{n + 1}"


def absent(name: str, what: str = "") -> MissingError:
    """The one message for a model that is not here."""
    return MissingError(
        f"model {name}{' (' + what + ')' if what else ''} is not on this machine",
        fix=f"fetch it with `engine models pull {name}`, or run with --embedded, which needs no download",
    )


def config(folder: Path, name: str, file: str = "config.json") -> Mapping[str, Any]:
    """The JSON settings of one part of a checkpoint."""
    path = folder / file
    if not path.is_file():
        raise absent(name, f"{folder.name}/{file}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"model {name}: {folder.name}/{file} is no JSON: {error}", fix="fetch the model again") from None
    if not isinstance(found, dict):
        raise UsageError(f"model {name}: {folder.name}/{file}: expected a table, found {type(found).__name__}")
    return found


def _variant(folder: Path, name: str) -> str | None:
    """None for plain safetensors weights, or their variant ("fp16") where only that is there. Refuses folders without safetensors."""
    files = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    weights = [f for f in files if f.endswith((".safetensors", ".safetensors.index.json"))]
    if not weights:
        pickles = [f for f in files if f.endswith(PICKLES)]
        if pickles:
            raise UsageError(
                f"model {name}: {folder.name} has only pickled weights ({pickles[0]}), which can run code and are refused",
                fix="get the safetensors version of this model",
            )
        raise absent(name, f"{folder.name}: weights")
    if any(f.split(".")[0].split("-")[0] in ("diffusion_pytorch_model", "model") and ".fp16." not in f for f in weights):
        return None
    return "fp16" if any(".fp16." in f for f in weights) else None


def module(kind: str, folder: Path, name: str, dtype: torch.dtype) -> Any:
    """The module of class `kind` in `folder`, on the CPU, in `dtype`, in evaluation mode.

    Raises UsageError where the weights do not fit the configuration (absent, of another shape, damaged file).
    """
    from safetensors import SafetensorError

    settings = config(folder, name)
    variant = _variant(folder, name)
    common = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True, "variant": variant}
    try:
        if kind.startswith("CLIP"):
            transformers = library("transformers")
            from transformers.utils import logging

            logging.disable_progress_bar()
            loaded, info = getattr(transformers, kind).from_pretrained(folder, dtype=dtype, **common)
        else:
            diffusers = library("diffusers")
            from diffusers.utils import logging as talk

            level = talk.get_verbosity()
            talk.set_verbosity_error()  # it warns of settings that every AutoencoderTiny has
            try:
                loaded, info = getattr(diffusers, kind).from_pretrained(folder, torch_dtype=dtype, **common)
            finally:
                talk.set_verbosity(level)
    except (ValueError, RuntimeError, OSError, TypeError, KeyError, SafetensorError) as error:
        fix = "the files do not fit together: fetch the model again"
        raise UsageError(f"model {name}: {folder.name}: {_reason(error)}", fix=fix) from error
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise UsageError(
            f"model {name}: {folder.name}: expected every weight of {settings.get('_class_name', kind)}, found {len(lacking)} absent, "
            f"such as {lacking[0]}",
            fix="fetch the model again",
        )
    return loaded.eval().requires_grad_(False)


def _reason(error: BaseException) -> str:
    """The first lines of a library's message: the rest advises on that library's own options."""
    shape = re.search(r"(\S+) expected shape \S*?\(?\[?([\d, ]+)\]?\)?, but got \S*?\(?\[?([\d, ]+)\]?\)?", str(error))
    if shape:
        return f"{shape[1]}: expected shape ({shape[2]}), found ({shape[3]})"
    return " ".join(str(error).split())[:300]


def tokenizer(folder: Path, name: str) -> Any:
    """The CLIP tokenizer in `folder`."""
    if not (folder / "vocab.json").is_file() and not (folder / "tokenizer.json").is_file():
        raise absent(name, f"{folder.name}: vocab.json")
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise UsageError(f"model {name}: {folder.name}: {_reason(error)}", fix="fetch the model again") from error
