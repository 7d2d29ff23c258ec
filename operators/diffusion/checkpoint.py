"""Checkpoints on disk: where a named model is, whether it may be read, and its modules, loaded and checked.

Only diffusers folders with safetensors weights are read, from where operators.models finds them on this machine; nothing is fetched,
nothing is unpickled, no code of a checkpoint runs. What is absent raises MissingError with the command that gets it; what is there but
does not fit raises UsageError with what was expected and found.

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

if TYPE_CHECKING:
    import torch

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
MOVED = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}  # repositories that have a new address


def locate(name: str) -> Path:
    """The folder of `name`: a path, a model that was pulled, or a hub id in the cache. Raises MissingError, or UsageError for a file."""
    if name.endswith(PICKLES):
        raise UsageError(f"model {name}: pickled checkpoints can run code and are refused", fix="get the model as safetensors, in a folder")
    path = find(MOVED.get(name, name))
    if path.is_file():
        raise UsageError(f"model {name}: expected a folder in the diffusers layout, found a file", fix="convert it to a diffusers folder")
    return path


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
        if kind == "CLIPTextModel":
            import transformers
            from transformers.utils import logging

            logging.disable_progress_bar()
            loaded, info = transformers.CLIPTextModel.from_pretrained(folder, dtype=dtype, **common)
        else:
            import diffusers
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
