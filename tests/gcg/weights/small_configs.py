"""Sizes and configurations of small checkpoints in the layout of the public ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from tests.gcg.weights.small_tokenizers import LLM


@dataclass(frozen=True)
class Sizes:
    """Sizes of a small checkpoint: everything that the public ones have, a hundredth as wide.

    ``vocabulary`` is the Q-Former's and the LLM's; CLIP's is its tokenizer's, whose end mark must
    be the last word.
    """

    vision_width: int = 32
    vision_layers: int = 3
    vision_heads: int = 4
    vision_ffn: int = 80
    image_size: int = 28
    patch_size: int = 7
    joint_width: int = 48
    text_width: int = 16
    text_layers: int = 2
    text_heads: int = 2
    text_context: int = 77
    vocabulary: int = 400
    qformer_width: int = 24
    qformer_layers: int = 2
    qformer_heads: int = 2
    num_query_tokens: int = 3
    llm_width: int = 32
    llm_layers: int = 2
    llm_heads: int = 4
    llm_ffn: int = 64


SMALL = Sizes()


def vision_config(sizes: Sizes) -> InstructBlipVisionConfig:
    """The trunk: the hub's defaults (gelu, eps 1e-6, q and v biases) but for the sizes."""
    return InstructBlipVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=sizes.vision_ffn,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_heads,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
    )


def qformer_config(sizes: Sizes) -> InstructBlipQFormerConfig:
    """Cross-attention in every second layer, as in the public checkpoints."""
    return InstructBlipQFormerConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.qformer_width,
        num_hidden_layers=sizes.qformer_layers,
        num_attention_heads=sizes.qformer_heads,
        intermediate_size=2 * sizes.qformer_width,
        max_position_embeddings=64,
        encoder_hidden_size=sizes.vision_width,
    )


def llm_config(llm: LLM, sizes: Sizes, **changes: Any) -> PretrainedConfig:
    """A small language model of a family; special token ids are those of ``llm_tokenizer``."""
    if llm == "t5":
        tree = {
            "vocab_size": sizes.vocabulary,
            "d_model": sizes.llm_width,
            "d_kv": sizes.llm_width // sizes.llm_heads,
            "d_ff": sizes.llm_ffn,
            "num_layers": sizes.llm_layers,
            "num_decoder_layers": sizes.llm_layers,
            "num_heads": sizes.llm_heads,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,  # as in Flan-T5
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
        }
        return T5Config(**(tree | changes))
    tree = {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.llm_width,
        "intermediate_size": sizes.llm_ffn,
        "num_hidden_layers": sizes.llm_layers,
        "num_attention_heads": sizes.llm_heads,
        "num_key_value_heads": sizes.llm_heads // 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": llm == "qwen2",
        "pad_token_id": 3,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if llm == "qwen3":
        tree["head_dim"] = sizes.llm_width // sizes.llm_heads
    family = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[llm]
    return family(**(tree | changes))


def open_clip_config(sizes: Sizes, vocabulary: int) -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": sizes.joint_width,
            "vision_cfg": {
                "image_size": sizes.image_size,
                "timm_model_name": "eva_giant_patch14_224",
                "timm_model_pretrained": False,
                "timm_pool": "token",
                "timm_proj": None,
            },
            "text_cfg": {
                "context_length": sizes.text_context,
                "vocab_size": vocabulary,
                "width": sizes.text_width,
                "heads": sizes.text_heads,
                "layers": sizes.text_layers,
            },
            "custom_text": True,
        },
        "preprocess_cfg": {},
    }
