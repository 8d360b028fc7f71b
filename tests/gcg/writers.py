"""A small language model with a tokenizer in a folder, for the tests of what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gcg.description_prompt import plain_prompt

CHAT = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
SPECIAL = ("<|end|>", "<|turn|>", "<|text|>")


def save_writer(folder: Path, *, seed: int = 0, chat: bool = True, **config: Any) -> Path:
    """A Llama with random weights and a byte-level tokenizer, as ``save_pretrained`` does it."""
    tokenizer = _tokenizer()
    if chat:
        tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        options: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
            "pad_token_id": None,
            "initializer_range": 0.3,  # else all tokens are nearly equally likely
            **config,
        }
        LlamaForCausalLM(LlamaConfig(**options)).save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([plain_prompt("what does the boy do", "runs")], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|text|>")
