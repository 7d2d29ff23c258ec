"""The networks of the embedded model, built from their configurations alone: stock diffusers and transformers classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from operators.train.embedded.settings import Settings


def build_vae(s: Settings) -> Any:
    """AutoencoderTiny at a quarter of its usual width. Its blocks have no normalisation, so the start matters: variance-keeping
    weights, with the last convolution of each residual block small."""
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny(
        latent_channels=s.latents, encoder_block_out_channels=(s.vae_width,) * 4, decoder_block_out_channels=(s.vae_width,) * 4,
        num_encoder_blocks=s.encoder_blocks, num_decoder_blocks=s.decoder_blocks,
    )  # fmt: skip
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in vae.modules():
        if type(module).__name__ == "AutoencoderTinyBlock":
            with torch.no_grad():
                module.conv[4].weight.mul_(0.2)
    with torch.no_grad():
        vae.encoder.layers[-1].weight.mul_(0.5)
        vae.decoder.layers[-1].weight.mul_(0.3)
    return vae


def unet_config(s: Settings) -> dict[str, Any]:
    """The UNet's configuration. Pooled text joins the time embedding (`addition_embed_type="text"` needs no extra argument in the
    stock pipeline); `attention_head_dim` is the number of heads, as diffusers reads it."""
    n = len(s.widths)
    return {
        "sample_size": s.size // 8, "in_channels": s.latents, "out_channels": s.latents,
        "block_out_channels": s.widths, "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * (n - 1)),
        "up_block_types": (*["CrossAttnUpBlock2D"] * (n - 1), "UpBlock2D"),
        "cross_attention_dim": s.text_width, "attention_head_dim": s.heads, "norm_num_groups": s.groups,
        "addition_embed_type": "text", "addition_embed_type_num_heads": s.heads, "resnet_time_scale_shift": "scale_shift",
    }  # fmt: skip


def build_unet(s: Settings) -> Any:
    """UNet2DConditionModel over the latents."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**unet_config(s))


def build_controlnet(s: Settings) -> Any:
    """ControlNetModel of the same shape. It learns together with the UNet from the start, so its outputs begin small, not zero."""
    from diffusers import ControlNetModel

    config = {k: v for k, v in unet_config(s).items() if k not in ("sample_size", "out_channels", "up_block_types")}
    net = ControlNetModel(**config, conditioning_embedding_out_channels=s.control_widths)
    for block in [*net.controlnet_down_blocks, net.controlnet_mid_block]:
        nn.init.normal_(block.weight, std=0.2 / block.weight.shape[1] ** 0.5)
    nn.init.kaiming_normal_(net.controlnet_cond_embedding.conv_out.weight)
    return net


def build_text(s: Settings, vocabulary: int, end: int) -> Any:
    """A CLIPTextModel small enough to be learned from captions alone."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=s.text_width, intermediate_size=2 * s.text_width, num_hidden_layers=s.text_layers,
        num_attention_heads=s.text_heads, max_position_embeddings=s.tokens, projection_dim=s.text_width,
        bos_token_id=end - 1, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    return CLIPTextModel(config)


def build_scheduler(s: Settings) -> Any:
    """Stable Diffusion's schedule with zero signal at the last step, so that one step from pure noise is legal."""
    from diffusers import LCMScheduler

    return LCMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True,
    )  # fmt: skip


def alphas(device_dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Cumulative alphas of the schedule, (1000,), computed as diffusers does."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
    return scheduler.alphas_cumprod.to(device_dtype)
