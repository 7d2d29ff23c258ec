"""The models that this project knows by name: where each comes from, how big it is, under which licence, and how it is proven.

Invariant: every file with an address of its own has a SHA-256. The catalogue is data; it knows nothing of folders, downloads or operators.
A graph may name any other model of the Hub: it can be pulled just as well, only without a line of description here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["file", "hub", "shipped"]

MB = 1_000_000
GB = 1_000_000_000

# What a diffusers or transformers folder needs, and nothing that could carry code.
SAFE_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")


@dataclass(frozen=True, slots=True)
class Model:
    """One model. `size` is in bytes: exact for files, about right for Hub models.

    kind: "file" is one file with an address and a hash, "hub" a repository of the Hugging Face Hub, "shipped" lies inside this package.
    alike: SHA-256 of other builds of a file that count as the same model.
    files: for Hub models, the patterns that are fetched; `weights` False where there are none among them (a tokenizer alone).
    """

    name: str
    kind: Kind
    purpose: str
    size: int
    licence: str
    source: str
    sha256: str = ""
    alike: tuple[str, ...] = ()
    filename: str = ""
    aliases: tuple[str, ...] = ()
    files: tuple[str, ...] = SAFE_PATTERNS
    weights: bool = True


_POSE_BUCKET = "https://storage.googleapis.com/mediapipe-models/pose_landmarker"

# What `operators.models.assemble` builds where the official address cannot be reached: the same networks, packed by us.
POSE_ASSEMBLED = "fcf86e7c6c96af232b8c2972d92f3c51aa6203cf7dde8e72a139ddb3dac02ec6"


def _landmarker(variant: str, size: int, sha256: str, *, aliases: tuple[str, ...] = (), alike: tuple[str, ...] = ()) -> Model:
    name = f"pose_landmarker_{variant}"
    return Model(
        name=name, kind="file", purpose="body pose (BlazePose GHUM), for pose.mediapipe", size=size, licence="Apache-2.0",
        source=f"{_POSE_BUCKET}/{name}/float16/1/{name}.task", sha256=sha256, alike=alike, filename=f"{name}.task", aliases=aliases,
    )  # fmt: skip


# An SDXL model in half precision: both text encoders, UNet and autoencoder.
_SDXL = (
    "model_index.json", "*/*.json", "*/*.txt", *(f"{part}/*.fp16.safetensors" for part in ("unet", "vae", "text_encoder", "text_encoder_2")),
)  # fmt: skip

MODELS: tuple[Model, ...] = (
    _landmarker(
        "full", 9_398_198, "4eaa5eb7a98365221087693fcc286334cf0858e2eb6e15b506aa4a7ecdcec4ad",
        aliases=("pose", "pose-full"), alike=(POSE_ASSEMBLED,),
    ),
    _landmarker("lite", 5_777_746, "59929e1d1ee95287735ddd833b19cf4ac46d29bc7afddbbf6753c459690d574a", aliases=("pose-lite",)),
    _landmarker("heavy", 30_664_242, "64437af838a65d18e5ba7a0d39b465540069bc8aae8308de3e318aad31fcbc7b", aliases=("pose-heavy",)),
    Model(
        "embedded", "shipped", "the small diffusion model and captioner of --embedded", 0, "Apache-2.0", "operators/embedded",
    ),
    Model(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "hub", "text to image, 512 px (Stable Diffusion 1.5)", round(2.13 * GB),
        "CreativeML-OpenRAIL-M", "https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5",
        files=("model_index.json", "*/*.json", "*/*.txt", *(f"{part}/*.fp16.safetensors" for part in ("unet", "vae", "text_encoder"))),
    ),
    Model(
        "lllyasviel/control_v11p_sd15_openpose", "hub", "ControlNet for skeleton pictures", round(0.72 * GB), "OpenRAIL",
        "https://huggingface.co/lllyasviel/control_v11p_sd15_openpose", files=("config.json", "*.fp16.safetensors"),
    ),
    Model(
        "madebyollin/taesd", "hub", "small fast decoder for Stable Diffusion 1.x", 10 * MB, "MIT",
        "https://huggingface.co/madebyollin/taesd", files=("config.json", "diffusion_pytorch_model.safetensors"),
    ),
    Model(
        "SimianLuo/LCM_Dreamshaper_v7", "hub", "few-step text to image (latent consistency)", round(4.3 * GB), "MIT",
        "https://huggingface.co/SimianLuo/LCM_Dreamshaper_v7",
        files=("model_index.json", "*/*.json", "*/*.txt", "unet/*.safetensors", "vae/*.safetensors", "text_encoder/*.safetensors"),
    ),
    Model(
        "stabilityai/sd-turbo", "hub", "text to image in one to four steps (Stable Diffusion 2.1, distilled)", round(2.58 * GB),
        "Stability AI Community", "https://huggingface.co/stabilityai/sd-turbo",
        files=("model_index.json", "*/*.json", "*/*.txt", *(f"{part}/*.fp16.safetensors" for part in ("unet", "vae", "text_encoder"))),
    ),
    Model(
        "latent-consistency/lcm-lora-sdv1-5", "hub", "LoRA: Stable Diffusion 1.5 in four steps", round(0.135 * GB), "OpenRAIL++",
        "https://huggingface.co/latent-consistency/lcm-lora-sdv1-5", files=("pytorch_lora_weights.safetensors",),
    ),
    Model(
        "latent-consistency/lcm-lora-sdxl", "hub", "LoRA: SDXL in four steps", round(0.394 * GB), "OpenRAIL++",
        "https://huggingface.co/latent-consistency/lcm-lora-sdxl", files=("pytorch_lora_weights.safetensors",),
    ),
    Model(
        "stabilityai/stable-diffusion-xl-base-1.0", "hub", "text to image, 1024 px (SDXL)", round(6.94 * GB), "CreativeML-OpenRAIL++-M",
        "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0", files=_SDXL,
    ),
    Model(
        "stabilityai/sdxl-turbo", "hub", "text to image in one to four steps (SDXL, distilled)", round(6.94 * GB), "Stability AI Community",
        "https://huggingface.co/stabilityai/sdxl-turbo", files=_SDXL,
    ),
    Model(
        "xinsir/controlnet-openpose-sdxl-1.0", "hub", "ControlNet for skeleton pictures, SDXL", round(2.5 * GB), "Apache-2.0",
        "https://huggingface.co/xinsir/controlnet-openpose-sdxl-1.0", files=("config.json", "diffusion_pytorch_model.safetensors"),
    ),
    Model(
        "madebyollin/taesdxl", "hub", "small fast decoder for SDXL", 10 * MB, "MIT", "https://huggingface.co/madebyollin/taesdxl",
        files=("config.json", "diffusion_pytorch_model.safetensors"),
    ),
    Model(
        "h94/IP-Adapter", "hub", "IP-Adapters for Stable Diffusion 1.5 and their image encoder", round(2.86 * GB), "Apache-2.0",
        "https://huggingface.co/h94/IP-Adapter",
        files=("models/ip-adapter*_sd15.safetensors", "models/image_encoder/config.json", "models/image_encoder/model.safetensors"),
    ),
    Model(
        "openai/clip-vit-large-patch14", "hub", "CLIP's tokenizer, for checkpoints in one file", 3 * MB, "MIT (not stated on the page)",
        "https://huggingface.co/openai/clip-vit-large-patch14", weights=False,
        files=("tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json"),
    ),
    Model(
        "Qwen/Qwen2-VL-2B-Instruct", "hub", "picture to text, for vlm.refine", round(4.4 * GB), "Apache-2.0",
        "https://huggingface.co/Qwen/Qwen2-VL-2B-Instruct",
    ),
    Model(
        "HuggingFaceTB/SmolVLM-256M-Instruct", "hub", "picture to text, small, for vlm.refine", round(0.52 * GB), "Apache-2.0",
        "https://huggingface.co/HuggingFaceTB/SmolVLM-256M-Instruct",
    ),
)  # fmt: skip


def names() -> list[str]:
    """Every name and alias, in catalogue order."""
    return [word for model in MODELS for word in (model.name, *model.aliases)]


def lookup(name: str) -> Model | None:
    """The entry called `name` (or one of its aliases), None where the catalogue has none."""
    return next((model for model in MODELS if name == model.name or name in model.aliases), None)


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form of a Hub repository: owner/name, of the characters the Hub allows."""
    owner, slash, rest = name.partition("/")
    return bool(slash and owner and rest) and "/" not in rest and all(c.isalnum() or c in "-_." for c in owner + rest) and ".." not in name
