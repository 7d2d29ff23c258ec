"""Every family of models with everything that may go along: the cells of the table in docs/models.md, and what is painted for each.

A cell is a function of its family and column only, so that the table, the tests and the documentation cannot say different things.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_adapters import EULER, home, image_encoder, ip_adapter, lora_file, plain, sdxl, text_config
from diffusion_checkpoints import SCHEDULER, build
from diffusion_pairs import Case

WIDE = 1024  # of the text that Stable Diffusion 2 hears, by which it is told from 1
V = {**SCHEDULER, "_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
TRAILING = {**EULER, "timestep_spacing": "trailing"}
LINEAR = {"cross_attention_dim": WIDE, "use_linear_projection": True, "attention_head_dim": [2, 4]}


@functools.cache
def two(scheduler: str) -> Any:
    """A set of Stable Diffusion 2's layout: wide text, linear projections, heads by level. `scheduler`: "v" or "turbo"."""
    import torch
    from transformers import CLIPTextModel

    made = build(home() / f"sd21-{scheduler}", scheduler=V if scheduler == "v" else TRAILING, **LINEAR)
    torch.manual_seed(4)
    CLIPTextModel(text_config(WIDE, layers=1, act="gelu")).eval().save_pretrained(Path(made.model) / "text_encoder")
    return made


@functools.cache
def consistent() -> Any:
    """A set of a latent consistency model: the guidance scale is an input of the UNet."""
    return build(home() / "lcm", scheduler={**SCHEDULER, "_class_name": "LCMScheduler"}, time_cond_proj_dim=32)


@dataclass(frozen=True)
class Row:
    """One family. `made`: its tiny checkpoint; `plain_scale`: of guidance where the column asks for none."""

    made: Callable[[], Any]
    scheduler: str
    xl: bool = False
    plain_scale: float = 1.0
    told: str = "sd15"  # the family that the operator has to see by itself

    @property
    def width(self) -> int:
        return int(json.loads((Path(self.made().model) / "text_encoder" / "config.json").read_text())["hidden_size"])


ROWS = {
    "sd15": Row(plain, "dpm++"),
    "sd21": Row(lambda: two("v"), "ddim", told="sd21"),
    "sd-turbo": Row(lambda: two("turbo"), "euler", told="sd-turbo"),
    "lcm": Row(consistent, "lcm", plain_scale=8.5, told="lcm"),
    "sdxl": Row(sdxl, "euler", xl=True, told="sdxl"),
    "sdxl-turbo": Row(lambda: sdxl("turbo"), "euler_a", xl=True, told="sdxl-turbo"),
}
SCALE = 4.0  # of guidance; what is between families and scales is in the other tests of this folder
COLUMNS = ("text", "picture", "ControlNet", "several", "IP-Adapter", "LoRA", "cfg", "embedding")
# Cells in which something else than a comparison with diffusers stands, and why.
OTHERWISE: dict[tuple[str, str], str] = {}


def case(family: str, column: str) -> Case:
    """What both paint. Pictures and texts take turns over the columns, so that adapters are met with both.

    diffusers' pipeline of ControlNet and picture knows no guidance scale as an input, so `lcm` paints from text there.
    """
    row = ROWS[family]
    made = row.made()
    more: dict[str, Any] = {
        "text": {}, "picture": {"image": True}, "ControlNet": {"control": 1, "image": family != "lcm"}, "several": {"control": 2},
        "IP-Adapter": {"references": [(_adapter(family), 0.7, [20])], "encoder": image_encoder(), "scale": SCALE},
        "LoRA": {"loras": [(_lora(family), 0.8)], "image": True}, "cfg": {"scale": SCALE, "negative": "blurry", "image": True},
        "embedding": {"prompt": "a <thing> in red", "embeddings": [(_word(family), "<thing>")]},
    }[column]  # fmt: skip
    return Case(made, row.scheduler, xl=row.xl, **{"scale": row.plain_scale, "steps": 2, "strength": 0.5, **more})


def without(column: str) -> dict[str, Any]:
    """What to leave out of a column's case to see its effect; nothing where equality cannot come about without it."""
    return {
        "ControlNet": {"control": 0}, "several": {"control": 1}, "IP-Adapter": {"references": ()}, "LoRA": {"loras": ()},
        "embedding": {"embeddings": ()},
    }.get(column, {})


@functools.cache
def _unet(family: str) -> Any:
    import diffusers

    return diffusers.UNet2DConditionModel.from_pretrained(Path(ROWS[family].made().model) / "unet")


def _lora(family: str) -> Path:
    path = home() / f"matrix-lora-{family}.safetensors"
    return path if path.is_file() else lora_file(path, _unet(family), {}, style="diffusers")


def _adapter(family: str) -> Path:
    path = home() / f"matrix-ip-{family}.safetensors"
    return path if path.is_file() else ip_adapter(path, _unet(family), "base")


def _word(family: str) -> Path:
    import torch
    from safetensors.torch import save_file

    path, row, dice = home() / f"matrix-word-{family}.safetensors", ROWS[family], torch.Generator().manual_seed(9)
    names = ("clip_l", "clip_g") if row.xl else ("emb_params",)
    save_file({name: torch.randn(2, row.width, generator=dice) for name in names}, path)
    return path


def table() -> str:
    """The table as it stands in docs/models.md."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    lines += [f"| {family} | " + " | ".join(OTHERWISE.get((family, column), "=") for column in COLUMNS) + " |" for family in ROWS]
    return "\n".join(lines)


def cells() -> Sequence[tuple[str, str]]:
    return [(family, column) for family in ROWS for column in COLUMNS if (family, column) not in OTHERWISE]
