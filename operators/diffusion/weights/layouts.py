"""Configurations of the public architectures, for checkpoints that come as one file and so bring none: data.

They are the settings of the first release of each architecture. A checkpoint of another shape is read with the configurations of a diffusers
folder (`base`). It knows no files.
"""

from __future__ import annotations

from typing import Any

_UNET: dict[str, Any] = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "act_fn": "silu",
    "center_input_sample": False, "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip

UNET: dict[str, dict[str, Any]] = {
    "sd15": {**_UNET, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {**_UNET, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "sdxl": {
        **_UNET, "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "use_linear_projection": True,
        "block_out_channels": [320, 640, 1280], "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip

_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32,
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "act_fn": "silu", "sample_size": 512,
}  # fmt: skip

# SDXL's first autoencoder overflows in half precision and says so by force_upcast; those of 1.x and 2.x mostly hold.
VAE: dict[str, dict[str, Any]] = {
    "sd15": {**_VAE, "scaling_factor": 0.18215},
    "sd21": {**_VAE, "scaling_factor": 0.18215},
    "sdxl": {**_VAE, "scaling_factor": 0.13025, "sample_size": 1024, "force_upcast": True},
}

_CLIP: dict[str, Any] = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
_L = {
    **_CLIP, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu",
    "projection_dim": 768,
}  # fmt: skip
_H = {
    **_CLIP, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16, "hidden_act": "gelu",
    "projection_dim": 512,
}  # fmt: skip
_G = {
    **_CLIP, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20, "hidden_act": "gelu",
    "projection_dim": 1280,
}  # fmt: skip

# Configuration and padding token of each text encoder: OpenCLIP's were trained with zeros behind the text, CLIP-L with ends of text.
TEXT: dict[str, list[tuple[dict[str, Any], int]]] = {"sd15": [(_L, 49407)], "sd21": [(_H, 0)], "sdxl": [(_L, 49407), (_G, 0)]}

SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading", "prediction_type": "epsilon",
}  # fmt: skip

# Repositories whose tokenizer is CLIP's, which all of these architectures share, and the part of them that it is in.
TOKENIZERS = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer"),
    ("stabilityai/sdxl-turbo", "tokenizer"),
    ("stabilityai/sd-turbo", "tokenizer"),
    ("SimianLuo/LCM_Dreamshaper_v7", "tokenizer"),
)
