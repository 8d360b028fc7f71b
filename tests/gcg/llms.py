"""Small language models with random weights, one of each kind, for the tests that need any LLM."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from gcg.config import GCGConfig
from gcg.llm import build_llm

VOCABULARY, WIDTH, PAD, END = 60, 32, 0, 1

_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "bos_token_id": 2,
    "initializer_range": 0.3,  # with the usual 0.02 all tokens are nearly equally likely
}
CONFIGS: dict[str, PretrainedConfig] = {
    "t5": T5Config(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.5,
        tie_word_embeddings=False,
        initializer_factor=3.0,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=PAD,
    ),
    "llama": LlamaConfig(**_DECODER, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**_DECODER),
    "qwen3": Qwen3Config(**_DECODER, head_dim=8),
}
# Positions are looked up, not only compared: a wrong one shows.
ABSOLUTE = GPT2Config(
    vocab_size=VOCABULARY,
    n_embd=WIDTH,
    n_layer=2,
    n_head=4,
    n_positions=64,
    pad_token_id=PAD,
    eos_token_id=END,
    initializer_range=0.3,
)


def llm_options(**llm: Any) -> GCGConfig:
    return GCGConfig.model_validate({"llm": llm})


def small_llm(kind: str, seed: int = 0, **llm: Any) -> Any:
    """A random LLM in evaluation mode; ``llm`` are options of ``model.llm``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_llm(llm_options(**llm), {**CONFIGS, "gpt2": ABSOLUTE}[kind], seed).eval()
