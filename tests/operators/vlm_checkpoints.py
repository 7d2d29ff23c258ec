"""Tiny picture-to-text checkpoints in the real formats, with random weights: Qwen2-VL, Qwen2.5-VL, Qwen3-VL and SmolVLM."""

from __future__ import annotations

import json
from pathlib import Path

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIDE = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}


def byte_tokenizer(folder: Path, specials: tuple[str, ...], **extra: str) -> int:
    """A tokenizer of single bytes and `specials`; returns its size."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(s, special=True) for s in specials])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=specials[0], eos_token=specials[2], **extra)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def qwen(folder: Path, kind: str) -> Path:
    """A Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint (`kind`: "qwen2_vl", "qwen2_5_vl", "qwen3_vl")."""
    import torch
    import transformers

    torch.manual_seed(0)
    size = byte_tokenizer(folder, SPECIALS)
    ids = {name: 256 + i for i, name in enumerate(SPECIALS)}
    third = kind == "qwen3_vl"
    text = {
        "vocab_size": size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1] if third else [1, 1, 2],
            **({"mrope_interleaved": True} if third else {}),
        },
    }  # fmt: skip
    vision: dict[str, object] = {"depth": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3}
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2}
    elif kind == "qwen2_5_vl":
        vision |= {
            "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "window_size": 16,
            "fullatt_block_indexes": [1],
        }  # fmt: skip
    else:
        text["head_dim"] = 8
        vision |= {
            "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "deepstack_visual_indexes": [0],
            "num_position_embeddings": 64,
        }  # fmt: skip
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
    config = getattr(transformers, names[kind] + "Config")(
        text_config=text, vision_config=vision, image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    model = getattr(transformers, names[kind] + "ForConditionalGeneration")(config)
    model.generation_config.update(eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"], bos_token_id=ids["<|endoftext|>"])
    model.save_pretrained(folder, safe_serialization=True)
    processor = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}[kind]
    pictures = {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": processor, "patch_size": 4, "temporal_patch_size": 2,
        "merge_size": 2, "size": SIDE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    _name_processor(folder, processor, CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"))
    return folder


def _name_processor(folder: Path, processor: str, template: str) -> None:
    place = folder / "tokenizer_config.json"
    settings = json.loads(place.read_text())
    settings |= {"processor_class": processor}
    place.write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(template)


SMOL = ("<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>", "<row_1_col_1>")
SMOL_CHAT = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def smol(folder: Path, kind: str) -> Path:
    """A SmolVLM checkpoint: `kind` "idefics3" (the first SmolVLM) or "smolvlm" (the second)."""
    import torch
    import transformers

    torch.manual_seed(0)
    size = byte_tokenizer(folder, SMOL)
    ids = {name: 256 + i for i, name in enumerate(SMOL)}
    prefix = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[kind]
    text = {
        "model_type": "llama", "vocab_size": size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 258,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = getattr(transformers, prefix + "Config")(
        text_config=text, vision_config=vision, image_token_id=ids["<image>"], scale_factor=2, pad_token_id=256
    )
    model = getattr(transformers, prefix + "ForConditionalGeneration")(config)
    model.generation_config.update(eos_token_id=258, pad_token_id=256, bos_token_id=257)
    model.save_pretrained(folder, safe_serialization=True)
    pictures = {
        "image_processor_type": prefix + "ImageProcessor", "processor_class": prefix + "Processor", "do_image_splitting": False,
        "size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": prefix + "Processor", "image_seq_len": 4}))
    _name_processor(folder, prefix + "Processor", SMOL_CHAT)
    return folder
