"""The formulas of activations against what autograd keeps of the blocks themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    Qwen3Config,
    T5Config,
)
from transformers.models.instructblip.modeling_instructblip import (
    InstructBlipEncoderLayer,
    InstructBlipQFormerLayer,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer
from transformers.models.t5.modeling_t5 import T5Block

from gcg.dropout import dropout_seeds, install_sample_dropout
from launcher.planning.activations import Mode, adapters, block, qformer_block
from launcher.planning.shapes import Blocks, llm_shape

from .measure import saved_bytes

ROWS, TOKENS, ATTENDED = 2, 48, 40
WIDTH, HEADS = 256, 8
# Position tables, masks and one number a row, which the formulas leave out.
TOLERANCE = 0.03

PRECISIONS = [torch.bfloat16, torch.float32]


def prepared(module: Any, dtype: torch.dtype, trained: bool) -> Any:
    module = module.to(dtype).requires_grad_(trained)
    install_sample_dropout(module)
    dropout_seeds(module, torch.arange(ROWS))
    return module.train(trained)


def hidden(dtype: torch.dtype, tokens: int = TOKENS, width: int = WIDTH) -> torch.Tensor:
    # Times one: in a model, what a block reads is no leaf.
    return torch.randn(ROWS, tokens, width, dtype=dtype, requires_grad=True) * 1


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_decoder_only_block(dtype: torch.dtype, trained: bool, kind: str, attention: str):
    family, layer = {
        "llama": (LlamaConfig, LlamaDecoderLayer),
        "qwen3": (Qwen3Config, Qwen3DecoderLayer),
    }[kind]
    config = family(
        hidden_size=WIDTH,
        intermediate_size=704,
        num_attention_heads=HEADS,
        num_key_value_heads=4,
        head_dim=WIDTH // HEADS,
        num_hidden_layers=1,
        attn_implementation=attention,
    )
    module = prepared(layer(config, 0), dtype, trained)
    x = hidden(dtype)
    table = torch.randn(ROWS, TOKENS, WIDTH // HEADS, dtype=dtype)
    mask = torch.ones(ROWS, 1, TOKENS, TOKENS, dtype=torch.bool).tril()
    if attention == "eager":
        mask = torch.zeros(ROWS, 1, TOKENS, TOKENS, dtype=dtype)

    found = saved_bytes(
        module, lambda: module(x, attention_mask=mask, position_embeddings=(table, table)),
        mask, table,
    )  # fmt: skip

    blocks = llm_shape(config, attention).blocks
    expected = block(blocks, ROWS, TOKENS, Mode(dtype.itemsize, trained, trained))
    assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize("activation", ["gated-gelu", "relu"])
def test_t5_block(dtype: torch.dtype, trained: bool, decoder: bool, activation: str):
    config = T5Config(
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=512,
        num_heads=HEADS,
        num_layers=1,
        feed_forward_proj=activation,
    )
    shape = llm_shape(config)
    config.is_decoder, config.use_cache = decoder, False
    module = prepared(T5Block(config, layer_idx=0), dtype, trained)
    x, read = hidden(dtype), hidden(dtype, ATTENDED)
    bias = torch.zeros(1, HEADS, TOKENS, TOKENS, dtype=dtype)
    how: dict[str, Any] = {"position_bias": bias}
    if decoder:
        how |= {"encoder_hidden_states": read, "cache_position": torch.arange(TOKENS)}
        how["encoder_decoder_position_bias"] = torch.zeros(1, HEADS, TOKENS, ATTENDED, dtype=dtype)

    found = saved_bytes(module, lambda: module(x, **how), read)

    blocks = shape.decoder if decoder else shape.blocks
    assert blocks is not None
    mode = Mode(dtype.itemsize, trained, trained)
    expected = block(blocks, ROWS, TOKENS, mode, ATTENDED if decoder else 0)
    assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("crosses", [True, False])
def test_qformer_block(dtype: torch.dtype, crosses: bool):
    queries, words, patches = 16, 24, 50
    config = InstructBlipQFormerConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        intermediate_size=512,
        encoder_hidden_size=384,
        cross_attention_frequency=2,
    )
    module = prepared(InstructBlipQFormerLayer(config, 0 if crosses else 1), dtype, True)
    x, frames = hidden(dtype, queries + words), hidden(dtype, patches, 384)
    mask = torch.zeros(ROWS, 1, 1, queries + words, dtype=dtype)

    found = saved_bytes(
        module,
        lambda: module(x, attention_mask=mask, encoder_hidden_states=frames, query_length=queries),
        frames,
    )

    blocks = Blocks("bert", 1, WIDTH, HEADS, WIDTH, WIDTH, 512, fused=False, cross_width=384)
    size = dtype.itemsize
    expected = qformer_block(blocks, ROWS, queries, words, patches, size, crosses)
    assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("trained", [True, False])
def test_vision_block(dtype: torch.dtype, trained: bool):
    config: Any = InstructBlipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=704,
        num_attention_heads=HEADS,
        attn_implementation="sdpa",
    )
    module = prepared(InstructBlipEncoderLayer(config), dtype, trained)
    x = hidden(dtype)

    found = saved_bytes(module, lambda: module(x, attention_mask=None))

    blocks = Blocks("vit", 1, WIDTH, HEADS, WIDTH, WIDTH, 704)
    expected = block(blocks, ROWS, TOKENS, Mode(dtype.itemsize, trained, trained))
    assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_adapters_on_a_frozen_block(dtype: torch.dtype):
    from peft import LoraConfig, inject_adapter_in_model

    rank = 8
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=704,
        num_attention_heads=HEADS,
        attn_implementation="sdpa",
    )
    layer = LlamaDecoderLayer(config, 0)
    settings = LoraConfig(r=rank, lora_dropout=0.1, target_modules="all-linear")
    inject_adapter_in_model(settings, layer)
    names = [name for name, _ in layer.named_parameters()]
    module = prepared(layer, dtype, True)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    assert any(".lora_A." in name for name in names)
    x, table = hidden(dtype), torch.randn(ROWS, TOKENS, WIDTH // HEADS, dtype=dtype)
    mask = torch.ones(ROWS, 1, TOKENS, TOKENS, dtype=torch.bool).tril()

    found = saved_bytes(
        module,
        lambda: module(x, attention_mask=mask, position_embeddings=(table, table)),
        mask,
        table,
    )

    blocks, size = llm_shape(config).blocks, dtype.itemsize
    expected = block(blocks, ROWS, TOKENS, Mode(size, inputs=False, learns=False))
    assert found == pytest.approx(
        expected + adapters(blocks, ROWS, TOKENS, rank, size), rel=TOLERANCE
    )
