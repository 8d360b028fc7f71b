"""A small language model as a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor


def write_gguf(gguf: Any, path: Path, model: Any) -> None:
    """What llama.cpp's converter makes of a Llama, in float32."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    state = {name: value.detach() for name, value in model.named_parameters()}

    def add(name: str, value: Tensor) -> None:
        writer.add_tensor(name, value.contiguous().numpy())

    def turned(weight: Tensor, heads: int) -> Tensor:
        rows, columns = weight.shape
        halves = weight.view(heads, 2, rows // heads // 2, columns)
        return halves.transpose(1, 2).reshape(rows, columns)

    add("token_embd.weight", state["model.embed_tokens.weight"])
    add("output_norm.weight", state["model.norm.weight"])
    add("output.weight", state["lm_head.weight"])
    parts = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}."
        for theirs, ours in parts.items():
            add(f"blk.{i}.{theirs}.weight", state[f"{layer}{ours}.weight"])
        query, key = (state[f"{layer}self_attn.{part}_proj.weight"] for part in "qk")
        add(f"blk.{i}.attn_q.weight", turned(query, config.num_attention_heads))
        add(f"blk.{i}.attn_k.weight", turned(key, config.num_key_value_heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
