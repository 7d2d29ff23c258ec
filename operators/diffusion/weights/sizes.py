"""How large the parts of a model are before they are loaded: read from the headers of safetensors files, else from a table of its family.

The table is that of the published architectures; `bench/meta_memory.py` builds each on torch's meta device and fails where the table differs.
It reads headers, never tensors, and knows no device.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from operators.models.sizes import Sizes, count, headers

# Parts of the published architectures, by the width of the text that their UNet attends to.
CLIP_L = Sizes(123_060_480, 84_934_656)
UNET = {
    768: Sizes(859_520_964, 268_001_280, 589_004_800),
    1024: Sizes(865_910_724, 299_171_840, 564_224_000),
    2048: Sizes(2_567_463_684, 2_225_356_800, 333_209_600),
}
CONTROL = {
    768: Sizes(361_279_120, 128_040_960, 229_888_000),
    1024: Sizes(364_228_240, 142_868_480, 218_009_600),
    2048: Sizes(1_251_014_160, 1_102_479_360, 139_366_400),
}
TEXT = {768: CLIP_L, 1024: Sizes(340_387_840, 289_406_976), 2048: CLIP_L + Sizes(694_659_840, 630_784_000)}
LOOKS = {768: Sizes(19_169_280), 1024: Sizes(25_559_040), 2048: Sizes(340_787_200)}  # keys and values of an IP-Adapter
ENCODER = {True: Sizes(1_222_532), False: Sizes(34_163_664)}  # of an autoencoder, by whether it is a tiny one
DECODER = {True: Sizes(1_222_531), False: Sizes(49_490_199)}
VISION = Sizes(632_076_800, 630_456_320)  # CLIP ViT-H/14, which most IP-Adapters were trained with
PROJECTION = Sizes(22_000_000)  # what makes tokens of its answer: 3 to 47 million in the published adapters

# Prefixes of the parts in a checkpoint of one file.
SINGLE = {
    "unet": ("model.diffusion_model.",),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders."),
    "vae": ("first_stage_model.",),
}


def sizes_of(model: str, part: str, table: Sizes, wanted: Callable[[str], bool] = lambda key: True) -> Sizes:
    """The sizes of `part` (a folder in the diffusers layout, "" for the model itself) of `model`: from its files where they are on this
    machine, whole or in one file; else `table`. Text encoders are counted together."""
    from engine.errors import EngineError
    from operators.diffusion.weights import checkpoint

    try:
        path = checkpoint.locate(model)
        if path.is_file():
            starts = SINGLE.get(part, ())
            within = count(path, lambda key: key.startswith(starts) and wanted(key.removeprefix(next(s for s in starts if key.startswith(s)))))
            found = within if starts and within.total else count(path, wanted)
        else:
            found = count(path / part if part and (path / part).is_dir() else path, wanted)
            if part == "text_encoder" and (path / "text_encoder_2").is_dir():
                found += count(path / "text_encoder_2", wanted)
    except (EngineError, OSError, ValueError, KeyError, TypeError):
        return table
    return found if found.total else table


def width_of(file: Path) -> int | None:
    """Width of the text that the UNet of a checkpoint in one file attends to, which names its family."""
    for key, entry in headers(file)[0].items():
        if key.startswith("model.diffusion_model.") and key.endswith("attn2.to_k.weight"):
            return int(entry["shape"][1])
    return None


def encodes(key: str) -> bool:
    """Whether a tensor of an autoencoder is of the half that makes latents."""
    return key.startswith(("encoder.", "quant_conv."))


def decodes(key: str) -> bool:
    """Whether it is of the half that makes pictures."""
    return not encodes(key)
